"""Answers about regions of pictures: each picture is encoded once, and what several records ask alike is asked once."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from pam_kit.contracts import GeneratedText, RegionPrompt
from pam_kit.data.masks import encode_rle
from pam_kit.data.pictures import read_picture
from pam_kit.errors import PamKitError
from pam_kit.evaluation.predictions.ledger import SEEN, broken
from pam_kit.evaluation.predictions.settings import PredictionSettings
from pam_kit.evaluation.records import RegionRecord
from pam_kit.inference.predictor import RegionPredictor
from pam_kit.inference.result import prompt_from_json
from pam_kit.inference.session import Session

# Under this name a session tells the answer to a question in words of one's own.
_OWN = "own words"
# What is the same for records that share an answer: the picture's place, the prompt, the words and their language.
_Shared = tuple[int, str, str, str]


def answer_pictures(
    predictor: RegionPredictor, root: Path, pictures: Sequence[Sequence[RegionRecord]], settings: PredictionSettings
) -> Iterator[RegionRecord]:
    """The regions of some pictures -> the same with what was said, those that cannot be read with the reason.

    Args:
        root: the benchmark's folder.
        pictures: the regions of each.
    """
    images: list[np.ndarray] = []
    sharing: dict[_Shared, list[RegionRecord]] = {}
    prompts: dict[_Shared, RegionPrompt] = {}
    for records in pictures:
        try:
            image = read_picture(root / records[0].image, records[0].id)
        except PamKitError as error:
            yield from (broken(record, str(error)) for record in records)
            continue
        for record in records:
            key = (len(images), json.dumps(record.prompt), record.question, record.language)
            try:
                if key not in prompts:
                    prompts[key] = _checked(record, image)
            except PamKitError as error:
                yield broken(record, str(error))
                continue
            sharing.setdefault(key, []).append(record)
        images.append(image)
    if sharing:
        session = Session(predictor.model, images, replace(predictor.settings, answer_batch=settings.regions))
        yield from _answers(session, sharing, prompts, settings.max_new_tokens)


def _answers(
    session: Session,
    sharing: dict[_Shared, list[RegionRecord]],
    prompts: dict[_Shared, RegionPrompt],
    max_new_tokens: int,
) -> Iterator[RegionRecord]:
    """All regions that are asked about in the same words are asked about together."""
    by_words: dict[tuple[str, str], list[_Shared]] = {}
    for key in sharing:
        by_words.setdefault(key[2:], []).append(key)
    for (words, language), keys in by_words.items():
        found = session.ask(
            [prompts[key] for key in keys],
            (),
            (language,),
            max_new_tokens,
            questions={_OWN: {language: words}},
            pictures=[key[0] for key in keys],
        )
        for key, one in zip(keys, found, strict=True):
            if one.error is not None:
                yield from (broken(record, one.error) for record in sharing[key])
                continue
            seen = looks(encode_rle(one.mask), one.iou, one.object_score)
            yield from (said(record, one.texts[_OWN][language], seen) for record in sharing[key])


def _checked(record: RegionRecord, image: np.ndarray) -> RegionPrompt:
    prompt = prompt_from_json(record.prompt)
    prompt.check(image.shape[1], image.shape[0])
    return prompt


def said(record: RegionRecord, answer: GeneratedText | None, seen: dict[str, Any]) -> RegionRecord:
    """The region with what was said of it and ``looks``; an answer of None, of what was out of sight, is empty."""
    score = {} if answer is None else {"score": round(float(answer.score), 4)}
    text = "" if answer is None else answer.text
    return replace(record, prediction=text, meta=record.meta | {SEEN: score | seen})


def looks(mask: dict[str, Any] | None, iou: float, object_score: float) -> dict[str, Any]:
    """What was seen of a region where it is pointed at: the mask as run-length encoding, and how sure the model is."""
    return {"mask": mask, "iou": round(iou, 4), "object_score": round(object_score, 4)}
