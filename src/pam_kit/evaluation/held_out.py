"""The samples of a held-out set, one after the other, and how their regions are pointed at."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeVar

from pam_kit.contracts import RegionPrompt, RegionSample
from pam_kit.data.broken import BrokenLedger
from pam_kit.data.prompting import exact_prompt
from pam_kit.data.schema import has_clips, has_videos
from pam_kit.errors import BrokenSample, PromptError, RecipeError
from pam_kit.registry import find
from pam_kit.sections import EvaluateSection, SplitChoice

Item = TypeVar("Item")


def picture_splits(section: EvaluateSection) -> tuple[dict[str, SplitChoice], list[str]]:
    """The held-out sets of pictures by name, and the names of those of clips and videos.

    Raises RecipeError where there is none of pictures.
    """
    splits, others = {}, []
    for name, split in section.splits.items():
        dataset = find("dataset", split.dataset.name).load()
        if has_clips(dataset) or has_videos(dataset):
            others.append(name)
        else:
            splits[name] = split
    if not splits:
        what = f"{', '.join(others)} are of clips or videos" if others else "evaluate.splits is empty"
        raise RecipeError([f"{what}: this needs held-out pictures; add a split of pictures to evaluate.splits"])
    return splits, others


def readable_samples(dataset, split: SplitChoice, folder: Path, row: str, progress) -> Iterable:
    """The readable samples of a split, with progress."""
    total = min(len(dataset), split.limit or len(dataset))
    return progress(_readable(dataset, split, BrokenLedger(folder, max_share=1.0)), total=total, desc=row)


def exact_prompts(sample: RegionSample, kind: str) -> list[RegionPrompt]:
    """The prompt of one kind for every region of a picture; PromptError names the sample."""
    height, width = sample.image.shape[:2]
    try:
        return [exact_prompt(region, kind, width, height) for region in sample.regions]
    except PromptError as error:
        raise PromptError(f"{sample.source}: {error}") from error


def _readable(dataset, split: SplitChoice, ledger: BrokenLedger) -> Iterator:
    for index in range(min(len(dataset), split.limit or len(dataset))):
        try:
            sample = dataset[index]
        except BrokenSample as broken:
            ledger.record(1, [broken])
            continue
        ledger.record(1, [])
        yield sample


def file_name(row: str) -> str:
    """What the files of a row of scores, "split / prompt", are called."""
    return row.replace(" / ", "-")


def batched(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Items in lists of ``size``; the last may be shorter."""
    batch: list[Item] = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
