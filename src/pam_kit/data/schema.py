"""The RegionSample at rest: one JSON object a line, for one picture or one clip.

A picture::

    {"image": "photos/7.jpg", "width": 640, "height": 480, "regions": [
        {"id": "cup", "box": [10, 20, 90, 120], "mask": {"size": [480, 640], "counts": "..."},
         "texts": {"recognize": {"en": "cup", "zh": "杯子"}}}]}

``width`` and ``height`` are of the upright picture; they may be left out and are checked where given. A clip has
``"frames": ["0001.jpg", ...]`` in the place of ``image``; its regions may say in which ``frame`` (an index, 0 by
default) they are pointed at, and ``history`` what was said about the video before the clip, by language. The frames
of a clip may also lie in a video file: ``"video": "a.mp4", "start": 12, "stop": 60, "step": 2`` stands for its frames
12, 14, ..., 58, counted from 0; without these numbers for all of its frames. A region's ``frame`` counts those.

A region has an ``id`` of its own; ``box`` [x1, y1, x2, y2], ``points`` [[x, y], ...] with ``labels`` (1 inside, 0
outside) and ``prompt_mask`` say how it is pointed at, in pixels; ``mask`` is what should come out, ``texts`` what
should be said: task -> language -> text; ``attributes`` are facts for evaluation. Masks are COCO RLE or polygons.
A mask or a text is needed (supervision), and a mask or a prompt (else nothing points at the region).
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NoReturn, Protocol

from pam_kit.contracts import ClipSample, RegionSample, VideoSample
from pam_kit.errors import BrokenSample
from pam_kit.tasks import LANGUAGES, TASKS

_SPAN_KEYS = ("start", "stop", "step")
_SAMPLE_KEYS = ("image", "frames", "video", *_SPAN_KEYS, "width", "height", "regions", "history")
# No picture has so many pixels a side; NaN and infinity are not below it either.
_FAR_AWAY = 1e9
_REGION_KEYS = ("id", "box", "points", "labels", "prompt_mask", "mask", "texts", "attributes", "frame")


class RegionDataset(Protocol):
    """What a dataset component offers. ``__getitem__`` raises BrokenSample for a sample that cannot be used.

    A dataset holds pictures or clips; the latter sets ``clips``.
    """

    clips: bool = False

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> RegionSample | ClipSample: ...

    def texts(self) -> Iterator[str]: ...


class VideoDataset(Protocol):
    """A dataset of whole videos, which sets ``videos``: what a stream is judged by, event after event."""

    videos: bool = True

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> VideoSample: ...

    def texts(self) -> Iterator[str]: ...


def has_clips(dataset: RegionDataset | type) -> bool:
    """Whether a dataset, or the class of one, holds clips; one that says nothing holds pictures."""
    return bool(getattr(dataset, "clips", False))


def has_videos(dataset: RegionDataset | VideoDataset | type) -> bool:
    """Whether a dataset, or the class of one, holds whole videos."""
    return bool(getattr(dataset, "videos", False))


@dataclass(frozen=True)
class RegionRecord:
    """A region before its picture is read: masks are still RLE or polygons, coordinates are not yet checked."""

    id: str
    box: tuple[float, float, float, float] | None = None
    points: tuple[tuple[float, float], ...] = ()
    labels: tuple[int, ...] = ()
    prompt_mask: Any = None
    mask: Any = None
    texts: dict[str, dict[str, str]] = field(default_factory=dict)
    attributes: dict[str, Any] = field(default_factory=dict)
    frame: int = 0


@dataclass(frozen=True)
class VideoSpan:
    """Every ``step``-th frame of a video file from ``start`` on and before ``stop``, None for its end."""

    path: str
    start: int = 0
    stop: int | None = None
    step: int = 1


@dataclass(frozen=True)
class SampleRecord:
    """One line: a picture (``image``) or a clip (``frames`` or ``video``), paths relative to the picture folder."""

    source: str
    regions: tuple[RegionRecord, ...]
    image: str | None = None
    frames: tuple[str, ...] = ()
    width: int | None = None
    height: int | None = None
    history: dict[str, str] = field(default_factory=dict)
    video: VideoSpan | None = None

    def texts(self) -> Iterator[str]:
        for region in self.regions:
            for by_language in region.texts.values():
                yield from by_language.values()


class _Defect(Exception):
    """What is wrong with a part of a line; becomes a BrokenSample with the line's source."""


