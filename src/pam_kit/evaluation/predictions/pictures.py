"""Answers about regions of pictures: each picture is encoded once, each region perceived once."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pam_kit.contracts import GeneratedText, Questions, RegionPrompt
from pam_kit.data.masks import encode_rle
from pam_kit.data.pictures import read_picture
from pam_kit.data.prepare import collate, prepare
from pam_kit.errors import PamKitError
from pam_kit.evaluation.predictions.ledger import SEEN, broken
from pam_kit.evaluation.predictions.settings import PredictionSettings
from pam_kit.evaluation.records import RegionRecord
from pam_kit.inference.following import seen_regions
from pam_kit.inference.predictor import RegionPredictor
from pam_kit.inference.result import prompt_from_json


@dataclass
class _Picture:
    """A readable picture and what is asked about it; records that ask the same share a question."""

    image: np.ndarray
    prompts: list[RegionPrompt]
    records: list[list[RegionRecord]]


@torch.inference_mode()
def answer_pictures(
    predictor: RegionPredictor, root: Path, pictures: Sequence[Sequence[RegionRecord]], settings: PredictionSettings
) -> Iterator[RegionRecord]:
    """The regions of some pictures -> the same with what was said, those that cannot be read with the reason.

    Args:
        root: the benchmark's folder.
        pictures: the regions of each.
    """
    readable = []
    for records in pictures:
        picture, failed = _opened(root, records)
        yield from failed
        readable += [picture] if picture is not None else []
    if not readable:
        return
    model = predictor.model
    prepared = [prepare(one.image, one.prompts, [], predictor.geometry) for one in readable]
    batch = collate(prepared, predictor.geometry).to(predictor.device)
    regions = model.segment(batch.images, batch.image_index, batch.prompts)
    sharing = [(picture.image.shape[:2], records) for picture in readable for records in picture.records]
    for start in range(0, len(sharing), settings.regions):
        chunk = sharing[start : start + settings.regions]
        own = regions.of_rows(range(start, start + len(chunk)))
        questions = _questions([records[0] for _, records in chunk])
        answers = model.decoder.generate(model.prefix(model.perceive(own)), questions, settings.max_new_tokens)
        for (size, records), one, answer in zip(chunk, seen_regions(own, (1, 1)), answers, strict=True):
            seen = looks(encode_rle(replace(one, size=size).mask()), one.iou, one.object_score)
            yield from (said(record, answer, seen) for record in records)


def said(record: RegionRecord, answer: GeneratedText | None, seen: dict[str, Any]) -> RegionRecord:
    """The region with what was said of it and ``looks``; an answer of None, of what was out of sight, is empty."""
    score = {} if answer is None else {"score": round(float(answer.score), 4)}
    text = "" if answer is None else answer.text
    return replace(record, prediction=text, meta=record.meta | {SEEN: score | seen})


def looks(mask: dict[str, Any] | None, iou: float, object_score: float) -> dict[str, Any]:
    """What was seen of a region where it is pointed at: the mask as run-length encoding, and how sure the model is."""
    return {"mask": mask, "iou": round(iou, 4), "object_score": round(object_score, 4)}


def _questions(records: Sequence[RegionRecord]) -> Questions:
    """One about each region."""
    return Questions(
        region_index=torch.arange(len(records)),
        questions=[record.question for record in records],
        answers=[""] * len(records),
        tasks=[record.task for record in records],
        languages=[record.language for record in records],
    )


def _opened(root: Path, records: Sequence[RegionRecord]) -> tuple[_Picture | None, list[RegionRecord]]:
    """A picture with those of its regions that can be pointed at, and the others."""
    try:
        image = read_picture(root / records[0].image, records[0].id)
    except PamKitError as error:
        return None, [broken(record, str(error)) for record in records]
    picture, failed = _Picture(image, [], []), []
    places: dict[str, int] = {}
    for record in records:
        key = json.dumps([record.prompt, record.question])
        if key in places:
            picture.records[places[key]].append(record)
            continue
        try:
            prompt = prompt_from_json(record.prompt)
            prompt.check(image.shape[1], image.shape[0])
        except PamKitError as error:
            failed.append(broken(record, str(error)))
            continue
        places[key] = len(picture.prompts)
        picture.prompts.append(prompt)
        picture.records.append([record])
    return (picture if picture.prompts else None), failed
