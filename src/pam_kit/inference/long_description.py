"""A long video in one text: clip by clip, each knowing what was said before, with time stamps (PAM, appendix D.3)."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from pam_kit.data.video import Frame
from pam_kit.inference.commentary import OnFrame, comment
from pam_kit.inference.stream_records import Description, StreamEvent, StreamSettings
from pam_kit.inference.streamer import RegionStream
from pam_kit.inference.triggers import EveryTrigger
from pam_kit.inference.video_result import FramePrompt


@dataclass
class Passage:
    """What was said of a stretch of the video, from ``start`` to ``end`` in seconds; nothing while out of sight."""

    start: float
    end: float
    text: str

    def to_json(self) -> dict[str, Any]:
        return {"start": round(self.start, 4), "end": round(self.end, 4), "text": self.text}


@dataclass
class LongDescription:
    """One region's text in one language; clips of which the same was said are one passage."""

    region: int
    language: str
    passages: list[Passage]

    def text(self) -> str:
        """One line a passage, ``[0:00.0 - 0:08.0] ...``."""
        return "\n".join(f"[{_clock(p.start)} - {_clock(p.end)}] {p.text or '(out of sight)'}" for p in self.passages)

    def to_json(self) -> dict[str, Any]:
        passages = [passage.to_json() for passage in self.passages]
        return {"region": self.region, "language": self.language, "passages": passages, "text": self.text()}


def describe_long(
    frames: Iterable[Frame],
    stream: RegionStream,
    clip_seconds: float,
    prompts: Sequence[FramePrompt],
    on_frame: OnFrame | None = None,
    on_event: Callable[[StreamEvent], None] = lambda event: None,
) -> list[LongDescription]:
    """Describe a video in clips of ``clip_seconds``; the first task of the stream's settings is merged.

    ``on_frame`` and ``on_event`` are called as things happen. Raises as ``comment``.
    """
    said = []
    for event in comment(frames, stream, EveryTrigger(clip_seconds), prompts, on_frame):
        on_event(event)
        if isinstance(event, Description):
            said.append(event)
    return merged_descriptions(said, stream.settings)


def merged_descriptions(said: Sequence[Description], settings: StreamSettings) -> list[LongDescription]:
    """What a stream of these settings said, in order -> one text a region and language, of the first task."""
    return [
        LongDescription(
            region, language, _merged([one for one in said if one.region == region], settings.tasks[0], language)
        )
        for region in sorted({one.region for one in said})
        for language in settings.languages
    ]


def _merged(said: list[Description], task: str, language: str) -> list[Passage]:
    passages: list[Passage] = []
    for one in said:
        text = one.texts[task][language].text if one.texts else ""
        if passages and passages[-1].text == text:
            passages[-1].end = one.end
        else:
            passages.append(Passage(one.start, one.end, text))
    return passages


def _clock(seconds: float) -> str:
    tenths = round(10 * seconds)
    minutes, rest = divmod(tenths, 600)
    return f"{minutes}:{rest // 10:02d}.{rest % 10}"
