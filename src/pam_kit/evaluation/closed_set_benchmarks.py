"""Closed-set recognition on LVIS and PACO, out of all the categories that they are published with."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from pam_kit.data.broken import BrokenLedger
from pam_kit.data.label_lists import Label, read_labels
from pam_kit.data.pictures import read_picture
from pam_kit.errors import BrokenSample, PamKitError, PromptError
from pam_kit.evaluation.benchmark_run import ChosenRegions, RunChoices
from pam_kit.evaluation.benchmarks.registry import find_benchmark
from pam_kit.evaluation.closed_set import LabelledPicture, LabelSettings, Row, measured_labels, save_labels
from pam_kit.evaluation.records import RegionRecord
from pam_kit.inference.predictor import RegionPredictor
from pam_kit.inference.result import prompt_from_json
from pam_kit.sections import EvaluateSection


@dataclass(frozen=True)
class _Categories:
    """Which annotation files hold all categories of a benchmark, and where they come from."""

    files: tuple[str, ...]
    page: str


_CATEGORIES = {
    "lvis": _Categories(("lvis_v1_val.json", "lvis_v1_train.json"), "https://www.lvisdataset.org/dataset"),
    "paco": _Categories(
        ("paco_lvis_v1_val.json", "paco_lvis_v1_test.json", "paco_lvis_v1_train.json"),
        "https://github.com/facebookresearch/paco",
    ),
}
# Below the benchmark's folder.
_PLACES = ("", "annotations")


class BenchmarkLabels:
    """The regions of a benchmark, and the labels that they are chosen out of. No model is needed to make it.

    Args:
        benchmark: ``lvis`` or ``paco``.
        choices: where its data lie, how regions are pointed at and how many pictures are encoded at once; ``limit``
            takes the first regions only.
        settings: how labels are chosen. Without ``labels`` they are all categories of the annotation file that the
            benchmark is published with, which has to lie in its folder.
        synonyms: of that file, also say the synonyms of a category.

    Attributes:
        notes: what has to be known about the regions and the list, a line each.

    Raises:
        PamKitError: the benchmark is none with a list of categories, its data or its list are missing, or it has no
            region in the language.
    """

    def __init__(self, benchmark: str, choices: RunChoices, settings: LabelSettings, synonyms: bool = False):
        if benchmark not in _CATEGORIES:
            raise PamKitError(f"{benchmark} has no list of categories; choose from {', '.join(_CATEGORIES)}")
        found = find_benchmark(benchmark)
        self.name, self.choices, self.settings = benchmark, choices, settings
        if settings.language not in found.languages:
            languages = ", ".join(found.languages)
            raise PamKitError(f"{benchmark} has no region in {settings.language}; its languages are {languages}")
        regions = ChosenRegions(found, choices)
        self.root, self.records, self.notes = regions.root, regions.records, list(regions.notes)
        self.row = f"{benchmark} / {choices.prompt_type}"
        labels = settings.labels if settings.labels is not None else self._categories(synonyms)
        self.chosen = settings.closed_set(labels)

    def evaluate(self, predictor: RegionPredictor, progress=lambda items, **_: items) -> dict[str, Row]:
        """Choose the label of every region; see ``measured_labels``.

        Writes labels.json, labels.md and calibration/<benchmark>-<prompt>.json into the folder ``choices.out``.

        -> "benchmark / prompt" -> scores by name.
        """
        by_picture: dict[str, list[RegionRecord]] = defaultdict(list)
        for record in self.records:
            by_picture[record.image].append(record)
        shown = progress(by_picture.items(), total=len(by_picture), desc=self.row)
        asked = self.choices.asked
        section = EvaluateSection(batch_size=asked.pictures, max_new_tokens=asked.max_new_tokens)
        row, calibration = measured_labels(predictor, section, self.chosen, self._pictures(shown), self.row)
        folder = self.choices.out
        calibration.save(folder / "calibration" / f"{self.name}-{self.choices.prompt_type}.json")
        save_labels(folder, {self.row: row}, self.notes)
        return {self.row: row}

    def _pictures(self, by_picture: Iterable[tuple[str, list[RegionRecord]]]) -> Iterator[LabelledPicture]:
        """Without the regions that cannot be read, which are listed in broken_samples.jsonl."""
        ledger = BrokenLedger(self.choices.out, max_share=1.0)
        for name, records in by_picture:
            try:
                image = read_picture(self.root / name, name)
            except BrokenSample as broken:
                ledger.record(len(records), [BrokenSample(record.id, broken.reason) for record in records])
                continue
            regions, broken_ones = [], []
            for record in records:
                try:
                    prompt = prompt_from_json(record.prompt)
                    prompt.check(image.shape[1], image.shape[0])
                except PromptError as error:
                    broken_ones.append(BrokenSample(record.id, str(error)))
                else:
                    regions.append((prompt, record.references[0]))
            ledger.record(len(records), broken_ones)
            yield LabelledPicture(image, tuple(regions))
        if ledger.num_broken:
            self.notes.append(f"{ledger.num_broken} regions cannot be read and are left out; see {ledger.file}")

    def _categories(self, synonyms: bool) -> list[Label]:
        known = _CATEGORIES[self.name]
        for place in _PLACES:
            for file in known.files:
                if (path := self.root / place / file).is_file():
                    labels = read_labels(str(path), synonyms=synonyms)
                    self.notes.append(f"{len(labels)} labels: the categories of {path}")
                    return labels
        raise PamKitError(
            f"the labels of {self.name} are all its categories, and none of {', '.join(known.files)} is in {self.root} "
            f"or its annotations/, which lists them; put one there, from {known.page}, or give a list (--labels FILE)"
        )
