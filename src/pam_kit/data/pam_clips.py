"""PAM's clips as records: the video lines of PAM-data and the released streaming benchmark."""

from collections.abc import Callable
from typing import Any, Literal

from pam_kit.data.pam_data import BOX_TOLERANCE, conversation_texts, corners
from pam_kit.data.schema import SampleRecord, parse_entry, parse_json
from pam_kit.errors import BrokenSample

Box = tuple[float, float, float, float]
Convention = Literal["xywh", "xyxy", "cut"]


def resolve_mixed_box(box: Box, width: int, height: int) -> tuple[Box, Convention]:
    """A box of the streaming benchmark -> (x1, y1, x2, y2) inside the frame, and how it was read.

    The benchmark mixes conventions. A box is x, y, width, height where that stays in a frame of ``width`` x
    ``height`` pixels (two pixels over are forgiven); else x1, y1, x2, y2 where that is a box and stays inside; else
    it is read as the former and cut to the frame. Raises ValueError where nothing of it lies in the frame.
    """
    x, y, third, fourth = box
    as_sizes = (x, y, x + third, y + fourth)
    convention: Convention = "cut"
    if _fits(as_sizes, width, height):
        convention = "xywh"
    elif _fits(box, width, height):
        as_sizes, convention = box, "xyxy"
    x1, y1, x2, y2 = as_sizes
    inside = max(0.0, x1), max(0.0, y1), min(float(width), x2), min(float(height), y2)
    if not (inside[0] < inside[2] and inside[1] < inside[3]):
        raise ValueError(f"box {list(box)} has no part in a frame of {width}x{height} pixels")
    return inside, convention


FrameSize = Callable[[str], tuple[int, int]]


def parse_streaming_line(line: str, source: str, frame_size: FrameSize) -> list[SampleRecord]:
    """A video of the streaming benchmark -> one clip an event, in order. Raises BrokenSample.

    ``frame_size`` gives (width, height) of a frame's path, ``VIDEO/00000.jpg``. A clip's region has the attributes
    ``video``, ``event`` and ``box_convention``; the caption loses the spaces around it, and that of the event before
    is the clip's history.
    """
    count = len(_streaming_events(line, source)[1])
    return [parse_streaming_event(line, source, number, frame_size) for number in range(count)]


def parse_streaming_event(line: str, source: str, number: int, frame_size: FrameSize) -> SampleRecord:
    """Event ``number``, counted from 0, of a video of the streaming benchmark; see ``parse_streaming_line``."""
    video, events = _streaming_events(line, source)
    previous = events[number - 1].get("gt") if number and isinstance(events[number - 1], dict) else None
    history = {"en": previous.strip()} if isinstance(previous, str) and previous.strip() else {}
    return _event(events[number], video, f"{source} event {number + 1}", frame_size, history)


def count_streaming_events(line: str) -> int:
    """How many events a line of the streaming benchmark holds; one that is broken counts as one."""
    try:
        return len(_streaming_events(line, "")[1])
    except BrokenSample:
        return 1


def parse_video_line(line: str, source: str, default_task: str = "caption") -> SampleRecord:
    """A video line of PAM-data -> a clip whose region is pointed at by its box in the first annotated frame.

    ``bbox`` has one box [x, y, width, height] for each of ``masked_frames``. Raises BrokenSample.
    """
    entry = parse_json(line, source)
    root, frames, masked = entry.get("image_root"), entry.get("frames"), entry.get("masked_frames")
    if not isinstance(root, str) or not isinstance(frames, list) or not isinstance(masked, list) or not masked:
        raise BrokenSample(source, "a clip needs image_root, frames and masked_frames")
    if masked[0] not in frames:
        raise BrokenSample(source, f"masked frame {masked[0]!r} is not among the clip's frames")
    boxes = entry.get("bbox")
    if not isinstance(boxes, list) or len(boxes) != len(masked):
        raise BrokenSample(source, f"bbox must have one box for each of the {len(masked)} masked_frames")
    region = {
        "id": str(entry.get("obj_id") or "0"),
        "box": corners(boxes[0], source),
        "texts": conversation_texts(entry.get("conversations"), source, default_task),
        "frame": frames.index(masked[0]),
    }
    return parse_entry({"frames": [f"{root}/{frame}" for frame in frames], "regions": [region]}, source)


def _streaming_events(line: str, source: str) -> tuple[str, list]:
    entry = parse_json(line, source)
    root, events = entry.get("image_root"), entry.get("annotations")
    if not isinstance(root, str) or not isinstance(events, list) or not events:
        raise BrokenSample(source, "a video needs image_root and a list of annotations")
    return root.rstrip("/").rsplit("/", 1)[-1], events


def _event(event: Any, video: str, source: str, frame_size: FrameSize, history: dict[str, str]) -> SampleRecord:
    frames, text, box = _event_parts(event, source)
    paths = [f"{video}/{frame}" for frame in frames]
    width, height = frame_size(paths[0])
    try:
        inside, convention = resolve_mixed_box(box, width, height)
    except ValueError as error:
        raise BrokenSample(source, str(error)) from error
    region = {
        "id": f"{video}:{event.get('event_id')}",
        "box": list(inside),
        "texts": {"caption": {"en": text.strip()}},
        "attributes": {"video": video, "event": event.get("event_id"), "box_convention": convention},
    }
    entry = {"frames": paths, "width": width, "height": height, "regions": [region]}
    return parse_entry(entry | ({"history": history} if history else {}), source)


def _event_parts(event: Any, source: str) -> tuple[list[str], str, Box]:
    if not isinstance(event, dict):
        raise BrokenSample(source, f"an event is a JSON object, not {type(event).__name__}")
    frames, text, boxes = event.get("frames"), event.get("gt"), event.get("box")
    if not isinstance(frames, list) or not frames or not isinstance(text, str):
        raise BrokenSample(source, "an event needs frames, a list of file names, and gt, a text")
    box = boxes[0] if isinstance(boxes, list) and len(boxes) == 1 else None
    if not isinstance(box, list) or len(box) != 4 or not all(type(v) in (int, float) and abs(v) < 1e9 for v in box):
        raise BrokenSample(source, f"an event needs a box, one list of four numbers, not {boxes!r}")
    return frames, text, (box[0], box[1], box[2], box[3])


def _fits(box: Box, width: int, height: int) -> bool:
    x1, y1, x2, y2 = box
    return x1 < x2 <= width + BOX_TOLERANCE and y1 < y2 <= height + BOX_TOLERANCE
