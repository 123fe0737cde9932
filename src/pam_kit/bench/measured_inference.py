"""Pieces of work done in a process of its own, their time and memory measured: what ``inference_benchmark`` asks."""

import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pam_kit.bench.models import chosen_model, pictures, prompts
from pam_kit.bench.one_thread import one_thread
from pam_kit.bench.outcome import Found, save
from pam_kit.bench.peak_memory import PeakMemory, give_back_freed
from pam_kit.bench.plain_answers import PlainPath
from pam_kit.bench.roofline_share import shares
from pam_kit.bench.shown_logits import followed_logits, segmented_logits
from pam_kit.bench.stage_times import StageTimes, watched
from pam_kit.bench.workers import Told, serve
from pam_kit.bench.works import STAGES, ModelChoice, Work
from pam_kit.contracts import RegionPrompt
from pam_kit.errors import PamKitError
from pam_kit.inference.predictor import RegionPredictor
from pam_kit.inference.session_settings import SessionSettings
from pam_kit.inference.session_settings import Work as Counts
from pam_kit.inference.tracker import VideoPredictor
from pam_kit.inference.video_result import FramePrompt
from pam_kit.kernels.cards import known_card
from pam_kit.kernels.counting import Recorder

MEGABYTE = 1e6


@dataclass
class Timing:
    """Of one piece of work, done once.

    Args:
        seconds, cpu_seconds: on the clock, and of all threads.
        stages_ms: milliseconds by stage.
        tokens: words that were said.
        notes: what the session noted, such as that memory was short.
        counts: what was computed; none where it is not counted.
        roofline: by stage the share of the least time that the card allows; none where its peaks are not known.
    """

    seconds: float
    cpu_seconds: float
    stages_ms: dict[str, float]
    tokens: int
    notes: list[str]
    counts: dict[str, int] | None
    roofline: dict[str, float] | None = None


@dataclass
class Memory:
    """Of one piece of work: megabytes held before it, the model included, and more at its peak; on a GPU those of the
    GPU."""

    held_mb: float
    peak_mb: float


@dataclass
class _Done:
    """What was found of each region, what was computed if that is counted, and what the session noted.

    ``logits`` gives those (4h, 4w) of the masks of the kit, frame by frame; it may compute them once more.
    """

    found: Sequence[Found]
    counts: Counts | None
    notes: list[str] = field(default_factory=list)
    logits: Callable[[], list[Tensor] | None] = lambda: None


