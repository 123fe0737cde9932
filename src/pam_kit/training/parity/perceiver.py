"""The perceiver, and the merging of its visual tokens, which the kit does in the projector."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from pam_kit.contracts import PerceivedTokens, Perceiver, Projector, RegionFeatures
from pam_kit.registry import find
from pam_kit.training.parity.formula import formula_input, tensor_digest
from pam_kit.training.parity.golden_file import GoldenFile, GoldenFileError
from pam_kit.training.parity.report import Comparison, close, exact
from pam_kit.training.parity.weights import fill

# The released class's arguments, as the metadata name them, and ours.
_SIZES = {
    "embedding_dim": "embed_dim",
    "num_heads": "num_heads",
    "mlp_dim": "mlp_dim",
    "depth": "depth",
    "attention_downsample_rate": "attention_downsample",
}
_WIDTH = 256
_DIGEST_LENGTH = 16


def check_perceiver(file: GoldenFile) -> list[Comparison]:
    """Semantic tokens, keys, queries and merged tokens of a random image embedding and random mask tokens."""
    perceiver, projectors = _parts(file)
    in_columns = projectors["column"]
    found = fill({"perceiver": perceiver, "projector.narrow": in_columns.narrow}, file, "model.vision_resampler.")
    projectors["row"].load_state_dict(in_columns.state_dict())
    inputs, compared = _inputs(file, perceiver)
    queries: list[Tensor] = []
    perceiver.transformer.blocks[-1].register_forward_hook(lambda _module, _inputs, output: queries.append(output[0]))
    with torch.inference_mode():
        tokens = perceiver(region_features(**inputs))
        own = {"sem_tokens_out": tokens.semantic, "keys_tokens": tokens.visual, "queries_last_layer": queries[0]}
        own |= _merged(projectors, tokens)
    return found + compared + [one for name, value in own.items() for one in _compared(file, name, value)]


def region_features(image_embedding: Tensor, mask_tokens: Tensor) -> RegionFeatures:
    """What a perceiver without mask focus reads, around (R, C, h, w) and (R, 2, C); the rest is empty."""
    return RegionFeatures(
        image_embedding, image_embedding, mask_tokens, mask_tokens, *[image_embedding.new_empty(0)] * 6
    )


def _parts(file: GoldenFile) -> tuple[Perceiver, dict[str, Projector]]:
    given = file.said("kw", {})
    unknown = sorted(set(given) - set(_SIZES))
    if unknown:
        raise GoldenFileError(f"its metadata set {', '.join(unknown)}, which this check does not know")
    sizes: dict[str, Any] = {"embed_dim": _WIDTH} | {_SIZES[name]: size for name, size in given.items()}
    perceiver = find("perceiver", "pam").build(**sizes, num_semantic_tokens=int(file.said("num_sem_tokens")))
    widths = {"embed_dim": sizes["embed_dim"], "output_dim": 1}
    orders = ("column", "row")
    return perceiver.eval(), {order: find("projector", "pam").build(**widths, token_order=order) for order in orders}


def _inputs(file: GoldenFile, perceiver: Perceiver) -> tuple[dict[str, Tensor], list[Comparison]]:
    """The image embedding and the mask tokens, and how they compare with those stored and with their digests."""
    count, side, width = int(file.said("bs")), int(file.said("hw")), perceiver.semantic_tokens.shape[1]
    shapes = {"image_embedding": (count, width, side, side), "mask_tokens": (count, 2, width)}
    inputs = {name: formula_input(name, shape, file.seed) for name, shape in shapes.items()}
    found = []
    for name, value in inputs.items():
        if f"sha_{name}" in file.about:
            golden = file.about[f"sha_{name}"]
            found.append(exact(f"sha_{name}", tensor_digest(value)[: len(golden)], golden))
        if file.has(name):
            found.append(close(name, value, file.tensor(name), 0.0))
    return inputs, found


def _merged(projectors: Mapping[str, Projector], tokens: PerceivedTokens) -> dict[str, Tensor]:
    """The visual tokens of a first and of a later frame as the projector's MLP gets them, in either order."""
    found = {}
    for order, name in (("column", "official"), ("row", "corrected_rowmajor")):
        found[f"{name}_half"] = _seen_by_mlp(projectors[order], tokens, later=False)
        found[f"{name}_quarter"] = _seen_by_mlp(projectors[order], tokens, later=True)
    # The same tokens with channels as torch's pixel_unshuffle orders them: neighbours run inside each channel.
    rows, width = found["corrected_rowmajor_half"], tokens.visual.shape[-1]
    found["torch_pixel_unshuffle_half"] = rows.unflatten(-1, (-1, width)).transpose(-1, -2).flatten(-2)
    return found


def _seen_by_mlp(projector: Projector, tokens: PerceivedTokens, later: bool) -> Tensor:
    seen: list[Tensor] = []
    handle = projector.visual.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
    try:
        projector(tokens, later)
    finally:
        handle.remove()
    return seen[0]


def _compared(file: GoldenFile, name: str, own: Tensor) -> list[Comparison]:
    """The tensor itself, chosen rows of it, the length of every row: whatever the file holds."""
    found = []
    if file.has(name):
        found.append(close(name, own, file.tensor(name)))
    if file.has(f"{name}_rows"):
        # Rows that differ in their order only share one index.
        index = name.replace("corrected_rowmajor", "official")
        rows = file.tensor(f"{index}_row_index")
        found.append(close(f"{name}_rows", own[:, rows], file.tensor(f"{name}_rows")))
    if file.has(f"{name}_token_norm"):
        norms = own.double().norm(dim=-1)
        found.append(close(f"{name}_token_norm", norms, file.tensor(f"{name}_token_norm")))
    return found
