"""What came of a piece of work, in a file, so that two ways of doing it can be compared."""

import json
from collections.abc import Sequence
from dataclasses import asdict

import numpy as np
from torch import Tensor

from pam_kit.bench.comparison import TOLERANCE
from pam_kit.bench.models import SIZE
from pam_kit.bench.plain_answers import PlainRegion
from pam_kit.inference.region_masks import full_size_logits
from pam_kit.inference.result import RegionPrediction
from pam_kit.inference.video_result import VideoRegionPrediction

Found = PlainRegion | RegionPrediction | VideoRegionPrediction


def save(found: Sequence[Found], logits: Sequence[Tensor] | None, file: str) -> None:
    """Write masks (M, H, W), their logits (M, 4h, 4w) and scores (M, 2), and texts (T,); M counts regions, each with
    all of its frames.

    Of the plain path also ``unsure`` (M, H, W): where a mask's logit is so near 0 that it may fall on either side; and
    ``forks`` (T,), JSON, and ``exact``, see PlainRegion.

    Args:
        logits: those of the kit's masks (4h, 4w), in the same order; of the plain path its own.
    """
    sights = [sight for one in found for sight in _sights(one)]
    own = [one for region in found if isinstance(region, PlainRegion) for one in region.logits]
    np.savez(
        file,
        masks=np.array([mask for mask, _, _ in sights], dtype=bool),
        unsure=np.array([unsure for _, unsure, _ in sights], dtype=bool),
        logits=np.array([one.float().cpu().numpy() for one in (own if logits is None else logits)], dtype=np.float32),
        scores=np.array([scores for _, _, scores in sights], dtype=np.float64),
        texts=np.array([text for one in found for text in _texts(one)], dtype=np.str_),
        forks=np.array([forks for one in found for forks in _forks(one)], dtype=np.str_),
        exact=all(one.exact for one in found if isinstance(one, PlainRegion)),
    )


def _sights(one: Found) -> list[tuple[np.ndarray, np.ndarray, tuple[float, float]]]:
    """Mask, where it is unsure, and expected IoU and object score, of each frame."""
    sure: np.ndarray = np.zeros(SIZE, dtype=bool)
    if isinstance(one, RegionPrediction):
        return [(one.mask, sure, (one.iou, one.object_score))]
    if isinstance(one, VideoRegionPrediction):
        return [(frame.mask(SIZE), sure, (frame.iou, frame.object_score)) for frame in one.frames]
    sights = []
    for logits, scores in zip(one.logits, one.scores, strict=True):
        full = full_size_logits(logits, one.size)
        sights.append(((full > 0).numpy(), (full.abs() <= TOLERANCE).numpy(), scores))
    return sights


def _texts(one: Found) -> list[str]:
    if isinstance(one, PlainRegion):
        return one.texts
    return [answer.text for by_language in one.texts.values() for answer in by_language.values()]


def _forks(one: Found) -> list[str]:
    if not isinstance(one, PlainRegion):
        return []
    return [json.dumps([asdict(fork) for fork in own], ensure_ascii=False) for own in one.forks]
