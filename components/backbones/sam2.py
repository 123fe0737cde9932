"""SAM 2.1 (arXiv 2408.00714) as a backbone: PAM's vision tower, from the unmodified ``sam2`` package."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from sam2.modeling.sam.mask_decoder import MaskDecoder
from sam2.modeling.sam.prompt_encoder import PromptEncoder
from sam2.modeling.sam.transformer import RoPEAttention
from sam2.modeling.sam2_base import SAM2Base
from torch import Tensor, nn

from pam_kit.components.backbones.region_rows import check_pointed, joined, no_prompts
from pam_kit.components.backbones.sam2_memory import Sam2Memory
from pam_kit.components.backbones.sam2_package import build_sam2
from pam_kit.components.backbones.sam2_tracking import Sam2Features
from pam_kit.components.backbones.sam_backbone import SamBackbone
from pam_kit.components.backbones.sam_decoding import hide_absent
from pam_kit.components.backbones.state_dict_fit import misfits
from pam_kit.contracts import ImageFeatures, PromptBatch, RegionFeatures, RegionMemory
from pam_kit.errors import CheckpointError, PamKitError, RecipeError
from pam_kit.registry import register
from pam_kit.weights import pretrained_weights_wanted, read_weights

STRIDE = 16
# Hiera tiles a window of 8x8 patches of 4 pixels over the picture, and its coarsest level has stride 32.
SIZE_MULTIPLE = 32
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

# What a region reads. The rest of SAM 2 is its memory of earlier frames.
_IMAGE_PARTS = ("image_encoder.", "sam_prompt_encoder.", "sam_mask_decoder.", "no_mem_embed")
# The head that says whether there is an object stays as published: where every training prompt points at one, which is
# the rule, it would only forget. With train.loss.objectness the rest learns through it.
_WITHOUT_LOSS = "sam_mask_decoder.pred_obj_score_head."


@register(
    "backbone",
    "sam2",
    presets={
        "sam2_hiera_tiny": {"size": "tiny"},
        "sam2_hiera_small": {"size": "small"},
        "sam2_hiera_base_plus": {"size": "base_plus"},
        "sam2_hiera_large": {"size": "large"},
        "pam": {"size": "large", "image_size": 1024, "frozen": True, "selection": "stability", "shown": "single"},
    },
)
class Sam2(SamBackbone):
    """SAM 2.1 with a Hiera encoder of any of its four sizes.

    ``model`` is the package's ``SAM2Base``, so parameters are named as in the published checkpoints after ``model.``;
    its memory modules serve ``observe`` and never learn. ``ImageFeatures.embedding`` and ``source_embedding`` are the
    embedding as the mask decoder gets it, the dense prompt not yet added: with the no-memory embedding in an image or
    the first frame of a clip, seen through the region's memory in a later frame.

    Args:
        size: tiny, small, base_plus or large.
        image_size: side S of the square model image, in pixels; a multiple of 32. SAM 2.1 was trained at 1024.
        weights: a published .pt checkpoint or a .safetensors file of the same names; null leaves the weights random.
        frozen: keep the backbone out of the graph and in eval mode.
        selection: stability, best or single: which mask token is described where the hypotheses differ.
        shown: described or single: whether the mask that is shown, and in a clip remembered, is the one whose token is
            described, or always the single mask, as in the released PAM.
        overrides: entries of the sam2 package's own configuration with other values, for example
            {image_encoder.trunk.embed_dim: 16}, for a SAM 2 of another shape than the published ones.
        kernels: what runs the mask decoder behind its transformer: auto is Triton on a GPU that can, else torch.
    """

    tracks = True

    def __init__(
        self,
        size: Literal["tiny", "small", "base_plus", "large"] = "large",
        image_size: int = 1024,
        weights: str | None = None,
        frozen: bool = True,
        selection: Literal["stability", "best", "single"] = "stability",
        shown: Literal["described", "single"] = "described",
        overrides: dict[str, Any] | None = None,
        kernels: Literal["auto", "triton", "torch"] = "auto",
    ):
        if image_size <= 0 or image_size % SIZE_MULTIPLE:
            raise RecipeError(
                [
                    f"backbone.image_size is {image_size}; SAM 2's encoder takes multiples of {SIZE_MULTIPLE} pixels, "
                    "since it tiles a position code of 8x8 patches, each of 4x4 pixels, over the picture"
                ]
            )
        model = build_sam2(size, image_size, overrides)
        side = image_size // STRIDE
        grid, normal = (side, side), (IMAGENET_MEAN, IMAGENET_STD)
        super().__init__(image_size, grid, model.hidden_dim, selection, *normal, shown=shown, kernels=kernels)
        self.model = model
        if weights is not None and pretrained_weights_wanted():
            _load(model, Path(weights), size)
            self.weight_files = (Path(weights),)
        self.set_frozen(frozen)

    @property
    def prompt_encoder(self) -> PromptEncoder:
        return self.model.sam_prompt_encoder

    @property
    def mask_decoder(self) -> MaskDecoder:
        return self.model.sam_mask_decoder

    def learnable_parameters(self) -> list[nn.Parameter]:
        return [
            parameter
            for name, parameter in self.model.named_parameters()
            if name.startswith(_IMAGE_PARTS) and not name.startswith(_WITHOUT_LOSS)
        ]

    def train(self, mode: bool = True):
        super().train(mode)
        # The memory never learns: no dropout in it, and first frames remembered as at inference.
        self.model.training = False
        self.model.memory_attention.eval()
        self.model.memory_encoder.eval()
        return self

    def encode_normalised(self, images: Tensor) -> Sam2Features:
        encoded, no_memory = self.model.forward_image(images), self.model.no_mem_embed
        finer, fine, embedding = encoded["backbone_fpn"]
        # SAM 2's feature pyramid adds its levels in fp32 whatever the type of its weights.
        embedding, position = embedding.to(no_memory.dtype), encoded["vision_pos_enc"][-1].to(no_memory.dtype)
        return Sam2Features(
            embedding + no_memory.reshape(1, -1, 1, 1), (finer, fine), without_memory=embedding, position=position
        )

    def new_memory(self) -> Sam2Memory:
        return Sam2Memory(self.model)

    def observe(
        self,
        features: ImageFeatures,
        memory: RegionMemory,
        prompts: PromptBatch | None = None,
        rows: Sequence[int] = (),
        image_index: Tensor | None = None,
    ) -> RegionFeatures:
        """As promised by ``VisionBackbone``; each region is followed by itself, through SAM 2's memory of it.

        A region that is pointed at is decoded as ``segment`` does, whether it is new or not: SAM 2 takes a prompt in a
        frame that it has not tracked yet for the beginning of a track, without a look at its memory, and remembers the
        frame for good (see ``GroupMemory``). Others are decoded without a prompt, through the memory, which is made of
        the shown masks; where the object is gone ``mask_logits`` is empty (SAM 2's -1024 everywhere). A backbone that
        is not frozen has gradients in each frame's own encoding and decoding, as far as the caller's grad mode allows,
        but none through the memory.
        """
        if not isinstance(features, Sam2Features) or not isinstance(memory, Sam2Memory):
            raise PamKitError("Sam2 follows regions through its own features and memory; call encode and new_memory")
        if image_index is not None:
            raise PamKitError("Sam2 follows the regions of one clip at a time; give no image_index")
        prompts = no_prompts(0, features) if prompts is None else prompts
        check_pointed(features, prompts, rows, len(memory))
        regions = self._decoded(features, memory, prompts, rows)
        memory.remember(features, regions, self._pointer_tokens(regions), rows)
        return regions

    def _decoded(
        self, features: Sam2Features, memory: Sam2Memory, prompts: PromptBatch, pointed: Sequence[int]
    ) -> RegionFeatures:
        """All regions of the memory and the new ones, in order."""
        followed, parts = memory.split(pointed), []
        if len(prompts) or not followed:
            parts.append(self.segment(features, prompts.labels.new_zeros(len(prompts)), prompts))
        if followed:
            with self.grad_unless_frozen():
                seen = features.of_regions(memory.condition(features, pointed))
            rows = torch.arange(len(followed), device=seen.embedding.device)
            part = self.segment(seen, rows, no_prompts(len(followed), features))
            part.mask_logits = hide_absent(part.mask_logits, part.object_score)
            parts.append(part)
        return joined(parts, [*pointed, *followed])

    def _pointer_tokens(self, regions: RegionFeatures) -> Tensor:
        """(R, C). As in SAM 2, a mask shown because the single one is unstable is remembered by the single token."""
        return regions.mask_tokens[:, 0 if (self.selection, self.shown) == ("best", "described") else 1]

    def _apply(self, fn, recurse: bool = True):
        """Move the tables of rotary positions with the weights; SAM 2 would replace them in the middle of a step."""
        super()._apply(fn, recurse)
        device = self.model.no_mem_embed.device
        for module in self.model.memory_attention.modules():
            if isinstance(module, RoPEAttention) and device.type != "meta":
                module.freqs_cis = module.freqs_cis.to(device)
        return self


def _load(model: SAM2Base, path: Path, size: str) -> None:
    given = read_weights(path)
    # Published checkpoints keep the state dict one level down.
    given = given.get("model", given)
    problems = misfits(model.state_dict(), given)
    if problems:
        raise CheckpointError(f"{path} does not fit SAM 2.1 of size {size}:\n  " + "\n  ".join(problems))
    model.load_state_dict(given)