def parse_json(line: str, source: str) -> dict[str, Any]:
    """One line -> its JSON object. NaN and Infinity, which JSON does not know, are refused. Raises BrokenSample."""

    def refuse(constant: str) -> NoReturn:
        raise BrokenSample(source, f"{constant} is not JSON; every number must be finite")

    try:
        entry = json.loads(line, parse_constant=refuse)
    except json.JSONDecodeError as error:
        raise BrokenSample(source, f"invalid JSON: {error.msg} at column {error.colno}") from error
    except (RecursionError, ValueError) as error:
        # Nested too deeply, or an integer of thousands of digits.
        raise BrokenSample(source, f"unreadable JSON: {error}") from error
    if not isinstance(entry, dict):
        raise BrokenSample(source, f"a line is a JSON object, not {type(entry).__name__}")
    return entry


def parse_line(line: str, source: str) -> SampleRecord:
    """One line -> SampleRecord. Raises BrokenSample for everything that is wrong without looking at the picture."""
    return parse_entry(parse_json(line, source), source)


def parse_entry(entry: dict[str, Any], source: str) -> SampleRecord:
    """``parse_line`` of a line that is already a JSON object; readers of other formats end here."""
    try:
        _check_keys(entry, _SAMPLE_KEYS)
        image, frames, video = _picture(entry)
        width, height = _side(entry, "width"), _side(entry, "height")
        if (width is None) != (height is None):
            raise _Defect("width and height must be given together")
        regions = tuple(_region(item, index) for index, item in enumerate(_regions(entry)))
        _check_ids(regions)
        _check_frames(regions, frames, video)
        history = _history(entry.get("history"), image is None)
    except _Defect as defect:
        raise BrokenSample(source, str(defect)) from defect
    return SampleRecord(source, regions, image, frames, width, height, history, video)


def record_line(record: SampleRecord) -> str:
    """The line that ``parse_line`` reads as ``record``. Fields that are not set are left out."""
    entry = _picture_entry(record)
    if record.width is not None:
        entry |= {"width": record.width, "height": record.height}
    if record.history:
        entry["history"] = record.history
    entry["regions"] = [
        {key: value for key in _REGION_KEYS if (value := getattr(region, key)) or key == "id"}
        for region in record.regions
    ]
    return json.dumps(entry, ensure_ascii=False, allow_nan=False)


def _check_keys(entry: dict[str, Any], known: tuple[str, ...]) -> None:
    if unknown := sorted(set(entry) - set(known)):
        raise _Defect(f"unknown key {unknown[0]!r}; the keys are {', '.join(known)}")


def _picture_entry(record: SampleRecord) -> dict[str, Any]:
    if record.image is not None:
        return {"image": record.image}
    if record.video is None:
        return {"frames": list(record.frames)}
    span = {key: value for key in _SPAN_KEYS if (value := getattr(record.video, key)) is not None}
    return {"video": record.video.path} | span


def _picture(entry: dict[str, Any]) -> tuple[str | None, tuple[str, ...], VideoSpan | None]:
    image, frames, video = (entry.get(key) for key in ("image", "frames", "video"))
    if sum(given is not None for given in (image, frames, video)) != 1:
        raise _Defect(
            "give either image, the path of a picture, or frames, the paths of a clip's pictures, or video, the path "
            "of a clip's video file"
        )
    if video is not None:
        return None, (), _span(entry)
    if found := [key for key in _SPAN_KEYS if key in entry]:
        raise _Defect(f"{found[0]} counts the frames of a video, and none is given")
    if image is not None:
        return _text(image, "image"), (), None
    if not isinstance(frames, list) or not frames:
        raise _Defect("frames must be a list of at least one path")
    return None, tuple(_text(frame, "a frame") for frame in frames), None


def _span(entry: dict[str, Any]) -> VideoSpan:
    start, stop, step = (entry.get(key) for key in _SPAN_KEYS)
    for key, value, least in (("start", start, 0), ("stop", stop, 1), ("step", step, 1)):
        if value is not None and (type(value) is not int or value < least):
            raise _Defect(f"{key} must be a number of frames, at least {least}, not {value!r}")
    if stop is not None and stop <= (start or 0):
        raise _Defect(f"no frame lies from start {start or 0} to before stop {stop}")
    return VideoSpan(_text(entry["video"], "video"), start or 0, stop, step or 1)


def _side(entry: dict[str, Any], key: str) -> int | None:
    value = entry.get(key)
    if value is not None and (type(value) is not int or value <= 0):
        raise _Defect(f"{key} must be a number of pixels, not {value!r}")
    return value


def _regions(entry: dict[str, Any]) -> list[Any]:
    regions = entry.get("regions")
    if not isinstance(regions, list) or not regions:
        raise _Defect("regions must be a list of at least one region")
    return regions


