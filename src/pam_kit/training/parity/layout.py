"""What a released checkpoint consists of: every tensor's name and shape there and in the kit, and its config.json."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from transformers import AutoConfig

from pam_kit.contracts import VisionBackbone
from pam_kit.model import RegionVLM
from pam_kit.registry import find
from pam_kit.released.names import VISION_TOWER, own_name, released_name
from pam_kit.released.settings import decoder_arguments, language_model_config, released_config
from pam_kit.training.parity.golden_file import GoldenFile, GoldenFileError
from pam_kit.training.parity.report import Comparison, exact
from pam_kit.training.parity.weights import WORD_EMBEDDINGS, WORD_LOGITS

Shapes = Mapping[str, Sequence[int]]

# Width of the Hiera trunk and blocks of its stages -> the published size.
_PUBLISHED: dict[tuple[int, tuple[int, ...]], str] = {
    (96, (1, 2, 7, 2)): "tiny",
    (96, (1, 2, 11, 2)): "small",
    (112, (2, 3, 16, 3)): "base_plus",
    (144, (2, 6, 36, 4)): "large",
}
# No shape tells it.
_MAX_POSITIONS = 32768


def check_config(file: GoldenFile) -> list[Comparison]:
    """A released config.json into the decoder's arguments and the language model's configuration, and back."""
    config = file.json
    language_model = AutoConfig.for_model(**language_model_config(config, config["vocab_size"]))
    limit = decoder_arguments(config)["max_positions"]
    own = released_config(language_model, limit, config["torch_dtype"])
    return [exact("setting", own.get(key), config.get(key), of=key) for key in sorted({*own, *config})]


def check_keys(file: GoldenFile) -> list[Comparison]:
    """A list of keys with their shapes; below ``keys`` where it also states ties, buffers and counts."""
    stated = file.json
    keys = stated.get("keys", stated)
    shapes = {key: entry["shape"] for key, entry in keys.items()}
    model = model_of_shapes(shapes)
    own = {name: list(value.shape) for name, value in model.state_dict().items()}
    if not any(key.startswith(VISION_TOWER) for key in shapes):
        own = {name: shape for name, shape in own.items() if not name.startswith("backbone.")}
    there = {str(released_name(name)): shape for name, shape in own.items()}
    back = {str(own_name(key)): shape for key, shape in shapes.items()}
    types = {str(value.dtype).removeprefix("torch.") for value in model.state_dict().values()}
    found = [
        exact("keys", sorted(there), sorted(shapes)),
        exact("keys read back", sorted(own), sorted(back)),
        *(exact("shape", there.get(key), shape, of=key) for key, shape in shapes.items()),
        *(exact("shape read back", own.get(name), shape, of=name) for name, shape in back.items()),
        exact("types", types, {entry["dtype"] for entry in keys.values()}),
    ]
    return found + _compared_statements(model, there, stated) if "keys" in stated else found


def _compared_statements(model: RegionVLM, shapes: Shapes, stated: Mapping[str, Any]) -> list[Comparison]:
    buffers = {str(released_name(name)) for name, _ in model.named_buffers()} & set(shapes)
    parameters = [key for key, entry in stated["keys"].items() if entry["kind"] == "parameter"]
    words, logits = (getattr(model.decoder.lm, f"get_{side}_embeddings")().weight for side in ("input", "output"))
    found = [
        exact("parameters", sorted(set(shapes) - buffers), sorted(parameters)),
        exact("buffers_in_state_dict", sorted(buffers), sorted(stated["buffers_in_state_dict"])),
        exact("tied", {WORD_LOGITS: WORD_EMBEDDINGS} if words is logits else {}, stated["tied"]),
    ]
    for group, counts in stated["groups"].items():
        sizes = [math.prod(shape) for key, shape in shapes.items() if f"{key}.".startswith(f"{group}.")]
        found.append(exact("group", {"n_keys": len(sizes), "n_params": sum(sizes)}, counts, of=group))
    return found


def model_of_shapes(shapes: Shapes) -> RegionVLM:
    """The kit's model of a checkpoint's sizes, which its shapes tell; on the meta device, so without weights."""
    words = _shape(shapes, WORD_EMBEDDINGS)
    layer = "model.layers.0."
    queries, keys = (_shape(shapes, f"{layer}self_attn.{name}_proj.weight")[0] for name in ("q", "k"))
    config = {
        "vocab_size": words[0],
        "hidden_size": words[1],
        "intermediate_size": _shape(shapes, f"{layer}mlp.gate_proj.weight")[0],
        "num_hidden_layers": _count(shapes, "model.layers."),
        # Heads leave no trace but how many queries share a key.
        "num_attention_heads": queries // keys,
        "num_key_value_heads": 1,
        "max_position_embeddings": _MAX_POSITIONS,
    }
    resampler = "model.vision_resampler."
    tokens = _shape(shapes, f"{resampler}sem_tokens.weight")
    with torch.device("meta"):
        backbone = _sam2_of_shapes(shapes)
        perceiver = find("perceiver", "pam").build(
            embed_dim=tokens[1],
            num_semantic_tokens=tokens[0],
            depth=_count(shapes, f"{resampler}layers."),
            mlp_dim=_shape(shapes, f"{resampler}layers.0.mlp.layers.0.weight")[0],
        )
        projector = find("projector", "pam").build(embed_dim=tokens[1], output_dim=words[1])
        decoder = find("decoder", "causal_lm").build(**decoder_arguments(config))
        return RegionVLM(backbone, perceiver, projector, decoder)


def _sam2_of_shapes(shapes: Shapes) -> VisionBackbone:
    """A published SAM 2.1, or one with other sizes in its place."""
    tower = f"{VISION_TOWER}."
    inside = {key.removeprefix(tower): shape for key, shape in shapes.items() if key.startswith(tower)}
    build = find("backbone", "pam").build
    if not inside:
        return build(size="large")
    trunk, blocks = "image_encoder.trunk.", "image_encoder.trunk.blocks."
    width, depth = _shape(inside, f"{trunk}patch_embed.proj.weight")[0], _count(inside, blocks)
    # Where a stage begins the width changes, which takes a projection.
    starts = [0, *(i for i in range(1, depth) if f"{blocks}{i}.proj.weight" in inside), depth]
    stages = [end - start for start, end in zip(starts, starts[1:], strict=False)]
    size = _PUBLISHED.get((width, tuple(stages)))
    if size is not None:
        return build(size=size)
    levels, attention = _count(inside, "image_encoder.neck.convs."), "memory_attention.layers."
    channels = [_shape(inside, f"image_encoder.neck.convs.{i}.conv.weight")[1] for i in range(levels)]
    overrides = {
        "image_encoder.trunk.embed_dim": width,
        "image_encoder.trunk.stages": stages,
        "image_encoder.trunk.global_att_blocks": [depth - 1],
        "image_encoder.neck.backbone_channel_list": channels,
        "memory_attention.num_layers": _count(inside, attention),
        "memory_attention.layer.dim_feedforward": _shape(inside, f"{attention}0.linear1.weight")[0],
    }
    return build(size="tiny", overrides=overrides)


def _shape(shapes: Shapes, key: str) -> Sequence[int]:
    if key not in shapes:
        raise GoldenFileError(f"it lacks {key!r}, so the sizes of the model are not known")
    return shapes[key]


def _count(shapes: Shapes, prefix: str) -> int:
    """How many numbered modules lie below a prefix."""
    return len({key.removeprefix(prefix).partition(".")[0] for key in shapes if key.startswith(prefix)})
