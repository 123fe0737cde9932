"""SAM 2's masks behind the two-way transformer: upscaling, product with the hyper-networks, counts, choice of one."""

from pam_kit.kernels.mask_tail.measured import cases
from pam_kit.kernels.mask_tail.op import mask_tail, select_token
from pam_kit.kernels.mask_tail.packing import PackedUpscaling, misfit, pack_upscaling
from pam_kit.kernels.mask_tail.reference import Selected, mask_counts, mask_tail_reference, masks_reference
from pam_kit.kernels.mask_tail.table import entries

__all__ = [
    "PackedUpscaling",
    "Selected",
    "cases",
    "entries",
    "mask_counts",
    "mask_tail",
    "mask_tail_reference",
    "masks_reference",
    "misfit",
    "pack_upscaling",
    "select_token",
]
