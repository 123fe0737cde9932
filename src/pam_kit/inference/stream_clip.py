"""One region's clip while the decoder reads it: frames come in one by one, and the last of them opens the next clip."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from pam_kit.contracts import PerceivedTokens, Questions, Reading
from pam_kit.contracts.batches import GeneratedText
from pam_kit.inference.following import RegionFollower
from pam_kit.inference.latency import Latency
from pam_kit.inference.presence import PresenceTracker
from pam_kit.tasks import clip_question

# Slack in seconds, for times that went through a division.
_SLACK = 1e-6


@dataclass(frozen=True)
class Asking:
    """What is asked about a region: ``tasks`` in ``languages``, answers of at most ``max_new_tokens``.

    ``words``: what is asked in the place of the tasks' own words.
    """

    tasks: tuple[str, ...]
    languages: tuple[str, ...]
    max_new_tokens: int
    words: str | None = None

    def questions(self, history: Mapping[str, str], regions: Sequence[int] = (0,)) -> Questions:
        """All questions about each of ``regions``; ``history``: what was said before, by language."""
        asked = [(region, task, language) for region in regions for task in self.tasks for language in self.languages]
        return Questions(
            region_index=torch.tensor([region for region, _, _ in asked], dtype=torch.long),
            questions=[
                self.words or clip_question(task, language, history.get(language)) for _, task, language in asked
            ],
            answers=[""] * len(asked),
            tasks=[task for _, task, _ in asked],
            languages=[language for _, _, language in asked],
        )


class ClipReading:
    """Frames of one region, each read by the decoder as soon as it is there (PAM, section 3.1, streaming).

    The first frame is read like a picture (r = 2), those behind it are shorter (r = 4). Kept are the decoder's keys and
    values and the tokens of the last frame, since it may open the next clip; and the semantic tokens of all frames
    where they are merged at the clip's end.

    Frames are read ``every`` so many seconds, counted from the first one that is read. A frame that is read out of turn
    takes the next turn. Turns that no frame came for are left out: behind a gap reading goes on at the same pace.

    Attributes:
        first: time of the first frame that was read.
        turn: the next frame to read is the first one that reaches ``first + turn * every``.
        count: frames read.
        carried: how many of them, 0 or 1, were of the clip before.
        seen: whether the region was in sight in any frame since ``start``, read or not.
        unmerged: (1, N, D) semantic tokens of each read frame, where the clip's end merges them; else none.

    Args:
        follower: makes the tokens.
        start: time at which the clip begins, in seconds.
        every: seconds between two frames that are read; 0: every frame.
    """

    def __init__(self, follower: RegionFollower, start: float, every: float):
        self._follower, self.start, self.every = follower, start, every
        self.reading = follower.model.decoder.start_reading(1)
        self.count = self.carried = self.turn = 0
        self.first = start
        self.seen = False
        self.last: PerceivedTokens | None = None
        self.unmerged: list[Tensor] = []

    @property
    def latency(self) -> Latency:
        return self._follower.latency

    def has_room(self, frames: int) -> bool:
        """Whether a frame can be read on the way, for the clip to have at most ``frames`` with the newest one."""
        return self.count < frames - 1

    def is_due(self, time: float) -> bool:
        """Whether the next frame to read has come: the first one at once, the others in their turns."""
        return self.count == 0 or time >= self.first + self.turn * self.every - _SLACK

    def is_full(self, time: float, frames: int) -> bool:
        """Whether the frame at ``time`` is the last one of a clip of ``frames``."""
        return not self.has_room(frames) and time >= self.first + max(1, self.turn) * self.every - _SLACK

    def add(self, tokens: PerceivedTokens, time: float) -> None:
        """Read the region's tokens (R = 1) in the next frame, which is of ``time``."""
        self.first = time if self.count == 0 else self.first
        passed = math.floor((time - self.first + _SLACK) / self.every) if self.every else 0
        self.turn = max(self.turn, passed) + 1
        projected = self._follower.projected(tokens, later=self.count > 0)
        prefix = self._follower.model.prefix
        if prefix.merges:
            self.unmerged.append(projected.semantic)
        self._read(prefix.of_frame(projected))
        self.last = tokens

    def ask(self, asking: Asking, history: dict[str, str], asked_at: float) -> list[GeneratedText]:
        """Answers about what was read so far, in the order of ``asking.questions``; nothing of it is lost.

        ``asked_at``: when the clip's end was known, on the clock of ``latency``.
        """
        first: list[float] = []

        def note(_ids: Tensor) -> None:
            if not first:
                first.append(self.latency.now())

        answers = self._whole().answer(asking.questions(history), asking.max_new_tokens, note)
        said = first[0] if first else self.latency.now()
        self.latency.add("first_token", said - asked_at)
        self.latency.add("decode", self.latency.now() - said)
        return answers

    def following(self, carry: bool, time: float) -> "ClipReading":
        """The clip that begins where this one ends; with ``carry`` its first frame is the last of this one."""
        clip = ClipReading(self._follower, time, self.every)
        if carry and self.last is not None:
            with self.latency.stage("carry"):
                clip.add(self.last, time)
            clip.carried = 1
        return clip

    def _whole(self) -> Reading:
        """What was read, with what closes a clip behind it; that is not lasting, since more frames may come."""
        if not self.unmerged:
            return self.reading
        reading = self.reading.of_rows([0])
        reading.read(self._follower.model.prefix.of_end(self.unmerged))
        return reading

    def _read(self, embeddings: Tensor) -> None:
        with self.latency.stage("prefill"):
            self.reading.read(embeddings)
        self.count += 1


@dataclass(eq=False)
class Followed:
    """One region of the stream: its clip so far, what was said of it by language, the box of its last mask.

    ``anew``: with the next frame a clip begins for which the backbone forgets it and is pointed at that box.
    """

    number: int
    presence: PresenceTracker
    clip: ClipReading
    history: dict[str, str] = field(default_factory=dict)
    box: tuple[float, float, float, float] | None = None
    anew: bool = False
