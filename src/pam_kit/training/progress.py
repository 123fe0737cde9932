"""What a person sees while a run goes on: one bar, and none of the trainer's chatter."""

import logging
import warnings

from lightning.pytorch.callbacks import TQDMProgressBar

# Remarks of the trainer that hold for every run of this kit and ask for nothing.
_NO_NEWS = (
    r".*module\(s\) in eval mode at the start of training.*",  # frozen parts are
    r".*is smaller than the logging interval.*",
    r".*does not have many workers.*",
    r".*treespec, LeafSpec.*",
    r".*`training_step` returned `None`.*",
    # It is: positions go on from the step of the checkpoint.
    r".*dataloader.* is not resumable.*",
    r".*Checkpoint directory .* exists and is not empty.*",
)


class TrainingBar(TQDMProgressBar):
    """Micro-batches done and to come, the time left, the loss and, as ``Throughput`` logs them, samples per second."""

    def on_train_start(self, trainer, *_) -> None:
        super().on_train_start(trainer)
        # A run that is resumed amid its only epoch does not start that epoch again.
        self.on_train_epoch_start(trainer)

    def on_train_epoch_start(self, trainer, *_) -> None:
        super().on_train_epoch_start(trainer)
        bar = self.train_progress_bar
        bar.set_description("training", refresh=False)
        # None of what an earlier session did is done in the time that passes from now on.
        bar.initial = bar.n = trainer.fit_loop.epoch_loop.batch_progress.current.ready

    def get_metrics(self, trainer, pl_module) -> dict:
        return {name: value for name, value in super().get_metrics(trainer, pl_module).items() if name != "v_num"}


def hush() -> None:
    """Keep the trainer's announcements and the remarks above off the screen; warnings of any other kind stay."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in _NO_NEWS:
        warnings.filterwarnings("ignore", message=message)
