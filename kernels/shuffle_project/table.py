"""The configuration table: tile sizes by kernel and type, and what each may cost. Needs no Triton."""

from typing import Literal, NamedTuple

from pam_kit.kernels.entries import Entry

Precision = Literal["tf32", "ieee"]


class Tile(NamedTuple):
    """Output rows and columns of one program, length of a step of its sum, warps, stages, rows visited together."""

    rows: int
    columns: int
    step: int
    warps: int
    stages: int
    group: int = 8


# Kernel -> width of the type and precision -> tile. The widest that neither spills nor exceeds the shared memory
# of a card; not tuned on one.
TILES = {
    "forward": {"half": Tile(128, 128, 64, 8, 3), "tf32": Tile(128, 128, 32, 8, 3), "ieee": Tile(64, 64, 32, 4, 3)},
    "few rows": {"half": Tile(64, 128, 64, 4, 4), "tf32": Tile(64, 64, 32, 4, 3), "ieee": Tile(64, 64, 32, 4, 3)},
    # The matrix instructions of 9.0 and 10.0 take float32 operands only with the sum along their rows, as it is not for
    # the gradients; with 32 rows Triton uses the instructions of 8.0, which take both.
    "tokens": {"half": Tile(128, 128, 64, 8, 3), "tf32": Tile(32, 128, 32, 4, 3), "ieee": Tile(64, 64, 16, 4, 3)},
    "weight": {"half": Tile(128, 128, 64, 8, 3), "tf32": Tile(32, 128, 32, 4, 3), "ieee": Tile(64, 64, 16, 4, 3)},
}
# The kernel of the slopes: rows and columns of a step, rows of a program.
SLOPE_ROWS, SLOPE_COLUMNS, SLOPE_PART = 32, 128, 128
# Fewer tiles than this leave multiprocessors idle, so they are made smaller, or the sum is split.
ENOUGH_TILES = 128
# A sum over fewer rows is not split: adding the parts would take longer.
ROWS_WORTH_A_PART = 2048


def tile(kernel: str, kind: str, rows: int, columns: int) -> Tile:
    """The tile for an output of rows x columns; ``kind`` is ``half``, ``tf32`` or ``ieee``."""
    large = TILES[kernel][kind]
    few = kernel == "forward" and count_tiles(rows, columns, large) < ENOUGH_TILES
    return TILES["few rows"][kind] if few else large


