"""SAM 2.1 (arXiv 2408.00714) as a backbone: PAM's vision tower, from the unmodified ``sam2`` package."""

from importlib.resources import as_file, files
from pathlib import Path
from typing import Literal

import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from sam2.modeling.sam.mask_decoder import MaskDecoder
from sam2.modeling.sam.prompt_encoder import PromptEncoder
from sam2.modeling.sam2_base import SAM2Base
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from pam_kit.components.backbones.sam_backbone import SamBackbone
from pam_kit.components.backbones.state_dict_fit import misfits
from pam_kit.contracts import ImageFeatures
from pam_kit.errors import CheckpointError, RecipeError
from pam_kit.registry import register
from pam_kit.weights import pretrained_weights_wanted, read_weights

STRIDE = 16
# Hiera tiles a window of 8x8 patches of 4 pixels over the picture, and its coarsest level has stride 32.
SIZE_MULTIPLE = 32
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

_CONFIGS = {"tiny": "hiera_t", "small": "hiera_s", "base_plus": "hiera_b+", "large": "hiera_l"}
# What a region reads. The rest of SAM 2 is its memory of earlier frames.
_IMAGE_PARTS = ("image_encoder.", "sam_prompt_encoder.", "sam_mask_decoder.", "no_mem_embed")
# Every training prompt points at an object, so the head that says whether there is one could not learn.
_WITHOUT_LOSS = "sam_mask_decoder.pred_obj_score_head."


@register(
    "backbone",
    "sam2",
    presets={
        "sam2_hiera_tiny": {"size": "tiny"},
        "sam2_hiera_small": {"size": "small"},
        "sam2_hiera_base_plus": {"size": "base_plus"},
        "sam2_hiera_large": {"size": "large"},
    },
)
class Sam2(SamBackbone):
    """SAM 2.1 with a Hiera encoder of any of its four sizes.

    ``model`` is the package's ``SAM2Base``, so parameters are named as in the published checkpoints after ``model.``;
    its memory modules are kept for videos and never learn here. ``ImageFeatures.embedding`` and ``source_embedding``
    are the embedding as the mask decoder gets it: the no-memory embedding added, the dense prompt not yet.

    Args:
        size: tiny, small, base_plus or large.
        image_size: side S of the square model image, in pixels; a multiple of 32. SAM 2.1 was trained at 1024.
        weights: a published .pt checkpoint or a .safetensors file of the same names; null leaves the weights random.
        frozen: keep the backbone out of the graph and in eval mode.
        selection: stability, best or single: which mask is shown where the hypotheses differ.
    """

    def __init__(
        self,
        size: Literal["tiny", "small", "base_plus", "large"] = "large",
        image_size: int = 1024,
        weights: str | None = None,
        frozen: bool = True,
        selection: Literal["stability", "best", "single"] = "stability",
    ):
        if image_size <= 0 or image_size % SIZE_MULTIPLE:
            raise RecipeError(
                [
                    f"backbone.image_size is {image_size}; SAM 2's encoder takes multiples of {SIZE_MULTIPLE} pixels, "
                    "since it tiles a position code of 8x8 patches, each of 4x4 pixels, over the picture"
                ]
            )
        model = _build(size, image_size)
        side = image_size // STRIDE
        super().__init__(image_size, (side, side), model.hidden_dim, selection, IMAGENET_MEAN, IMAGENET_STD)
        self.model = model
        if weights is not None and pretrained_weights_wanted():
            _load(model, Path(weights), size)
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

    def encode_normalised(self, images: Tensor) -> ImageFeatures:
        finer, fine, embedding = self.model.forward_image(images)["backbone_fpn"]
        no_memory = self.model.no_mem_embed.reshape(1, -1, 1, 1)
        return ImageFeatures(embedding=embedding.to(no_memory.dtype) + no_memory, high_resolution=(finer, fine))


def _build(size: str, image_size: int) -> SAM2Base:
    """The package's model from the package's configuration; Hydra's global state is neither read nor written."""
    with as_file(files("sam2") / "configs" / "sam2.1" / f"sam2.1_{_CONFIGS[size]}.yaml") as path:
        config = OmegaConf.load(path)
    with _TablesOnCpu():
        return instantiate(config.model, image_size=image_size)


class _TablesOnCpu(TorchFunctionMode):
    """Let SAM 2 be built on the meta device: it reads numbers out of ``linspace`` and keeps a table of ``arange``."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if function in (torch.linspace, torch.arange):
            kwargs.setdefault("device", "cpu")
        return function(*args, **kwargs)


def _load(model: SAM2Base, path: Path, size: str) -> None:
    given = read_weights(path)
    # Published checkpoints keep the state dict one level down.
    given = given.get("model", given)
    problems = misfits(model.state_dict(), given)
    if problems:
        raise CheckpointError(f"{path} does not fit SAM 2.1 of size {size}:\n  " + "\n  ".join(problems))
    model.load_state_dict(given)
