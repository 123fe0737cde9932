"""What is found in a picture without being pointed at: regions, each with its mask, where it comes from, and texts."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from pam_kit.contracts import GeneratedText, RegionPrompt
from pam_kit.data.masks import decode_rle
from pam_kit.inference.closed_set import RankedLabel
from pam_kit.inference.proposals import Proposal, Window
from pam_kit.inference.result import RegionPrediction, prompt_json, texts_json

# How labels of a list stand among texts in a picture's legend.
LABEL = "label"


@dataclass(frozen=True, eq=False)
class FoundRegion:
    """One region of a picture of H x W pixels.

    Args:
        proposal: where it comes from.
        candidate: which of the decoder's masks it is, as counted in ``RegionFeatures.candidate_logits``; None: the one
            that the model tells of.
        prompt: that of the proposal, in pixels of the whole picture.
        segmentation: COCO's compressed run-length code of the (H, W) mask.
        area: of the mask, in pixels.
        box: the mask's tight box (x1, y1, x2, y2).
        iou: the IoU that the model expects of the mask.
        stability: share of the mask that stays where its threshold is moved, see ``EverythingSettings``.
        object_score: probability that there is an object, in [0, 1].
        texts: task -> language -> answer.
        labels: those of a list that it most likely has, the best first.
        error: why there are no texts.
    """

    proposal: Proposal
    candidate: int | None
    prompt: RegionPrompt
    segmentation: dict[str, Any]
    area: int
    box: tuple[float, float, float, float]
    iou: float
    stability: float
    object_score: float
    texts: dict[str, dict[str, GeneratedText]] = field(default_factory=dict)
    labels: tuple[RankedLabel, ...] = ()
    error: str | None = None

    @property
    def score(self) -> float:
        """By which regions are ordered: that of who proposed it, else the IoU that the model expects."""
        return self.iou if self.proposal.score is None else self.proposal.score

    def to_json(self) -> dict[str, Any]:
        """An annotation of COCO without numbers; ``bbox`` is (x, y, width, height). What there is not is left out."""
        x1, y1, x2, y2 = self.box
        told: dict[str, Any] = {
            "segmentation": self.segmentation,
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "area": self.area,
            "score": round(self.score, 5),
            "predicted_iou": round(self.iou, 5),
            "stability": round(self.stability, 5),
            "object_score": round(self.object_score, 5),
            "prompt": prompt_json(self.prompt),
            "candidate": self.candidate,
            "proposal": self.proposal.facts(),
            "texts": texts_json(self.texts),
            "labels": [{"name": one.name, "confidence": round(one.confidence, 5)} for one in self.labels],
            "error": self.error,
        }
        return {name: value for name, value in told.items() if value not in (None, [], {})}

    def prediction(self) -> RegionPrediction:
        """As a region that was pointed at, to be drawn; the best label stands ahead of the texts."""
        best = [{LABEL: {"en": GeneratedText(one.name, one.confidence)}} for one in self.labels[:1]]
        return RegionPrediction(
            prompt=self.prompt,
            mask=decode_rle(self.segmentation),
            iou=self.iou,
            object_score=self.object_score,
            texts=(best[0] if best else {}) | self.texts,
        )


@dataclass(frozen=True, eq=False)
class PictureRegions:
    """All regions of a picture, by falling score.

    Args:
        width: of the picture, in pixels.
        height: likewise.
        regions: found, de-duplicated and described.
        proposals: how many places were looked at.
        notes: what a user should know: proposals that were left out, memory that was short.
    """

    width: int
    height: int
    regions: Sequence[FoundRegion]
    proposals: int
    notes: tuple[str, ...] = ()


def moved(prompt: RegionPrompt, window: Window) -> RegionPrompt:
    """A prompt of points in a window, in pixels of the whole picture."""
    points = tuple((x + window.left, y + window.top) for x, y in prompt.points)
    return RegionPrompt(points=points, labels=prompt.labels)