def count_tiles(rows: int, columns: int, of: Tile) -> int:
    return -(-rows // of.rows) * -(-columns // of.columns)


def step_within(channels: int, longest: int) -> int:
    """The longest step that divides the channels, so that none has to be masked; 16 at least, as the compiler wants."""
    fitting = [step for step in (128, 64, 32, 16) if step <= longest and channels % step == 0]
    return fitting[0] if fitting else min(32, longest)


def parts_of_sum(rows: int, tiles: int, step: int) -> tuple[int, int]:
    """Into how many parts a sum over rows is split, and the rows of a part, a multiple of ``step``."""
    parts = max(1, min(2 * ENOUGH_TILES // tiles, rows // ROWS_WORTH_A_PART))
    rows_a_part = -(-rows // (parts * step)) * step
    return -(-rows // rows_a_part), rows_a_part


POINTER = {"bf16": "*bf16", "fp16": "*fp16", "tf32": "*fp32", "ieee": "*fp32"}
# PAM-3B: 64x64 tokens of width 256 of 16 regions, merged 2x2, into a decoder of width 1536.
SIZES = {"M": 16384, "N": 1536, "C": 256, "count": 1024, "width": 64, "merged_h": 32, "merged_w": 32}
STRIDES = {"stride_r": 64 * 64 * 256, "stride_t": 256}
MODULE = "pam_kit.kernels.shuffle_project.fused"


def entries() -> list[Entry]:
    """Every tile of the table in every type it serves, at the sizes of PAM-3B."""
    found = [_forward(kernel, kind) for kernel in ("forward", "few rows") for kind in ("bf16", "fp16", "tf32", "ieee")]
    found += [_tokens(kind) for kind in ("bf16", "fp16", "tf32", "ieee")]
    found += [_weight(kind) for kind in ("bf16", "fp16", "tf32", "ieee")]
    found += [_forward("forward", "bf16", store=False), _forward("forward", "bf16", kept=True)]
    found += [_forward("forward", "bf16", ratio=ratio) for ratio in (1, 4)]
    return [*found, *map(_slope, ("bf16", "fp16", "ieee"))]


def _blocks(kernel: str, kind: str) -> tuple[Tile, dict[str, object]]:
    chosen = TILES[kernel].get(kind) or TILES[kernel]["half"]
    names = {"tokens": ("BLOCK_M", "BLOCK_K", "BLOCK_N"), "weight": ("BLOCK_N", "BLOCK_K", "BLOCK_M")}
    blocks = dict(zip(names.get(kernel, ("BLOCK_M", "BLOCK_N", "BLOCK_K")), chosen[:3], strict=True))
    precision = kind if kind in ("tf32", "ieee") else "tf32"
    return chosen, {**blocks, "GROUP": chosen.group, "PRECISION": precision, "RATIO": 2, "COLUMN": True, "KEPT": False}


def _forward(kernel: str, kind: str, store: bool = True, kept: bool = False, ratio: int = 2) -> Entry:
    chosen, constants = _blocks(kernel, kind)
    pointers = dict.fromkeys(("tokens", "weight", "bias", "out", "preactivation"), POINTER[kind])
    variant = f"{'' if store else ', nothing stored'}{', kept tokens' if kept else ''}"
    variant += "" if ratio == 2 else f", {ratio}x{ratio}"
    return Entry(
        "shuffle_project",
        f"{kernel} {kind} {chosen.rows}x{chosen.columns}x{chosen.step}{variant}",
        f"{MODULE}:forward_kernel",
        {**pointers, "kept": "*i64", **SIZES, **STRIDES},
        {**constants, "KEPT": kept, "RATIO": ratio, "BIAS": True, "GELU": True, "STORE": store, "EVEN": True},
        chosen.warps,
        chosen.stages,
        checked={"forward": (80, 89, 90, 100), "few rows": (80,)}[kernel] if kind == "bf16" and not variant else (),
        tensor_cores=kind != "ieee",
        min_vector_loads=_wide_loads(chosen, kind),
        max_scalar_loads=28,
    )


def _tokens(kind: str) -> Entry:
    chosen, constants = _blocks("tokens", kind)
    pointers = dict.fromkeys(("slopes", "weight", "out"), POINTER[kind])
    return Entry(
        "shuffle_project",
        f"gradient of tokens {kind} {chosen.rows}x{chosen.columns}x{chosen.step}",
        f"{MODULE}:tokens_kernel",
        {**pointers, "kept": "*i64", **SIZES, "tokens_per_region": 4096},
        constants,
        chosen.warps,
        chosen.stages,
        checked={"bf16": (80, 90), "tf32": (90,)}.get(kind, ()),
        tensor_cores=kind != "ieee",
        min_vector_loads=_wide_loads(chosen, kind),
        max_scalar_loads=28,
    )


def _weight(kind: str) -> Entry:
    chosen, constants = _blocks("weight", kind)
    pointers = dict.fromkeys(("slopes", "tokens"), POINTER[kind]) | {"parts": "*fp32"}
    return Entry(
        "shuffle_project",
        f"gradient of weight {kind} {chosen.rows}x{chosen.columns}x{chosen.step}",
        f"{MODULE}:weight_kernel",
        {**pointers, "kept": "*i64", **SIZES, **STRIDES, "rows_a_part": 8192},
        constants,
        chosen.warps,
        chosen.stages,
        checked={"bf16": (80, 90), "tf32": (90,)}.get(kind, ()),
        tensor_cores=kind != "ieee",
        min_vector_loads=_wide_loads(chosen, kind),
        max_scalar_loads=28,
    )


def _wide_loads(chosen: Tile, kind: str) -> int:
    """Loads of 16 bytes a thread: both operands of a step, ahead for all stages but one, and in the loop."""
    size = 4 if kind in ("tf32", "ieee") else 2
    return (chosen.rows + chosen.columns) * chosen.step * size // (16 * 32 * chosen.warps) * chosen.stages


def _slope(kind: str) -> Entry:
    pointers = dict.fromkeys(("upstream", "preactivation", "out"), POINTER[kind]) | {"bias_parts": "*fp32"}
    constants = {"ROWS": SLOPE_PART, "BLOCK_M": SLOPE_ROWS, "BLOCK_N": SLOPE_COLUMNS}
    return Entry(
        "shuffle_project",
        f"slopes {'fp32' if kind == 'ieee' else kind}",
        f"{MODULE}:slope_kernel",
        {**pointers, "M": 16384, "N": 1536},
        constants,
        checked=(80,) if kind == "bf16" else (),
        tensor_cores=False,
        min_vector_loads=4,
    )
