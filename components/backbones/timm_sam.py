"""Any timm feature extractor under SAM's prompt encoder and mask decoder: the backbone that trains on a laptop.

The extractor's coarse levels meet in a feature pyramid (Lin et al., arXiv 1612.03144) and feed SAM 2's mask decoder
(arXiv 2408.00714), high-resolution skips included, so region features look as they do with SAM 2.
"""

from collections.abc import Sequence
from typing import Literal

import timm
import torch
import torch.nn.functional as F
from sam2.modeling.sam.mask_decoder import MaskDecoder
from sam2.modeling.sam.prompt_encoder import PromptEncoder
from sam2.modeling.sam.transformer import TwoWayTransformer
from sam2.modeling.sam2_utils import LayerNorm2d
from torch import Tensor, nn

from pam_kit.components.backbones.appearance import appearance, likeness
from pam_kit.components.backbones.drawn_prompts import draw_prompts
from pam_kit.components.backbones.folded_norms import FoldedNorms
from pam_kit.components.backbones.prompt_tracking import (
    DOUBT,
    SURE,
    PromptMemory,
    box_prompts,
    in_sight,
)
from pam_kit.components.backbones.region_rows import check_pointed, no_prompts
from pam_kit.components.backbones.sam_backbone import SamBackbone
from pam_kit.components.backbones.sam_decoding import hide_absent
from pam_kit.components.backbones.timm_weights import load_extractor_weights
from pam_kit.contracts import PAD_POINT, ImageFeatures, PromptBatch, RegionFeatures, RegionMemory
from pam_kit.errors import PamKitError, RecipeError
from pam_kit.registry import register, suggest


