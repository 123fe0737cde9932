"""The configuration table: tile sizes of the mask kernels by type, and what each may cost. Needs no Triton."""

from typing import Literal, NamedTuple

from pam_kit.kernels.entries import CAPABILITIES, Entry

# How products are made: of 16-bit numbers, of float32 rounded to TF32, of float32 as it is.
Kind = Literal["half", "tf32", "ieee"]
MAX_WIDTH, MAX_MASKS = 128, 16


class Plan(NamedTuple):
    """A kernel's constants, warps and stages."""

    constants: dict[str, int]
    warps: int
    stages: int


def obstacle(first: int, second: int, masks: int) -> str:
    """Why the kernels cannot run an upscaling to C1 and C2 channels and M masks; empty where they can."""
    if max(first, second) > MAX_WIDTH:
        return f"a tile holds all channels, at most {MAX_WIDTH} behind the tokens; these are {max(first, second)}"
    return f"at most {MAX_MASKS} masks are made at once; these are {masks}" if masks > MAX_MASKS else ""


def stage1(width: int, first: int, kind: Kind) -> Plan:
    """``upscale_stage1`` for C -> C1. A tile of 64 x 256 sums takes half the registers of sixteen warps.

    In float32 it is half as high: the wide matrix instruction of sm_90 wants weights that lie the other way round, and
    they would be loaded one by one.
    """
    half, block = kind == "half", padded(first)
    rows = max(16, min(64 if half else 32, 4096 // block))
    sizes = {"BLOCK_P": rows, "BLOCK_C": min(32 if half else 16, padded(width)), "BLOCK_C1": block}
    return Plan({"C": width, "C1": first, **sizes}, 16 if half and block >= 64 else 8, 3)


def tail(first: int, second: int, masks: int, kind: Kind) -> Plan:
    """``upscale_mask_tail`` for C1 -> C2 and M masks. Without matrix instructions operands fill the registers."""
    across = {"half": 64, "tf32": 32, "ieee": 16}[kind]
    across = max(16, min(across, across * 32 // padded(second)))
    sizes = {"BLOCK_X": across, "BLOCK_C1": padded(first), "BLOCK_C2": padded(second), "BLOCK_M": MAX_MASKS}
    return Plan({"C1": first, "C2": second, "MASKS": masks, **sizes}, 4, 2)


def select(width: int, masks: int) -> Plan:
    """``select_token`` for tokens of width C."""
    return Plan({"C": width, "MASKS": masks, "BLOCK_M": MAX_MASKS, "BLOCK_C": padded(width)}, 1, 1)


def padded(size: int) -> int:
    """The next power of two; at least 16, which a matrix instruction needs."""
    return max(16, 1 << (size - 1).bit_length())


MODULE = "pam_kit.kernels.mask_tail.fused"
POINTER = {"bf16": "*bf16", "fp16": "*fp16", "tf32": "*fp32", "ieee": "*fp32"}


def entries() -> list[Entry]:
    """SAM 2's upscaling, 256 -> 64 -> 32 channels on a grid of 64 x 64, in every type; a narrow one; the selection."""
    sam = [make(kind, 256, 64) for kind in POINTER for make in (_stage1, _tail)]
    return [*sam, _stage1("fp16", 96, 14), _tail("fp16", 96, 14), _selection()]


def _stage1(kind: str, width: int, side: int) -> Entry:
    plan = stage1(width, width // 4, _kind(kind))
    pointers = ("tokens", "weight", "bias", "skip", "norm_weight", "norm_bias", "out")
    sizes = {"pixels": side**2, "width": side, "stride_region": side**2 * width, "stride_pixel": width, "eps": 1e-6}
    return Entry(
        operator="mask_tail",
        name=f"upscale_stage1 {kind} {width}",
        kernel=f"{MODULE}:upscale_stage1",
        arguments={**dict.fromkeys(pointers, POINTER[kind]), "image_index": "*i64", **sizes},
        constants={**plan.constants, "SKIP": True, "PRECISION": _precision(kind)},
        warps=plan.warps,
        stages=plan.stages,
        checked=CAPABILITIES if kind == "bf16" else (),
        tensor_cores=kind != "ieee",
        min_vector_loads=16,
        # Bias, norm and image, of which a thread needs few numbers.
        max_scalar_loads=60,
    )


def _tail(kind: str, width: int, side: int) -> Entry:
    first, second = width // 4, width // 8
    plan = tail(first, second, 4, _kind(kind))
    pointers = ("embedding", "weight", "bias", "skip", "hyper", "logits")
    sizes = {"height": 2 * side, "width": 2 * side, "stride_region": 6 * second, "stride_mask": second, "delta": 0.05}
    return Entry(
        operator="mask_tail",
        name=f"upscale_mask_tail {kind} {width}",
        kernel=f"{MODULE}:upscale_mask_tail",
        arguments={**dict.fromkeys(pointers, POINTER[kind]), "image_index": "*i64", "counts": "*i32", **sizes},
        constants={**plan.constants, "SKIP": True, "PRECISION": _precision(kind)},
        warps=plan.warps,
        stages=plan.stages,
        checked=CAPABILITIES if kind == "bf16" else (),
        tensor_cores=kind != "ieee",
        # Rows of channels that are no multiple of 16 bytes are loaded in smaller pieces.
        min_vector_loads=16 if second % 8 == 0 else 2,
    )


def _selection() -> Entry:
    plan = select(256, 4)
    types = {"counts": "*i32", "iou": "*bf16", "tokens": "*bf16", "index": "*i64", "stability": "*fp32"}
    sizes = {
        "stride_iou": 6 * 32,
        "stride_iou_mask": 1,
        "stride_region": 9 * 256,
        "stride_token": 256,
        "threshold": 0.98,
    }
    return Entry(
        operator="mask_tail",
        name="select_token bf16 256",
        kernel=f"{MODULE}:select_token",
        arguments={**types, "picked": "*bf16", "area": "*i32", **sizes},
        constants=plan.constants,
        warps=plan.warps,
        stages=plan.stages,
        tensor_cores=False,
    )


def _kind(kind: str) -> Kind:
    return "half" if kind in ("bf16", "fp16") else "tf32" if kind == "tf32" else "ieee"


def _precision(kind: str) -> str:
    return kind if kind in ("tf32", "ieee") else "tf32"
