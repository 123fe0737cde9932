"""LoRA (arXiv 2106.09685): small trainable matrices beside the frozen ones of a language model, through peft."""

from torch import nn
from transformers import PreTrainedModel

from pam_kit.errors import MissingPackageError, RecipeError

_NAME = "default"


def add_adapters(model: PreTrainedModel, rank: int, alpha: float, dropout: float, targets: list[str] | None) -> None:
    """Freeze ``model`` and put adapters beside its linear layers, in place; at first they change nothing.

    Args:
        targets: ends of the names of the layers that get one, such as q_proj; null is every one but the vocabulary's.

    Raises:
        MissingPackageError: peft is not installed.
        RecipeError: no linear layer has such a name.
    """
    peft = _peft()
    linear = sorted({name.rpartition(".")[2] for name, part in model.named_modules() if isinstance(part, nn.Linear)})
    if unknown := sorted(set(targets or ()) - set(linear)):
        raise RecipeError(
            [f"decoder.lora_targets: no layer is called {', '.join(unknown)}; there are {', '.join(linear)}"]
        )
    config = peft.LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=targets or "all-linear")
    peft.inject_adapter_in_model(config, model, _NAME)


def merge_adapters(model: PreTrainedModel) -> None:
    """Add every adapter to the weights beside it, in place; a quantised model gets plain weights again first.

    The model answers as before, has the names of one without adapters, and all of it may learn.
    """
    layers = {name: part for name, part in model.named_modules() if hasattr(part, "lora_A")}
    changes = {name: part.get_delta_weight(_NAME) for name, part in layers.items()}
    for name, part in layers.items():
        model.set_submodule(name, part.get_base_layer())
    del model.peft_config
    if getattr(model, "is_quantized", False):
        model.dequantize()
    for name, change in changes.items():
        weight = model.get_submodule(name).weight
        weight.data += change.to(weight)
    model.requires_grad_(True)


def _peft():
    try:
        import peft
    except ModuleNotFoundError as error:
        if error.name != "peft":
            raise
        raise MissingPackageError(
            'decoder.lora_rank needs the package peft, which is not installed; run: pip install "pam-kit[lora]"'
        ) from error
    return peft
