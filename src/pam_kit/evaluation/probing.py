"""The faithfulness probe over held-out pictures and over benchmarks: what is tested, and the files that it leaves."""

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pam_kit.atomic_files import write_json
from pam_kit.contracts import RegionSample
from pam_kit.data.pictures import read_picture
from pam_kit.errors import BrokenSample, PamKitError, PromptError
from pam_kit.evaluation.faithfulness import (
    ProbedPicture,
    ProbedQuestion,
    ProbedRegion,
    ProbeSettings,
    TextFall,
    probe_picture,
)
from pam_kit.evaluation.faithfulness_scores import MEANINGS, Table, faithfulness_markdown, faithfulness_table
from pam_kit.evaluation.held_out import exact_prompts, picture_splits, readable_samples
from pam_kit.evaluation.probe_examples import ProbeExamples
from pam_kit.evaluation.records import RegionRecord
from pam_kit.inference.predictor import RegionPredictor
from pam_kit.inference.result import prompt_from_json
from pam_kit.registry import find
from pam_kit.sections import EvaluateSection, SplitChoice
from pam_kit.tasks import question


def probe_held_out(
    predictor: RegionPredictor,
    section: EvaluateSection,
    settings: ProbeSettings,
    folder: Path,
    progress=lambda items, **_: items,
    resume: bool = False,
) -> dict[str, Table]:
    """Probe the held-out pictures of a recipe under each of their kinds of prompts.

    Writes probe.json and probe.md, texts/<split>-<prompt>.jsonl with the likelihoods of all texts, and
    pictures/<split>-<prompt>.png with examples into ``folder``. With ``resume`` the pictures whose texts are there
    already are left out; the settings must be the same. Examples are of pictures that were not.

    Raises RecipeError where the recipe holds out no pictures.
    """
    splits, _ = picture_splits(section)
    tables: dict[str, Table] = {}
    for name, split in splits.items():
        dataset = find("dataset", split.dataset.name).build(**split.dataset.arguments)
        for kind in split.prompts:
            row = f"{name} / {kind}"
            samples = readable_samples(dataset, split, folder, row, progress)
            pictures = (probed_sample(sample, split, kind) for sample in samples)
            tables[row] = _probed(predictor, pictures, settings, folder, row, section.pictures, resume)
    _write(folder, settings, tables)
    return tables


def probe_records(
    predictor: RegionPredictor,
    records: Sequence[RegionRecord],
    root: Path,
    settings: ProbeSettings,
    folder: Path,
    progress=lambda items, **_: items,
    resume: bool = False,
    examples: int = 4,
) -> dict[str, Table]:
    """As ``probe_held_out``, on the pictures of a benchmark; a row for each benchmark that records are of.

    The first reference of a region is tested, and what was predicted of it counts as the answer where it is there.
    """
    tables: dict[str, Table] = {}
    by_benchmark: dict[str, list[RegionRecord]] = defaultdict(list)
    for record in records:
        by_benchmark[record.benchmark].append(record)
    for name, own in by_benchmark.items():
        pictures = probed_records(own, root)
        shown = progress(pictures, total=len({record.image for record in own}), desc=name)
        tables[name] = _probed(predictor, shown, settings, folder, name, examples, resume)
    _write(folder, settings, tables)
    return tables


def probed_sample(sample: RegionSample, split: SplitChoice, kind: str) -> ProbedPicture:
    """A held-out picture with the tasks and languages of its split."""
    regions = []
    for region, prompt in zip(sample.regions, exact_prompts(sample, kind), strict=True):
        asked = tuple(
            ProbedQuestion(task, language, question(task, language), region.texts.get(task, {}).get(language))
            for task in split.tasks
            for language in split.languages
        )
        regions.append(ProbedRegion(region.id, prompt, asked, region.mask))
    return ProbedPicture(sample.source, sample.image, tuple(regions))


