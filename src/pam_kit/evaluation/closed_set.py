"""Closed-set recognition on the held-out pictures of a recipe, beside what the same model says freely."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pam_kit.atomic_files import write_json, write_text
from pam_kit.contracts import Questions, RegionPrompt, RegionSample
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
        labels: the list; None takes that of the set: the labels that the references of ``recognize`` hold of held-out
            pictures, all categories that a benchmark is published with.
        language: of question and references.
        per_token, prior: as of ``ClosedSet``.
    """

    labels: Sequence[Label] | None = None
    language: str = "en"
    per_token: bool = False
    prior: Prior = "none"

    def closed_set(self, labels: Sequence[Label]) -> ClosedSet:
        """These labels to choose from, in this way."""
        return ClosedSet(labels, self.language, per_token=self.per_token, prior=self.prior)


@dataclass(frozen=True)
class LabelledPicture:
    """An (H, W, 3) uint8 picture and its regions: how each is pointed at, and the label that it has."""

    image: np.ndarray
    regions: tuple[tuple[RegionPrompt, str], ...]


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
    """Choose the label of every region of the held-out pictures, under every kind of prompt; see ``measured_labels``.

    Writes labels.json, labels.md and calibration/<split>-<prompt>.json into ``folder``.

    -> "split / prompt" -> scores by name.
    """
    splits, _ = picture_splits(section)
    table: dict[str, Row] = {}
    for name, split in splits.items():
        dataset = find("dataset", split.dataset.name).build(**split.dataset.arguments)
        labels = settings.labels
        if labels is None:
            labels = reference_labels(readable_samples(dataset, split, folder, f"{name}: labels", progress), settings)
        chosen = settings.closed_set(labels)
        for kind in split.prompts:
            row = f"{name} / {kind}"
            samples = readable_samples(dataset, split, folder, row, progress)
            pictures = _labelled(samples, kind, settings.language)
            table[row], calibration = measured_labels(predictor, section, chosen, pictures, row)
            calibration.save(folder / "calibration" / f"{name}-{kind}.json")
    save_labels(folder, table)
    return table


def reference_labels(samples: Iterable[RegionSample], settings: LabelSettings) -> list[Label]:
    """The different labels that the regions of samples have, in alphabetical order."""
    found = {text for sample in samples for region in sample.regions if (text := _reference(region, settings.language))}
    return checked_labels([Label(text, (text,)) for text in sorted(found)], "the references")


def measured_labels(
    predictor: RegionPredictor,
    section: EvaluateSection,
    chosen: ClosedSet,
    pictures: Iterable[LabelledPicture],
    row: str,
) -> tuple[Row, Calibration]:
    """How well labels are chosen: every second picture fits a temperature, and a prior where one of regions is asked
    for; the others are measured. ``section`` says how many are encoded at once, and how long free text may be.

    -> top 1, top 5, ECE and nll (as they are and ``calibrated``), temperature, ``free text`` (the share of regions
    whose greedy answer is the right label word for word), n, n fitted, n unlisted; and what was fitted.

    Raises PamKitError, which begins with ``row``, where one half of the pictures has no region with a listed label.
    """
    scored = _score(predictor, section, chosen, pictures)
    return _measured(chosen, scored, row, predictor.sha256)


def save_labels(folder: Path, table: dict[str, Row], notes: Sequence[str] = ()) -> None:
    """labels.json, and labels.md with the notes below the table."""
    write_json(folder / "labels.json", table)
    lines = labels_markdown(table) + [""] * bool(notes) + [f"- {note}" for note in notes]
    write_text(folder / "labels.md", "\n".join(lines) + "\n")


def labels_markdown(table: dict[str, Row]) -> list[str]:
    """The table as Markdown lines: a row a score, a column a split and prompt; shares in percent."""
    names = list(dict.fromkeys(name for row in table.values() for name in row))
    lines = ["| score | " + " | ".join(table) + " |", "| --- |" + " ---: |" * len(table)]
    for name in names:
        lines.append(f"| {name} | " + " | ".join(_cell(name, row[name]) for row in table.values()) + " |")
    return lines


def _labelled(samples: Iterable[RegionSample], kind: str, language: str) -> Iterator[LabelledPicture]:
    for sample in samples:
        pairs = zip(sample.regions, exact_prompts(sample, kind), strict=True)
        known = tuple((prompt, text) for region, prompt in pairs if (text := _reference(region, language)))
        yield LabelledPicture(sample.image, known)


def label_places(labels: Sequence[Label]) -> dict[str, int]:
    """Text, as ``normal`` leaves it -> which label it means. A label's name means no other, whatever is said for that;
    words that several labels share mean the first of them."""
    places: dict[str, int] = {}
    for place, label in enumerate(labels):
        places.setdefault(normal(label.name), place)
    for place, label in enumerate(labels):
        for words in label.texts:
            places.setdefault(normal(words), place)
    return places


def _score(predictor, section: EvaluateSection, chosen: ClosedSet, pictures: Iterable[LabelledPicture]) -> _Scored:
    scored, places, number = _Scored(), label_places(chosen.labels), 0
    for batch in batched(pictures, section.batch_size):
        listed = []
        for picture in batch:
            found = [(prompt, places.get(normal(reference))) for prompt, reference in picture.regions]
            scored.unlisted += sum(place is None for _, place in found)
            if known := [(prompt, place) for prompt, place in found if place is not None]:
                listed.append((picture.image, known))
                scored.truth += [place for _, place in known]
                scored.picture += [number] * len(known)
            number += 1
        if listed:
            _add(predictor, section, chosen, listed, scored)
    return scored


@torch.inference_mode()
def _add(predictor, section: EvaluateSection, chosen: ClosedSet, listed: list, scored: _Scored) -> None:
    prompts = [[prompt for prompt, _ in known] for _, known in listed]
    _, prefix = read_regions(predictor, [image for image, _ in listed], prompts)
    decoder, right = predictor.model.decoder, [place for _, known in listed for _, place in known]
    scored.values.append(chosen.scores(decoder, chosen.log_probabilities(decoder, prefix)).cpu())
    count = len(right)
    asked = Questions(
        torch.arange(count), [chosen.question] * count, [""] * count, ["recognize"] * count, [chosen.language] * count
    )
    for place, said in zip(right, decoder.generate(prefix, asked, section.max_new_tokens), strict=True):
        label = chosen.labels[place]
        scored.freely.append(normal(said.text) in {normal(words) for words in (*label.texts, label.name)})


def _measured(chosen: ClosedSet, scored: _Scored, row: str, model: str | None) -> tuple[Row, Calibration]:
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
    kept = tuple(prior.tolist()) if chosen.prior == "regions" else None
    calibration = Calibration(tuple(chosen.names), temperature, kept, chosen.settings, model)
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
