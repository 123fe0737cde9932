"""Clips in litdata shards: few large files instead of many small ones, for training from a network disk.

One litdata sample is one clip: its frames as an mp4 and its line of JSONL. Masks, prompts and texts come back exactly;
frames are compressed with loss and half of the colours' resolution.
"""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from pam_kit.atomic_files import whole_folder
from pam_kit.contracts import ClipSample
from pam_kit.data.clips import VideoFrames
from pam_kit.data.samples import build_clip, clip_length, clip_line, readable_texts
from pam_kit.data.schema import RegionDataset, SampleRecord, parse_line
from pam_kit.data.video import MemoryVideo, VideoError
from pam_kit.data.video.frames import PICTURE_RATE
from pam_kit.data.video.writing import Mp4Encoder
from pam_kit.errors import BrokenSample, PamKitError
from pam_kit.registry import register

_INDEX = "index.json"
# What the line calls the video that lies beside it.
_VIDEO = "frames.mp4"


@dataclass
class WrittenShards:
    """How many clips were written, and those that could not be."""

    clips: int = 0
    broken: list[BrokenSample] = field(default_factory=list)


def write_shards(
    dataset: RegionDataset, folder: str | Path, quality: int = 18, chunk_bytes: int = 64_000_000
) -> WrittenShards:
    """Write all clips of ``dataset`` into a new folder, which appears whole or not at all.

    Broken samples are left out and listed.

    Args:
        quality: of the frames, 0 to 51; smaller is better and larger (H.264's constant rate factor).
        chunk_bytes: bytes of a shard, about.

    Raises PamKitError where the folder is there already, the dataset holds pictures, or no clip could be written.
    """
    from litdata.streaming.writer import BinaryWriter

    folder, written = Path(folder), WrittenShards()
    if folder.exists():
        raise PamKitError(f"{folder} is there already; choose another folder for the shards, or remove it")
    with whole_folder(folder) as draft:
        writer = BinaryWriter(str(draft), chunk_bytes=chunk_bytes)
        for index in range(len(dataset)):
            try:
                item = _packed(dataset[index], quality)
            except BrokenSample as broken:
                written.broken.append(broken)
                continue
            writer.add_item(written.clips, item)
            written.clips += 1
        if not written.clips:
            raise PamKitError(f"no clip for {folder}; {_first_broken(written)}")
        writer.done()
        writer.merge()
    return written


def _packed(sample: Any, quality: int) -> dict[str, str | int | bytes]:
    """A clip as litdata stores it: always the same keys and types, since the first sample sets them for all."""
    if not isinstance(sample, ClipSample):
        raise PamKitError(f"{sample.source} is a picture; shards hold clips")
    line = clip_line(sample, _VIDEO)
    height, width = sample.frames[0].shape[:2]
    target = BytesIO()
    encoder = Mp4Encoder(target, PICTURE_RATE, (width, height), quality)
    for frame in sample.frames:
        encoder.write(frame)
    encoder.finish()
    return {
        "source": sample.source,
        "line": line.encode(),
        "frames": len(sample.frames),
        "lead": sample.lead,
        "video": target.getvalue(),
    }


def _first_broken(written: WrittenShards) -> str:
    return f"all are broken, the first one: {written.broken[0]}" if written.broken else "the dataset is empty"


