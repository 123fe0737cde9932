"""Sequences: a region's tokens among the words, through the language model to the loss and its gradients."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from pam_kit.components.decoders.conversation import (
    NO_LABEL,
    REGION_ID,
    REGION_MARK,
    ChatML,
    TokenizedText,
    read_conversation,
)
from pam_kit.components.decoders.sequence import Sequences, assemble
from pam_kit.contracts import Decoder, Questions
from pam_kit.data.clips import sampled_frames
from pam_kit.errors import PromptError
from pam_kit.model import RegionPrefix
from pam_kit.registry import find
from pam_kit.released.names import released_name
from pam_kit.training.parity.formula import formula_input
from pam_kit.training.parity.golden_file import GoldenFile
from pam_kit.training.parity.language import (
    LOGITS_TOLERANCE,
    build_decoder,
    logits_of,
    mean_loss,
    recorded_positions,
)
from pam_kit.training.parity.perceiver import region_features
from pam_kit.training.parity.report import Comparison, close, exact
from pam_kit.training.parity.text import Conversation
from pam_kit.training.parity.weights import fill

RELEASED_FRAMES = 16
# Shares of a length. The golden ones were added up in fp32, those of millions of numbers with an error of up to 3e-4.
_LENGTH_TOLERANCE, _LONG_SUM_TOLERANCE, _LONG_SUM = 1e-4, 1e-3, 1_000_000
_SHORT = 1e-2
_WIDTH = 256
_REFUSED = "ValueError"


def check_frame_sampling(file: GoldenFile) -> list[Comparison]:
    """Which frames of a clip are read; too short a clip is refused by the released code, and by the kit on demand."""
    return [exact("frames", _sampled(int(count)), golden, of=count) for count, golden in file.json.items()]


def _sampled(count: int) -> list[int] | str:
    try:
        return sampled_frames(count, RELEASED_FRAMES, short="refuse")
    except PromptError:
        return _REFUSED


@dataclass
class _Model:
    """The kit's parts behind the backbone, of which golden sequences give the output."""

    perceiver: nn.Module
    projector: nn.Module
    prefix: RegionPrefix
    decoder: Decoder

    def parts(self) -> dict[str, nn.Module]:
        return vars(self)

    def assembled(self, file: GoldenFile, texts: Sequence[TokenizedText]) -> tuple[list[Tensor], Sequences]:
        """The embeddings of each region, and all of them among the words."""
        prefixes = [_prefix(self, file, frames) for frames in _read_frames(file)]
        regions, words = _regions(texts, len(prefixes)), self.decoder.lm.get_input_embeddings()
        return prefixes, assemble(words, texts, regions, prefixes, _side(file), self.decoder.max_positions)


def check_sequence(file: GoldenFile) -> list[Comparison]:
    """Ids, embeddings, labels, logits and loss of a batch, and the gradients of the loss."""
    model, found = _filled_model(file.said("config"), file)
    decoder = model.decoder
    chat, conversations = ChatML(decoder.tokenizer), file.said("conversations")
    texts = [chat.conversation(read_conversation(turns), "released") for turns in conversations]
    found += _compared_input(file, texts, decoder.tokenizer.pad_token_id)
    with torch.no_grad():
        prefixes, sequences = model.assembled(file, texts)
        with recorded_positions(decoder) as positions:
            logits = logits_of(decoder, sequences.embeddings, sequences.attention_mask)
        loss = mean_loss(_with_golden_padding(file, logits, sequences), sequences.labels)
        found += [*_compared_sequences(file, sequences), *_compared_logits(file, logits, sequences)]
        found.append(_compared_positions(file, positions[0], sequences.attention_mask))
        found.append(close("loss", loss, file.tensor("loss")))
        questions = plain_questions(conversations, _regions(texts, len(prefixes)))
        if questions is not None and _side(file) == "right":
            loss = decoder(prefixes, questions).loss[None]
            found.append(close("loss of the decoder", loss, file.tensor("loss")))
    if "grad_norms" in file.about:
        found += _compared_gradients(file, model, texts)
    return found


def _side(file: GoldenFile) -> Literal["left", "right"]:
    return file.said("config").get("tokenizer_padding_side", "right")


def plain_questions(conversations: Sequence[Conversation], regions: Sequence[Sequence[int]]) -> Questions | None:
    """The conversations as the kit's training asks them, or None where one is more than a question and its answer."""
    asked, said, about = [], [], []
    for turns, inside in zip(conversations, regions, strict=True):
        if [turn["from"] for turn in turns] != ["human", "gpt"]:
            return None
        question = turns[0]["value"].removeprefix(f"{REGION_MARK}\n")
        if REGION_MARK in question or len(inside) > 1:
            return None
        asked.append(question)
        said.append(turns[1]["value"])
        about.append(inside[0] if inside else -1)
    return Questions(torch.tensor(about), asked, said, [""] * len(asked), [""] * len(asked))


def _filled_model(config: dict[str, Any], file: GoldenFile) -> tuple[_Model, list[Comparison]]:
    decoder = build_decoder(config, file)
    model = _Model(
        find("perceiver", "pam").build(embed_dim=_WIDTH).eval(),
        find("projector", "pam").build(embed_dim=_WIDTH, output_dim=decoder.embed_dim).eval(),
        RegionPrefix(decoder.embed_dim, has_semantic=True, has_frames=True),
        decoder,
    )
    return model, fill(model.parts(), file)


def _read_frames(file: GoldenFile) -> list[list[str]]:
    """The regions of the batch, each as the frames that are read of it; an image is one frame."""
    images = file.said("images")
    if file.about.get("type") == "video":
        return [[frames[i] for i in sampled_frames(len(frames), RELEASED_FRAMES)] for frames in images]
    return [[name] for names in images for name in names]


