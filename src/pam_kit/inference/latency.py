"""Where the time of a stream goes: seconds by stage, with quantiles over a bounded past."""

import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch

# Quantiles are over the last so many values of a stage; counts and sums are over all.
WINDOW = 1024
# What happens to every frame, and to every caption.
FRAME_STAGES = ("encode", "track", "perceive", "project", "prefill")
CAPTION_STAGES = ("first_token", "decode", "carry")
# What happens to every frame beside the model's work.
OUTPUT_STAGES = ("trigger", "draw", "tell")


class Latency:
    """Seconds by stage.

    Stages of a frame: ``encode`` (the picture), ``track`` (its masks), ``perceive``, ``project`` and ``prefill`` (its
    tokens go through the decoder); of a caption: ``first_token`` (from the question to the first word, the newest frame
    and the regions described before included), ``decode`` (the words behind it) and ``carry`` (the next clip is opened
    with the last frame of this one); of what comes out: ``trigger`` (whether to speak), ``draw`` (a frame of the
    annotated video is drawn and encoded) and ``tell`` (a line is made and written, to a reader who may be slow).

    Stages may lie within each other, so the time of work (``busy``) is measured by itself.

    Args:
        device: on which the work runs; a GPU is waited for, so that a stage's time is its own.
    """

    def __init__(self, device: torch.device | str = "cpu"):
        self._device = torch.device(device)
        self._recent: dict[str, deque[float]] = {}
        self._counts: dict[str, int] = {}
        self._sums: dict[str, float] = {}
        self._latest: dict[str, float] = {}
        self._busy = 0.0

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time what happens inside."""
        begin = self.now()
        yield
        self.add(name, self.now() - begin)

    @contextmanager
    def work(self, stage: str | None = None) -> Iterator[None]:
        """Count what happens inside as work, whatever its stages, and as ``stage`` where it is one by itself."""
        begin = self.now()
        try:
            with self.stage(stage) if stage else nullcontext():
                yield
        finally:
            self._busy += self.now() - begin

    def now(self) -> float:
        """Seconds on a clock of unknown origin, with all that was asked of the device done."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()

    def add(self, name: str, seconds: float) -> None:
        self._recent.setdefault(name, deque(maxlen=WINDOW)).append(seconds)
        self._counts[name] = self._counts.get(name, 0) + 1
        self._sums[name] = self._sums.get(name, 0.0) + seconds
        self._latest[name] = self._latest.get(name, 0.0) + seconds

    def taken(self, names: tuple[str, ...]) -> dict[str, float]:
        """Milliseconds of these stages since they were last asked for, such as those of one frame."""
        return {name: round(1000 * self._latest.pop(name), 3) for name in names if name in self._latest}

    def busy(self) -> float:
        """Seconds of work so far."""
        return self._busy

    def summary(self) -> dict[str, dict[str, float]]:
        """Stage -> count, mean, p50 and p95, in milliseconds."""
        stages = (*FRAME_STAGES, *CAPTION_STAGES, *OUTPUT_STAGES)
        return {name: self._row(name) for name in stages if name in self._counts}

    def _row(self, name: str) -> dict[str, float]:
        ordered = sorted(self._recent[name])
        row = {
            "mean": self._sums[name] / self._counts[name],
            "p50": quantile(ordered, 0.5),
            "p95": quantile(ordered, 0.95),
        }
        return {"count": self._counts[name], **{key: round(1000 * value, 3) for key, value in row.items()}}


def quantile(ordered: list[float], share: float) -> float:
    """The value below which ``share`` of sorted values lie; linear between neighbours."""
    place = share * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])
