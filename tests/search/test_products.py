"""Products of stored vectors: equal to the full product in float32."""

import numpy as np
import pytest

from timechat.search import products
from timechat.search.products import multiply


def random_vectors(rows: int, dimension: int, kind: type) -> np.ndarray:
    return np.random.default_rng(rows).standard_normal((rows, dimension)).astype(kind)


@pytest.mark.parametrize("kind", [np.float16, np.float32])
@pytest.mark.parametrize("rows", [0, 1, 255, 256, 700])
def test_products_are_those_of_the_full_matrix(rows, kind):
    vectors, columns = random_vectors(rows, 37, kind), random_vectors(37, 3, np.float32)
    result = multiply(vectors, columns)
    assert (result.dtype, result.shape) == (np.float32, (3, rows))
    np.testing.assert_allclose(result, columns.T @ vectors.astype(np.float32).T, atol=1e-5)


@pytest.mark.parametrize("cores", [1, 2, 3])
def test_products_do_not_depend_on_the_number_of_threads(monkeypatch, cores):
    monkeypatch.setattr(products, "num_cores", lambda: cores)
    monkeypatch.setattr(products, "_ROWS_PER_THREAD", 300)
    vectors, columns = random_vectors(1000, 8, np.float16), random_vectors(8, 2, np.float32)
    np.testing.assert_allclose(multiply(vectors, columns), columns.T @ vectors.T.astype(np.float32), atol=1e-5)


def test_the_smallest_and_largest_float16_are_kept():
    vectors = np.array([[6e-8, 65504, -1.0], [-6e-8, -65504, 0.0]], np.float16)
    assert multiply(vectors, np.eye(3, dtype=np.float32)).T.tolist() == vectors.astype(np.float32).tolist()


def test_vectors_that_cannot_be_written_are_read():
    vectors = np.frombuffer(np.ones((2, 4), np.float16).tobytes(), np.float16).reshape(2, 4)
    assert multiply(vectors, np.ones((4, 1), np.float32)).tolist() == [[4.0, 4.0]]
