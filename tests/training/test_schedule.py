"""Learning rates and the counting of steps, the original's among them."""

import pytest

from timechat.training.config import OptimizerSettings, TrainingRunSettings
from timechat.training.schedule import learning_rate, num_steps, original_learning_rate, step_iterations

STAGE_2 = {"warmup_iters": 13200, "iters_per_epoch": 22000}
CHARADES = {"warmup_iters": 3102, "iters_per_epoch": 3102}


@pytest.mark.parametrize(
    ("recorded", "epoch", "iteration", "rate"),
    [
        (STAGE_2, 0, 0, 1e-06),
        (STAGE_2, 0, 11000, 2.5166666666666667e-05),
        (STAGE_2, 0, 13199, 2.999780303030303e-05),
        (STAGE_2, 0, 13200, 2.8090169943749472e-05),  # the drop
        (STAGE_2, 1, 13200, 1.8954715367323465e-05),
        (STAGE_2, 2, 21999, 1.0000000011328748e-05),
        (CHARADES, 0, 3101, 2.999065119277885e-05),
        (CHARADES, 1, 0, 2.4999999999999998e-05),
        (CHARADES, 2, 3101, 1.0000000569827821e-05),
    ],
)
def test_the_original_schedule_gives_the_recorded_rates(recorded, epoch, iteration, rate):
    run = TrainingRunSettings(epochs=3, iters_per_epoch=recorded["iters_per_epoch"])
    optimizer = OptimizerSettings(warmup_iters=recorded["warmup_iters"], schedule="original")
    at = epoch * recorded["iters_per_epoch"] + iteration
    assert original_learning_rate(optimizer, run, at) == pytest.approx(rate, rel=1e-12)


def test_the_original_uses_the_rate_of_the_last_batch_of_a_step():
    run = TrainingRunSettings(epochs=3, iters_per_epoch=22000, accumulation=4)
    optimizer = OptimizerSettings(warmup_iters=13200, schedule="original")
    assert learning_rate(optimizer, run, 10) == original_learning_rate(optimizer, run, 43)


def test_the_cosine_starts_where_the_warm_up_ends():
    run = TrainingRunSettings(steps=100, accumulation=4)
    optimizer = OptimizerSettings(lr=3e-5, min_lr=1e-5, warmup_lr=1e-6, warmup_iters=80)
    rates = [learning_rate(optimizer, run, step) for step in range(101)]
    assert rates[0] == 1e-6
    assert rates[20] == max(rates) == pytest.approx(3e-5)
    assert rates[60] == pytest.approx(2e-5)
    assert rates[100] == pytest.approx(1e-5)
    assert rates[:21] == sorted(rates[:21])
    assert rates[20:] == sorted(rates[20:], reverse=True)


def test_the_original_adds_leftover_batches_to_the_next_epoch():
    run = TrainingRunSettings(epochs=3, iters_per_epoch=10, accumulation=4, leftover="original")
    assert num_steps(run) == 6
    taken = [list(step_iterations(run, step)) for step in range(6)]
    assert taken[0] == [0, 1, 2, 3]
    assert taken[2] == [8, 9, 10, 11, 12, 13]
    assert taken[3] == [14, 15, 16, 17]
    assert taken[4] == [18, 19, 20, 21, 22, 23]


def test_steps_continue_across_epochs():
    run = TrainingRunSettings(epochs=3, iters_per_epoch=10, accumulation=4)
    assert num_steps(run) == 7
    assert list(step_iterations(run, 2)) == [8, 9, 10, 11]
