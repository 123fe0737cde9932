"""Which regions of a benchmark are predicted together. Torch-free.

Units are cut from the whole benchmark before it is divided among processes: a region is always computed beside the same
others, so that its text does not depend on the number of processes, nor on where a run was stopped.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pam_kit.evaluation.records import RegionRecord


@dataclass(frozen=True)
class Unit:
    """Regions that the model sees together.

    Args:
        kind: regions of some pictures, of one clip, or the events of one stream, in their order.
        parts: the regions of each picture; of a clip or a stream there is one part.
    """

    kind: Literal["pictures", "clip", "stream"]
    parts: tuple[tuple[RegionRecord, ...], ...]

    @property
    def records(self) -> list[RegionRecord]:
        return [record for part in self.parts for record in part]


def cut_units(records: Sequence[RegionRecord], pictures: int, regions: int = 32, streamed: bool = False) -> list[Unit]:
    """All regions of a benchmark as units, in the order in which they first come.

    Args:
        pictures: most pictures of a unit; all regions of a picture stand in the same one.
        regions: most regions of a unit of several pictures.
        streamed: the regions of a group are the events of a stream.
    """
    still = _grouped([record for record in records if record.image], lambda record: record.image)
    moving = [record for record in records if not record.image]
    if streamed:
        clips = [Unit("stream", (part,)) for part in _grouped(moving, lambda record: record.group or record.video)]
    else:
        clips = [Unit("clip", (part,)) for part in _grouped(moving, _clip_of)]
    return [Unit("pictures", parts) for parts in _filled(still, pictures, regions)] + clips


def _filled(
    parts: Sequence[tuple[RegionRecord, ...]], pictures: int, regions: int
) -> list[tuple[tuple[RegionRecord, ...], ...]]:
    """Pictures in order, as many together as are allowed."""
    found: list[list[tuple[RegionRecord, ...]]] = []
    for part in parts:
        if not found or len(found[-1]) == pictures or sum(map(len, found[-1])) + len(part) > regions:
            found.append([])
        found[-1].append(part)
    return [tuple(unit) for unit in found]


def _clip_of(record: RegionRecord) -> tuple:
    """Regions that agree in this are followed together, and asked in the same words."""
    return record.video, record.frames, record.frame_index, record.task, record.language, record.question


def _grouped(records: Sequence[RegionRecord], key) -> list[tuple[RegionRecord, ...]]:
    found: dict[object, list[RegionRecord]] = {}
    for record in records:
        found.setdefault(key(record), []).append(record)
    return [tuple(part) for part in found.values()]
