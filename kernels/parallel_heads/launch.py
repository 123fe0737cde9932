"""The heads kernel called with tensors. Importing it needs Triton."""

from contextlib import nullcontext

import torch
from torch import Tensor

from pam_kit.kernels.parallel_heads.fused import heads_kernel
from pam_kit.kernels.parallel_heads.table import STAGES, WARPS, Kind, Sizes, constants, programs


def launch_heads(
    tokens: Tensor, weights: list[Tensor], squashed: list[int], semantic: list[Tensor]
) -> tuple[Tensor, Tensor]:
    """(R, H, O) of ``heads_bmm`` and (R, N, P) of ``semantic_mlp``, in one launch.

    Args:
        weights: the six tensors of ``PackedHeads``.
        semantic: tokens, w1, b1, w2 and b2 of ``semantic_mlp``, or nothing: then the second output is empty.
    """
    tokens = tokens if tokens.stride(2) == 1 else tokens.contiguous()
    weights, semantic = [w.contiguous() for w in weights], [s.contiguous() for s in semantic]
    (heads, hidden, width), outputs = weights[0].shape, weights[4].shape[1]
    sizes, rows = Sizes(heads, width, hidden, outputs), 0
    out = tokens.new_empty(len(tokens), heads, outputs)
    projected = tokens.new_empty(0)
    if semantic:
        sizes = sizes._replace(inner=semantic[1].shape[0], projected=semantic[3].shape[0])
        projected = tokens.new_empty(*semantic[0].shape[:2], sizes.projected)
        rows = semantic[0].shape[0] * semantic[0].shape[1]
    count = programs(sizes, len(tokens), rows)
    if count:
        # Without semantic tokens their arguments are not read.
        extra = [*semantic, projected] if semantic else [out] * 6
        bits, kind = sum(1 << head for head in squashed), _kind(tokens)
        with torch.cuda.device(tokens.device) if tokens.is_cuda else nullcontext():
            heads_kernel[(count,)](
                tokens, *weights, out, *extra, len(tokens), rows, tokens.stride(0), tokens.stride(1), bits,
                **constants(sizes, kind), PRECISION="ieee" if kind == "ieee" else "tf32", num_warps=WARPS,
                num_stages=STAGES,
            )  # fmt: skip
    return out, projected


def _kind(tensor: Tensor) -> Kind:
    """float32 is multiplied as torch's own products are."""
    if tensor.dtype != torch.float32:
        return "half"
    return "tf32" if torch.backends.cuda.matmul.allow_tf32 else "ieee"
