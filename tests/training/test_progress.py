"""The bar of a run: what it shows, and how it reckons the time that is left."""

from types import SimpleNamespace

import pytest

from pam_kit.training.progress import TrainingBar


@pytest.fixture
def bar(capsys):
    """``bar(done)`` -> a bar of 100 micro-batches, ``done`` of which an earlier session has done, and its trainer.

    Lightning does not start the epoch of a run again that is resumed amid it.
    """

    def begin(done: int):
        progress = SimpleNamespace(current=SimpleNamespace(ready=done))
        loop = SimpleNamespace(epoch_loop=SimpleNamespace(batch_progress=progress))
        metrics = {"loss": 1.5, "samples/s": 12.25, "v_num": "logs"}
        trainer = SimpleNamespace(
            num_training_batches=100,
            max_epochs=1,
            current_epoch=0,
            fit_loop=loop,
            loggers=[],
            progress_bar_metrics=metrics,
        )
        shown = TrainingBar(refresh_rate=10)
        shown._trainer = trainer
        shown.on_train_start(trainer, None)
        if not done:
            shown.on_train_epoch_start(trainer, None)
        return shown, trainer

    return begin


@pytest.mark.parametrize("done", [0, 40])
def test_what_an_earlier_session_did_does_not_shorten_the_time_left(bar, done):
    shown, _ = bar(done)
    inner = shown.train_progress_bar
    assert inner.n == done and inner.total == 100
    inner.start_t -= 20
    inner.n += 10
    state = inner.format_dict
    rate = (state["n"] - state["initial"]) / state["elapsed"]
    assert rate == pytest.approx(0.5, rel=0.05)


def test_the_bar_shows_the_loss_and_the_samples_per_second(bar, capsys):
    shown, trainer = bar(0)
    shown.on_train_batch_end(trainer, None, None, None, 9)
    written = "".join(capsys.readouterr())
    assert "training" in written and "10/100" in written
    assert "loss=1.5" in written and "samples/s=12.2" in written and "v_num" not in written
