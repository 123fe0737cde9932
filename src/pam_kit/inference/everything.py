"""All regions of a picture: proposed, segmented, filtered, de-duplicated, then named and described.

A grid of points is used and its masks are chosen as SAM does (arXiv 2304.02643, Appendix B), but for two things: masks
are compared by themselves and not by their boxes, and stability is measured at the decoder's own size of 4h x 4w.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
from torch import Tensor

from pam_kit.contracts import RegionFeatures
from pam_kit.data.masks import encode_rle
from pam_kit.errors import PamKitError
from pam_kit.geometry import mask_box
from pam_kit.inference.asked_regions import wordings
from pam_kit.inference.closed_set import ClosedSet
from pam_kit.inference.deduplication import Overlap, kept_masks
from pam_kit.inference.found_regions import FoundRegion, PictureRegions, moved
from pam_kit.inference.pictures import Picture, as_array
from pam_kit.inference.predictor import RegionPredictor
from pam_kit.inference.proposals import GRID, GridSettings, Proposal, Window, grid_proposals, grid_windows
from pam_kit.inference.region_masks import full_size
from pam_kit.inference.session import Session

Progress = Callable[..., Iterable]

# SAM's thresholds for points of a grid, most of which point at nothing in particular.
GRID_IOU, GRID_STABILITY = 0.8, 0.95
# A mask of a crop that comes so near to a side which is not the picture's is cut off: in shares of the crop's side.
_NEAR = 0.02
# So many labels of a list are told of a region.
_LABELS = 5


@dataclass(frozen=True)
class EverythingSettings:
    """What counts as a region, and what is asked about it.

    Args:
        grid: where is looked without other proposals.
        overlap: how much two regions may overlap.
        min_iou: least IoU that the model expects of a mask; None: 0.8 for a grid, 0 for what others propose.
        min_stability: least share of a mask that stays when its threshold is raised by ``stability_offset``, out of
            what is there when it is lowered by as much; None: 0.95 for a grid, 0 for what others propose.
        stability_offset: in logits.
        min_score: proposals that say a lower score of themselves are left out.
        min_area: of a mask, in pixels of the picture.
        max_regions: so many of the highest scores at most; None: all.
        tasks: what is asked about each region, in each of ``languages``; none: masks alone.
        languages: of the answers.
        max_new_tokens: tokens of the longest answer.
    """

    grid: GridSettings = field(default_factory=GridSettings)
    overlap: Overlap = field(default_factory=Overlap)
    min_iou: float | None = None
    min_stability: float | None = None
    stability_offset: float = 1.0
    min_score: float = 0.0
    min_area: int = 1
    max_regions: int | None = None
    tasks: tuple[str, ...] = ("recognize", "caption")
    languages: tuple[str, ...] = ("en",)
    max_new_tokens: int = 64

    def __post_init__(self):
        wordings(self.tasks, self.languages)
        for name, least in (("min_area", 1), ("max_regions", 1), ("max_new_tokens", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise PamKitError(f"{name} is {value}; it is at least {least}")
        if not self.stability_offset > 0:
            raise PamKitError(f"stability_offset is {self.stability_offset}; it is above 0")

    def thresholds(self, proposal: Proposal) -> tuple[float, float]:
        """Least expected IoU and least stability."""
        usual = (GRID_IOU, GRID_STABILITY) if proposal.source == GRID else (-math.inf, -math.inf)
        iou = usual[0] if self.min_iou is None else self.min_iou
        return iou, usual[1] if self.min_stability is None else self.min_stability

    def to_json(self) -> dict[str, Any]:
        """All of it as plain values."""
        return asdict(self) | {"tasks": list(self.tasks), "languages": list(self.languages)}


def _as_they_are(items: Iterable, **_: Any) -> Iterable:
    return items


class Everything:
    """Finds all regions of pictures with one model.

    Args:
        predictor: a trained model; its session settings bound the memory: ``region_batch`` regions at once.
        settings: what counts as a region, and what is asked about it.
        labels: a list of labels to choose from for each region.

    Example:
        >>> found = Everything(RegionPredictor.from_run("runs/pam_tiny")).find("photo.jpg")
        >>> [(region.box, region.texts["recognize"]["en"].text) for region in found.regions]
    """

    def __init__(
        self, predictor: RegionPredictor, settings: EverythingSettings | None = None, labels: ClosedSet | None = None
    ):
        if labels is not None:
            labels.check_usable()
            labels.check_model(predictor)
        self.predictor, self.settings, self.labels = predictor, settings or EverythingSettings(), labels

    def find(
        self, image: Picture, proposals: Sequence[Proposal] | None = None, progress: Progress = _as_they_are
    ) -> PictureRegions:
        """All regions of a picture, by falling score; none where nothing in it passes.

        The picture, and each crop of it, is encoded once; a region's mask is the one that its texts are about.

        Args:
            image: a file, a PIL picture or an (H, W, 3) uint8 array.
            proposals: where to look, in the whole picture; None: at the points of the grid.
            progress: wraps what is gone through, for example tqdm.

        Raises:
            PamKitError: the picture cannot be read, or a proposal does not fit it.
        """
        array = as_array(image)
        height, width = array.shape[:2]
        if proposals is None:
            layers = grid_windows(width, height, self.settings.grid)
            windows, proposals = [window for window, _ in layers], grid_proposals(layers, self.settings.grid)
        else:
            windows = [Window(0, 0, width, height)]
        wanted = [one for one in proposals if one.score is None or one.score >= self.settings.min_score]
        used = sorted({one.window for one in wanted}) or [0]
        session = self.predictor.open(*(_part(array, windows[number]) for number in used))
        places = [used.index(one.window) for one in wanted]
        found = list(self._masks(session, wanted, places, windows, progress))
        kept = kept_masks([one.segmentation for one in found], [one.score for one in found], self.settings.overlap)
        regions = [found[number] for number in kept[: self.settings.max_regions]]
        described = list(self._described(session, regions, used, progress))
        return PictureRegions(width, height, described, len(wanted), tuple(session.notes))

    def _masks(
        self,
        session: Session,
        proposals: Sequence[Proposal],
        places: Sequence[int],
        windows: Sequence[Window],
        progress: Progress,
    ) -> Iterator[FoundRegion]:
        """The masks that pass, proposal by proposal; ``places`` are the session's pictures."""
        batches = math.ceil(len(proposals) / session.settings.region_batch)
        chunks = session.segment([one.prompt for one in proposals], places)
        for numbers, features in progress(chunks, total=batches, desc="masks"):
            passing = self._passing([proposals[number] for number in numbers], features)
            for row, candidate, iou, stability in passing:
                proposal = proposals[numbers[row]]
                logits = _logits(features, row, candidate)
                mask = _in_picture(logits, windows[proposal.window], windows[0])
                if mask is None or (area := int(np.count_nonzero(mask))) < self.settings.min_area:
                    continue
                yield FoundRegion(
                    proposal=proposal,
                    candidate=candidate,
                    prompt=moved(proposal.prompt, windows[proposal.window]) if proposal.window else proposal.prompt,
                    segmentation=encode_rle(mask),
                    area=area,
                    box=mask_box(mask),
                    iou=iou,
                    stability=stability,
                    object_score=float(features.object_score[row].sigmoid()),
                )

    def _passing(
        self, proposals: Sequence[Proposal], features: RegionFeatures
    ) -> Iterator[tuple[int, int | None, float, float]]:
        """(row, candidate, expected IoU, stability) of the masks that are sure enough."""
        offset = self.settings.stability_offset
        shown = list(zip(features.iou.tolist(), _stability(features.mask_logits[:, 0], offset), strict=True))
        choices = 0 if features.candidate_tokens is None else features.candidate_logits.shape[1]
        of_candidates = []
        for number in range(1, choices):
            ious = features.candidate_iou[:, number].tolist()
            of_candidates.append(zip(ious, _stability(features.candidate_logits[:, number], offset), strict=True))
        by_row = list(zip(*of_candidates, strict=True))
        for row, proposal in enumerate(proposals):
            several = proposal.several and bool(by_row)
            choice: list[int | None] = [*range(1, choices)] if several else [None]
            least = self.settings.thresholds(proposal)
            for candidate, (iou, stability) in zip(choice, by_row[row] if several else [shown[row]], strict=True):
                if iou >= least[0] and stability >= least[1]:
                    yield row, candidate, iou, stability

    def _described(
        self, session: Session, regions: Sequence[FoundRegion], used: Sequence[int], progress: Progress
    ) -> Iterator[FoundRegion]:
        """The same with labels and texts, so many at once that their answers are made together."""
        settings = self.settings
        questions = len(settings.tasks) * len(settings.languages)
        if not questions and self.labels is None:
            yield from regions
            return
        size = max(1, session.settings.answer_batch // max(1, questions))
        if questions and self.labels is not None:
            # So many that what is read of them for their labels is still there for their texts.
            size = min(size, max(1, session.settings.kept_regions))
        parts = [regions[start : start + size] for start in range(0, len(regions), size)]
        for part in progress(parts, desc="texts"):
            prompts = [one.proposal.prompt for one in part]
            where: dict[str, Any] = {
                "pictures": [used.index(one.proposal.window) for one in part],
                "candidates": [one.candidate for one in part],
            }
            if self.labels is not None:
                ranked = self.labels.rank_in(session, prompts, _LABELS, **where)
                part = [replace(one, labels=tuple(own)) for one, own in zip(part, ranked, strict=True)]
            if not questions:
                yield from part
                continue
            said = session.ask(prompts, settings.tasks, settings.languages, settings.max_new_tokens, **where)
            # The mask stays the one that was compared with the others.
            yield from (replace(one, texts=own.texts, error=own.error) for one, own in zip(part, said, strict=True))


def _part(picture: np.ndarray, window: Window) -> np.ndarray:
    return picture[window.top : window.bottom, window.left : window.right]


def _logits(features: RegionFeatures, row: int, candidate: int | None) -> Tensor:
    return features.mask_logits[row, 0] if candidate is None else features.candidate_logits[row, candidate]


def _stability(logits: Tensor, offset: float) -> list[float]:
    """(R, 4h, 4w) -> for each mask what stays of it under a higher threshold, out of what it is under a lower one."""
    inner, outer = (logits > offset).sum((1, 2)), (logits > -offset).sum((1, 2))
    return (inner / outer.clamp(min=1)).tolist()


def _in_picture(logits: Tensor, window: Window, whole: Window) -> np.ndarray | None:
    """The mask (H, W) in the whole picture; None for one that is empty, or cut off by a side of its crop."""
    mask = full_size(logits, (window.height, window.width))
    if not mask.any():
        return None
    if window == whole:
        return mask
    x1, y1, x2, y2 = mask_box(mask)
    near_x, near_y = _NEAR * window.width, _NEAR * window.height
    sides = (
        (x1, near_x, window.left > 0),
        (y1, near_y, window.top > 0),
        (window.width - x2, near_x, window.right < whole.right),
        (window.height - y2, near_y, window.bottom < whole.bottom),
    )
    if any(inner and distance <= near for distance, near, inner in sides):
        return None
    placed: np.ndarray = np.zeros((whole.height, whole.width), dtype=bool)
    _part(placed, window)[:] = mask
    return placed