@register("backbone", "timm_sam")
class TimmSam(SamBackbone):
    """A timm feature extractor under SAM's prompt encoder and mask decoder, which learn with the rest.

    The extractor must have a level of stride ``feature_stride``; coarser levels are upsampled and added. Finer levels
    that it lacks (plain vision transformers) are upsampled from the next coarser one.

    Args:
        model_name: a name timm knows.
        image_size: side S of the square model image, in pixels; a multiple of 32.
        embed_dim: width C of embeddings and tokens; a multiple of 8 and of twice ``decoder_heads``.
        feature_stride: pixels to a cell of the feature grid; masks are four times finer than the grid.
        decoder_depth: two-way blocks of the mask decoder.
        decoder_heads: attention heads of the mask decoder.
        decoder_mlp_dim: inner width of the mask decoder's MLPs.
        selection: stability, best or single: which mask is shown where the hypotheses differ.
        draw_prompts: also draw boxes and points into SAM's mask prompt, unless a mask is given; a new mask decoder
            learns many times sooner where prompts point.
        weights: lite0 for the ImageNet weights of tf_efficientnet_lite0, or a .safetensors file of the timm model.
        freeze_extractor: keep the extractor fixed, in eval mode and out of the graph.
        frozen: keep the whole backbone so.
        track: follow regions through the frames of clips and streams, by boxes (see ``PromptMemory``); nothing more is
            learned for it, but what reads the frames has a newline of its own.
        score_objects: learn whether there is an object at all where a prompt points, in SAM 2's object-score token and
            head; without it there always is one. Needs prompts at nothing (data.absent_prompts) and
            train.loss.objectness.
        kernels: what runs the mask decoder behind its transformer: auto is Triton on a GPU that can, else torch.
    """

    def __init__(
        self,
        model_name: str = "mobilenetv4_conv_small",
        image_size: int = 128,
        embed_dim: int = 128,
        feature_stride: Literal[8, 16] = 16,
        decoder_depth: int = 2,
        decoder_heads: int = 4,
        decoder_mlp_dim: int = 256,
        selection: Literal["stability", "best", "single"] = "single",
        draw_prompts: bool = True,
        weights: str | None = None,
        freeze_extractor: bool = False,
        frozen: bool = False,
        track: bool = False,
        score_objects: bool = False,
        kernels: Literal["auto", "triton", "torch"] = "auto",
    ):
        _check_sizes(image_size, embed_dim, decoder_heads)
        side = image_size // feature_stride
        # Read before the module exists: the mean and the standard deviation come with the weights.
        extractor = _create_extractor(model_name, image_size, feature_stride)
        mean, std = load_extractor_weights(extractor, model_name, weights)
        super().__init__(image_size, (side, side), embed_dim, selection, mean, std, kernels=kernels)
        self.feature_stride, self.draw_prompts, self.freeze_extractor = feature_stride, draw_prompts, freeze_extractor
        self.tracks = self.tracks_together = track
        self.extractor, self._folded_extractor = extractor, FoldedNorms(extractor)
        self.pyramid = _Pyramid(extractor.feature_info, embed_dim, feature_stride)
        self.sam_prompt_encoder = PromptEncoder(
            embed_dim=embed_dim,
            image_embedding_size=self.grid,
            input_image_size=(image_size, image_size),
            mask_in_chans=16,
        )
        self.sam_mask_decoder = _create_mask_decoder(
            embed_dim, decoder_depth, decoder_heads, decoder_mlp_dim, score_objects
        )
        self.set_frozen(frozen)

    @property
    def prompt_encoder(self) -> PromptEncoder:
        return self.sam_prompt_encoder

    @property
    def mask_decoder(self) -> MaskDecoder:
        return self.sam_mask_decoder

    def learnable_parameters(self) -> list[nn.Parameter]:
        fixed = set(self.extractor.parameters()) if self.freeze_extractor else set()
        return [parameter for parameter in self.parameters() if parameter not in fixed]

    def train(self, mode: bool = True):
        super().train(mode)
        if self.freeze_extractor:
            self.extractor.eval()
        return self

    def encode_normalised(self, images: Tensor) -> ImageFeatures:
        fixed = self.freeze_extractor or self.frozen
        levels = self._folded_extractor(images) if fixed else self.extractor(images)
        if getattr(self.extractor, "output_fmt", "NCHW") == "NHWC":
            levels = [level.permute(0, 3, 1, 2) for level in levels]
        embedding, fine, finer = self.pyramid(levels, self.grid)
        return ImageFeatures(embedding=embedding, high_resolution=(finer, fine))

    def segment(self, features: ImageFeatures, image_index: Tensor, prompts: PromptBatch) -> RegionFeatures:
        if self.draw_prompts:
            prompts = draw_prompts(prompts, self.image_size)
        return super().segment(features, image_index, prompts)

    def new_memory(self) -> PromptMemory:
        if not self.tracks:
            raise PamKitError(
                "this TimmSam cannot follow a region through a clip; set backbone.track=true before it is trained, or "
                "use a backbone that tracks by itself, such as sam2"
            )
        return PromptMemory(self.image_size, 4 * self.grid[0], self.mean.device)

    def observe(
        self,
        features: ImageFeatures,
        memory: RegionMemory,
        prompts: PromptBatch | None = None,
        rows: Sequence[int] = (),
        image_index: Tensor | None = None,
    ) -> RegionFeatures:
        """As promised by ``VisionBackbone``: each region is asked for by a box around what was seen of it.

        Where the object of a followed region is gone ``mask_logits`` is empty (-1024 everywhere, as with SAM 2). A
        backbone that is not frozen has gradients in each frame's own encoding and decoding, none through the memory.
        """
        if not isinstance(memory, PromptMemory):
            raise PamKitError("TimmSam follows regions through a memory of its own; call new_memory")
        prompts = no_prompts(0, features) if prompts is None else prompts
        check_pointed(features, prompts, rows, len(memory), image_index)
        asked = memory.ask(prompts, rows)
        index = asked.labels.new_zeros(len(asked)) if image_index is None else image_index
        regions = self.segment(features, index, asked)
        pointed = torch.zeros_like(asked.has_mask)
        pointed[list(rows)] = True
        regions, look = self._searched(features, index, memory, regions, pointed)
        followed = hide_absent(regions.mask_logits, regions.object_score)
        regions.mask_logits = torch.where(pointed[:, None, None, None], regions.mask_logits, followed)
        # Where a region is looked for is no prompt.
        regions.labels = asked.labels.where(pointed[:, None], PAD_POINT)
        shares = asked.points / self.image_size
        regions.points = shares.where((regions.labels != PAD_POINT)[..., None], 0.0)
        memory.remember(regions, asked, pointed, look)
        return regions

    def _searched(
        self, features: ImageFeatures, index: Tensor, memory: PromptMemory, regions: RegionFeatures, pointed: Tensor
    ) -> tuple[RegionFeatures, Tensor]:
        """The regions and their looks (R, A).

        Those that are gone, or look like another object, are searched for around where they should be.
        """
        look, known = appearance(features, index, regions.mask_logits > 0), len(memory)
        alike = likeness(look[:known], memory.look) if known else look.new_zeros(0)
        doubted = ~pointed[:known] & (~in_sight(regions)[:known] | (alike < DOUBT))
        rows = doubted.nonzero().squeeze(1)
        if not len(rows):
            return regions, look
        boxes = memory.around(rows)
        asked = box_prompts(boxes.flatten(0, 1), no_prompts(0, features))
        where = index[rows].repeat_interleave(boxes.shape[1])
        found = self.segment(features, where, asked)
        looks = appearance(features, where, found.mask_logits > 0)
        marks = likeness(looks, memory.look[rows].repeat_interleave(boxes.shape[1], 0))
        best, place = marks.masked_fill(~in_sight(found), -1).unflatten(0, boxes.shape[:2]).max(1)
        taken = (best >= SURE).nonzero().squeeze(1)
        order = torch.arange(len(regions), device=look.device)
        order[rows[taken]] = len(regions) + taken * boxes.shape[1] + place[taken]
        return RegionFeatures.joined([regions, found]).of_rows(order.tolist()), torch.cat([look, looks])[order]