def _prefix(model: _Model, file: GoldenFile, frames: Sequence[str]) -> Tensor:
    """(L, D): the embeddings of one region, of which the golden file names the frames."""
    side, kind, tokens = int(file.said("hw")), next(model.perceiver.parameters()).dtype, []
    for number, name in enumerate(frames):
        shapes = {f"mid_image_embed.{name}": (1, _WIDTH, side, side), f"mid_mask_tokens_out.{name}": (1, 2, _WIDTH)}
        image, mask_tokens = (formula_input(what, shape, file.seed).to(kind) for what, shape in shapes.items())
        perceived = model.perceiver(region_features(image, mask_tokens))
        tokens.append(model.projector(perceived, later=number > 0))
    return model.prefix(tokens if file.about.get("type") == "video" else tokens[0])[0]


def _regions(texts: Sequence[TokenizedText], count: int) -> list[list[int]]:
    """The regions that the released code puts into each text.

    It counts places, not texts: a text without a place passes one region by, and behind the last one it stays there.
    """
    found, next_region = [], 0
    for text in texts:
        places = int((text.ids == REGION_ID).sum())
        found.append([min(next_region + i, count - 1) for i in range(places)])
        next_region += max(places, 1)
    return found


def _compared_input(file: GoldenFile, texts: Sequence[TokenizedText], pad: int) -> list[Comparison]:
    """What the released code's collator makes of the texts; it pads at the right whatever the configuration says."""
    rows = {"input_ids": ([text.ids for text in texts], pad), "labels_in": ([text.labels for text in texts], NO_LABEL)}
    own = {name: pad_sequence(ids, True, filler) for name, (ids, filler) in rows.items()}
    own["attention_mask_in"] = (own["input_ids"] != pad).to(torch.uint8)
    return [exact(name, value, file.tensor(name)) for name, value in own.items()]


def _compared_sequences(file: GoldenFile, sequences: Sequences) -> list[Comparison]:
    return [
        close("inputs_embeds", sequences.embeddings, file.tensor("inputs_embeds")),
        exact("labels", sequences.labels, file.tensor("labels")),
        exact("attention_mask", sequences.attention_mask.to(torch.uint8), file.tensor("attention_mask")),
    ]


def _compared_positions(file: GoldenFile, positions: Tensor, mask: Tensor) -> Comparison:
    """What the language model counts, against what the released code works out and then leaves to its model as well.

    Models count columns. The released numbers begin with 0 at the first real position of a row, which is the same for
    rotary encoding: it sees differences alone.
    """
    positions = positions.expand(mask.shape)
    first = positions.gather(1, mask.long().argmax(1, keepdim=True))
    return exact("position_ids_internal", (positions - first) * mask, file.tensor("position_ids_internal"))


def _compared_logits(file: GoldenFile, logits: Tensor, sequences: Sequences) -> list[Comparison]:
    """All or some rows of the logits, those of padding at the left left out."""
    rows = file.tensor("logits_row_index") if file.has("logits_row_index") else torch.arange(logits.shape[1])
    name = "logits" if file.has("logits") else "logits_rows"
    seen = ~_blind(sequences)[:, rows]
    return [close(name, logits[:, rows][seen], file.tensor(name)[seen], LOGITS_TOLERANCE)]


def _blind(sequences: Sequences) -> Tensor:
    """(B, L): positions that see nothing: padding with nothing real before it."""
    return sequences.attention_mask.cumsum(1) == 0


def _with_golden_padding(file: GoldenFile, logits: Tensor, sequences: Sequences) -> Tensor:
    """The logits, at blind positions the golden ones.

    What attention makes of nothing differs between implementations, and the released code predicts the first real
    token of a row from there when it pads at the left; the kit never does.
    """
    blind = _blind(sequences)
    return torch.where(blind[..., None], file.tensor("logits"), logits) if bool(blind.any()) else logits


def _compared_gradients(file: GoldenFile, model: _Model, texts: Sequence[TokenizedText]) -> list[Comparison]:
    """Some gradients whole, of all their length; null is a parameter that this batch does not reach.

    The kit's are of 64 bits. In fp32 a unit of the perceiver that lies 6e-8 from the bend of its ReLU falls to either
    side, as a CPU orders its sums, and that moves gradients by 1e-4.
    """
    for part in model.parts().values():
        part.double()
    _, sequences = model.assembled(file, texts)
    logits = logits_of(model.decoder, sequences.embeddings, sequences.attention_mask)
    mean_loss(logits, sequences.labels).backward()
    gradients: dict[str, Tensor | None] = {}
    for place, part in model.parts().items():
        for name, parameter in part.named_parameters():
            gradients[str(released_name(f"{place}.{name}"))] = parameter.grad
    norms = file.said("grad_norms")
    found = [
        exact(
            "parameters with a gradient", sorted(_reached(gradients)), sorted(k for k in norms if norms[k] is not None)
        )
    ]
    for name, golden in norms.items():
        own = gradients.get(name)
        if golden is not None and own is not None:
            # Keys' biases change nothing: their gradients are rounding alone, and no share of them can be compared.
            share = (own.norm() - golden) / max(golden, _SHORT)
            tolerance = _LONG_SUM_TOLERANCE if own.numel() > _LONG_SUM else _LENGTH_TOLERANCE
            found.append(close("length of the gradient", share, torch.zeros(()), tolerance, name))
        if golden is not None and file.has(f"grad.{name}") and own is not None:
            found.append(close("gradient", own, file.tensor(f"grad.{name}"), of=name))
    return found


def _reached(gradients: Mapping[str, Tensor | None]) -> list[str]:
    """The kit gives what later frames alone reach a gradient of zero in images; that is none."""
    return [name for name, gradient in gradients.items() if gradient is not None and bool(gradient.any())]
