"""A trained model against the held-out sets of a recipe: scores, predictions, pictures."""

import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from pam_kit.contracts import RegionSample
from pam_kit.data.schema import has_clips, has_videos
from pam_kit.errors import PamKitError, RecipeError
from pam_kit.evaluation.gallery import Gallery
from pam_kit.evaluation.held_out import batched, exact_prompts, file_name, readable_samples
from pam_kit.evaluation.scores import SplitScores
from pam_kit.evaluation.videos import evaluate_clips, evaluate_videos, stream_settings
from pam_kit.inference.predictor import RegionPredictor
from pam_kit.inference.result import RegionPrediction
from pam_kit.registry import find
from pam_kit.sections import EvaluateSection, SplitChoice

Table = dict[str, dict[str, dict[str, float]]]  # "split / prompt" -> score -> mean, se, n


def evaluate(
    predictor: RegionPredictor, section: EvaluateSection, folder: Path, progress=lambda items, **_: items
) -> Table:
    """Score every split under every kind of prompt; writes scores.json, scores.md and predictions/ into ``folder``.

    Videos are streamed, once with each of the split's switches; clips are asked about as they are.
    ``progress(iterable, total=..., desc=...)`` wraps the loop over samples, for example tqdm.

    Raises RecipeError, before anything is computed, for videos or clips and a backbone that does not track, and for
    switches that are none.
    """
    _check(predictor, section)
    folder.mkdir(parents=True, exist_ok=True)
    table: Table = {}
    for name, split in section.splits.items():
        dataset = find("dataset", split.dataset.name).build(**split.dataset.arguments)
        for kind in split.prompts:
            for streams in split.streams if has_videos(dataset) else [""]:
                row = f"{name} / {kind}{streams and ' / '}{streams}"
                with _predictions_file(folder, row) as write:
                    judge = _judge(predictor, section, split, dataset, kind, streams, folder, row)
                    table[row] = judge(readable_samples(dataset, split, folder, row, progress), write)
    (folder / "scores.json").write_text(_json(table), encoding="utf-8")
    (folder / "scores.md").write_text("\n".join(markdown(table)) + "\n", encoding="utf-8")
    return table


def _check(predictor: RegionPredictor, section: EvaluateSection) -> None:
    problems = []
    for name, split in section.splits.items():
        dataset = find("dataset", split.dataset.name).load()
        if not (has_clips(dataset) or has_videos(dataset)):
            continue
        if not predictor.model.backbone.tracks:
            kind = type(predictor.model.backbone).__name__
            problems.append(
                f"evaluate.splits.{name}: the dataset {split.dataset.name} has frames to follow a region through, "
                f"which the backbone {kind} does not do; take a model whose backbone tracks"
            )
        for streams in split.streams if has_videos(dataset) else ():
            try:
                stream_settings(split, section.max_new_tokens, streams)
            except PamKitError as error:
                problems.append(f"evaluate.splits.{name}.streams: {error}")
    if problems:
        raise RecipeError(problems)


def _judge(predictor, section: EvaluateSection, split: SplitChoice, dataset, kind: str, streams: str, folder, row):
    """What scores the samples of a split: a function of them and of what writes predictions."""
    if has_videos(dataset):
        settings = stream_settings(split, section.max_new_tokens, streams)
        return partial(evaluate_videos, predictor.model, dataset, kind, settings)
    if has_clips(dataset):
        return partial(evaluate_clips, predictor.model, dataset, kind, split, section.max_new_tokens)
    return partial(_evaluate_pictures, predictor, section, split, dataset, kind, folder, row)


def _evaluate_pictures(
    predictor, section, split, dataset, kind, folder, row, samples, write
) -> dict[str, dict[str, float]]:
    scores = SplitScores(getattr(dataset, "read_attribute", None))
    gallery = Gallery(split.tasks, section.pictures)
    for batch in batched(samples, section.batch_size):
        for sample, predictions in zip(batch, _predict(predictor, section, split, batch, kind), strict=True):
            scores.add_picture(sample.regions, predictions)
            gallery.add_picture(sample, predictions)
            for region, predicted in zip(sample.regions, predictions, strict=True):
                write(_line(sample, region, predicted))
    gallery.save(folder / "pictures", file_name(row))
    return scores.table()


@contextmanager
def _predictions_file(folder: Path, row: str) -> Iterator[Callable[[dict], None]]:
    """What writes one prediction a line."""
    path = folder / "predictions" / f"{file_name(row)}.jsonl"
    path.parent.mkdir(exist_ok=True)
    with path.open("w", encoding="utf-8") as lines:
        yield lambda line: print(json.dumps(line, ensure_ascii=False), file=lines)


def _predict(
    predictor: RegionPredictor, section: EvaluateSection, split: SplitChoice, batch: list[RegionSample], kind: str
) -> list[list[RegionPrediction]]:
    prompts = [exact_prompts(sample, kind) for sample in batch]
    return predictor.predict_batch(
        [sample.image for sample in batch], prompts, split.tasks, split.languages, section.max_new_tokens
    )


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
