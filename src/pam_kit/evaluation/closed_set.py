"""Closed-set recognition on the held-out pictures of a recipe, beside what the same model says freely."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from pam_kit.atomic_files import write_json
from pam_kit.contracts import Questions, RegionSample
from pam_kit.data.label_lists import Label, checked_labels
from pam_kit.errors import PamKitError
from pam_kit.evaluation.closed_set_scores import closed_set_metrics, fit_temperature, held_out_prior, mean_nll
from pam_kit.evaluation.held_out import batched, exact_prompts, picture_splits, readable_samples
from pam_kit.evaluation.scores import normal
from pam_kit.inference.closed_set import Calibration, ClosedSet, Prior
from pam_kit.inference.predictor import RegionPredictor
from pam_kit.inference.region_reading import read_regions
from pam_kit.registry import find
from pam_kit.sections import EvaluateSection

Row = dict[str, float | int]


@dataclass(frozen=True)
class LabelSettings:
    """How labels are chosen and from what.

    Args:
        labels: the list; None takes the labels that the held-out set's own references of ``recognize`` hold.
        language: of question and references.
        per_token, prior: as of ``ClosedSet``.
    """

    labels: Sequence[Label] | None = None
    language: str = "en"
    per_token: bool = False
    prior: Prior = "none"


@dataclass
class _Scored:
    """What was found out about the regions of a held-out set, picture by picture."""

    values: list[Tensor] = field(default_factory=list)
    truth: list[int] = field(default_factory=list)
    picture: list[int] = field(default_factory=list)
    freely: list[bool] = field(default_factory=list)
    unlisted: int = 0


def evaluate_labels(
    predictor: RegionPredictor,
    section: EvaluateSection,
    settings: LabelSettings,
    folder: Path,
    progress=lambda items, **_: items,
) -> dict[str, Row]:
    """Choose the label of every region of the held-out pictures, under every kind of prompt.

    Every second picture fits a temperature, and a prior where one of regions is asked for; the others are measured.
    Writes labels.json, labels.md and calibration/<split>-<prompt>.json into ``folder``.

    -> "split / prompt" -> top 1, top 5, ECE and nll (as they are and ``calibrated``), temperature, ``free text`` (the
    share of regions whose greedy answer is the right label word for word), n, n fitted, n unlisted.
    """
    splits, _ = picture_splits(section)
    table: dict[str, Row] = {}
    for name, split in splits.items():
        dataset = find("dataset", split.dataset.name).build(**split.dataset.arguments)
        labels = settings.labels
        if labels is None:
            labels = reference_labels(readable_samples(dataset, split, folder, f"{name}: labels", progress), settings)
        chosen = ClosedSet(labels, settings.language, per_token=settings.per_token, prior=settings.prior)
        for kind in split.prompts:
            row = f"{name} / {kind}"
            samples = readable_samples(dataset, split, folder, row, progress)
            scored = _score(predictor, section, chosen, samples, kind)
            table[row], calibration = _measured(chosen, scored, row)
            calibration.save(folder / "calibration" / f"{name}-{kind}.json")
    write_json(folder / "labels.json", table)
    (folder / "labels.md").write_text("\n".join(labels_markdown(table)) + "\n", encoding="utf-8")
    return table


def reference_labels(samples: Iterable[RegionSample], settings: LabelSettings) -> list[Label]:
    """The different labels that the regions of samples have, in alphabetical order."""
    found = {text for sample in samples for region in sample.regions if (text := _reference(region, settings.language))}
    return checked_labels([Label(text, (text,)) for text in sorted(found)], "the references")


def labels_markdown(table: dict[str, Row]) -> list[str]:
    """The table as Markdown lines: a row a score, a column a split and prompt; shares in percent."""
    names = list(dict.fromkeys(name for row in table.values() for name in row))
    lines = ["| score | " + " | ".join(table) + " |", "| --- |" + " ---: |" * len(table)]
    for name in names:
        lines.append(f"| {name} | " + " | ".join(_cell(name, row[name]) for row in table.values()) + " |")
    return lines


def _score(predictor, section: EvaluateSection, chosen: ClosedSet, samples, kind: str) -> _Scored:
    scored, number = _Scored(), 0
    place = {normal(words): index for index, label in enumerate(chosen.labels) for words in (*label.texts, label.name)}
    for batch in batched(samples, section.batch_size):
        listed = []
        for sample in batch:
            for region, prompt in zip(sample.regions, exact_prompts(sample, kind), strict=True):
                if not (reference := _reference(region, chosen.language)):
                    continue
                if normal(reference) not in place:
                    scored.unlisted += 1
                    continue
                listed.append((sample, number, prompt, place[normal(reference)]))
            number += 1
        if listed:
            _add(predictor, section, chosen, listed, scored)
    return scored


@torch.inference_mode()
def _add(predictor, section: EvaluateSection, chosen: ClosedSet, listed: list, scored: _Scored) -> None:
    pictures = {number: sample for sample, number, _, _ in listed}
    prompts = [[prompt for _, own, prompt, _ in listed if own == number] for number in pictures]
    _, prefix = read_regions(predictor, [sample.image for sample in pictures.values()], prompts)
    decoder, count = predictor.model.decoder, len(listed)
    scored.values.append(chosen.scores(decoder, prefix).cpu())
    asked = Questions(
        torch.arange(count), [chosen.question] * count, [""] * count, ["recognize"] * count, [chosen.language] * count
    )
    for (_, number, _, right), said in zip(
        listed, decoder.generate(prefix, asked, section.max_new_tokens), strict=True
    ):
        label = chosen.labels[right]
        scored.truth.append(right)
        scored.picture.append(number)
        scored.freely.append(normal(said.text) in {normal(words) for words in (*label.texts, label.name)})


def _measured(chosen: ClosedSet, scored: _Scored, row: str) -> tuple[Row, Calibration]:
    """Scores of the pictures that nothing was fitted on, and what was fitted on the others."""
    picture = torch.tensor(scored.picture)
    fitted = picture % 2 == 0
    if not len(picture) or fitted.all() or not fitted.any():
        raise PamKitError(
            f"{row}: {len(picture)} regions have a label of the list, which are none in every first or every second "
            "picture; one half is fitted, the other measured. Give more pictures, or a list with their labels"
        )
    values, truth = torch.cat(scored.values), torch.tensor(scored.truth)
    prior = held_out_prior(values[fitted]) if chosen.prior == "regions" else torch.zeros(values.shape[1])
    temperature = fit_temperature((values - prior)[fitted], truth[fitted])
    calibration = Calibration(
        tuple(chosen.names), temperature, tuple(prior.tolist()) if chosen.prior == "regions" else None, chosen.settings
    )
    values, truth = (values - prior)[~fitted], truth[~fitted]
    found: Row = {}
    for name, scores in (("", values), (" calibrated", values / temperature)):
        metrics = closed_set_metrics(len(chosen.labels))
        told = {key: float(value) for key, value in metrics(scores.softmax(1).float(), truth).items()}
        # A temperature leaves the order as it is.
        found |= {f"{key}{name}": value for key, value in told.items() if key == "ECE" or not name}
        found[f"nll{name}"] = mean_nll(scores, truth)
    freely = torch.tensor(scored.freely)[~fitted]
    found |= {"free text": float(freely.double().mean()), "temperature": temperature, "labels": len(chosen.labels)}
    return found | {"n": len(truth), "n fitted": int(fitted.sum()), "n unlisted": scored.unlisted}, calibration


def _reference(region, language: str) -> str | None:
    return region.texts.get("recognize", {}).get(language)


def _cell(name: str, value: float | int) -> str:
    if isinstance(value, int):
        return str(value)
    return f"{value:.3f}" if name.startswith(("nll", "temperature")) else f"{100 * value:.1f}"
