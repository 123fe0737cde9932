"""How the model is asked about the regions of a benchmark. Torch-free."""

from dataclasses import dataclass

from pam_kit.errors import PamKitError

# Where the subject of a stream is pointed at: see ``PredictionSettings.stream_boxes``.
STREAM_BOXES = ("propagate", "gt_per_event")


@dataclass(frozen=True)
class PredictionSettings:
    """Answers are greedy, whatever the model's own settings for sampling are.

    Args:
        max_new_tokens: longest answer; the released PAM takes 512.
        num_frames: frames of a clip that are read, 16 in PAM's paper.
        stream_boxes: ``propagate``: the first event of a stream is pointed at, each later one by the box of the last
            mask; ``gt_per_event``: each event by its own box.
        pictures: so many at once.
        regions: so many are decoded at once.
    """

    max_new_tokens: int = 512
    num_frames: int = 16
    stream_boxes: str = "propagate"
    pictures: int = 8
    regions: int = 32

    def __post_init__(self):
        for name in ("max_new_tokens", "num_frames", "pictures", "regions"):
            if getattr(self, name) < 1:
                raise PamKitError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.stream_boxes not in STREAM_BOXES:
            raise PamKitError(f"stream_boxes is {self.stream_boxes!r}; choose from {', '.join(STREAM_BOXES)}")
