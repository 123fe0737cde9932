"""Records to samples and back: the picture is read, masks are decoded, every coordinate is checked against it."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pam_kit.contracts import ClipSample, Region, RegionPrompt, RegionSample
from pam_kit.data.clips import FrameFiles, VideoFrames, counted_video
from pam_kit.data.masks import MaskError, decode_segmentation, encode_rle
from pam_kit.data.pictures import read_picture
from pam_kit.data.schema import RegionRecord, SampleRecord, VideoSpan, parse_line, record_line
from pam_kit.errors import BrokenSample, PamKitError, PromptError

# A frame more outweighs any text.
_MOST_CHARACTERS = 4096


def load_sample(record: SampleRecord, image_root: Path, box_tolerance: float = 0.0) -> RegionSample:
    """Read the picture of ``record`` below ``image_root`` and build its regions.

    ``box_tolerance``: boxes that leave the picture by at most so many pixels are cut to it.
    Raises BrokenSample for a clip, an unreadable picture, another size than declared, and masks, boxes and points
    that do not fit the picture.
    """
    if record.image is None:
        what = f"of {len(record.frames)} frames" if record.video is None else "in a video"
        reason = f"a clip {what}; this dataset reads pictures, the dataset clips reads clips"
        raise BrokenSample(record.source, reason)
    image = read_picture(image_root / record.image, record.source)
    return RegionSample(record.source, image, _checked_regions(record, image, box_tolerance))


def load_clip(record: SampleRecord, image_root: Path, box_tolerance: float = 0.0) -> ClipSample:
    """Read the first frame of ``record`` below ``image_root`` and build its regions; the other frames are read later.

    The clip begins with the frame in which its regions are pointed at. Raises BrokenSample as ``load_sample``, for a
    picture, and for regions that are pointed at in different frames.
    """
    if record.image is not None:
        raise BrokenSample(record.source, "a picture; this dataset reads clips, the dataset jsonl reads pictures")
    starts = sorted({region.frame for region in record.regions})
    if len(starts) > 1:
        places = ", ".join(map(str, starts))
        reason = f"its regions are pointed at in different frames ({places}); give each its own line"
        raise BrokenSample(record.source, reason)
    frames = _clip_frames(record, image_root)[starts[0] :]
    if not frames:
        reason = f"its regions are pointed at in frame {starts[0]}, which lies behind the end of the video"
        raise BrokenSample(record.source, reason)
    return build_clip(record, frames, box_tolerance)


def build_clip(record: SampleRecord, frames: Sequence[np.ndarray], box_tolerance: float = 0.0) -> ClipSample:
    """The clip of these frames and the regions of ``record``, which are pointed at in the first of them."""
    return ClipSample(record.source, frames, _checked_regions(record, frames[0], box_tolerance), record.history)


def _clip_frames(record: SampleRecord, root: Path) -> FrameFiles | VideoFrames:
    if (video := record.video) is not None:
        path = root / video.path
        return VideoFrames(counted_video(path, record.source), record.source, video.start, video.stop, video.step)
    return FrameFiles([root / frame for frame in record.frames], record.source)


def _checked_regions(record: SampleRecord, image: np.ndarray, box_tolerance: float) -> list[Region]:
    _check_size(record, image)
    regions = []
    for region in record.regions:
        try:
            regions.append(_region(region, image.shape[1], image.shape[0], box_tolerance))
        except (MaskError, PromptError) as error:
            raise BrokenSample(record.source, f"region {region.id!r}: {error}") from error
    return regions


def clip_length(record: SampleRecord, num_frames: int, max_frames: int) -> int:
    """How long a clip is to read: by its frames, of which ``max_frames`` are read, then by its longest text."""
    longest = max(map(len, record.texts()), default=0)
    return min(num_frames, max_frames) * _MOST_CHARACTERS + min(longest, _MOST_CHARACTERS - 1)


def picture_folder(folder: str | Path) -> Path:
    """``folder`` as a path; PamKitError where there is none, since then every single sample would be broken."""
    folder = Path(folder)
    if not folder.is_dir():
        raise PamKitError(f"no folder {folder}; expected the dataset's pictures there")
    return folder


def write_jsonl(samples: Iterable[RegionSample], path: str | Path, image_folder: str | Path) -> int:
    """Write samples to ``path`` and their pictures as PNG files into ``image_folder``; returns how many.

    The JSONL names the pictures relative to its own folder, so that both can be moved together. It appears under
    its name only when complete. Raises BrokenSample for a sample that could not be read back.
    """
    path, image_folder = Path(path), Path(image_folder)
    image_folder.mkdir(parents=True, exist_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(path.name + ".part")
    count = 0
    with open(unfinished, "w", encoding="utf-8") as file:
        for sample in samples:
            picture = image_folder / f"{path.stem}_{count:06d}.png"
            file.write(_line(sample, Path(os.path.relpath(picture, path.parent)).as_posix()) + "\n")
            Image.fromarray(sample.image).save(picture)
            count += 1
    os.replace(unfinished, path)
    return count


def _check_size(record: SampleRecord, image: np.ndarray) -> None:
    height, width = image.shape[:2]
    if record.width is None or (record.width, record.height) == (width, height):
        return
    turned = (record.height, record.width) == (width, height)
    hint = "; it was measured before the EXIF rotation, or its sides are swapped" if turned else ""
    reason = f"declared as {record.width}x{record.height} pixels, but the picture has {width}x{height}{hint}"
    raise BrokenSample(record.source, reason)


def _region(record: RegionRecord, width: int, height: int, box_tolerance: float) -> Region:
    mask = _mask(record.mask, width, height)
    return Region(record.id, _prompt(record, width, height, box_tolerance), mask, record.texts, record.attributes)


def _mask(segmentation: Any, width: int, height: int) -> np.ndarray | None:
    if segmentation is None:
        return None
    mask = decode_segmentation(segmentation, width, height)
    if not mask.any():
        raise MaskError("the mask is empty: none of its pixels is set")
    return mask


def _prompt(record: RegionRecord, width: int, height: int, box_tolerance: float) -> RegionPrompt | None:
    if record.box is None and not record.points and not record.labels and record.prompt_mask is None:
        return None
    box = None if record.box is None else _cut(record.box, width, height, box_tolerance)
    prompt = RegionPrompt(box, record.points, record.labels, _mask(record.prompt_mask, width, height))
    prompt.check(width, height)
    return prompt


def _cut(box: tuple[float, float, float, float], width: int, height: int, tolerance: float):
    """``box`` cut to the picture; unchanged where it leaves the picture by more than ``tolerance``."""
    x1, y1, x2, y2 = box
    if min(x1, y1) < -tolerance or x2 > width + tolerance or y2 > height + tolerance:
        return box
    return max(0.0, x1), max(0.0, y1), min(float(width), x2), min(float(height), y2)


def _line(sample: RegionSample, image: str) -> str:
    height, width = sample.image.shape[:2]
    regions = _region_records(sample, width, height)
    return _readable_line(SampleRecord(sample.source, regions, image, width=width, height=height))


def clip_line(sample: ClipSample, video: str) -> str:
    """The line of a clip whose frames are all those of the file ``video``.

    Raises BrokenSample for a sample that could not be read back.
    """
    height, width = sample.frames[0].shape[:2]
    regions = _region_records(sample, width, height)
    span = VideoSpan(video)
    return _readable_line(
        SampleRecord(sample.source, regions, width=width, height=height, history=sample.history, video=span)
    )


def _readable_line(record: SampleRecord) -> str:
    try:
        line = record_line(record)
    except (TypeError, ValueError) as error:
        raise PamKitError(f"{record.source}: its attributes cannot be written as JSON: {error}") from error
    parse_line(line, record.source)
    return line


def _region_records(sample: RegionSample | ClipSample, width: int, height: int) -> tuple[RegionRecord, ...]:
    try:
        return tuple(_region_record(region, width, height) for region in sample.regions)
    except (MaskError, PromptError) as error:
        raise BrokenSample(sample.source, str(error)) from error


def _region_record(region: Region, width: int, height: int) -> RegionRecord:
    prompt = region.prompt or RegionPrompt()
    if region.prompt is not None:
        region.prompt.check(width, height)
    if region.mask is not None and region.mask.shape != (height, width):
        raise MaskError(f"region {region.id!r}: the mask's shape {region.mask.shape} is not ({height}, {width})")
    box = None
    if prompt.box is not None:
        x1, y1, x2, y2 = (float(v) for v in prompt.box)
        box = (x1, y1, x2, y2)
    return RegionRecord(
        id=region.id,
        box=box,
        points=tuple((float(x), float(y)) for x, y in prompt.points),
        labels=tuple(int(label) for label in prompt.labels),
        prompt_mask=None if prompt.mask is None else encode_rle(prompt.mask),
        mask=None if region.mask is None else encode_rle(region.mask),
        texts=region.texts,
        attributes=region.attributes,
    )


def readable_texts(record: Callable[[int], SampleRecord], count: int) -> Iterator[str]:
    """All texts of the first ``count`` records; a broken one is reported where it is read as a sample."""
    for index in range(count):
        try:
            found = record(index)
        except BrokenSample:
            continue
        yield from found.texts()
