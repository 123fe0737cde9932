"""One region's clip while the decoder reads it: frames come in one by one, and the last of them opens the next clip."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pam_kit.contracts import PerceivedTokens, Questions
from pam_kit.contracts.batches import GeneratedText
from pam_kit.inference.following import RegionFollower
from pam_kit.inference.latency import Latency
from pam_kit.tasks import clip_question

# Slack in seconds, for times that went through a division.
_SLACK = 1e-6


@dataclass(frozen=True)
class Asking:
    """What is asked about a region: ``tasks`` in ``languages``, answers of at most ``max_new_tokens``."""

    tasks: tuple[str, ...]
    languages: tuple[str, ...]
    max_new_tokens: int

    def questions(self, history: Mapping[str, str], regions: Sequence[int] = (0,)) -> Questions:
        """All questions about each of ``regions``; ``history``: what was said before, by language."""
        asked = [(region, task, language) for region in regions for task in self.tasks for language in self.languages]
        return Questions(
            region_index=torch.tensor([region for region, _, _ in asked], dtype=torch.long),
            questions=[clip_question(task, language, history.get(language)) for _, task, language in asked],
            answers=[""] * len(asked),
            tasks=[task for _, task, _ in asked],
            languages=[language for _, _, language in asked],
        )


class ClipReading:
    """Frames of one region, each read by the decoder as soon as it is there (PAM, section 3.1, streaming).

    The first frame is read like a picture (r = 2), those behind it are shorter (r = 4). Kept are the decoder's keys and
    values and the tokens of the last frame, since it may open the next clip.

    Args:
        follower: makes the tokens.
        start: time at which the clip begins, in seconds.
    """

    def __init__(self, follower: RegionFollower, start: float):
        self._follower, self.start = follower, start
        self.reading = follower.model.decoder.start_reading(1)
        self.count = 0
        self.seen = False
        self.last: PerceivedTokens | None = None

    @property
    def latency(self) -> Latency:
        return self._follower.latency

    def due(self, time: float, every: float, room: int) -> bool:
        """Whether a frame at ``time`` is to be read: the first one, then one every ``every`` seconds, as long as the
        clip has fewer than ``room`` frames."""
        return self.count == 0 or (self.count < room and time >= self.start + self.count * every - _SLACK)

    def add(self, tokens: PerceivedTokens) -> None:
        """Read the region's tokens (R = 1) in the next frame."""
        self._read(self._follower.embeddings(tokens, later=self.count > 0))
        self.last = tokens

    def ask(self, asking: Asking, history: dict[str, str], asked_at: float) -> list[GeneratedText]:
        """Answers about what was read so far, in the order of ``asking.questions``; nothing of it is lost.

        ``asked_at``: when the clip's end was known, on the clock of ``latency``.
        """
        first: list[float] = []

        def note(_ids: Tensor) -> None:
            if not first:
                first.append(self.latency.now())

        answers = self.reading.answer(asking.questions(history), asking.max_new_tokens, note)
        said = first[0] if first else self.latency.now()
        self.latency.add("first_token", said - asked_at)
        self.latency.add("decode", self.latency.now() - said)
        return answers

    def following(self, carry: bool, time: float) -> "ClipReading":
        """The clip that begins where this one ends; with ``carry`` its first frame is the last of this one."""
        clip = ClipReading(self._follower, time)
        if carry and self.last is not None:
            clip.add(self.last)
        return clip

    def _read(self, embeddings: Tensor) -> None:
        with self.latency.stage("prefill"):
            self.reading.read(embeddings)
        self.count += 1
