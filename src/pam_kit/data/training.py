"""The training set as an endless row of positions: what is drawn at a position depends on the seed and it alone."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from torch.utils.data import Dataset, Sampler

from pam_kit.contracts import ClipBatch, ClipSample, Region, RegionBatch, RegionPrompt, RegionSample
from pam_kit.data.mixture import Mixture, Place
from pam_kit.data.prepare import (
    Asked,
    Geometry,
    PreparedClip,
    PreparedImage,
    collate,
    collate_clips,
    prepare,
    prepare_clip,
    tracked_frames,
)
from pam_kit.data.prompting import absent_prompt, drawn_prompt, loose_prompt, region_box
from pam_kit.errors import BrokenSample, PamKitError, PromptError
from pam_kit.sections import DataSection
from pam_kit.tasks import clip_question, question

# Samples drawn in the place of a broken one before the position is given up.
REPLACEMENTS = 8


class EndlessPositions(Sampler[int]):
    """Positions start, start + stride, ... for ever; each data process of a run takes its own residue."""

    def __init__(self, start: int = 0, stride: int = 1, offset: int = 0):
        self.start, self.stride, self.offset = start, stride, offset

    def __iter__(self) -> Iterator[int]:
        position = self.start + self.offset
        while True:
            yield position
            position += self.stride

    def __len__(self) -> int:
        return 10**9


@dataclass
class Drawn:
    """What a position holds: a prepared picture or clip, or None where none could be used, and the broken ones."""

    item: PreparedImage | PreparedClip | None
    broken: list[BrokenSample] = field(default_factory=list)


class TrainingView(Dataset):
    """Pictures and clips with drawn prompts and questions.

    ``view[position]`` is the sample that ``mixture`` has at that position, with prompts and questions drawn from
    (seed, position). Where it is broken, another one of the same set stands in its place, so that batches are full.
    """

    def __init__(self, mixture: Mixture, section: DataSection, geometry: Geometry, seed: int):
        self.mixture, self.section, self.geometry, self.seed = mixture, section, geometry, seed

    def __getitem__(self, position: int) -> Drawn:
        place = self.mixture.place(position)
        drawn = Drawn(None)
        for attempt in range(1 + REPLACEMENTS):
            try:
                sample = self.mixture.read(place)
                drawn.item = self._prepared(sample, place, np.random.default_rng([self.seed, 2, position]))
                return drawn
            except BrokenSample as broken:
                drawn.broken.append(broken)
            rng = np.random.default_rng([self.seed, 4, position, attempt])
            place = place._replace(sample=int(rng.integers(len(self.mixture.sets[place.number]))))
        return drawn

    def _prepared(self, sample: RegionSample | ClipSample, place: Place, rng: np.random.Generator):
        picture = sample.frames[0] if isinstance(sample, ClipSample) else sample.image
        height, width = picture.shape[:2]
        limit = min(len(sample.regions), self.section.regions_per_image)
        chosen = [int(i) for i in rng.permutation(len(sample.regions))[:limit]]
        regions = [sample.regions[i] for i in chosen]
        history = sample.history if isinstance(sample, ClipSample) else None
        asked = [one for i, region in enumerate(regions) for one in self._asked(i, region, history, rng)]
        if not asked and all(region.mask is None for region in regions):
            raise BrokenSample(sample.source, "no region has a mask or a text of the recipe's tasks and languages")
        try:
            prompts = [
                self._prompt(region, width, height, self._prompt_rng(place, i, rng))
                for i, region in zip(chosen, regions, strict=True)
            ]
            targets = [region.mask for region in regions]
            if isinstance(sample, ClipSample):
                return self._prepared_clip(sample, prompts, asked, targets)
            for prompt, target in self._tracker_prompts(sample, chosen, place, rng):
                prompts.append(prompt)
                targets.append(target)
            return prepare(picture, prompts, asked, self.geometry, targets)
        except PromptError as error:
            raise BrokenSample(sample.source, str(error)) from error

    def _prepared_clip(self, sample: ClipSample, prompts, asked: list[Asked], targets) -> PreparedClip:
        frames, read = tracked_frames(sample, self.section.clip_frames, self.section.clip_tracking)
        return prepare_clip(frames, read, prompts, asked, self.geometry, targets)

    def _prompt_rng(self, place: Place, region: int, rng: np.random.Generator) -> np.random.Generator:
        """Kept features are of a picture and a prompt: there, the prompt is always the same one."""
        if self.section.cache_features:
            return np.random.default_rng([self.seed, 5, place.number, place.sample, region])
        return rng

    def _prompt(self, region: Region, width: int, height: int, rng: np.random.Generator):
        if region.mask is None:
            if region.prompt is None:
                raise PromptError(f"region {region.id} has neither a mask nor a prompt")
            return region.prompt
        return drawn_prompt(region, _draw(self.section.prompts, rng), width, height, rng)

    def _tracker_prompts(
        self, sample: RegionSample, chosen: list[int], place: Place, rng: np.random.Generator
    ) -> list[tuple[RegionPrompt, np.ndarray]]:
        """Boxes as a tracker gives them, with their masks: each at nothing, and beside it one that holds the region.

        Without the second kind a box would be at nothing as soon as it is not tight. Drawn last, so that all else is as
        without them.
        """
        share, found = self.section.absent_prompts, []
        height, width = sample.image.shape[:2]
        boxes = [region_box(region) for region in sample.regions] if share > 0 else []
        others = [box for box in boxes if box is not None]
        for index in chosen if share > 0 else ():
            own, mask = boxes[index], sample.regions[index].mask
            drawn = self._prompt_rng(place, len(sample.regions) + index, rng)
            if drawn.random() >= share or own is None:
                continue
            found.append((absent_prompt(own, others, width, height, drawn), np.zeros((height, width), dtype=bool)))
            if mask is not None:
                found.append((loose_prompt(own, others, width, height, drawn), mask))
        return [(prompt, target) for prompt, target in found if prompt is not None]

    def _asked(
        self, index: int, region: Region, history: dict[str, str] | None, rng: np.random.Generator
    ) -> list[Asked]:
        """``history`` is None for a picture."""
        offered = {
            (task, language): self.section.tasks[task] * self.section.languages[language]
            for task, by_language in region.texts.items()
            for language in by_language
            if self.section.tasks.get(task, 0) > 0 and self.section.languages.get(language, 0) > 0
        }
        chosen = []
        for _ in range(min(self.section.questions_per_region, len(offered))):
            task, language = pair = _draw(offered, rng)
            del offered[pair]
            if history is None:
                words = question(task, language)
            else:
                words = clip_question(task, language, history.get(language))
            chosen.append(Asked(index, task, language, words, region.texts[task][language]))
        return chosen


def collate_training(
    items: Sequence[Drawn], geometry: Geometry
) -> tuple[RegionBatch | ClipBatch | None, list[BrokenSample]]:
    """-> (the pictures or the clips, or None where every sample is broken; the broken ones)."""
    pictures = [drawn.item for drawn in items if isinstance(drawn.item, PreparedImage)]
    clips = [drawn.item for drawn in items if isinstance(drawn.item, PreparedClip)]
    broken = [one for drawn in items for one in drawn.broken]
    if pictures and clips:
        raise PamKitError("a batch holds pictures or clips, not both")
    if clips:
        return collate_clips(clips, geometry), broken
    return (collate(pictures, geometry) if pictures else None), broken


def _draw(shares: dict, rng: np.random.Generator):
    keys, weights = list(shares), np.asarray(list(shares.values()), dtype=float)
    return keys[rng.choice(len(keys), p=weights / weights.sum())]
