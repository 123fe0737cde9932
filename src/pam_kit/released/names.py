"""What a tensor is called in the released PAM and here: one table, read in both directions. Torch-free.

The released names are those of PAM's published checkpoints (arXiv 2506.05302): a LLaVA-style model with SAM 2 as its
vision tower, the Semantic Perceiver as its resampler and Qwen2.5 as its language model.
"""

from collections.abc import Iterable

VISION_TOWER = "model.vision_tower.sam2_model_predictor"

# How a name begins: released, own. The first that fits holds.
_BEGINNINGS = (
    (VISION_TOWER, "backbone.model"),
    ("model.vision_resampler.proj", "projector.narrow"),
    ("model.vision_resampler", "perceiver"),
    ("model.mm_projector_img", "projector.visual"),
    ("model.mm_projector_semT", "projector.semantic"),
    ("model.image_newline", "prefix.visual_newline"),
    ("model.semT_newline", "prefix.semantic_newline"),
    ("model.frame_newline", "prefix.frame_newline"),
    ("model.embed_tokens", "decoder.lm.model.embed_tokens"),
    ("model.layers", "decoder.lm.model.layers"),
    ("model.norm", "decoder.lm.model.norm"),
    ("lm_head", "decoder.lm.lm_head"),
)
# Pieces of a name inside the perceiver. Those of MLPs stand above those of blocks, since both are called layers there.
_PERCEIVER_PIECES = (
    ("sem_tokens.weight", "semantic_tokens"),
    ("pe_layer.positional_encoding_gaussian_matrix", "positions.gaussian"),
    ("final_attn_token_to_image", "transformer.last_look"),
    ("norm_final_attn", "transformer.norm"),
    ("mlp.layers.0", "mlp.0"),
    ("mlp.layers.1", "mlp.2"),
    ("layers", "transformer.blocks"),
    ("self_attn", "self_attention"),
    ("cross_attn_token_to_image", "token_to_image"),
    ("cross_attn_image_to_token", "image_to_token"),
    *((f"norm{i + 1}", f"norms.{i}") for i in range(4)),
    ("q_proj", "query"),
    ("k_proj", "key"),
    ("v_proj", "value"),
    ("out_proj", "out"),
)


def own_name(released: str) -> str | None:
    """``model.norm.weight`` -> ``decoder.lm.model.norm.weight``; None for a name that is none of the released PAM's."""
    own = _with_beginning(released, _BEGINNINGS)
    if own is not None and own.startswith("perceiver."):
        own = f"perceiver.{_with_pieces(own.removeprefix('perceiver.'), _PERCEIVER_PIECES)}"
    # A name that only looks like a released one, because it has our pieces in it, does not come back.
    return own if own is not None and released_name(own) == released else None


def released_name(own: str) -> str | None:
    """``perceiver.semantic_tokens`` -> ``model.vision_resampler.sem_tokens.weight``; None where there is no such."""
    if own.startswith("perceiver."):
        own = f"perceiver.{released_perceiver_name(own.removeprefix('perceiver.'))}"
    return _with_beginning(own, _reversed(_BEGINNINGS))


def released_perceiver_name(own: str) -> str:
    """The same inside the perceiver: ``transformer.blocks.1.norms.0.bias`` -> ``layers.1.norm1.bias``."""
    return _with_pieces(own, _reversed(_PERCEIVER_PIECES))


def _with_beginning(name: str, rules: Iterable[tuple[str, str]]) -> str | None:
    for before, after in rules:
        if f"{name}.".startswith(f"{before}."):
            return after + name.removeprefix(before)
    return None


def _with_pieces(name: str, rules: Iterable[tuple[str, str]]) -> str:
    for before, after in rules:
        name = f".{name}.".replace(f".{before}.", f".{after}.").strip(".")
    return name


def _reversed(rules: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    return [(after, before) for before, after in rules]
