"""Which parts of a model learn in a stage, at which rate, on which schedule."""

import math
from dataclasses import dataclass

import torch
from torch import nn

from pam_kit.errors import RecipeError
from pam_kit.model import RegionVLM
from pam_kit.sections import TRAINABLE_PARTS, TrainSection

_UNFREEZE = {
    "backbone": "set backbone.frozen=false",
    "decoder": "quantised weights cannot learn: set decoder.lora_rank=16, or decoder.quantize=null",
}


@dataclass(frozen=True)
class PartReport:
    """How much of a part learns."""

    part: str
    kind: str
    trained: int
    total: int


def freeze_all_but(model: RegionVLM, trainable: list[str], clips: bool = False) -> list[PartReport]:
    """Let the named parts learn and freeze the others; returns what became of each.

    Without ``clips`` in the training data, what only clips reach is frozen too. A part that freezes itself cannot be
    trained: RecipeError says how to unfreeze it.
    """
    for parameter in [] if clips else model.clip_parameters():
        parameter.requires_grad_(False)
    for name in ("backbone", "decoder"):
        if name in trainable and not any(p.requires_grad for p in getattr(model, name).parameters()):
            raise RecipeError([f"train.trainable names the {name}, but all of it is frozen; {_UNFREEZE[name]}"])
    reports = []
    for name in TRAINABLE_PARTS:
        part = getattr(model, name)
        own_choice = {id(p): p.requires_grad for p in part.parameters()}
        for parameter in part.parameters():
            parameter.requires_grad_(name in trainable and own_choice[id(parameter)])
        sizes = [(p.numel(), p.requires_grad) for p in part.parameters()]
        reports.append(
            PartReport(name, type(part).__name__, sum(n for n, learns in sizes if learns), sum(n for n, _ in sizes))
        )
    if not any(report.trained for report in reports):
        raise RecipeError([f"train.trainable={trainable} leaves nothing to train"])
    return reports


def keep_frozen_parts_in_eval(model: nn.Module) -> None:
    """A frozen part neither drops out nor moves its running statistics."""
    for name in TRAINABLE_PARTS:
        part = getattr(model, name)
        if not any(p.requires_grad for p in part.parameters()):
            part.eval()


def parameter_groups(model: nn.Module, section: TrainSection) -> list[dict]:
    """AdamW groups: one per part and kind; vectors (biases, norms, separators) are not decayed."""
    groups = []
    for name in TRAINABLE_PARTS:
        learning = [p for p in getattr(model, name).parameters() if p.requires_grad]
        rate = section.learning_rate * section.learning_rate_factors.get(name, 1.0)
        for decayed in (True, False):
            chosen = [p for p in learning if (p.ndim > 1) == decayed]
            if chosen:
                decay = section.weight_decay if decayed else 0.0
                groups.append({"params": chosen, "lr": rate, "weight_decay": decay, "name": name})
    return groups


def cosine_with_warmup(optimizer: torch.optim.Optimizer, max_steps: int, warmup_ratio: float):
    """Linear rise over ``warmup_ratio`` of the steps, then half a cosine down to zero."""
    warmup = max(1, round(max_steps * warmup_ratio))

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, max_steps - warmup)))

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
