"""The faithfulness probe over held-out pictures and over benchmarks: what is tested, and the files that it leaves."""

import math
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pam_kit.atomic_files import write_json, write_text
from pam_kit.contracts import Region, RegionSample
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
from pam_kit.evaluation.faithfulness_scores import (
    MEANINGS,
    Table,
    faithfulness_markdown,
    faithfulness_table,
    of_regions,
)
from pam_kit.evaluation.held_out import exact_prompts, file_name, picture_splits, readable_samples
from pam_kit.evaluation.probe_examples import ProbeExamples
from pam_kit.evaluation.probed_texts import ProbedTexts
from pam_kit.evaluation.records import RegionRecord
from pam_kit.inference.predictor import RegionPredictor
from pam_kit.inference.result import prompt_from_json
from pam_kit.registry import find
from pam_kit.sections import EvaluateSection, SplitChoice
from pam_kit.tasks import question

Say = Callable[[str], None]


def probe_held_out(
    predictor: RegionPredictor,
    section: EvaluateSection,
    settings: ProbeSettings,
    folder: Path,
    progress=lambda items, **_: items,
    resume: bool = False,
    say: Say = warnings.warn,
) -> dict[str, Table]:
    """Probe the held-out pictures of a recipe under each of their kinds of prompts.

    Writes probe.json and probe.md, texts/<split>-<prompt>.jsonl with the likelihoods of all texts, and
    pictures/<split>-<prompt>.png with examples into ``folder``.

    Args:
        resume: pictures whose texts are there already are left out, of which examples are not drawn anew. The model,
            the settings, and the dataset with its tasks and languages must be the same; a picture that has changed is
            probed anew.
        say: is told what was.

    Raises:
        RecipeError: the recipe holds out no pictures.
        PamKitError: what is to be gone on with is of another model, other settings or another dataset.
    """
    splits, _ = picture_splits(section)
    tables: dict[str, Table] = {}
    for name, split in splits.items():
        dataset = find("dataset", split.dataset.name).build(**split.dataset.arguments)
        for kind in split.prompts:
            row = f"{name} / {kind}"
            samples = readable_samples(dataset, split, folder, row, progress)
            pictures = (probed_sample(sample, split, kind) for sample in samples)
            of = {
                "dataset": {"name": split.dataset.name, "arguments": dict(split.dataset.arguments)},
                "tasks": list(split.tasks),
                "languages": list(split.languages),
            }
            with _texts(predictor, settings, folder, row, of, resume) as texts:
                tables[row] = _probed(predictor, pictures, settings, texts, section.pictures)
            _tell(texts, say)
    _write(predictor, folder, settings, tables)
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
    say: Say = warnings.warn,
) -> dict[str, Table]:
    """As ``probe_held_out``, on the pictures of a benchmark; a row for each benchmark that records are of.

    All references of a region are tested, and what was predicted of it counts as the answer where it is there. With
    ``resume``, pictures of which something else was predicted are probed anew.
    """
    tables: dict[str, Table] = {}
    by_benchmark: dict[str, list[RegionRecord]] = defaultdict(list)
    for record in records:
        by_benchmark[record.benchmark].append(record)
    for name, own in by_benchmark.items():
        pictures = probed_records(own, root)
        shown = progress(pictures, total=len({record.image for record in own}), desc=name)
        with _texts(predictor, settings, folder, name, {"benchmark": name}, resume) as texts:
            tables[name] = _probed(predictor, shown, settings, texts, examples)
        _tell(texts, say)
    _write(predictor, folder, settings, tables)
    return tables


def probed_sample(sample: RegionSample, split: SplitChoice, kind: str) -> ProbedPicture:
    """A held-out picture with the tasks and languages of its split."""
    regions = []
    for region, prompt in zip(sample.regions, exact_prompts(sample, kind), strict=True):
        asked = tuple(
            ProbedQuestion(task, language, question(task, language), _reference(region, task, language))
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


def _reference(region: Region, task: str, language: str) -> tuple[str, ...]:
    text = region.texts.get(task, {}).get(language)
    return () if text is None else (text,)


def _asked(record: RegionRecord) -> ProbedQuestion:
    return ProbedQuestion(record.task, record.language, record.question, record.references, record.prediction)


def _texts(
    predictor: RegionPredictor, settings: ProbeSettings, folder: Path, row: str, of: Mapping[str, Any], resume: bool
) -> ProbedTexts:
    head = {"model": predictor.sha256, "row": row, **of, **asdict(settings)}
    return ProbedTexts(folder / "texts" / f"{file_name(row)}.jsonl", head, resume)


def _tell(texts: ProbedTexts, say: Say) -> None:
    for note in texts.notes:
        say(note)


def _probed(
    predictor: RegionPredictor,
    pictures: Iterable[ProbedPicture],
    settings: ProbeSettings,
    texts: ProbedTexts,
    examples: int,
) -> Table:
    shown, falls = ProbeExamples(examples, settings.fill), list[TextFall]()
    for picture in pictures:
        own = texts.falls(picture)
        if own is None:
            own, areas = probe_picture(predictor, picture, settings)
            texts.add(picture, own)
            shown.add(picture, own, areas)
        falls += of_regions(own)
    shown.save(texts.path.parents[1] / "pictures" / f"{texts.path.stem}.png")
    return faithfulness_table(falls)


def _write(predictor: RegionPredictor, folder: Path, settings: ProbeSettings, tables: dict[str, Table]) -> None:
    facts = {"model": predictor.sha256, "settings": asdict(settings), "scores": MEANINGS, "tables": _plain(tables)}
    write_json(folder / "probe.json", facts)
    altered = f"Altered with fill {settings.fill}, regions taken out by their {settings.shape}."
    means = "Means over regions with one standard error; all references of a region count as one text."
    lines = ["# Faithfulness", "", f"{means} {altered}", "", *faithfulness_markdown(tables)]
    write_text(folder / "probe.md", "\n".join(lines) + "\n")


def _plain(value: Any) -> Any:
    """JSON knows no NaN: what cannot be told is null."""
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    return None if isinstance(value, float) and math.isnan(value) else value
