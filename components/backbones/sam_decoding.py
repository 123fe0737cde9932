"""SAM's prompt encoder and mask decoder, run so that every inner tensor a region model reads comes out.

The modules are those of the ``sam2`` package, unmodified. SAM 2 (arXiv 2408.00714) returns masks; PAM (arXiv
2506.05302, Section 3.1) also reads the decoder's image stream and its mask tokens, which a forward hook takes from the
decoder's two-way transformer.
"""

import threading
from dataclasses import dataclass, fields
from typing import Literal

import torch
import torch.nn.functional as F
from sam2.modeling.sam.mask_decoder import MaskDecoder
from sam2.modeling.sam.prompt_encoder import PromptEncoder
from sam2.modeling.sam2_base import NO_OBJ_SCORE
from torch import Tensor

from pam_kit.contracts import PAD_POINT, ImageFeatures, PromptBatch, RegionFeatures

Selection = Literal["stability", "best", "single"]
Shown = Literal["described", "single"]

# A drawn mask enters where SAM expects the logits of an earlier prediction; +-10 is as good as certain after a sigmoid.
MASK_PROMPT_LOGIT = 10.0
# SAM 2's stability score: pixels above +0.05 over pixels above -0.05, stable from 0.98 on.
STABILITY_DELTA = 0.05
STABILITY_THRESHOLD = 0.98


@dataclass
class _DecoderRun:
    """Outputs of the mask decoder for some regions; the first axis is the region's."""

    tokens: Tensor
    padding: Tensor
    image: Tensor
    source: Tensor
    logits: Tensor
    iou: Tensor
    object_score: Tensor


def mask_prompt_logits(masks: Tensor) -> Tensor:
    """Masks in [0, 1] -> what SAM's mask prompt is made of, in [-10, 10]."""
    return (2 * masks - 1) * MASK_PROMPT_LOGIT


def segment_regions(
    prompt_encoder: PromptEncoder,
    mask_decoder: MaskDecoder,
    features: ImageFeatures,
    image_index: Tensor,
    prompts: PromptBatch,
    mask_logits: Tensor,
    selection: Selection,
    shown: Shown = "described",
) -> RegionFeatures:
    """Decode R prompts; each comes out as it would alone.

    Regions with the same number of points run as one batch: SAM's padding points are tokens that others attend to,
    so padding to a common length would change the result. SAM itself adds one padding point to every prompt, and two
    where there is no point at all.

    Args:
        features: of B images; ``high_resolution`` holds the (stride 4, stride 8) features.
        image_index: (R,) long.
        mask_logits: (R, 1, 4h, 4w), read where ``prompts.has_mask``.
        selection: which mask the first of ``mask_tokens`` makes. ``stability``: the single mask if it is stable, else
            the best of the three (SAM 2 at inference, and PAM); ``best``: the one of the three with the highest
            predicted IoU; ``single``: the single mask.
        shown: which mask ``mask_logits`` and ``iou`` are of. ``described``: the one that the first of ``mask_tokens``
            makes; ``single``: the single mask, and an empty one where there is no object (see ``hide_absent``), as the
            released PAM shows it.
    """
    if len(prompts) == 0:
        arguments = _one_region(image_index, prompts, mask_logits)
        return _no_region(segment_regions(prompt_encoder, mask_decoder, features, *arguments, selection, shown))
    points, labels = _points_first(prompts.points, prompts.labels)
    dense = _dense_embeddings(prompt_encoder, mask_logits, prompts.has_mask)
    groups = _rows_by_num_points(labels)
    runs = []
    for num_points, rows in groups:
        sparse = _sparse_embeddings(prompt_encoder, points[rows, :num_points], labels[rows, :num_points])
        runs.append(_run(prompt_encoder, mask_decoder, features, image_index[rows], sparse, dense[rows]))
    run = _join(runs, [rows for _, rows in groups])
    # Ahead of the mask tokens stand the IoU token and, where the decoder has one, the object-score token.
    first_mask_token = 1 + int(mask_decoder.pred_obj_scores)
    return _region_features(run, _select(run, selection), shown, first_mask_token)


def _one_region(image_index: Tensor, prompts: PromptBatch, mask_logits: Tensor) -> tuple[Tensor, PromptBatch, Tensor]:
    """A prompt that points nowhere, in the first image: sam2's decoder cannot reshape the masks of no region at all."""
    labels = prompts.labels.new_full((1, 1), PAD_POINT)
    masks = prompts.masks.new_zeros(1, *prompts.masks.shape[1:])
    prompt = PromptBatch(prompts.points.new_zeros(1, 1, 2), labels, masks, prompts.has_mask.new_zeros(1))
    return image_index.new_zeros(1), prompt, mask_logits.new_zeros(1, *mask_logits.shape[1:])


def _no_region(regions: RegionFeatures) -> RegionFeatures:
    return RegionFeatures(**{f.name: getattr(regions, f.name)[:0] for f in fields(RegionFeatures)})