class _Pyramid(nn.Module):
    """Levels of the extractor -> the embedding (C) and skips of half (C/4) and a quarter (C/8) its stride."""

    def __init__(self, feature_info, embed_dim: int, stride: int):
        super().__init__()
        strides, channels = feature_info.reduction(), feature_info.channels()
        self.coarse = [index for index, level in enumerate(strides) if level >= stride]
        self.fine, self.finer = (_level_for(strides, stride // 2), _level_for(strides, stride // 4))
        self.lateral = nn.ModuleList(nn.Conv2d(channels[index], embed_dim, kernel_size=1) for index in self.coarse)
        self.norm = LayerNorm2d(embed_dim)
        self.fine_skip = nn.Conv2d(channels[self.fine], embed_dim // 4, kernel_size=1)
        self.finer_skip = nn.Conv2d(channels[self.finer], embed_dim // 8, kernel_size=1)

    def forward(self, levels: Sequence[Tensor], grid: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
        laterals = zip(self.lateral, self.coarse, strict=True)
        embedding = sum(_resize(lateral(levels[index]), grid, 1) for lateral, index in laterals)
        fine = _resize(self.fine_skip(levels[self.fine]), grid, 2)
        finer = _resize(self.finer_skip(levels[self.finer]), grid, 4)
        return self.norm(embedding), fine, finer


def _level_for(strides: Sequence[int], wanted: int) -> int:
    """Index of the level of the wanted stride, or of the next coarser one that exists."""
    return min((stride, index) for index, stride in enumerate(strides) if stride >= wanted)[1]


def _resize(feature: Tensor, grid: tuple[int, int], factor: int) -> Tensor:
    size = (grid[0] * factor, grid[1] * factor)
    if tuple(feature.shape[-2:]) == size:
        return feature
    return F.interpolate(feature, size=size, mode="bilinear", align_corners=False)


def _create_extractor(model_name: str, image_size: int, stride: int) -> nn.Module:
    """The timm model cut into the levels that are read: those of a quarter of ``stride`` and coarser."""
    if not timm.is_model(model_name):
        near = suggest(model_name, timm.list_models())
        raise RecipeError([f"backbone.model_name: timm knows no model {model_name!r}{near}"])
    config = timm.get_pretrained_cfg(model_name)
    arguments = {"img_size": image_size} if config is not None and config.fixed_input_size else {}
    with torch.device("meta"):
        levels = _create(model_name, **arguments).feature_info
    strides = levels.reduction()
    if stride not in strides:
        found = ", ".join(str(level) for level in sorted(set(strides)))
        raise RecipeError([f"backbone.feature_stride is {stride}; {model_name} has levels of strides {found}"])
    # Where several levels share a stride the last one has seen most of the picture.
    last = {level: index for index, level in zip(levels.out_indices, strides, strict=True) if level >= stride // 4}
    return _create(model_name, out_indices=sorted(last.values()), **arguments)


def _create(model_name: str, **arguments) -> nn.Module:
    try:
        return timm.create_model(model_name, features_only=True, **arguments)
    except (RuntimeError, AttributeError, AssertionError) as error:
        raise RecipeError([f"timm cannot cut {model_name} into feature levels: {error}"]) from error


def _create_mask_decoder(embed_dim: int, depth: int, heads: int, mlp_dim: int, score_objects: bool) -> MaskDecoder:
    decoder = MaskDecoder(
        transformer_dim=embed_dim,
        transformer=TwoWayTransformer(depth=depth, embedding_dim=embed_dim, num_heads=heads, mlp_dim=mlp_dim),
        iou_head_hidden_dim=embed_dim,
        use_high_res_features=True,
        iou_prediction_use_sigmoid=True,
        pred_obj_scores=score_objects,
        pred_obj_scores_mlp=score_objects,
    )
    # The pyramid's own projections do their work.
    del decoder.conv_s0, decoder.conv_s1
    return decoder


def _check_sizes(image_size: int, embed_dim: int, heads: int) -> None:
    problems = []
    if image_size <= 0 or image_size % 32:
        problems.append(f"backbone.image_size is {image_size}; it must be a positive multiple of 32")
    if embed_dim % 8 or embed_dim % (2 * heads):
        problems.append(
            f"backbone.embed_dim is {embed_dim}; it must be a multiple of 8 and of twice decoder_heads ({2 * heads})"
        )
    if problems:
        raise RecipeError(problems)
