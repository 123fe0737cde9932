"""What a recipe would cost, worked out on the meta device: nothing is loaded, allocated or read."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from pam_kit.contracts import RegionFeatures
from pam_kit.data.schema import has_clips
from pam_kit.model import RegionVLM
from pam_kit.registry import find
from pam_kit.sections import DATASET_SLOT, Recipe
from pam_kit.training.fit import accumulation
from pam_kit.training.run_folder import parts_table
from pam_kit.training.stage import freeze_all_but
from pam_kit.weights import without_pretrained_weights

GIB = 2**30
ADAM_BYTES = 8  # two fp32 moments
# Bytes a transformer layer keeps for the backward pass, per token and unit of width, in 16-bit with fused attention
# (arXiv 2205.05198, section 4.1); twice as many in 32-bit. Where it is recomputed, only its input is kept.
ACTIVATION_BYTES, INPUT_BYTES = 34, 2
# The logits of a supervised position, their softmax and their gradient, in fp32.
LOGIT_BYTES = 12
# A question and its answer, where the length of the texts is not known; half of it is supervised.
ASSUMED_TEXT_TOKENS = 64


@dataclass(frozen=True)
class Plan:
    """Lines for people, and the numbers behind them.

    ``visual_tokens`` and ``semantic_tokens`` are those of a region in the longest sample, a clip where there are clips;
    ``positions`` adds its newlines.
    """

    lines: list[str]
    total_parameters: int
    trained_parameters: int
    visual_tokens: int
    semantic_tokens: int
    positions: int
    device_gib: float
    accumulation: int


def plan(recipe: Recipe, devices: int = 1) -> Plan:
    """Parameters, tokens, estimated memory a device and gradient accumulation on ``devices`` devices."""
    with torch.device("meta"), without_pretrained_weights():
        model = RegionVLM.from_recipe(recipe)
    clips = _has_clips(recipe)
    parts = freeze_all_but(model, recipe.train.trainable, clips)
    frames = recipe.data.clip_frames if clips else 0
    visual, semantic = model.tokens_per_region(max(1, frames))
    positions = model.prefix_length(frames)
    steps = accumulation(recipe, devices)
    total, trained = sum(report.total for report in parts), sum(report.trained for report in parts)
    memory = _memory(recipe, model, devices, positions, frames)
    section = recipe.train
    lines = [
        f"recipe      {recipe.name} ({recipe.source})",
        *parts_table(parts),
        "",
        *_token_lines(model, frames),
        f"image       {model.backbone.image_size} px, features {model.backbone.grid[0]}x{model.backbone.grid[1]}",
        f"batch       {section.global_batch_size} samples = {devices} devices x {section.device_batch_size}"
        f" x {steps} accumulation steps",
        f"length      {_length(recipe)}",
        f"memory      {sum(memory.values()):.1f} GiB a device, estimated: "
        + ", ".join(f"{name} {value:.1f}" for name, value in memory.items()),
    ]
    return Plan(lines, total, trained, visual, semantic, positions, sum(memory.values()), steps)


def _has_clips(recipe: Recipe) -> bool:
    chosen = [recipe.data.train, *(mixed.dataset for mixed in recipe.data.mixed_in.values())]
    return any(has_clips(find(DATASET_SLOT, choice.name).load()) for choice in chosen)


def _token_lines(model: RegionVLM, frames: int) -> list[str]:
    visual, semantic = model.tokens_per_region()
    spent = f"{visual} visual + {semantic} semantic"
    lines = [f"tokens      {spent} a region ({model.prefix_length()} positions with their newlines)"]
    if frames:
        visual, semantic = model.tokens_per_region(frames)
        spent = f"{visual} visual + {semantic} semantic"
        lines.append(f"            {spent} in a clip of {frames} frames ({model.prefix_length(frames)} positions)")
    return lines


def _memory(recipe: Recipe, model: RegionVLM, devices: int, positions: int, frames: int) -> dict[str, float]:
    """GiB a device by purpose. With fsdp2 all but the backbone is shared out over the devices."""
    section = recipe.train
    shards = devices if section.strategy == "fsdp2" else 1
    half = section.precision in ("auto", "bf16-mixed", "16-mixed", "bf16-true", "16-true")
    backbone = sum(p.numel() * p.element_size() for p in model.backbone.parameters())
    weights = sum(p.numel() * p.element_size() for p in model.parameters()) - backbone
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    questions = min(recipe.data.questions_per_region, section.decoder_questions or 10**9)
    regions = section.device_batch_size * recipe.data.regions_per_image
    sequences = regions * questions
    tokens = sequences * (positions + ASSUMED_TEXT_TOKENS)
    layers = len(model.decoder.layers())
    kept = ACTIVATION_BYTES + layers * INPUT_BYTES if section.activation_checkpointing else layers * ACTIVATION_BYTES
    activations = tokens * model.decoder.embed_dim * kept * (1 if half else 2)
    # All frames that are read of a batch are perceived together.
    looked_at = regions * (perceived_bytes(model) + max(0, frames - 1) * perceived_bytes(model, later=frames > 1))
    logits = sequences * ASSUMED_TEXT_TOKENS // 2 * model.decoder.vocabulary_size * LOGIT_BYTES
    sizes = {
        "weights": backbone + weights / shards,
        "gradients": trained * 4 / shards,
        "optimiser": trained * ADAM_BYTES / shards,
        "perceiver activations": looked_at / (2 if half else 1),
        "decoder activations": activations,
        "logits": logits,
    }
    return {name: value / GIB for name, value in sizes.items()}


def perceived_bytes(model: RegionVLM, later: bool = False) -> int:
    """What perceiver and projector keep of one region in one frame for the backward pass, and its features, in fp32.

    Counted, not estimated: they are run on tensors without content.

    Args:
        model: on the meta device.
        later: of a frame behind the first of a clip.
    """
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, nn.Parameter):
            kept[id(tensor.untyped_storage())] = tensor.untyped_storage().nbytes()
            held.append(tensor)
        return tensor

    held: list[Tensor] = []  # so that no two storages have one number
    with torch.device("meta"), saved_tensors_hooks(note, lambda tensor: tensor):
        # Without a region's text: its words need a vocabulary, which is learned later.
        model.projector(model.perceived(_one_region(model)), later)
    return sum(kept.values())


def _one_region(model: RegionVLM) -> RegionFeatures:
    width, (height, across), tokens = model.backbone.embed_dim, model.backbone.grid, 8
    image, mask = (1, width, height, across), (1, 1, 4 * height, 4 * across)
    return RegionFeatures(
        image_embedding=torch.zeros(image),
        source_embedding=torch.zeros(image),
        mask_tokens=torch.zeros(1, 2, width),
        all_tokens=torch.zeros(1, tokens, width),
        token_padding=torch.zeros(1, tokens, dtype=torch.bool),
        mask_logits=torch.zeros(mask),
        iou=torch.zeros(1),
        object_score=torch.zeros(1),
        candidate_logits=torch.zeros(mask),
        candidate_iou=torch.zeros(1, 1),
        points=torch.zeros(1, 2, 2),
        labels=torch.zeros(1, 2, dtype=torch.long),
        crop_embedding=torch.zeros(image) if model.perceiver.crop else None,
    )


def _length(recipe: Recipe) -> str:
    section = recipe.train
    if section.max_steps is not None:
        return f"{section.max_steps} steps, {section.max_steps * section.global_batch_size} samples"
    names = ", ".join([recipe.data.train.name, *recipe.data.mixed_in])
    return f"{section.epochs:g} passes over {names}"
