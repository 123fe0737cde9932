"""Give parts of the kit the weights that the formula defines for the released names of their parameters."""

from collections.abc import Mapping

from torch import Tensor, nn

from pam_kit.released.names import released_name
from pam_kit.training.parity.formula import formula_weight, weights_digest
from pam_kit.training.parity.golden_file import GoldenFile, GoldenFileError
from pam_kit.training.parity.report import Comparison, close, exact

WORD_EMBEDDINGS, WORD_LOGITS = "model.embed_tokens.weight", "lm_head.weight"
# A tied matrix has one value: that of the embedding.
_TIED = {WORD_LOGITS: WORD_EMBEDDINGS}
_EXPLICIT = "weights."


def fill(parts: Mapping[str, nn.Module], file: GoldenFile, within: str = "") -> list[Comparison]:
    """Draw every entry of the parts' state dicts, and compare the weights with what the file says of them.

    Args:
        parts: where in a whole model a part stands, such as ``perceiver``, and the part.
        within: the beginning that the file leaves off the released names, such as ``model.vision_resampler.``.
    """
    added = file.said("weight_add", {})
    weights: dict[str, Tensor] = {}
    for place, part in parts.items():
        drawn = {}
        for name, value in part.state_dict().items():
            key = _released(f"{place}.{name}").removeprefix(within)
            drawn[name] = formula_weight(key, value.shape, file.seed) + added.get(key, 0.0)
            weights[key] = drawn[name]
        part.load_state_dict(drawn)
    return _compared(weights, file)


def _released(own: str) -> str:
    name = released_name(own)
    if name is None:
        raise GoldenFileError(f"the kit's {own} has no name in the released PAM, so the formula gives it no value")
    return _TIED.get(name, name)


def _compared(weights: Mapping[str, Tensor], file: GoldenFile) -> list[Comparison]:
    found = []
    if "weights_sha256" in file.about:
        found.append(exact("weights_sha256", weights_digest(weights), file.about["weights_sha256"]))
    explicit = [name for name in file.names if name.startswith(_EXPLICIT)]
    if explicit:
        given = {name.removeprefix(_EXPLICIT) for name in explicit}
        found.append(exact("names of the weights", sorted(weights), sorted(given)))
        found += [
            close("weights", value, file.tensor(_EXPLICIT + key), 0.0, of=key)
            for key, value in weights.items()
            if key in given
        ]
    return found