@register("dataset", "clip_shards")
class ClipShards:
    """Clips from a folder that ``write_shards`` wrote.

    Args:
        path: the folder.
    """

    clips = True

    def __init__(self, path: str):
        self._folder = Path(path)
        self._chunks = _chunks(self._folder)
        self._ends = np.cumsum([chunk["chunk_size"] for chunk in self._chunks])
        self._reader: tuple[int, Any] | None = None
        for chunk in self._chunks:
            if reason := _defect(self._folder / chunk["filename"], chunk):
                raise PamKitError(f"{reason}; copy the folder again, or write it anew")

    def __len__(self) -> int:
        return int(self._ends[-1])

    def record(self, index: int) -> SampleRecord:
        """Clip ``index`` without its frames. Raises BrokenSample."""
        return self._record(self._item(index), index)

    def __getitem__(self, index: int) -> ClipSample:
        item = self._item(index)
        record = self._record(item, index)
        try:
            size = (record.width, record.height) if record.width and record.height else None
            video = MemoryVideo(bytes(item["video"]), self._place(index), size)
        except VideoError as error:
            raise BrokenSample(record.source, str(error)) from error
        frames = VideoFrames(video, record.source, stop=int(item["frames"]))
        return replace(build_clip(record, frames), lead=int(item["lead"]))

    def lengths(self, max_frames: int) -> list[int]:
        """How long each clip is when at most ``max_frames`` frames are read, 0 for a broken one; reads all shards."""
        return [self._length(index, max_frames) for index in range(len(self))]

    def _length(self, index: int, max_frames: int) -> int:
        try:
            item = self._item(index)
            return clip_length(self._record(item, index), int(item["frames"]) - int(item["lead"]), max_frames)
        except BrokenSample:
            return 0

    def texts(self) -> Iterator[str]:
        """All texts of all readable clips; a broken one is reported where it is read as a sample."""
        return readable_texts(self.record, len(self))

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_reader": None}

    def _place(self, index: int) -> str:
        return f"{self._folder.name}:{index}"

    def _record(self, item: dict[str, Any], index: int) -> SampleRecord:
        source = f"{self._place(index)} ({item['source']})"
        try:
            return parse_line(bytes(item["line"]).decode(), source)
        except UnicodeDecodeError as error:
            raise BrokenSample(source, f"not UTF-8: {error}") from error

    def _item(self, index: int) -> dict[str, Any]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        chunk = self._chunks[int(np.searchsorted(self._ends, index, side="right"))]
        # litdata would wait minutes for a missing file, as for one that is still on its way.
        if reason := _defect(self._folder / chunk["filename"], chunk):
            raise BrokenSample(self._place(index), reason)
        try:
            item = self._streaming()[index]
        except Exception as error:  # whatever litdata makes of bytes that are not what they were
            raise BrokenSample(self._place(index), f"shard {chunk['filename']} cannot be read: {error!r}") from error
        if set(item) != {"source", "line", "frames", "lead", "video"}:
            raise BrokenSample(self._place(index), f"{self._folder} holds no clips, but samples of {sorted(item)}")
        return item

    def _streaming(self) -> Any:
        """litdata's reader, one for each process: readers of forked workers must not share an open file."""
        if self._reader is None or self._reader[0] != os.getpid():
            from litdata import StreamingDataset

            self._reader = os.getpid(), StreamingDataset(str(self._folder.absolute()), shuffle=False)
        return self._reader[1]


def _chunks(folder: Path) -> list[dict[str, Any]]:
    """What the index says of each shard: its file's name and bytes, and how many samples are in it."""
    try:
        chunks = json.loads((folder / _INDEX).read_text(encoding="utf-8"))["chunks"]
        complete = all({"filename", "chunk_bytes", "chunk_size"} <= set(chunk) for chunk in chunks)
    except FileNotFoundError as error:
        raise PamKitError(f"no {_INDEX} in {folder}; expected a folder of shards as write_shards makes them") from error
    except (ValueError, KeyError, TypeError) as error:
        raise PamKitError(f"{folder / _INDEX} is no index of shards: {error!r}") from error
    if not chunks or not complete:
        raise PamKitError(f"{folder / _INDEX} lists no shards, or says too little of them")
    return chunks


def _defect(path: Path, chunk: dict[str, Any]) -> str | None:
    """What is wrong with the file of a shard, seen from outside."""
    if not path.is_file():
        return f"shard {path} is missing"
    if (found := path.stat().st_size) < chunk["chunk_bytes"]:
        return f"shard {path} is cut off: {found} of {chunk['chunk_bytes']} bytes"
    return None
