"""Clips as a dataset: folders of frames or videos, and a JSONL that says which frames make a clip, and its texts."""

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Literal

from PIL import Image

from pam_kit.contracts import ClipSample
from pam_kit.data.lines import LineFile
from pam_kit.data.pam_clips import count_streaming_events, parse_streaming_event, parse_video_line
from pam_kit.data.pam_data import BOX_TOLERANCE, check_default_task
from pam_kit.data.samples import clip_length, load_clip, picture_folder, readable_texts
from pam_kit.data.schema import SampleRecord, parse_line
from pam_kit.errors import BrokenSample
from pam_kit.registry import register


@register(
    "dataset",
    "clips",
    presets={"pam_clips": {"format": "pam_data"}, "pam_streaming": {"format": "pam_streaming"}},
)
class ClipDataset:
    """Clips and the regions in them from a JSONL file.

    Args:
        path: the JSONL file.
        image_root: the folder that the paths of frames and videos are relative to; by default the file's own.
        format: jsonl is the kit's own (one clip a line), pam_data the video lines of the PAM-data release,
            pam_streaming the released streaming benchmark (one video a line; each of its events is a clip).
        default_task: the task of a PAM-data text whose question is not one of the kit's.
    """

    clips = True

    def __init__(
        self,
        path: str,
        image_root: str | None = None,
        format: Literal["jsonl", "pam_data", "pam_streaming"] = "jsonl",
        default_task: str = "caption",
    ):
        check_default_task(default_task)
        self._lines = LineFile(path)
        self._root: Path = picture_folder(self._lines.path.parent if image_root is None else image_root)
        self._format, self._default_task = format, default_task

    def __len__(self) -> int:
        return len(self._places)

    def record(self, index: int) -> SampleRecord:
        """Clip ``index`` without its frames. Raises BrokenSample."""
        number, event = self._places[index]
        line, source = self._lines.read(number), self._lines.source(number)
        if self._format == "pam_data":
            return parse_video_line(line, source, self._default_task)
        if self._format == "pam_streaming":
            return parse_streaming_event(line, source, event, lambda path: self._frame_size(path, source))
        return parse_line(line, source)

    def __getitem__(self, index: int) -> ClipSample:
        tolerance = BOX_TOLERANCE if self._format == "pam_data" else 0.0
        return load_clip(self.record(index), self._root, tolerance)

    def lengths(self, max_frames: int) -> list[int]:
        """How long each clip is when at most ``max_frames`` frames are read: by frames, then by characters of texts.

        Reads all lines once, and no frame but for the sizes that pam_streaming needs; a broken clip has length 0, and a
        part of a video file counts as ``max_frames`` long.
        """
        return [self._length(index, max_frames) for index in range(len(self))]

    def _length(self, index: int, max_frames: int) -> int:
        try:
            record = self.record(index)
        except BrokenSample:
            return 0
        return clip_length(record, len(record.frames) or max_frames, max_frames)

    def texts(self) -> Iterator[str]:
        """All texts of all readable clips; a broken one is reported where it is read as a sample."""
        return readable_texts(self.record, len(self))

    @cached_property
    def _places(self) -> list[tuple[int, int]]:
        """Line and event of every clip."""
        lines = range(len(self._lines))
        if self._format != "pam_streaming":
            return [(number, 0) for number in lines]
        return [
            (number, event) for number in lines for event in range(count_streaming_events(self._lines.read(number)))
        ]

    def _frame_size(self, path: str, source: str) -> tuple[int, int]:
        try:
            with Image.open(self._root / path) as frame:
                return frame.size
        except OSError as error:
            raise BrokenSample(source, f"the frame '{self._root / path}' cannot be read: {error}") from error
