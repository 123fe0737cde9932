"""The small heads of a mask decoder, four mask hyper-networks, IoU and object score, side by side.

Semantic tokens that do not depend on the selected mask, as in a mode that selects none or in tracked frames where the
token is fixed, are mapped in the same launch (``heads_and_semantic``). Where the perceiver reads the token of a mask
selected by its stability, the finished masks, and so the heads, come first: then the map can only run behind the
selection, beside whatever else is left to do, on a second stream (``beside``).
"""

from pam_kit.kernels.parallel_heads.measured import cases
from pam_kit.kernels.parallel_heads.op import heads_and_semantic, parallel_heads
from pam_kit.kernels.parallel_heads.packing import PackedHeads, misfit, pack_heads
from pam_kit.kernels.parallel_heads.reference import heads_bmm, semantic_mlp
from pam_kit.kernels.parallel_heads.streams import beside
from pam_kit.kernels.parallel_heads.table import entries

__all__ = [
    "PackedHeads",
    "beside",
    "cases",
    "entries",
    "heads_and_semantic",
    "heads_bmm",
    "misfit",
    "pack_heads",
    "parallel_heads",
    "semantic_mlp",
]
