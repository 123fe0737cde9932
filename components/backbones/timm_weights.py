"""Weights of a timm feature extractor, read from a file or from the package that carries ImageNet weights."""

from pathlib import Path

import timm
import torch
from torch import nn

from pam_kit.components.backbones.state_dict_fit import misfits
from pam_kit.errors import CheckpointError, RecipeError
from pam_kit.weights import pretrained_weights_wanted, read_weights

LITE0_MODEL = "tf_efficientnet_lite0"

Triple = tuple[float, float, float]


def load_extractor_weights(extractor: nn.Module, model_name: str, weights: str | None) -> tuple[Triple, Triple]:
    """Fill the extractor in place, where weights are wanted; return the mean and standard deviation of its pictures.

    Args:
        weights: None leaves the random weights; ``lite0``; or the path of a .safetensors file.
    """
    config = timm.get_pretrained_cfg(model_name)
    mean, std = (tuple(config.mean), tuple(config.std)) if config is not None else ((0.5,) * 3, (0.25,) * 3)
    if weights == "lite0":
        if model_name != LITE0_MODEL:
            raise RecipeError([f"backbone.weights lite0 fits model_name {LITE0_MODEL}, not {model_name}"])
        # Here, because the package with the weights is optional.
        from pam_kit.components.backbones.lite0 import LITE0_MEAN, LITE0_STD, load_lite0

        mean, std = LITE0_MEAN, LITE0_STD
        if pretrained_weights_wanted():
            load_lite0(extractor)
    elif weights is not None and pretrained_weights_wanted():
        _load_file(extractor, model_name, Path(weights))
    return mean, std


def _load_file(extractor: nn.Module, model_name: str, path: Path) -> None:
    """The file must hold every tensor of the extractor; what timm cut off the whole model, it may hold as well."""
    given = {_flat(name): tensor for name, tensor in read_weights(path).items()}
    own = {_flat(name): name for name in extractor.state_dict()}
    with torch.device("meta"):
        cut_off = {_flat(name) for name in timm.create_model(model_name).state_dict()} - set(own)
    given = {own.get(name, name): tensor for name, tensor in given.items() if name not in cut_off}
    problems = misfits(extractor.state_dict(), given)
    if problems:
        raise CheckpointError(f"{path} does not fit {model_name}:\n  " + "\n  ".join(problems))
    extractor.load_state_dict(given)


def _flat(name: str) -> str:
    """timm joins the first levels of a name with underscores, or adds a prefix, when it cuts a model into levels."""
    for prefix in ("model.", "body."):
        name = name.removeprefix(prefix)
    return name.replace(".", "_")
