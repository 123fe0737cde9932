"""The best and the worst regions of a benchmark, each with its picture, for people to look at."""

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from pam_kit.contracts import RegionPrompt
from pam_kit.data.masks import decode_rle
from pam_kit.errors import PamKitError
from pam_kit.evaluation.predictions.ledger import SEEN, why_broken
from pam_kit.evaluation.predictions.videos import pointed_at
from pam_kit.evaluation.records import RegionRecord
from pam_kit.inference.layers import Sizes, paint_regions, scaled_layers
from pam_kit.inference.overlay import TILE_TINT
from pam_kit.inference.result import RegionPrediction

_SIDE, _QUALITY = 420, 82


@dataclass(frozen=True)
class Case:
    """A region to show.

    Args:
        record: with its prediction.
        scores: metric -> value, of one protocol.
        picture: a JPEG file's bytes; None where there is no picture to show, see ``why``.
        why: what is wrong with the region or its picture; "" for nothing.
    """

    record: RegionRecord
    scores: Mapping[str, float | None]
    picture: bytes | None = None
    why: str = ""

    def picture_address(self) -> str:
        """The picture as a data address, so that a page needs no other file."""
        return "data:image/jpeg;base64," + base64.b64encode(self.picture or b"").decode("ascii")


def extreme_cases(
    records: Sequence[RegionRecord], items: Mapping[str, Mapping[str, float | None]], metric: str, count: int
) -> tuple[list[Case], list[Case]]:
    """The best and the worst regions by ``metric``, without pictures yet; no region is both, and none has no value.

    Args:
        items: record id, or group where groups are judged -> metric -> value.
        count: of each; regions of pictures that are not shown yet come first where values are equal.
    """
    scored = [
        (record, items.get(record.id) or items.get(record.group) or {}) for record in _first_of_groups(records, items)
    ]
    known = [Case(record, scores) for record, scores in scored if scores.get(metric) is not None]
    ranked = sorted(known, key=lambda case: -(case.scores[metric] or 0.0))
    size = min(count, (len(ranked) + 1) // 2)
    best = _spread(ranked, size, metric)
    taken = {id(case) for case in best}
    worst = _spread(
        [case for case in reversed(ranked) if id(case) not in taken], min(count, len(ranked) - size), metric
    )
    return best, worst


def with_picture(case: Case, root: Path) -> Case:
    """The case with its picture, the prompt and the predicted mask drawn into it.

    Args:
        root: the benchmark's folder.
    """
    why = why_broken(case.record) or ""
    try:
        image, prompt = pointed_at(root, case.record)
        drawn = draw_pointed(image, prompt, case.record.meta.get(SEEN, {}).get("mask"))
    except PamKitError as error:
        return Case(case.record, case.scores, None, why or str(error))
    file = io.BytesIO()
    drawn.save(file, "JPEG", quality=_QUALITY)
    return Case(case.record, case.scores, file.getvalue(), why)


def draw_pointed(image: np.ndarray, prompt: RegionPrompt, mask: dict | None) -> Image.Image:
    """An (H, W, 3) uint8 picture, its long side 420 pixels, with a prompt and, tinted, a predicted mask as RLE.

    Raises PamKitError where they do not fit the picture.
    """
    prompt.check(image.shape[1], image.shape[0])
    seen = np.zeros(image.shape[:2], dtype=bool) if mask is None else decode_rle(mask)
    if seen.shape != image.shape[:2]:
        raise PamKitError(
            f"the predicted mask is {seen.shape[1]}x{seen.shape[0]}, its picture {image.shape[1]}x{image.shape[0]}"
        )
    prediction = RegionPrediction(prompt, seen, 0.0, 0.0)
    canvas, layers = scaled_layers(image, [prediction], _SIDE / max(image.shape[:2]))
    # Prompts are what the page is about: their dashes are drawn as wide as outlines.
    sizes = Sizes.of(canvas)
    paint_regions(canvas, layers, replace(sizes, thin=sizes.line), TILE_TINT)
    return canvas


def _first_of_groups(records: Iterable[RegionRecord], items: Mapping[str, object]) -> list[RegionRecord]:
    """Where a group has one score for all of its regions, its first region stands for it."""
    seen: set[str] = set()
    found = []
    for record in records:
        if record.id not in items and record.group in items:
            if record.group in seen:
                continue
            seen.add(record.group)
        found.append(record)
    return found


def _spread(ranked: Sequence[Case], count: int, metric: str) -> list[Case]:
    """The first ``count``; among equal ones those of further pictures, and with other answers, come first."""
    chosen: list[Case] = []
    pool = list(ranked)
    while pool and len(chosen) < count:
        equal = [case for case in pool if case.scores[metric] == pool[0].scores[metric]]
        shown = {_place(case) for case in chosen}
        one = next((case for case in equal if _place(case) not in shown), equal[0])
        chosen.append(one)
        pool.remove(one)
    return chosen


def _place(case: Case) -> str:
    return case.record.image or case.record.video
