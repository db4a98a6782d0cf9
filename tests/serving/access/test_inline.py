import base64

import pytest

from timechat.errors import AccessError
from timechat.serving.access import Limits, decode_data_url

VIDEO = bytes(range(256))
TEXT = base64.b64encode(VIDEO).decode()


@pytest.mark.parametrize(
    "url",
    [
        f"data:video/mp4;base64,{TEXT}",
        f"DATA:Video/MP4;codecs=avc1;BASE64,{TEXT}",
        f"data:application/octet-stream;base64,{TEXT}",
        f"data:video/mp4;base64,{TEXT.rstrip('=')}",
        f"data:video/mp4;base64,{TEXT.replace('+', '%2B').replace('=', '%3D').replace('/', '%2f')}",
    ],
)
def test_base64_is_decoded(url: str) -> None:
    assert decode_data_url(url, Limits(max_inline_bytes=len(VIDEO))) == VIDEO


@pytest.mark.parametrize("num_bytes", range(1, 8))
def test_the_size_is_known_exactly_before_decoding(num_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for text in (base64.b64encode(bytes(num_bytes)).decode(), base64.b64encode(bytes(num_bytes)).decode().rstrip("=")):
        url = f"data:video/mp4;base64,{text}"
        assert len(decode_data_url(url, Limits(max_inline_bytes=num_bytes))) == num_bytes
        with monkeypatch.context() as patched:
            patched.setattr(base64, "b64decode", lambda *_, **__: pytest.fail("decoded"))
            with pytest.raises(AccessError, match=f"holds {num_bytes} bytes") as caught:
                decode_data_url(url, Limits(max_inline_bytes=num_bytes - 0.5))
        assert caught.value.reason == "too_large"


@pytest.mark.parametrize(
    "url",
    [
        *("", "data:", "data:,", "data:video/mp4,abc", "data:video/mp4;base64", "data:video/mp4;base64,", "http://a/b"),
        *(
            f"data:text/html;base64,{TEXT}",
            f"data:;base64,{TEXT}",
            f"data:image/png;base64,{TEXT}",
            f"data:videos;base64,{TEXT}",
        ),
        *(
            f"data:video/mp4;base64;x,{TEXT}",
            "data:video/mp4;base64,AA AA",
            "data:video/mp4;base64,AAAA\n",
            "data:video/mp4;base64,ÄÄÄÄ",
        ),
        *(
            "data:video/mp4;base64,A",
            "data:video/mp4;base64,AA-_",
            "data:video/mp4;base64,\ud800AAA",
            "data:video/mp4;base64,====",
        ),
        "data:video/mp4;" + "x=y;" * 100 + "base64,AAAA",
    ],
)
def test_everything_else_is_a_bad_address(url: str) -> None:
    with pytest.raises(AccessError) as caught:
        decode_data_url(url, Limits())
    assert caught.value.reason == "bad_address"


def test_the_caller_chooses_the_media_types() -> None:
    assert decode_data_url(f"data:image/jpeg;base64,{TEXT}", Limits(), kinds=("image/",)) == VIDEO
    with pytest.raises(AccessError, match=r"must hold image/jpeg$"):
        decode_data_url(f"data:image/jpeg2;base64,{TEXT}", Limits(), kinds=("image/jpeg",))
