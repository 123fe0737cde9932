"""A live stream: push frames, get masks at once and, whenever it is asked, what the regions have been doing."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pam_kit.contracts import GeneratedText, RegionFeatures, RegionPrompt
from pam_kit.errors import PamKitError, PromptError
from pam_kit.inference.clip_room import check_clip_room
from pam_kit.inference.following import RegionFollower, seen_regions
from pam_kit.inference.latency import CAPTION_STAGES, FRAME_STAGES, Latency
from pam_kit.inference.predictor import RegionPredictor
from pam_kit.inference.presence import LOST, PresenceTracker
from pam_kit.inference.stream_clip import Asking, ClipReading, Followed
from pam_kit.inference.stream_records import Description, FrameReport, StreamSettings
from pam_kit.model import RegionVLM


class RegionStream:
    """Follows regions through frames that come one by one, and describes them at any time.

    What is kept is bounded: the backbone's memory, the newest frame's features, and of each region the tokens of the
    last read frame and the decoder's keys and values of the clip so far, which end with the clip; so do the semantic
    tokens of its frames, where they are merged.

    Attributes:
        broken: whether an exception, such as Ctrl-C, left it in the middle of a frame, a description or a removal.
            Then it is neither as before nor as after, so that it cannot go on or be saved, until it is ``reset``.

    Args:
        model: a RegionVLM whose backbone tracks; it is put into eval mode.
        settings: how it is read and spoken about.
        device: where to compute; the first accelerator by default, else the CPU.

    Raises:
        PamKitError: the backbone does not track, or a clip of these settings is too long for the decoder.

    Example:
        >>> stream = RegionStream.from_run("runs/pam_tiny_video")
        >>> stream.prompt(RegionPrompt(box=(300, 200, 500, 420)))
        >>> for frame in frames:
        ...     report = stream.push(frame)
        >>> stream.describe()[0].texts["caption"]["en"].text
    """

    def __init__(
        self, model: RegionVLM, settings: StreamSettings | None = None, device: torch.device | str | None = None
    ):
        self.settings = settings or StreamSettings()
        pictures = RegionPredictor(model, device)
        self.model, self.device = pictures.model, pictures.device
        self.reset()
        recalled = self.settings.max_new_tokens if self.settings.history else 0
        check_clip_room(self.model, self.settings.clip_frames, self._asking(), {}, recalled, in_parts=True)

    @classmethod
    def from_run(
        cls, folder: str | Path, settings: StreamSettings | None = None, device: torch.device | str | None = None
    ) -> "RegionStream":
        """Load the model of a run folder."""
        return cls(RegionVLM.from_pretrained(str(folder)), settings, device)

    def reset(self) -> None:
        """Forget every frame and region; the settings stay."""
        self.broken = False
        self.latency = Latency(self.device)
        self.follower = RegionFollower(self.model, self.latency)
        self.followed: list[Followed] = []
        self.pending: dict[int, RegionPrompt] = {}
        self.frames, self.time, self.begun = 0, -1.0, 0.0
        self.size: tuple[int, int] | None = None
        self.newest: RegionFeatures | None = None
        self.unread: set[int] = set()
        self.last_number = 0

    @property
    def regions(self) -> list[int]:
        """The numbers of the regions that are followed."""
        return [one.number for one in self.followed]

    @property
    def unspoken(self) -> bool:
        """Whether there were frames of some region since it was last described."""
        return bool(self.unread) or any(one.clip.count > one.clip.carried for one in self.followed)

    def prompt(self, prompt: RegionPrompt, region: int | None = None) -> int:
        """Point at an object in the frame that is pushed next; returns its number.

        Args:
            region: a number: of a region that is followed already, to point at it anew, or a new one; None: the next
                free number.
        """
        region = self.last_number + 1 if region is None else region
        if region < 1:
            raise PromptError(f"region {region}: regions are numbered from 1 up")
        self.last_number = max(self.last_number, region)
        self.pending[region] = prompt
        return region

    def remove(self, region: int) -> None:
        """Follow a region no longer, and do not point at it in the next frame."""
        if self.pending.pop(region, None) is not None and region not in self.regions:
            return
        row = self._row(region)
        rows = [i for i in range(len(self.followed)) if i != row]
        with self._whole():
            self.follower.memory.keep(rows)
            self.newest = self.newest.of_rows(rows) if rows and self.newest is not None else None
            self.unread = {place for place, old in enumerate(rows) if old in self.unread}
            self.followed = [self.followed[old] for old in rows]

    def push(self, image: np.ndarray, time: float | None = None) -> FrameReport:
        """The next frame, (H, W, 3) uint8 RGB, at ``time`` in seconds -> masks of all regions in it.

        Until a region is pointed at nothing is computed. Raises PromptError where a prompt does not fit the frame,
        which is then not taken: push it again, with a better prompt or without; and PamKitError for a frame of another
        size than those before, or of an earlier time, and of a stream that is ``broken``.
        """
        time = self._checked(image, time)
        self._check_pending(image)
        report = FrameReport(self.frames, time)
        with self._whole():
            if self.followed or self.pending:
                with self.latency.work():
                    self._follow(image, report)
            self.begun = self.begun if self.frames else time
            self.frames, self.time, self.size = self.frames + 1, time, (image.shape[0], image.shape[1])
        report.latency_ms = self.latency.taken(FRAME_STAGES)
        return report

    def full_clips(self) -> list[int]:
        """The regions whose clips have as many frames as they may have, the newest one, which is due, included."""
        return [one.number for one in self.followed if one.clip.is_full(self.time, self.settings.clip_frames)]

    def describe(self, regions: Sequence[int] | None = None, reason: str = "asked") -> list[Description]:
        """What the regions (all of them by default) did since they were last described; their next clips begin.

        The newest frame is the last of the clip. Of an object that was out of sight in all frames since, and where no
        frame came since, nothing is said. Raises PamKitError of a stream that is ``broken``.
        """
        rows = range(len(self.followed)) if regions is None else [self._row(region) for region in regions]
        with self._whole(), self.latency.work():
            asked_at = self.latency.now()
            return [self._describe(row, reason, asked_at) for row in rows]

    def summary(self) -> dict[str, Any]:
        """Frames, seconds of the stream and of work, the real-time factor (work over stream; below 1 keeps up), and
        milliseconds by stage. Of a stream that was brought back all but ``frames`` is since then."""
        length = max(self.time - self.begun, 0.0)
        busy = self.latency.busy()
        return {
            "frames": self.frames,
            "seconds": round(length, 4),
            "busy_seconds": round(busy, 4),
            "real_time_factor": round(busy / length, 4) if length else None,
            "latency_ms": self.latency.summary(),
        }

    def check_whole(self, wish: str) -> None:
        """Raise PamKitError where the stream is ``broken``, so that it cannot do what is wished."""
        if self.broken:
            raise PamKitError(
                f"the stream was stopped in the middle of its work, after {self.frames} whole frames; it cannot "
                f"{wish}: load it from a file that was saved before, or reset it and point at the regions again"
            )

    @contextmanager
    def _whole(self) -> Iterator[None]:
        """What happens inside happens to its end, or breaks the stream."""
        self.check_whole("go on")
        self.broken = True
        yield
        self.broken = False

    def _describe(self, row: int, reason: str, asked_at: float) -> Description:
        one = self.followed[row]
        if row in self.unread:
            self._read([row], self.time)
        clip, asking = one.clip, self._asking()
        answers = clip.ask(asking, one.history, asked_at) if clip.seen else []
        texts: dict[str, dict[str, GeneratedText]] = {}
        asked = asking.questions({})
        for task, language, answer in zip(asked.tasks, asked.languages, answers, strict=bool(answers)):
            texts.setdefault(task, {})[language] = answer
        if self.settings.history:
            one.history |= {language: said.text for language, said in texts.get("caption", {}).items()}
        carry = self.settings.carry and self.settings.clip_frames > 1
        one.clip, one.anew = clip.following(carry, self.time), not self.settings.memory
        self.latency.taken(FRAME_STAGES)  # those of a caption are no frame's
        spoken = self.latency.taken(CAPTION_STAGES)
        state = one.presence.status or LOST
        return Description(one.number, clip.start, self.time, state, reason, clip.count, texts, spoken)

    def _asking(self) -> Asking:
        return Asking(self.settings.tasks, self.settings.languages, self.settings.max_new_tokens)

    def _checked(self, image: np.ndarray, time: float | None) -> float:
        """The frame's time. Raises PamKitError for a frame that cannot follow the last one."""
        is_picture = isinstance(image, np.ndarray) and image.ndim == 3 and image.shape[2] == 3 and image.size
        if not is_picture or image.dtype != np.uint8:
            given = f"{image.shape} {image.dtype}" if isinstance(image, np.ndarray) else type(image).__name__
            raise PamKitError(f"a frame must be an (H, W, 3) uint8 RGB array, not {given}")
        if self.size is not None and image.shape[:2] != self.size:
            raise PamKitError(
                f"frame {self.frames} has {image.shape[1]}x{image.shape[0]} pixels, the frames before it "
                f"{self.size[1]}x{self.size[0]}: resize it, or reset the stream and point at the regions again"
            )
        if time is None:
            return self.time + 1 / self.settings.frame_rate if self.frames else 0.0
        if not np.isfinite(time) or time < max(self.time, 0.0):
            before = f"behind one of {self.time:g} s" if self.frames else "the first one"
            raise PamKitError(
                f"frame {self.frames}, {before}, is of {time} s; times are seconds, finite, from 0 up and never falling"
            )
        return float(time)

    def _check_pending(self, image: np.ndarray) -> None:
        """Take back a prompt of the next frame that does not fit it; the others go on waiting for theirs."""
        for number, prompt in self.pending.items():
            try:
                prompt.check(width=image.shape[1], height=image.shape[0])
            except PromptError as error:
                del self.pending[number]
                raise PromptError(f"region {number}: {error}") from None

    def _follow(self, image: np.ndarray, report: FrameReport) -> None:
        prompts = self._prompts()
        new = [number for number in prompts if number not in self.regions]
        rows = {number: row for row, number in enumerate([*self.regions, *new])}
        pointing = sorted(((rows[number], prompt) for number, prompt in prompts.items()), key=lambda pair: pair[0])
        features = self.follower.step(image, pointing)
        for number in new:
            presence = PresenceTracker(self.settings.lost_after, first_frame=report.index)
            clip = ClipReading(self.follower, report.time, self.settings.read_every)
            self.followed.append(Followed(number, presence, clip))
        self._note(image.shape[:2], features, report)
        self.newest, self.unread = features, set(range(len(self.followed)))
        due = [row for row, one in enumerate(self.followed) if self._due(one, report.time)]
        self._read(due, report.time)
        self.pending.clear()
        report.pointed = prompts
        report.read = [self.followed[row].number for row in due]

    def _prompts(self) -> dict[int, RegionPrompt]:
        """What is pointed at in the next frame. Regions that begin anew leave the backbone's memory and join behind;
        one of which no box is known is followed on."""
        anew = [one for one in self.followed if one.anew and (one.box is not None or one.number in self.pending)]
        if anew:
            staying = [row for row, one in enumerate(self.followed) if one not in anew]
            self.follower.memory.keep(staying)
            self.followed = [self.followed[row] for row in staying] + anew
        boxes = {one.number: RegionPrompt(box=one.box) for one in anew}
        for one in self.followed:
            one.anew = False
        return boxes | self.pending

    def _note(self, size: tuple[int, int], features: RegionFeatures, report: FrameReport) -> None:
        """What the frame shows of each region goes into the report, and into its clip and presence."""
        for one, seen in zip(self.followed, seen_regions(features, size), strict=True):
            area = int(seen.coarse.sum()) if seen.box() else 0
            changes = one.presence.update(seen.object_score, area, report.time)
            if seen.in_sight:
                one.box, one.clip.seen = seen.box(), True
            report.regions[one.number] = seen
            if changes:
                report.transitions[one.number] = changes

    def _due(self, one: Followed, time: float) -> bool:
        """A frame in which the region is pointed at is read whatever its time."""
        if not one.clip.has_room(self.settings.clip_frames):
            return False
        return one.number in self.pending or one.clip.is_due(time)

    def _read(self, rows: Sequence[int], time: float) -> None:
        """Let the decoder read what the newest frame, of ``time``, shows of some regions."""
        if not rows or self.newest is None:
            return
        tokens = self.follower.perceived(self.newest.of_rows(rows))
        for place, row in enumerate(rows):
            self.followed[row].clip.add(tokens.of_rows([place]), time)
        self.unread -= set(rows)

    def _row(self, region: int) -> int:
        if region not in self.regions:
            known = ", ".join(map(str, self.regions)) or "none"
            raise PromptError(f"there is no region {region} in this stream; followed are {known}")
        return self.regions.index(region)
