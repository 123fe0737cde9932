"""Where the time of an answer goes: the parts of a model watched from outside, whoever calls them."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from pam_kit.contracts import GeneratedText, Questions, Reading, Spoken
from pam_kit.inference.latency import Latency
from pam_kit.kernels.counting import Launch, Recorder
from pam_kit.model import RegionVLM


class StageTimes:
    """Seconds by stage; of a stage within another one the outer counts.

    Attributes:
        seconds: by stage.
        launches: by stage, where kernels are counted.
        tokens: words said in all.

    Args:
        device: on which the work runs.
        recorder: where kernels are being counted: each stage gets its own.
    """

    def __init__(self, device: torch.device | str, recorder: Recorder | None = None):
        self._latency, self._recorder, self._inside = Latency(device), recorder, False
        self.seconds: dict[str, float] = {}
        self.launches: dict[str, list[Launch]] = {}
        self.tokens = 0

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        if self._inside:
            yield
            return
        self._inside, started = True, self._latency.now()
        first = len(self._recorder.launches) if self._recorder else 0
        try:
            yield
        finally:
            self._inside = False
            self.seconds[name] = self.seconds.get(name, 0.0) + self._latency.now() - started
            if self._recorder:
                self.launches.setdefault(name, []).extend(self._recorder.launches[first:])


class WatchedReading(Reading):
    """A reading whose stages are timed: what is read and the words of questions are ``prefill``, the rest ``decode``.

    Args:
        inner: does the work.
        times: where the seconds go.
    """

    def __init__(self, inner: Reading, times: StageTimes):
        self._inner, self._times = inner, times

    @property
    def length(self) -> int:  # type: ignore[override]
        return self._inner.length

    @property
    def positions_computed(self) -> int:  # type: ignore[override]
        return self._inner.positions_computed

    @property
    def vocabulary_rows(self) -> int:  # type: ignore[override]
        return self._inner.vocabulary_rows

    def read(self, embeddings: Tensor) -> None:
        with self._times.stage("prefill"):
            self._inner.read(embeddings)

    def say(self, questions: Questions, max_new_tokens: int) -> Iterator[Spoken]:
        name = "prefill"
        with closing(self._inner.say(questions, max_new_tokens)) as steps:  # type: ignore[type-var]
            while True:
                with self._times.stage(name):
                    step = next(steps, None)
                if step is None:
                    return
                self._times.tokens += int((step.ids >= 0).sum())
                yield step
                name = "decode"

    def of_rows(self, rows: Sequence[int]) -> Reading:
        with self._times.stage("prefill"):
            return WatchedReading(self._inner.of_rows(rows), self._times)

    def joined(self, others: Sequence[Reading]) -> Reading:
        parts = [other._inner if isinstance(other, WatchedReading) else other for other in others]
        with self._times.stage("prefill"):
            return WatchedReading(self._inner.joined(parts), self._times)

    def tensors(self) -> dict[str, Tensor]:
        return self._inner.tensors()

    def restore(self, tensors: dict[str, Tensor]) -> None:
        self._inner.restore(tensors)


@contextmanager
def watched(model: RegionVLM, times: StageTimes) -> Iterator[None]:
    """Meanwhile the stages of whatever the model does go into ``times``."""
    start_reading, generate = model.decoder.start_reading, model.decoder.generate

    def started(*arguments: Any, **keywords: Any) -> Reading:
        with times.stage("prefill"):
            return WatchedReading(start_reading(*arguments, **keywords), times)

    def generated(prefix: Sequence[Tensor] | Tensor, questions: Questions, most: int) -> list[GeneratedText]:
        """All at once: the first pass through all layers is ``prefill``, what follows ``decode``."""
        with ExitStack() as hooks, ExitStack() as stages:
            stages.enter_context(times.stage("prefill"))

            def passed(_layer: nn.Module, inputs: tuple[Tensor, ...], _output: Any) -> None:
                times.tokens += len(inputs[0])
                if inputs[0].shape[1] > 1:
                    stages.close()
                    stages.enter_context(times.stage("decode"))

            hooks.callback(model.decoder.layers()[-1].register_forward_hook(passed).remove)
            return generate(prefix, questions, most)

    with ExitStack() as replaced:
        for part, name, stage in (
            (model.backbone, "encode", "encode"),
            (model.backbone, "segment", "segment"),
            (model.backbone, "observe", "segment"),
            (model, "perceived", "perceive"),
            (model, "projected", "perceive"),
        ):
            replaced.enter_context(in_place_of(part, name, _timed(getattr(part, name), stage, times)))
        replaced.enter_context(in_place_of(model.decoder, "start_reading", started))
        replaced.enter_context(in_place_of(model.decoder, "generate", generated))
        yield


def _timed(function: Callable, stage: str, times: StageTimes) -> Callable:
    def run(*arguments, **keywords):
        with times.stage(stage):
            return function(*arguments, **keywords)

    return run


@contextmanager
def in_place_of(part: nn.Module, name: str, function: Callable) -> Iterator[None]:
    """Meanwhile this one instance has another method."""
    before = vars(part).get(name)
    setattr(part, name, function)
    try:
        yield
    finally:
        if before is None:
            delattr(part, name)
        else:
            setattr(part, name, before)