def probed_records(records: Sequence[RegionRecord], root: Path) -> Iterator[ProbedPicture]:
    """The pictures of a benchmark below ``root``, each with its regions. PamKitError for records of videos."""
    by_image: dict[str, list[RegionRecord]] = defaultdict(list)
    for record in records:
        if not record.image:
            raise PamKitError(f"{record.benchmark}: {record.id} is of a video; the probe is about pictures")
        by_image[record.image].append(record)
    for name, own in by_image.items():
        try:
            image = read_picture(root / name, name)
            prompts = [prompt_from_json(record.prompt) for record in own]
            for prompt in prompts:
                prompt.check(image.shape[1], image.shape[0])
        except BrokenSample as error:
            raise PamKitError(f"{error}; give the folder that pictures are named from as --data") from error
        except PromptError as error:
            raise PromptError(f"{name}: {error}") from error
        regions = [
            ProbedRegion(record.id, prompt, (_asked(record),)) for record, prompt in zip(own, prompts, strict=True)
        ]
        yield ProbedPicture(name, image, tuple(regions))


def _asked(record: RegionRecord) -> ProbedQuestion:
    return ProbedQuestion(record.task, record.language, record.question, record.references[0], record.prediction)


def _probed(
    predictor: RegionPredictor,
    pictures: Iterable[ProbedPicture],
    settings: ProbeSettings,
    folder: Path,
    row: str,
    examples: int,
    resume: bool,
) -> Table:
    name = row.replace(" / ", "-")
    kept = _TextFile(folder / "texts" / f"{name}.jsonl", settings, resume)
    shown, falls = ProbeExamples(examples, settings.fill), list[TextFall]()
    for number, picture in enumerate(pictures):
        own = kept.falls(number, picture.source)
        if own is None:
            own, areas = probe_picture(predictor, picture, settings)
            kept.add(picture.source, own)
            shown.add(picture, own, areas)
        falls += own
    shown.save(folder / "pictures" / f"{name}.png")
    return faithfulness_table(falls)


class _TextFile:
    """The likelihoods of texts, a picture a line behind a first line with the settings, as they become known."""

    def __init__(self, path: Path, settings: ProbeSettings, resume: bool):
        self.path = path
        head = json.dumps({"settings": asdict(settings)}, ensure_ascii=False)
        lines = path.read_text(encoding="utf-8").split("\n") if resume and path.is_file() else []
        if lines and lines[0] != head:
            raise PamKitError(f"{path} was begun with other settings: {lines[0]}; leave out --resume, or give the same")
        # A process that was killed leaves a line without its end.
        self._known = [json.loads(line) for line in lines[1:-1]]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join([head, *lines[1:-1], ""]), encoding="utf-8")

    def falls(self, number: int, source: str) -> list[TextFall] | None:
        """What is known of picture ``number``, or None. PamKitError where another picture was there."""
        if number >= len(self._known):
            return None
        line = self._known[number]
        if line["picture"] != source:
            raise PamKitError(f"{self.path}: picture {number} is {line['picture']}, now {source}; leave out --resume")
        return [TextFall(**fall) for fall in line["texts"]]

    def add(self, source: str, falls: list[TextFall]) -> None:
        line = {"picture": source, "texts": [fall.to_json() for fall in falls]}
        with open(self.path, "a", encoding="utf-8") as file:
            print(json.dumps(line, ensure_ascii=False), file=file)


def _write(folder: Path, settings: ProbeSettings, tables: dict[str, Table]) -> None:
    write_json(folder / "probe.json", {"settings": asdict(settings), "scores": MEANINGS, "tables": _plain(tables)})
    altered = f"Altered with fill {settings.fill}, regions taken out by their {settings.shape}."
    lines = ["# Faithfulness", "", f"Means over regions with one standard error. {altered}", ""]
    (folder / "probe.md").write_text("\n".join(lines + faithfulness_markdown(tables)) + "\n", encoding="utf-8")


def _plain(value: Any) -> Any:
    """JSON knows no NaN: what cannot be told is null."""
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    return None if isinstance(value, float) and math.isnan(value) else value
