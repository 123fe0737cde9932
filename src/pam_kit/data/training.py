"""The training set as an endless row of positions: what is drawn at a position depends on the seed and it alone."""

from collections.abc import Iterator, Sequence

import numpy as np
from torch.utils.data import Dataset, Sampler

from pam_kit.contracts import Region, RegionSample
from pam_kit.data.prepare import Asked, Geometry, PreparedImage, collate, prepare
from pam_kit.data.prompting import drawn_prompt
from pam_kit.data.schema import RegionDataset
from pam_kit.errors import BrokenSample, PromptError
from pam_kit.sections import DataSection
from pam_kit.tasks import question


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


class TrainingView(Dataset):
    """Pictures with drawn prompts and questions.

    ``view[position]`` is sample ``permutation(position // n)[position % n]`` of the dataset, with prompts and
    questions drawn from (seed, position), or the BrokenSample where the sample cannot be used.
    """

    def __init__(self, dataset: RegionDataset, section: DataSection, geometry: Geometry, seed: int):
        if len(dataset) == 0:
            raise BrokenSample(type(dataset).__name__, "the training set is empty")
        self.dataset, self.section, self.geometry, self.seed = dataset, section, geometry, seed
        self._epoch, self._order = -1, np.arange(0)

    def __getitem__(self, position: int) -> PreparedImage | BrokenSample:
        epoch, index = divmod(position, len(self.dataset))
        if epoch != self._epoch:
            self._epoch = epoch
            self._order = np.random.default_rng([self.seed, 1, epoch]).permutation(len(self.dataset))
        try:
            sample = self.dataset[int(self._order[index])]
            return self._prepared(sample, np.random.default_rng([self.seed, 2, position]))
        except BrokenSample as broken:
            return broken

    def _prepared(self, sample: RegionSample, rng: np.random.Generator) -> PreparedImage:
        height, width = sample.image.shape[:2]
        limit = min(len(sample.regions), self.section.regions_per_image)
        regions = [sample.regions[i] for i in rng.permutation(len(sample.regions))[:limit]]
        asked = [one for i, region in enumerate(regions) for one in self._asked(i, region, rng)]
        if not asked and all(region.mask is None for region in regions):
            raise BrokenSample(sample.source, "no region has a mask or a text of the recipe's tasks and languages")
        try:
            prompts = [self._prompt(region, width, height, rng) for region in regions]
            return prepare(sample.image, prompts, asked, self.geometry, [region.mask for region in regions])
        except PromptError as error:
            raise BrokenSample(sample.source, str(error)) from error

    def _prompt(self, region: Region, width: int, height: int, rng: np.random.Generator):
        if region.mask is None:
            if region.prompt is None:
                raise PromptError(f"region {region.id} has neither a mask nor a prompt")
            return region.prompt
        return drawn_prompt(region, _draw(self.section.prompts, rng), width, height, rng)

    def _asked(self, index: int, region: Region, rng: np.random.Generator) -> list[Asked]:
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
            chosen.append(Asked(index, task, language, question(task, language), region.texts[task][language]))
        return chosen


def collate_training(items: Sequence[PreparedImage | BrokenSample], geometry: Geometry):
    """-> (RegionBatch or None where every sample is broken, the broken ones)."""
    broken = [item for item in items if isinstance(item, BrokenSample)]
    good = [item for item in items if not isinstance(item, BrokenSample)]
    return (collate(good, geometry) if good else None), broken


def _draw(shares: dict, rng: np.random.Generator):
    keys, weights = list(shares), np.asarray(list(shares.values()), dtype=float)
    return keys[rng.choice(len(keys), p=weights / weights.sum())]
