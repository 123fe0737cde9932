"""SAM's prompt encoder and mask decoder, run so that every inner tensor a region model reads comes out.

The modules are those of the ``sam2`` package, unmodified. SAM 2 (arXiv 2408.00714) returns masks; PAM (arXiv
2506.05302, Section 3.1) also reads the decoder's image stream and its mask tokens, which a forward hook takes from the
decoder's two-way transformer. What follows the transformer may run on kernels, see ``DecoderKernels``.
"""

import threading
from dataclasses import dataclass, fields, replace
from typing import Literal

import torch
import torch.nn.functional as F
from sam2.modeling.sam.mask_decoder import MaskDecoder
from sam2.modeling.sam.prompt_encoder import PromptEncoder
from sam2.modeling.sam2_base import NO_OBJ_SCORE
from torch import Tensor

from pam_kit.components.backbones.decoder_kernels import Decoded, DecoderKernels, transformed
from pam_kit.contracts import PAD_POINT, ImageFeatures, PromptBatch, RegionFeatures
from pam_kit.kernels.mask_tail import select_token

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
    # Pixels of each mask above three thresholds, where a kernel counted them.
    counts: Tensor | None


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
    kernels: DecoderKernels | None = None,
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
        kernels: what runs the decoder behind its transformer; without it the modules of sam2 do.
    """
    kernels = DecoderKernels("torch") if kernels is None else kernels
    if len(prompts) == 0:
        arguments = _one_region(image_index, prompts, mask_logits)
        one = segment_regions(prompt_encoder, mask_decoder, features, *arguments, selection, shown, kernels)
        return one.of_rows([])
    points, labels = _points_first(prompts.points, prompts.labels)
    dense = _dense_embeddings(prompt_encoder, mask_logits, prompts.has_mask)
    groups = _rows_by_num_points(labels)
    runs = []
    for num_points, rows in groups:
        sparse = _sparse_embeddings(prompt_encoder, points[rows, :num_points], labels[rows, :num_points])
        runs.append(_run(prompt_encoder, mask_decoder, features, image_index[rows], sparse, dense[rows], kernels))
    run = _join(runs, [rows for _, rows in groups])
    # Ahead of the mask tokens stand the IoU token and, where the decoder has one, the object-score token.
    first_mask_token = 1 + int(mask_decoder.pred_obj_scores)
    mask_tokens = run.tokens[:, first_mask_token : first_mask_token + run.iou.shape[1]]
    regions = _region_features(run, _select(run, selection, mask_tokens, kernels), shown, mask_tokens)
    height, width = prompt_encoder.input_image_size
    shares = prompts.points / prompts.points.new_tensor([width, height])
    given = (prompts.labels != PAD_POINT)[..., None]
    return replace(regions, points=shares.where(given, 0.0), labels=prompts.labels)


def _one_region(image_index: Tensor, prompts: PromptBatch, mask_logits: Tensor) -> tuple[Tensor, PromptBatch, Tensor]:
    """A prompt that points nowhere, in the first image: sam2's decoder cannot reshape the masks of no region at all."""
    labels = prompts.labels.new_full((1, 1), PAD_POINT)
    masks = prompts.masks.new_zeros(1, *prompts.masks.shape[1:])
    prompt = PromptBatch(prompts.points.new_zeros(1, 1, 2), labels, masks, prompts.has_mask.new_zeros(1))
    return image_index.new_zeros(1), prompt, mask_logits.new_zeros(1, *mask_logits.shape[1:])


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


def _run(prompt_encoder, mask_decoder, features, image_index, sparse, dense, kernels: DecoderKernels) -> _DecoderRun:
    source = features.embedding[image_index]
    positions = _dense_positions(prompt_encoder).to(source.dtype)
    prompts = (positions, sparse.to(source.dtype), dense.to(source.dtype))
    chosen = kernels.chosen(mask_decoder, source.device)
    if chosen == "modules":
        high_resolution = [level[image_index] for level in features.high_resolution]
        decoded, tokens, image = _predict_masks(mask_decoder, source, *prompts, high_resolution)
    else:
        tokens, image = transformed(mask_decoder, source, *prompts)
        grid = (source.shape[2], source.shape[3])
        skips = features.high_resolution
        decoded = kernels.decode(mask_decoder, chosen, tokens, image, grid, skips, image_index)
    return _DecoderRun(
        tokens=tokens,
        padding=torch.zeros(tokens.shape[:2], dtype=torch.bool, device=tokens.device),
        image=image.transpose(1, 2).unflatten(2, source.shape[-2:]),
        source=source,
        logits=decoded.logits,
        iou=decoded.iou,
        object_score=decoded.object_score.squeeze(1),
        counts=decoded.counts,
    )


def _predict_masks(
    mask_decoder: MaskDecoder, source: Tensor, positions: Tensor, sparse: Tensor, dense: Tensor, skips: list[Tensor]
) -> tuple[Decoded, Tensor, Tensor]:
    """The decoder's outputs and its transformer's. The hook lives for this call and sees this thread's call only."""
    thread, seen = threading.get_ident(), []

    def record(_module, _inputs, output):
        if threading.get_ident() == thread:
            seen.append(output)

    handle = mask_decoder.transformer.register_forward_hook(record)
    try:
        logits, iou, _, object_score = mask_decoder.predict_masks(
            image_embeddings=source,
            image_pe=positions,
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            repeat_image=False,
            high_res_features=skips or None,
        )
    finally:
        handle.remove()
    return Decoded(logits, iou, object_score, counts=None), *seen[-1]


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
    joined = {}
    for field in fields(_DecoderRun):
        parts = [getattr(run, field.name) for run in runs]
        joined[field.name] = None if parts[0] is None else torch.cat(parts)[order]
    return _DecoderRun(**joined)


@torch.no_grad()
def _select(run: _DecoderRun, selection: Selection, mask_tokens: Tensor, kernels: DecoderKernels) -> Tensor:
    """(R,) long: the described mask token. Token 0 makes the single mask, the others the three hypotheses."""
    if selection == "stability" and run.counts is not None:
        return select_token(run.counts, run.iou, mask_tokens, STABILITY_THRESHOLD, kernels.kernels).index
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


def _region_features(run: _DecoderRun, described: Tensor, shown: Shown, mask_tokens: Tensor) -> RegionFeatures:
    rows = torch.arange(len(described), device=described.device)
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
        candidate_tokens=mask_tokens,
        described=described,
    )