def _points_first(points: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Move padding behind the points of each prompt and make room for at least one point."""
    order = (labels == PAD_POINT).to(torch.uint8).argsort(dim=1, stable=True)
    points, labels = points.gather(1, order[..., None].expand(-1, -1, 2)), labels.gather(1, order)
    if labels.shape[1] == 0:
        points, labels = F.pad(points, (0, 0, 0, 1)), F.pad(labels, (0, 1), value=PAD_POINT)
    return points, labels


def _rows_by_num_points(labels: Tensor) -> list[tuple[int, Tensor]]:
    """Regions grouped by their number of points, at least one."""
    counts = (labels != PAD_POINT).sum(dim=1).clamp(min=1)
    return [(size, (counts == size).nonzero().squeeze(1)) for size in counts.unique().tolist()]


def _sparse_embeddings(prompt_encoder: PromptEncoder, points: Tensor, labels: Tensor) -> Tensor:
    """Points -> (R, P + 1, C). In fp32 even under autocast: coordinates rounded to bf16 move by up to 7 pixels."""
    with torch.autocast(points.device.type, enabled=False):
        return prompt_encoder(points=(points.float(), labels), boxes=None, masks=None)[0]


def _dense_positions(prompt_encoder: PromptEncoder) -> Tensor:
    matrix = prompt_encoder.pe_layer.positional_encoding_gaussian_matrix
    with torch.autocast(matrix.device.type, enabled=False):
        return prompt_encoder.get_dense_pe()


def _dense_embeddings(prompt_encoder: PromptEncoder, mask_logits: Tensor, has_mask: Tensor) -> Tensor:
    """(R, C, h, w). Computed for every region, so that no parameter's gradient depends on the prompts drawn."""
    no_mask = prompt_encoder.no_mask_embed.weight.reshape(1, -1, 1, 1)
    embedded = prompt_encoder.mask_downscaling(mask_logits.to(no_mask.dtype))
    return torch.where(has_mask[:, None, None, None], embedded, no_mask)


def _run(prompt_encoder, mask_decoder, features, image_index, sparse, dense) -> _DecoderRun:
    source = features.embedding[image_index]
    high_resolution = [level[image_index] for level in features.high_resolution]
    outputs, (tokens, image) = _predict_masks(
        mask_decoder,
        image_embeddings=source,
        image_pe=_dense_positions(prompt_encoder).to(source.dtype),
        sparse_prompt_embeddings=sparse.to(source.dtype),
        dense_prompt_embeddings=dense.to(source.dtype),
        high_res_features=high_resolution or None,
    )
    logits, iou, _, object_score = outputs
    return _DecoderRun(
        tokens=tokens,
        padding=torch.zeros(tokens.shape[:2], dtype=torch.bool, device=tokens.device),
        image=image.transpose(1, 2).unflatten(2, source.shape[-2:]),
        source=source,
        logits=logits,
        iou=iou,
        object_score=object_score.squeeze(1),
    )


def _predict_masks(mask_decoder: MaskDecoder, **inputs) -> tuple[tuple[Tensor, ...], tuple[Tensor, Tensor]]:
    """The decoder's outputs and its transformer's. The hook lives for this call and sees this thread's call only."""
    thread, seen = threading.get_ident(), []

    def record(_module, _inputs, output):
        if threading.get_ident() == thread:
            seen.append(output)

    handle = mask_decoder.transformer.register_forward_hook(record)
    try:
        outputs = mask_decoder.predict_masks(repeat_image=False, **inputs)
    finally:
        handle.remove()
    return outputs, seen[-1]


def _join(runs: list[_DecoderRun], rows: list[Tensor]) -> _DecoderRun:
    """Put the groups back into the order of the regions."""
    if len(runs) == 1:
        return runs[0]
    longest = max(run.tokens.shape[1] for run in runs)
    for run in runs:
        missing = longest - run.tokens.shape[1]
        run.tokens = F.pad(run.tokens, (0, 0, 0, missing))
        run.padding = F.pad(run.padding, (0, missing), value=True)
    order = torch.cat(rows).argsort()
    return _DecoderRun(
        **{f.name: torch.cat([getattr(run, f.name) for run in runs])[order] for f in fields(_DecoderRun)}
    )


@torch.no_grad()
def _select(run: _DecoderRun, selection: Selection) -> Tensor:
    """(R,) long: the described mask token. Token 0 makes the single mask, the others the three hypotheses."""
    single = torch.zeros(len(run.iou), dtype=torch.long, device=run.iou.device)
    if selection == "single":
        return single
    best = run.iou[:, 1:].argmax(dim=1) + 1
    if selection == "best":
        return best
    return torch.where(stability_score(run.logits[:, 0]) >= STABILITY_THRESHOLD, single, best)


def stability_score(mask_logits: Tensor) -> Tensor:
    """(R, H, W) -> (R,): how little the mask's area depends on the threshold; 1 for an empty mask."""
    inner = (mask_logits > STABILITY_DELTA).sum(dim=(1, 2)).float()
    outer = (mask_logits > -STABILITY_DELTA).sum(dim=(1, 2)).float()
    return torch.where(outer > 0, inner / outer.clamp(min=1), torch.ones_like(outer))


def hide_absent(mask_logits: Tensor, object_score: Tensor) -> Tensor:
    """(R, 1, H, W) and (R,) -> (R, 1, H, W): SAM 2's logits of nothing where the score says that no object is there."""
    return torch.where((object_score > 0)[:, None, None, None], mask_logits, NO_OBJ_SCORE)


def _region_features(run: _DecoderRun, described: Tensor, shown: Shown, first_mask_token: int) -> RegionFeatures:
    rows = torch.arange(len(described), device=described.device)
    mask_tokens = run.tokens[:, first_mask_token : first_mask_token + run.iou.shape[1]]
    if shown == "single":
        mask_logits, iou = hide_absent(run.logits[:, :1], run.object_score), run.iou[:, 0]
    else:
        mask_logits, iou = run.logits[rows, described].unsqueeze(1), run.iou[rows, described]
    return RegionFeatures(
        image_embedding=run.image,
        source_embedding=run.source,
        mask_tokens=torch.stack([mask_tokens[rows, described], mask_tokens[:, 0]], dim=1),
        all_tokens=run.tokens,
        token_padding=run.padding,
        mask_logits=mask_logits,
        iou=iou,
        object_score=run.object_score,
        candidate_logits=run.logits,
        candidate_iou=run.iou,
    )
