"""What SAM-like backbones share: checked and normalised pictures, freezing, and the mask decoder."""

from abc import abstractmethod
from contextlib import AbstractContextManager

import torch
from sam2.modeling.sam.mask_decoder import MaskDecoder
from sam2.modeling.sam.prompt_encoder import PromptEncoder
from torch import Tensor, nn

from pam_kit.components.backbones.decoder_kernels import DecoderKernels
from pam_kit.components.backbones.sam_decoding import Selection, Shown, mask_prompt_logits, segment_regions
from pam_kit.contracts import ImageFeatures, PromptBatch, RegionFeatures, VisionBackbone
from pam_kit.errors import PamKitError
from pam_kit.kernels.dispatch import Kernels

_FREQUENCIES = "positional_encoding_gaussian_matrix"


class SamBackbone(VisionBackbone):
    """A backbone whose second half is SAM's prompt encoder and mask decoder.

    A subclass owns the modules, answers ``prompt_encoder``, ``mask_decoder``, ``encode_normalised`` and, where parts of
    it never learn, ``learnable_parameters``; its constructor ends with ``set_frozen``.

    Args:
        image_size: S.
        grid: (h, w).
        embed_dim: C.
        selection: see ``segment_regions``.
        mean: of RGB in [0, 1], taken off the picture.
        std: of RGB, what the picture is divided by.
        shown: see ``segment_regions``.
        kernels: see ``DecoderKernels``.
    """

    def __init__(
        self,
        image_size: int,
        grid: tuple[int, int],
        embed_dim: int,
        selection: Selection,
        mean: tuple[float, float, float],
        std: tuple[float, float, float],
        shown: Shown = "described",
        kernels: Kernels = "auto",
    ):
        super().__init__()
        self.image_size, self.grid, self.embed_dim = image_size, grid, embed_dim
        self.selection, self.shown = selection, shown
        self.decoder_kernels = DecoderKernels(kernels)
        self.frozen = False
        # Not part of the state dict, whose names stay those of the wrapped models.
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    @property
    @abstractmethod
    def prompt_encoder(self) -> PromptEncoder: ...

    @property
    @abstractmethod
    def mask_decoder(self) -> MaskDecoder: ...

    @abstractmethod
    def encode_normalised(self, images: Tensor) -> ImageFeatures:
        """(B, 3, S, S) pictures with mean and standard deviation taken out -> ImageFeatures."""

    def learnable_parameters(self) -> list[nn.Parameter]:
        """Parameters that training may touch when the backbone is not frozen."""
        return list(self.parameters())

    def set_frozen(self, frozen: bool) -> None:
        """Freeze for good (no gradient, eval mode whatever ``train`` says) or let the learnable parameters learn."""
        self.frozen = frozen
        self.requires_grad_(False)
        for parameter in self.learnable_parameters():
            parameter.requires_grad_(not frozen)
        self.train(self.training)

    def train(self, mode: bool = True):
        self.decoder_kernels.forget()
        return super().train(mode and not self.frozen)

    def encode(self, images: Tensor) -> ImageFeatures:
        with self.grad_unless_frozen():
            return self.encode_normalised(self.normalise(images))

    def segment(self, features: ImageFeatures, image_index: Tensor, prompts: PromptBatch) -> RegionFeatures:
        with self.grad_unless_frozen():
            return segment_regions(
                self.prompt_encoder,
                self.mask_decoder,
                features,
                image_index,
                prompts,
                mask_prompt_logits(prompts.masks),
                self.selection,
                self.shown,
                self.decoder_kernels,
            )

    def grad_unless_frozen(self) -> AbstractContextManager[None]:
        """A context that keeps what runs in it out of the graph where the backbone is frozen."""
        return torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen)

    def normalise(self, images: Tensor) -> Tensor:
        """(B, 3, S, S) uint8 -> the same with mean and standard deviation taken out, in the type of the weights."""
        self._check_images(images)
        dtype = self.prompt_encoder.no_mask_embed.weight.dtype
        return ((images.float() / 255 - self.mean) / self.std).to(dtype)

    def _check_images(self, images: Tensor) -> None:
        expected = (3, self.image_size, self.image_size)
        if images.dtype != torch.uint8 or images.ndim != 4 or tuple(images.shape[1:]) != expected:
            raise PamKitError(
                f"the backbone got images of shape {tuple(images.shape)} and type {images.dtype}; it takes shape "
                f"(B, 3, {self.image_size}, {self.image_size}) and uint8: resize them, or set backbone.image_size"
            )

    def _apply(self, fn, recurse: bool = True):
        """Keep fp32 constants fp32 when the model is cast: SAM multiplies fp32 coordinates by its frequencies."""
        owners = {"mean": self, "std": self, _FREQUENCIES: self.prompt_encoder.pe_layer}
        kept = {name: getattr(owner, name).float() for name, owner in owners.items()}
        super()._apply(fn, recurse)
        for name, owner in owners.items():
            cast = getattr(owner, name)
            if cast.dtype != torch.float32:
                setattr(owner, name, kept[name].to(cast.device))
        return self
