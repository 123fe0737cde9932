"""What a recipe would cost, worked out on the meta device: nothing is loaded, allocated or read."""

from dataclasses import dataclass

import torch

from pam_kit.model import RegionVLM
from pam_kit.sections import Recipe
from pam_kit.training.fit import accumulation
from pam_kit.training.run_folder import parts_table
from pam_kit.training.stage import freeze_all_but
from pam_kit.weights import without_pretrained_weights

GIB = 2**30
ADAM_BYTES = 8  # two fp32 moments
# Bytes a transformer layer keeps for the backward pass, per token and unit of width, in 16-bit with fused attention
# (arXiv 2205.05198, section 4.1); twice as many in 32-bit.
ACTIVATION_BYTES = 34
# A question and its answer, where the length of the texts is not known.
ASSUMED_TEXT_TOKENS = 64


@dataclass(frozen=True)
class Plan:
    """Lines for people, and the numbers behind them."""

    lines: list[str]
    total_parameters: int
    trained_parameters: int
    visual_tokens: int
    semantic_tokens: int
    device_gib: float
    accumulation: int


def plan(recipe: Recipe, devices: int = 1) -> Plan:
    """Parameters, tokens, estimated memory a device and gradient accumulation on ``devices`` devices."""
    with torch.device("meta"), without_pretrained_weights():
        model = RegionVLM.from_recipe(recipe)
    parts = freeze_all_but(model, recipe.train.trainable)
    visual, semantic = model.tokens_per_region()
    steps = accumulation(recipe, devices)
    total, trained = sum(report.total for report in parts), sum(report.trained for report in parts)
    memory = _memory(recipe, model, trained)
    section = recipe.train
    lines = [
        f"recipe      {recipe.name} ({recipe.source})",
        *parts_table(parts),
        "",
        f"tokens      {visual} visual + {semantic} semantic a region"
        f" ({visual + semantic + 1 + (semantic > 0)} positions with their newlines)",
        f"image       {model.backbone.image_size} px, features {model.backbone.grid[0]}x{model.backbone.grid[1]}",
        f"batch       {section.global_batch_size} pictures = {devices} devices x {section.device_batch_size}"
        f" x {steps} accumulation steps",
        f"length      {_length(recipe)}",
        f"memory      {sum(memory.values()):.1f} GiB a device, estimated: "
        + ", ".join(f"{name} {value:.1f}" for name, value in memory.items()),
    ]
    return Plan(lines, total, trained, visual, semantic, sum(memory.values()), steps)


def _memory(recipe: Recipe, model: RegionVLM, trained: int) -> dict[str, float]:
    """GiB a device by purpose, without sharding: data-parallel training."""
    half = recipe.train.precision in ("auto", "bf16-mixed", "16-mixed", "bf16-true", "16-true")
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    visual, semantic = model.tokens_per_region()
    questions = min(recipe.data.questions_per_region, recipe.train.decoder_questions or 10**9)
    sequences = recipe.train.device_batch_size * recipe.data.regions_per_image * questions
    tokens = sequences * (visual + semantic + ASSUMED_TEXT_TOKENS)
    layers = getattr(getattr(getattr(model.decoder, "lm", None), "config", None), "num_hidden_layers", 1)
    activations = tokens * layers * model.decoder.embed_dim * ACTIVATION_BYTES * (1 if half else 2)
    sizes = {
        "weights": weights,
        "gradients": trained * 4,
        "optimiser": trained * ADAM_BYTES,
        "decoder activations": activations,
    }
    return {name: value / GIB for name, value in sizes.items()}


def _length(recipe: Recipe) -> str:
    section = recipe.train
    if section.max_steps is not None:
        return f"{section.max_steps} steps, {section.max_steps * section.global_batch_size} pictures"
    return f"{section.epochs:g} passes over {recipe.data.train.name}"