def _region(entry: Any, index: int) -> RegionRecord:
    if not isinstance(entry, dict):
        raise _Defect(f"region {index} must be a JSON object, not {type(entry).__name__}")
    name = repr(entry.get("id", index))
    try:
        _check_keys(entry, _REGION_KEYS)
        region = RegionRecord(
            id=_text(entry.get("id"), "id"),
            box=_box(entry.get("box")),
            points=_points(entry.get("points")),
            labels=_labels(entry.get("labels")),
            prompt_mask=_mask(entry.get("prompt_mask"), "prompt_mask"),
            mask=_mask(entry.get("mask"), "mask"),
            texts=_texts(entry.get("texts")),
            attributes=_object(entry.get("attributes"), "attributes"),
            frame=_frame(entry.get("frame")),
        )
        _check_use(region)
    except _Defect as defect:
        raise _Defect(f"region {name}: {defect}") from defect
    return region


def _check_use(region: RegionRecord) -> None:
    if region.mask is None and not region.texts:
        raise _Defect("no supervision: it has neither a mask nor a text")
    if region.mask is None and region.box is None and not region.points and region.prompt_mask is None:
        raise _Defect("nothing points at it: give a box, points, a prompt_mask or a mask")


def _check_ids(regions: tuple[RegionRecord, ...]) -> None:
    seen: set[str] = set()
    for region in regions:
        if region.id in seen:
            raise _Defect(f"two regions have the id {region.id!r}")
        seen.add(region.id)


def _check_frames(regions: tuple[RegionRecord, ...], frames: tuple[str, ...], video: VideoSpan | None) -> None:
    """A video's own number of frames is not known here."""
    count = len(frames)
    if video is not None:
        if video.stop is None:
            return
        count = len(range(video.start, video.stop, video.step))
    for region in regions:
        if region.frame >= max(1, count):
            raise _Defect(f"region {region.id!r}: frame {region.frame} of a clip of {count} frames")


def _text(value: Any, what: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise _Defect(f"{what} must be a non-empty text, not {value!r}")
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise _Defect(f"{what} holds half a character (a lone surrogate): {value!r}")
    return value


def _object(value: Any, what: str) -> dict[str, Any]:
    if value is not None and not isinstance(value, dict):
        raise _Defect(f"{what} must be a JSON object, not {type(value).__name__}")
    return value or {}


def _frame(value: Any) -> int:
    if value is not None and (type(value) is not int or value < 0):
        raise _Defect(f"frame must be an index into frames, not {value!r}")
    return value or 0


def _numbers(value: Any, count: int, what: str) -> tuple[float, ...]:
    numbers = isinstance(value, list) and len(value) == count and all(type(v) in (int, float) for v in value)
    if not numbers or not all(abs(v) < _FAR_AWAY for v in value):
        raise _Defect(f"{what}, {count} finite numbers, not {value!r}")
    return tuple(value)


def _box(value: Any) -> tuple[float, float, float, float] | None:
    if value is None:
        return None
    x1, y1, x2, y2 = _numbers(value, 4, "box must be [x1, y1, x2, y2]")
    if x2 <= x1 or y2 <= y1:
        hint = "; it looks like [x, y, width, height]" if x2 > 0 and y2 > 0 else ""
        raise _Defect(f"box {value} is not [x1, y1, x2, y2] with x1 < x2 and y1 < y2{hint}")
    return x1, y1, x2, y2


def _points(value: Any) -> tuple[tuple[float, float], ...]:
    if not isinstance(value, list | None):
        raise _Defect(f"points must be a list of [x, y], not {value!r}")
    pairs = [_numbers(point, 2, "a point must be [x, y]") for point in value or ()]
    return tuple((x, y) for x, y in pairs)


def _labels(value: Any) -> tuple[int, ...]:
    if not isinstance(value, list | None) or not all(type(label) is int for label in value or ()):
        raise _Defect(f"labels must be a list of 1 (inside) and 0 (outside), not {value!r}")
    return tuple(value or ())


def _mask(value: Any, what: str) -> Any:
    if value is not None and not (isinstance(value, dict | list) and value):
        raise _Defect(f"{what} must be an RLE or a list of polygons, not {value!r}")
    return value


def _history(value: Any, clip: bool) -> dict[str, str]:
    if value is not None and not clip:
        raise _Defect("history is of clips; a picture has none")
    for language, text in _object(value, "history").items():
        if language not in LANGUAGES:
            raise _Defect(f"unknown language {language!r}; the languages are {', '.join(LANGUAGES)}")
        _text(text, f"history {language}")
    return value or {}


def _texts(value: Any) -> dict[str, dict[str, str]]:
    for task, by_language in _object(value, "texts").items():
        if task not in TASKS:
            raise _Defect(f"unknown task {task!r}; the tasks are {', '.join(TASKS)}")
        if not isinstance(by_language, dict) or not by_language:
            raise _Defect(f"texts of {task} must be language -> text, not {by_language!r}")
        for language, text in by_language.items():
            if language not in LANGUAGES:
                raise _Defect(f"unknown language {language!r}; the languages are {', '.join(LANGUAGES)}")
            _text(text, f"text {task}.{language}")
    return value or {}
