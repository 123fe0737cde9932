"""The configuration table: tile sizes of the heads kernel by type, and what each may cost. Needs no Triton."""

from typing import Literal, NamedTuple

from pam_kit.kernels.entries import Entry

# How products are made: of 16-bit numbers, of float32 rounded to TF32, of float32 as it is.
Kind = Literal["half", "tf32", "ieee"]

# Regions, or semantic tokens, of a program; outputs of a program of the semantic tokens.
ROWS, COLUMNS = 16, 64
WARPS, STAGES = 8, 2
MAX_WIDTH = 512


class Sizes(NamedTuple):
    """Of H heads C -> D -> D -> O, and of a map C -> E -> P of semantic tokens in the same launch."""

    heads: int
    width: int
    hidden: int
    outputs: int
    inner: int = 0
    projected: int = 0


def obstacle(sizes: Sizes) -> str:
    """Why the kernel cannot run heads of these sizes; empty where it can."""
    widest = max(sizes.width, sizes.hidden, sizes.outputs)
    return f"a program keeps a layer whole, at most {MAX_WIDTH} wide; these are {widest}" if widest > MAX_WIDTH else ""


def constants(sizes: Sizes, kind: Kind) -> dict[str, object]:
    """The kernel's constants for products of one kind."""
    # The second layer's weights are the largest operand: all of D times a piece of its units.
    widest = padded(max(sizes.width, sizes.hidden))
    piece = max(16, min(64, {"half": 16384, "tf32": 8192, "ieee": 4096}[kind] // widest))
    return {
        "C": sizes.width,
        "D": sizes.hidden,
        "OUT": sizes.outputs,
        "H": sizes.heads,
        "INNER": sizes.inner,
        "PROJECTED": sizes.projected,
        "SEMANTIC": sizes.projected > 0,
        "BLOCK_R": ROWS,
        "BLOCK_C": min(piece, padded(sizes.width)),
        "WHOLE_C": padded(sizes.width),
        "BLOCK_D": padded(sizes.hidden),
        "BLOCK_N": min(piece, padded(sizes.hidden)),
        "BLOCK_O": padded(sizes.outputs),
        "BLOCK_P": COLUMNS,
    }


def programs(sizes: Sizes, regions: int, semantic_rows: int) -> int:
    """How many programs one launch has."""
    return sizes.heads * -(-regions // ROWS) + -(-semantic_rows // ROWS) * -(-sizes.projected // COLUMNS)


def padded(size: int) -> int:
    """The next power of two; at least 16, which a matrix instruction needs."""
    return max(16, 1 << (size - 1).bit_length())


POINTER = {"bf16": "*bf16", "fp16": "*fp16", "tf32": "*fp32", "ieee": "*fp32"}
SAM = Sizes(heads=6, width=256, hidden=256, outputs=32)
# With the semantic tokens of PAM-3B.
BOTH = SAM._replace(inner=1536, projected=1536)


def entries() -> list[Entry]:
    """SAM 2's six heads in every type, with semantic tokens beside them in the 16-bit ones; narrow heads."""
    heads = [_entry(kind, SAM, (80, 90) if kind == "bf16" else ()) for kind in POINTER]
    both = [_entry(kind, BOTH, (89,) if kind == "bf16" else ()) for kind in ("bf16", "fp16")]
    return [*heads, *both, _entry("fp16", Sizes(6, 96, 96, 12), ())]


def _entry(kind: str, sizes: Sizes, checked: tuple[int, ...]) -> Entry:
    pointers = ("tokens", "w1", "b1", "w2", "b2", "w3", "b3", "out", "x", "v1", "c1", "v2", "c2", "projected")
    numbers = {"regions": 64, "semantic_rows": 64 * 16, "stride_region": 9 * sizes.width, "stride_token": sizes.width}
    products: Kind = "half" if kind in ("bf16", "fp16") else "tf32" if kind == "tf32" else "ieee"
    return Entry(
        operator="parallel_heads",
        name=f"{'heads and semantic tokens' if sizes.projected else 'heads'} {kind} {sizes.width}",
        kernel="pam_kit.kernels.parallel_heads.fused:heads_kernel",
        arguments={**dict.fromkeys(pointers, POINTER[kind]), **numbers, "squashed": 2},
        constants={**constants(sizes, products), "PRECISION": "ieee" if products == "ieee" else "tf32"},
        warps=WARPS,
        stages=STAGES,
        checked=checked,
        tensor_cores=kind != "ieee",
        min_vector_loads=16,
        # Biases, of which a thread needs a few numbers each.
        max_scalar_loads=60,
    )
