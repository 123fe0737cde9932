"""A whole dataset read once, before a run pays for its defects: what is in it, what is broken, what looks wrong."""

import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np

from pam_kit.contracts import POSITIVE_POINT, ClipSample, Region, RegionSample, VideoSample
from pam_kit.data.schema import RegionDataset, VideoDataset
from pam_kit.errors import BrokenSample
from pam_kit.geometry import box_iou, mask_box

# A mask of less than a ten-thousandth of its picture is smaller than 3 x 3 cells of a 256 x 256 mask decoder.
TINY_SHARE = 1e-4
# A box fits a mask's box when their IoU is above this; one reading is better than the other by at least the margin.
MATCH_IOU, MATCH_MARGIN = 0.8, 0.1
_SHOWN = 5


@dataclass
class CheckReport:
    """What ``check_dataset`` found. The lists of findings hold "SOURCE region ID ..." each.

    Args:
        texts: (task, language) -> number of texts.
        broken: the samples that cannot be used.
        identical_texts: regions whose English and Chinese texts are the same.
        tiny_masks: masks of less than a ten-thousandth of their picture.
        swapped_boxes: boxes that fit their mask or points only when read as x, y, width, height.
    """

    pictures: int = 0
    clips: int = 0
    videos: int = 0
    regions: int = 0
    masks: int = 0
    texts: Counter[tuple[str, str]] = field(default_factory=Counter)
    broken: list[BrokenSample] = field(default_factory=list)
    identical_texts: list[str] = field(default_factory=list)
    tiny_masks: list[str] = field(default_factory=list)
    swapped_boxes: list[str] = field(default_factory=list)

    def broken_by_reason(self) -> dict[str, list[BrokenSample]]:
        """Broken samples by kind of reason (the reason without its names and numbers), the most frequent first."""
        kinds: dict[str, list[BrokenSample]] = {}
        for sample in self.broken:
            kinds.setdefault(_kind(sample.reason), []).append(sample)
        return dict(sorted(kinds.items(), key=lambda item: -len(item[1])))

    def lines(self) -> list[str]:
        """The report as text."""
        held = f"{self.pictures} pictures"
        if self.clips or self.videos:
            held = f"{self.clips} clips" if self.clips else f"{self.videos} videos"
        lines = [f"{held}, {self.regions} regions, {self.masks} of them with a mask"]
        lines += [f"  {count} texts {task}.{language}" for (task, language), count in sorted(self.texts.items())]
        lines += self._broken_lines()
        lines += _finding("boxes that look like x, y, width, height", self.swapped_boxes)
        lines += _finding("English texts that equal the Chinese", self.identical_texts)
        lines += _finding(f"masks of less than {TINY_SHARE:.2%} of their picture", self.tiny_masks)
        return lines

    def _broken_lines(self) -> list[str]:
        total = self.pictures + self.clips + self.videos + len(self.broken)
        share = f" ({len(self.broken) / total:.2%})" if total else ""
        lines = [f"{len(self.broken)} of {total} samples are broken{share}"]
        for samples in self.broken_by_reason().values():
            sources = _shortened([sample.source for sample in samples])
            lines.append(f"  {len(samples)} like: {samples[0].reason}  [{', '.join(sources)}]")
        return lines


def check_dataset(
    dataset: RegionDataset | VideoDataset, progress: Callable[..., Iterable[int]] = lambda items, **_: items
) -> CheckReport:
    """Read every sample of ``dataset`` once.

    ``progress(iterable, total=..., desc=...)`` wraps the loop over samples, for example tqdm.
    """
    report = CheckReport()
    for index in progress(range(len(dataset)), total=len(dataset), desc="check"):
        try:
            sample = dataset[index]
            if isinstance(sample, ClipSample | VideoSample):
                for _frame in sample.frames:
                    pass  # each is read, and says so where it cannot be
        except BrokenSample as broken:
            report.broken.append(broken)
            continue
        if isinstance(sample, VideoSample):
            _add_video(report, sample)
        else:
            _add_sample(report, sample)
    return report


def _add_sample(report: CheckReport, sample: RegionSample | ClipSample) -> None:
    if isinstance(sample, ClipSample):
        report.clips += 1
    else:
        report.pictures += 1
    for region in sample.regions:
        place = f"{sample.source} region {region.id}"
        report.regions += 1
        _add_texts(report, region.texts, place)
        if region.mask is not None:
            _add_mask(report, region.mask, place)
        if _looks_swapped(region) and region.prompt is not None and region.prompt.box is not None:
            report.swapped_boxes.append(f"{place} {[round(v, 1) for v in region.prompt.box]}")


def _add_video(report: CheckReport, video: VideoSample) -> None:
    """A region of a video is judged where it is pointed at; what is said of it are its events."""
    report.videos += 1
    for region in video.regions:
        place = f"{video.source} region {region.id}"
        report.regions += 1
        for event in region.events:
            _add_texts(report, event.texts, f"{place} frames {event.first}-{event.last}")
        if region.masks:
            _add_mask(report, region.masks[region.frame], place)


def _add_mask(report: CheckReport, mask: np.ndarray, place: str) -> None:
    report.masks += 1
    if mask.mean() < TINY_SHARE:
        report.tiny_masks.append(f"{place} ({int(mask.sum())} pixels)")


def _add_texts(report: CheckReport, texts: dict[str, dict[str, str]], place: str) -> None:
    for task, by_language in texts.items():
        report.texts.update((task, language) for language in by_language)
        english, chinese = by_language.get("en"), by_language.get("zh")
        if english is not None and chinese is not None and english.strip() == chinese.strip():
            report.identical_texts.append(f"{place} {task}: {english!r}")


def _looks_swapped(region: Region) -> bool:
    """Whether the region's box fits its mask, or its points, only as x, y, width, height."""
    prompt = region.prompt
    if prompt is None or prompt.box is None:
        return False
    x, y, third, fourth = prompt.box
    as_sizes = (x, y, x + third, y + fourth)
    if region.mask is not None:
        target = mask_box(region.mask)
        return box_iou(as_sizes, target) > max(MATCH_IOU, box_iou(prompt.box, target) + MATCH_MARGIN)
    labelled = zip(prompt.points, prompt.labels, strict=True)
    inner = [point for point, label in labelled if label == POSITIVE_POINT]
    return bool(inner) and not _holds(prompt.box, inner) and _holds(as_sizes, inner)


def _holds(box, points: list[tuple[float, float]]) -> bool:
    return all(box[0] <= x <= box[2] and box[1] <= y <= box[3] for x, y in points)


def _kind(reason: str) -> str:
    return re.sub(r"-?\d+(\.\d+)?(e[-+]?\d+)?", "N", re.sub(r"'[^']*'", "'...'", reason))


def _finding(title: str, places: list[str]) -> list[str]:
    return [f"{len(places)} {title}", *(f"  {place}" for place in _shortened(places))]


def _shortened(items: list[str]) -> list[str]:
    return items if len(items) <= _SHOWN else [*items[:_SHOWN], f"and {len(items) - _SHOWN} more"]