class Bench:
    """Does pieces of work in one way, always with the same model.

    Args:
        choice: the model.
        path: ``kit`` or ``plain``.
        device: where to compute; the first accelerator by default, else the CPU.
    """

    def __init__(self, choice: ModelChoice, path: str, device: str | None = None):
        self.path = path
        settings = SessionSettings(steps=choice.steps)  # type: ignore[arg-type]
        self._predictor = RegionPredictor(chosen_model(choice), device, settings, choice.precision)  # type: ignore[arg-type]
        self.model, self.device = self._predictor.model, self._predictor.device
        self._gives_back = False

    def facts(self) -> dict[str, Any]:
        """What is measured, and where."""
        on_gpu = self.device.type == "cuda"
        return {
            "parameters": sum(parameter.numel() for parameter in self.model.parameters()),
            "decoder_parameters": sum(parameter.numel() for parameter in self.model.decoder.parameters()),
            "vocabulary": self.model.decoder.vocabulary_size,
            "device": torch.cuda.get_device_name(self.device) if on_gpu else "CPU",
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
        }

    def time(self, work: Work, outputs: str | None = None, with_roofline: bool = False) -> Timing:
        """Do a piece of work; twice on an accelerator and with compiled steps, since the first time code is compiled
        and kernels are chosen.

        Args:
            outputs: a file for what came of it.
            with_roofline: do it once more to count kernels, where the card's peaks are known.
        """
        asked, times = (pictures(work), prompts(work)), StageTimes(self.device)
        if self.device.type != "cpu" or self._predictor.settings.steps == "compiled":
            self._done(work, *asked, StageTimes(self.device))
        gc.collect()
        started, cpu_started = self._now()
        with watched(self.model, times):
            done = self._done(work, *asked, times)
        ended, cpu_ended = self._now()
        counts = None if done.counts is None else asdict(done.counts)
        if outputs is not None:
            save(done.found, done.logits(), outputs)
        return Timing(
            seconds=ended - started,
            cpu_seconds=cpu_ended - cpu_started,
            stages_ms={name: 1000 * times.seconds.get(name, 0.0) for name in STAGES},
            tokens=times.tokens,
            notes=done.notes,
            counts=counts,
            roofline=self._shares(work, times) if with_roofline else None,
        )

    def memory(self, work: Work) -> Memory:
        """Do a piece of work; whatever is timed afterwards in this process takes longer."""
        asked = pictures(work), prompts(work)
        if not self._gives_back:
            self._gives_back = True
            give_back_freed()
            # What libraries keep for themselves of the first pass is no part of the work.
            one = work.of_one_region()
            self._done(one, pictures(one), prompts(one), StageTimes(self.device))
        gc.collect()
        with PeakMemory(self.device) as memory:
            self._done(work, *asked, StageTimes(self.device))
        return Memory(memory.held / MEGABYTE, memory.more / MEGABYTE)

    def _now(self) -> tuple[float, float]:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter(), time.process_time()

    def _done(self, work: Work, shown: list[np.ndarray], pointed: list[RegionPrompt], times: StageTimes) -> "_Done":
        if self.path == "plain":
            plain, asked = PlainPath(self.model, times), (work.asked, work.max_new_tokens)
            if work.frames:
                return _Done([plain.clip(shown, one, *asked) for one in pointed], plain.counts)
            return _Done([plain.picture(image, one, *asked) for image in shown for one in pointed], plain.counts)
        tasks, languages = work.asked
        if work.frames:
            where = [FramePrompt(number, 0, one) for number, one in enumerate(pointed)]
            video = VideoPredictor(self.model, self.device)
            options = {"sampler": "all", "frames": work.frames, "max_new_tokens": work.max_new_tokens}
            with followed_logits(self.model) as logits:
                regions = video.predict(shown, where, tasks, languages, **options).regions
            return _Done(regions, None, [], logits)
        session = self._predictor.open(*shown)
        index = [number for number in range(work.images) for _ in pointed]
        found = session.ask(pointed * work.images, tasks, languages, work.max_new_tokens, pictures=index)
        if wrong := next((one.error for one in found if one.error), None):
            raise PamKitError(wrong)
        return _Done(
            found, session.work, session.notes, lambda: segmented_logits(session, pointed * work.images, index)
        )

    def _shares(self, work: Work, measured: StageTimes) -> dict[str, float] | None:
        card = known_card(self.facts()["device"])
        if card is None:
            return None
        recorder = Recorder()
        counted = StageTimes(self.device, recorder)
        with recorder, watched(self.model, counted):
            self._done(work, pictures(work), prompts(work), counted)
        return shares(counted.launches, measured.seconds, card)


def _get_ready(job: Told) -> tuple[Told, Callable[[Told], Told]]:
    choice = ModelChoice(**job["model"] | {"overrides": tuple(job["model"]["overrides"])})
    with one_thread():
        bench = Bench(choice, job["path"], job["device"])
    with PeakMemory(bench.device):
        pass  # where that cannot be measured, it is told before anything is timed

    def do(asked: Told) -> Told:
        what, work = asked.pop("what"), Work(**asked.pop("work"))
        return asdict(bench.memory(work) if what == "memory" else bench.time(work, **asked))

    return bench.facts(), do


if __name__ == "__main__":
    serve(_get_ready)
