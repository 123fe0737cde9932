"""A trained model against the held-out sets of a recipe: scores, predictions, pictures."""

import json
import math
from collections.abc import Iterable, Iterator
from pathlib import Path

from pam_kit.contracts import RegionPrompt, RegionSample
from pam_kit.data.broken import BrokenLedger
from pam_kit.data.prompting import exact_prompt
from pam_kit.data.schema import has_clips
from pam_kit.errors import BrokenSample, PromptError, RecipeError
from pam_kit.evaluation.gallery import Gallery
from pam_kit.evaluation.scores import SplitScores
from pam_kit.inference.predictor import RegionPredictor
from pam_kit.inference.result import RegionPrediction
from pam_kit.registry import find
from pam_kit.sections import EvaluateSection, SplitChoice

Table = dict[str, dict[str, dict[str, float]]]  # "split / prompt" -> score -> mean, se, n


def evaluate(
    predictor: RegionPredictor, section: EvaluateSection, folder: Path, progress=lambda items, **_: items
) -> Table:
    """Score every split under every kind of prompt; writes scores.json, scores.md and predictions/ into ``folder``.

    ``progress(iterable, total=..., desc=...)`` wraps the loop over pictures, for example tqdm.

    Raises RecipeError, before anything is computed, for splits whose datasets hold clips.
    """
    _refuse_clips(section)
    folder.mkdir(parents=True, exist_ok=True)
    table: Table = {}
    for name, split in section.splits.items():
        dataset = find("dataset", split.dataset.name).build(**split.dataset.arguments)
        for kind in split.prompts:
            row = f"{name} / {kind}"
            table[row] = _evaluate_split(predictor, section, split, dataset, kind, folder, row, progress)
    (folder / "scores.json").write_text(_json(table), encoding="utf-8")
    (folder / "scores.md").write_text("\n".join(markdown(table)) + "\n", encoding="utf-8")
    return table


def _refuse_clips(section: EvaluateSection) -> None:
    problems = [
        f"evaluate.splits.{name}: the dataset {split.dataset.name} has clips; evaluation reads pictures"
        for name, split in section.splits.items()
        if has_clips(find("dataset", split.dataset.name).load())
    ]
    if problems:
        raise RecipeError(problems)


def _evaluate_split(predictor, section, split, dataset, kind, folder, row, progress) -> dict[str, dict[str, float]]:
    scores = SplitScores(getattr(dataset, "read_attribute", None))
    ledger = BrokenLedger(folder, max_share=1.0)
    gallery = Gallery(split.tasks, section.pictures)
    samples = _readable(dataset, split, ledger)
    total = math.ceil(min(len(dataset), split.limit or len(dataset)) / section.batch_size)
    path = folder / "predictions" / f"{row.replace(' / ', '-')}.jsonl"
    path.parent.mkdir(exist_ok=True)
    with path.open("w", encoding="utf-8") as lines:
        for batch in progress(_batches(samples, section.batch_size), total=total, desc=row):
            for sample, predictions in zip(batch, _predict(predictor, section, split, batch, kind), strict=True):
                scores.add_picture(sample.regions, predictions)
                gallery.add_picture(sample, predictions)
                for region, predicted in zip(sample.regions, predictions, strict=True):
                    lines.write(json.dumps(_line(sample, region, predicted), ensure_ascii=False) + "\n")
    gallery.save(folder / "pictures", row.replace(" / ", "-"))
    return scores.table()


def _predict(
    predictor: RegionPredictor, section: EvaluateSection, split: SplitChoice, batch: list[RegionSample], kind: str
) -> list[list[RegionPrediction]]:
    prompts = [_prompts(sample, kind) for sample in batch]
    return predictor.predict_batch(
        [sample.image for sample in batch], prompts, split.tasks, split.languages, section.max_new_tokens
    )


def _prompts(sample: RegionSample, kind: str) -> list[RegionPrompt]:
    height, width = sample.image.shape[:2]
    try:
        return [exact_prompt(region, kind, width, height) for region in sample.regions]
    except PromptError as error:
        raise PromptError(f"{sample.source}: {error}") from error


def _readable(dataset, split: SplitChoice, ledger: BrokenLedger) -> Iterator[RegionSample]:
    for index in range(min(len(dataset), split.limit or len(dataset))):
        try:
            sample = dataset[index]
        except BrokenSample as broken:
            ledger.record(1, [broken])
            continue
        ledger.record(1, [])
        yield sample


def _batches(samples: Iterable[RegionSample], size: int) -> Iterator[list[RegionSample]]:
    batch: list[RegionSample] = []
    for sample in samples:
        batch.append(sample)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def _line(sample: RegionSample, region, predicted: RegionPrediction) -> dict:
    return {"source": sample.source, "region": region.id, "references": region.texts, **predicted.to_json()}


def _json(table: Table) -> str:
    """JSON knows no NaN: a standard error that cannot be told is null."""
    known = {
        row: {
            name: {key: None if math.isnan(value) else value for key, value in cell.items()}
            for name, cell in scores.items()
        }
        for row, scores in table.items()
    }
    return json.dumps(known, indent=1, ensure_ascii=False, allow_nan=False)


def markdown(table: Table) -> list[str]:
    """The table as Markdown lines: a row a score, a column a split and prompt; percent, with one standard error."""
    names = list(dict.fromkeys(name for row in table.values() for name in row))
    lines = ["| score | " + " | ".join(table) + " |", "| --- |" + " ---: |" * len(table)]
    for name in names:
        lines.append(f"| {name} | " + " | ".join(_cell(row.get(name)) for row in table.values()) + " |")
    # Pairs of regions are counted apart; every other score is about regions.
    counts = [
        [cell["n"] for name, cell in row.items() if not name.startswith("moved prompt")] for row in table.values()
    ]
    return [*lines, "| regions | " + " | ".join(str(max(numbers, default=0)) for numbers in counts) + " |"]


def _cell(cell: dict[str, float] | None) -> str:
    if cell is None:
        return ""
    error = "" if math.isnan(cell["se"]) else f" ± {100 * cell['se']:.1f}"
    return f"{100 * cell['mean']:.1f}{error}"
