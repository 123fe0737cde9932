"""Annotated videos: of a finished prediction, in a second pass over its frames, and of a stream, as it goes."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Self

import numpy as np

from pam_kit.contracts import GeneratedText
from pam_kit.data.video import Frame, VideoSource, VideoWriter
from pam_kit.errors import PamKitError
from pam_kit.inference.annotation import FrameAnnotator
from pam_kit.inference.presence import LOST
from pam_kit.inference.stream_records import Description, FrameReport, StateChange, StreamEvent
from pam_kit.inference.video_result import VideoPrediction

# Of a source that does not say: only frames without a time of their own are written at this rate.
USUAL_RATE = 30.0
_STATE_OF_CHANGE = {"found": "present"}


def write_annotated(
    prediction: VideoPrediction,
    video: VideoSource,
    path: str | Path,
    languages: Sequence[str] = ("en",),
    progress: Callable[..., Iterable] = lambda items, **_: items,
) -> Path:
    """The frames of ``video`` again, with the masks and texts of ``prediction``, as an mp4 at ``path``.

    Raises VideoError where the video cannot be read or the file not be written; the file is then not there.
    """
    regions = {one.region: one for one in prediction.regions}
    texts = {number: one.texts for number, one in regions.items()}
    annotator = FrameAnnotator((video.width, video.height), len(regions), languages, texts=texts)
    states = {number: _states(one.transitions, prediction.num_frames) for number, one in regions.items()}
    with VideoWriter(path, video.frame_rate or USUAL_RATE, annotator.size) as writer:
        frames = video.frames(0, prediction.num_frames)
        for frame in progress(frames, total=prediction.num_frames, desc="writing"):
            size = frame.image.shape[:2]
            masks = {number: one.frames[frame.index].mask(size) for number, one in regions.items()}
            pointed = {
                number: prompt.prompt
                for number, one in regions.items()
                for prompt in one.prompts
                if prompt.frame == frame.index
            }
            now = {number: words[frame.index] for number, words in states.items()}
            writer.write(annotator.draw(frame.image, masks, now, texts, pointed), frame.time)
    return Path(path)


class AnnotatedStream:
    """Writes the annotated frames of a stream while it runs; a context manager.

    Args:
        path: of the mp4, which begins with the first frame that is given; it appears when the stream ends.
        frame_rate: of the source, None where unknown.
        num_regions: for the texts of how many regions there is room.
        languages: whose texts are shown.
        num_texts: the tasks that are asked.
        states: of regions that are followed already, as in a stream that was brought back.
    """

    def __init__(
        self,
        path: str | Path,
        frame_rate: float | None,
        num_regions: int,
        languages: Sequence[str] = ("en",),
        num_texts: int = 1,
        states: Mapping[int, str] | None = None,
    ):
        self.path = Path(path)
        self._frame_rate = frame_rate or USUAL_RATE
        self._room = (num_regions, tuple(languages), num_texts)
        self._writer: VideoWriter | None = None
        self._annotator: FrameAnnotator | None = None
        self._start = 0.0
        self._texts: dict[int, dict[str, dict[str, GeneratedText]]] = {}
        self._states = dict(states or {})

    def on_frame(self, frame: Frame, report: FrameReport) -> None:
        """Write a frame with its masks and the texts so far."""
        height, width = frame.image.shape[:2]
        if self._annotator is None or self._writer is None:
            self._annotator = FrameAnnotator((width, height), *self._room)
            self._writer = VideoWriter(self.path, self._frame_rate, self._annotator.size, endless=True)
            self._start = frame.time
        for region, changes in report.transitions.items():
            self._states[region] = _state_word(changes[-1].state)
        masks: dict[int, np.ndarray] = {region: seen.mask() for region, seen in report.regions.items()}
        drawn = self._annotator.draw(frame.image, masks, self._states, self._texts, report.pointed)
        self._writer.write(drawn, frame.time - self._start)

    def on_event(self, event: StreamEvent) -> None:
        """Show what was said from the next frame on."""
        if isinstance(event, Description) and event.texts:
            self._texts[event.region] = event.texts
        elif isinstance(event, StateChange):
            self._states[event.region] = _state_word(event.change.state)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind, *_) -> None:
        if self._writer is None:
            return
        # A stream that is stopped by hand, or by a frame that cannot be taken, leaves what was written so far.
        if self._writer.frames and (kind is None or issubclass(kind, KeyboardInterrupt | PamKitError)):
            self._writer.close()
        else:
            self._writer.abandon()


def _states(transitions, count: int) -> list[str]:
    """The state of a region in each of ``count`` frames, in a word."""
    words = [LOST] * count
    for change in transitions:
        words[change.frame :] = [_state_word(change.state)] * max(0, count - change.frame)
    return words


def _state_word(state: str) -> str:
    return _STATE_OF_CHANGE.get(state, state)
