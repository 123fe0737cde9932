"""The ``sam2`` package's model from the package's configuration, entries of which may be given other values."""

from collections.abc import Iterator
from importlib.resources import as_file, files
from typing import Any

import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import OmegaConf
from sam2.modeling.sam2_base import SAM2Base
from torch.overrides import TorchFunctionMode

from pam_kit.errors import RecipeError
from pam_kit.registry import suggest

_CONFIGS = {"tiny": "hiera_t", "small": "hiera_s", "base_plus": "hiera_b+", "large": "hiera_l"}
_STRIDE = 16
# The video settings of SAM 2's own predictor that its configuration files leave out.
_BINARISED_PROMPTED_MASKS = {"binarize_mask_from_pts_for_mem_enc": True}
# The package would fill their tables on the first GPU while the model is built.
_POSITION_ENCODINGS = ("image_encoder.neck.position_encoding", "memory_encoder.position_encoding")
_NO_WARM_UP = dict.fromkeys((f"{name}.warmup_cache" for name in _POSITION_ENCODINGS), False)
_ROTARY_SIZES = tuple(f"memory_attention.layer.{name}_attention.feat_sizes" for name in ("self", "cross"))
# What the wrapper is built upon, and why it stays.
_FIXED = {
    **dict.fromkeys(_ROTARY_SIZES, "it follows from backbone.image_size"),
    "directly_add_no_mem_embed": "the first frame is always decoded with the no-memory embedding",
    "use_high_res_features_in_sam": "the mask decoder always reads the high-resolution features",
    "image_encoder.scalp": "the embedding is always the level of stride 16",
}


def build_sam2(size: str, image_size: int, overrides: dict[str, Any] | None = None) -> SAM2Base:
    """SAM 2.1 of a size, with random weights. Hydra's global state is neither read nor written.

    Args:
        size: tiny, small, base_plus or large.
        image_size: side of the model image, in pixels.
        overrides: entries of the package's configuration with other values; keys are dotted or nested. A value is a
            number, a boolean, a string or a list of those, of the kind that the entry has, and never names code.

    Raises:
        RecipeError: an override is of no entry, of another kind, or the overridden sizes do not fit together.
    """
    with as_file(files("sam2") / "configs" / "sam2.1" / f"sam2.1_{_CONFIGS[size]}.yaml") as path:
        config = OmegaConf.load(path).model
    known = dict(_entries(OmegaConf.to_container(config)))
    given = dict(_entries(overrides or {}))
    problems = [problem for key, value in given.items() if (problem := _problem(key, value, known, image_size))]
    if problems:
        raise RecipeError(problems)
    grid = [image_size // _STRIDE] * 2
    own = {**_NO_WARM_UP, **dict.fromkeys(_ROTARY_SIZES, grid), "image_size": image_size}
    for key, value in {**given, **own}.items():
        OmegaConf.update(config, key, list(value) if isinstance(value, list | tuple) else value)
    try:
        with _TablesOnCpu():
            return instantiate(config, **_BINARISED_PROMPTED_MASKS)
    except InstantiationException as error:
        if not given:
            raise
        changed = ", ".join(given)
        raise RecipeError([f"backbone.overrides ({changed}) do not fit together: {error}"]) from error


def _entries(table: dict[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted key and value of every entry that is no table itself."""
    for key, value in table.items():
        name = f"{above}.{key}" if above else str(key)
        if isinstance(value, dict):
            yield from _entries(value, name)
        else:
            yield name, value


def _problem(key: str, value: Any, known: dict[str, Any], image_size: int) -> str | None:
    """What is wrong with one override, or None."""
    where = f"backbone.overrides: {key!r}"
    if key.rpartition(".")[2].startswith("_"):
        return f"{where} says which code is built; only the numbers and settings of SAM 2 can be changed"
    if key not in known:
        near = suggest(key, [entry for entry in known if not entry.rpartition(".")[2].startswith("_")])
        return f"{where} is no entry of the sam2 package's configuration{near}"
    if key in _FIXED:
        return f"{where} cannot be changed: {_FIXED[key]}"
    if key == "image_size" and value != image_size:
        return f"{where} is {value!r}, but backbone.image_size is {image_size}; set that one alone"
    if not _fits(value, known[key]):
        return f"{where} is {value!r}; it takes a value like SAM 2's own, {known[key]!r}"
    return None


def _fits(value: Any, own: Any) -> bool:
    """Whether a value is of the kind of SAM 2's own. Text with ``$`` would be evaluated on the way."""
    if isinstance(own, list):
        return isinstance(value, list | tuple) and all(_fits(item, own[0]) for item in value)
    if isinstance(own, bool) or isinstance(value, bool):
        return type(value) is type(own)
    if own is None:
        return value is None or isinstance(value, int | float)
    if isinstance(own, str):
        return isinstance(value, str) and "$" not in value
    return isinstance(value, int | (float if isinstance(own, float) else int))


class _TablesOnCpu(TorchFunctionMode):
    """Let SAM 2 be built on the meta device: it reads numbers out of ``linspace`` and keeps a table of ``arange``.

    It would put that table on the first GPU wherever there is one; it goes where the weights go instead.
    """

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if function in (torch.linspace, torch.arange):
            kwargs.setdefault("device", "cpu")
        if function is torch.Tensor.cuda or (function is torch.Tensor.to and _names_cuda(*args[1:], *kwargs.values())):
            return args[0]
        return function(*args, **kwargs)


def _names_cuda(*arguments: Any) -> bool:
    return any(isinstance(one, str | torch.device) and torch.device(one).type == "cuda" for one in arguments)
