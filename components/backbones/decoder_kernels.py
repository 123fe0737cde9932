"""SAM's mask decoder behind its two-way transformer, on the kernels that a switch chooses.

The modules of the ``sam2`` package stay the owners of the parameters; what is packed of them is kept while they do not
change, and inside autograd packed anew, so that gradients reach them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from sam2.modeling.sam.mask_decoder import MaskDecoder
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from pam_kit.kernels import mask_tail, parallel_heads
from pam_kit.kernels.dispatch import Kernels, backend, say_once
from pam_kit.kernels.mask_tail import PackedUpscaling, masks_reference, pack_upscaling
from pam_kit.kernels.mask_tail import misfit as upscaling_misfit
from pam_kit.kernels.parallel_heads import PackedHeads, misfit, pack_heads

Packed = TypeVar("Packed")


@dataclass
class Decoded:
    """What a decoder made of R regions, M masks each.

    Args:
        logits: (R, M, 4h, 4w).
        iou: (R, M).
        object_score: (R, 1).
        counts: (R, M, 3), see ``mask_tail``; None where only the logits were made.
    """

    logits: Tensor
    iou: Tensor
    object_score: Tensor
    counts: Tensor | None


class DecoderKernels:
    """The heads and the upscaling of one mask decoder, in Triton or as packed products in torch.

    Args:
        kernels: ``auto``, ``triton`` or ``torch``. On a CPU without Triton's interpreter the modules run as they are:
            packed products would save at most 2.5 % of a region there.
    """

    def __init__(self, kernels: Kernels = "auto"):
        self.kernels = kernels
        self._heads: _Kept[PackedHeads] = _Kept()
        self._upscaling: _Kept[PackedUpscaling] = _Kept()

    def chosen(self, decoder: MaskDecoder, device: torch.device) -> str:
        """``modules``, ``torch`` or ``triton``: what runs this decoder on this device.

        Raises:
            RuntimeError: see ``pam_kit.kernels.dispatch.backend``.
        """
        chosen = backend(self.kernels, device, "mask decoder")
        if chosen == "torch" and device.type == "cpu":
            return "modules"
        problem = misfit(heads_of(decoder)) or upscaling_misfit(decoder.output_upscaling) or _spread(decoder)
        if problem:
            say_once(f"mask decoder: the modules of sam2 as they are, since {problem}")
        return "modules" if problem else chosen

    def decode(
        self,
        decoder: MaskDecoder,
        chosen: str,
        tokens: Tensor,
        image: Tensor,
        grid: tuple[int, int],
        skips: Sequence[Tensor],
        image_index: Tensor,
    ) -> Decoded:
        """Masks and scores from what the transformer returned.

        Args:
            chosen: ``torch`` or ``triton``.
            tokens: (R, T, C).
            image: (R, h*w, C).
            grid: (h, w).
            skips: high-resolution features of the images, finest first; empty if the decoder reads none.
            image_index: (R,) long, the image of each region.
        """
        heads, upscaling = self._packed(decoder)
        made = parallel_heads(tokens, heads, kernels=chosen)
        first = int(decoder.pred_obj_scores)
        masks, width = decoder.num_mask_tokens, upscaling.second_weight.shape[2]
        hyper, iou = made[:, first + 1 :, :width], made[:, first, :masks]
        # Without a head for it there always is an object; 10 is what sam2 says then.
        score = made[:, 0, :1] if decoder.pred_obj_scores else torch.full_like(iou[:, :1], 10.0)
        finer_and_fine = (skips[0], skips[1]) if decoder.use_high_res_features else None
        arguments = (image, grid, hyper, upscaling, finer_and_fine, image_index)
        if chosen == "torch":
            return Decoded(masks_reference(*arguments), iou, score, None)
        logits, counts = mask_tail(*arguments, kernels=chosen)
        return Decoded(logits, iou, score, counts)

    def forget(self) -> None:
        """Pack anew at the next call, for changes that leave no trace, as those through ``parameter.data``."""
        self._heads, self._upscaling = _Kept(), _Kept()

    def _packed(self, decoder: MaskDecoder) -> tuple[PackedHeads, PackedUpscaling]:
        heads = heads_of(decoder)
        return (
            self._heads.get([p for head in heads for p in head.parameters()], lambda: pack_heads(heads)),
            self._upscaling.get(
                list(decoder.output_upscaling.parameters()), lambda: pack_upscaling(decoder.output_upscaling)
            ),
        )


def transformed(
    decoder: MaskDecoder, source: Tensor, positions: Tensor, sparse: Tensor, dense: Tensor
) -> tuple[Tensor, Tensor]:
    """What ``MaskDecoder.predict_masks`` does up to its transformer, and its outputs: (R, T, C) and (R, h*w, C)."""
    own = [decoder.obj_score_token.weight] if decoder.pred_obj_scores else []
    own = torch.cat([*own, decoder.iou_token.weight, decoder.mask_tokens.weight])
    tokens = torch.cat([own.expand(len(sparse), -1, -1), sparse], dim=1)
    return decoder.transformer(source + dense, positions.expand(len(sparse), -1, -1, -1), tokens)


def heads_of(decoder: MaskDecoder) -> list[nn.Module]:
    """The decoder's small heads, in the order of the tokens that they read."""
    score = [decoder.pred_obj_score_head] if decoder.pred_obj_scores else []
    return [*score, decoder.iou_prediction_head, *decoder.output_hypernetworks_mlps]


def _spread(decoder: MaskDecoder) -> str:
    """Says so where the weights do not lie here in full: some strategies gather them for a layer as it is called."""
    parts = [decoder.output_upscaling[0].weight, *(p for head in heads_of(decoder) for p in head.parameters())]
    whole = all(part.numel() and not isinstance(part, DTensor) for part in parts)
    return "" if whole and parts[0].ndim == 4 else "its weights are spread over devices"


class _Kept(Generic[Packed]):
    """Something packed of parameters, kept while they are the same and their contents have not changed."""

    def __init__(self) -> None:
        self._parameters: list[nn.Parameter] = []
        self._state: tuple[Any, ...] = ()
        self._packed: Packed | None = None

    def get(self, parameters: list[nn.Parameter], pack: Callable[[], Packed]) -> Packed:
        learns = torch.is_grad_enabled() and any(p.requires_grad for p in parameters)
        if learns or torch.compiler.is_compiling() or any(p.is_inference() for p in parameters):
            return pack()
        state = tuple((p.data_ptr(), p._version) for p in parameters)
        same = len(parameters) == len(self._parameters) and all(map(_is, parameters, self._parameters))
        if self._packed is None or not same or state != self._state:
            with torch.inference_mode(False), torch.no_grad():
                self._packed = pack()
            self._parameters, self._state = parameters, state
        return self._packed


def _is(one: object, other: object) -> bool:
    return one is other
