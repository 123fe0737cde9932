"""The whole way: a picture or a clip and a prompt, to embeddings, logits, loss, greedy words and masks."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from pam_kit.components.decoders.conversation import ChatML, read_conversation
from pam_kit.contracts import Questions, RegionFeatures
from pam_kit.data.clips import sampled_frames
from pam_kit.data.prepare import Geometry
from pam_kit.model import RegionVLM
from pam_kit.registry import find
from pam_kit.training.parity.golden_file import GoldenFile, GoldenFileError
from pam_kit.training.parity.language import LOGITS_TOLERANCE, build_decoder, logits_of
from pam_kit.training.parity.prompts import prompted_picture, region_prompt
from pam_kit.training.parity.report import Comparison, close, exact
from pam_kit.training.parity.sam2 import MASK_LOGITS_TOLERANCE, build_sam2, full_size
from pam_kit.training.parity.sequence import RELEASED_FRAMES, plain_questions
from pam_kit.training.parity.text import conversation_of, text_of
from pam_kit.training.parity.weights import fill

_CONFIG = "sam2.1_hiera_t.yaml"
_MASK_STRIDE = 8
_ROW_STRIDE = 8
# The clip is one picture, moved on by so many rows and columns each frame and wrapped around.
_MOVED = (2, 3)


def check_end_to_end(file: GoldenFile) -> list[Comparison]:
    """A whole kit model with the formula's weights, asked about a picture by several prompts and about a clip."""
    config = file.said("config")
    backbone = build_sam2(file.about.get("sam_config", _CONFIG), file.said("sam_overrides"))
    decoder = build_decoder(config, file)
    perceiver = find("perceiver", "pam").build(embed_dim=backbone.embed_dim)
    projector = find("projector", "pam").build(embed_dim=backbone.embed_dim, output_dim=decoder.embed_dim)
    model = RegionVLM(backbone, perceiver, projector, decoder).eval()
    found = fill(dict(model.named_children()), file)
    with torch.inference_mode():
        for entry in file.said("prompts"):
            found += _compared_picture(model, file, entry)
        if file.has("video.base_uint8"):
            found += _compared_clip(model, file)
    return found


def _compared_picture(model: RegionVLM, file: GoldenFile, entry: dict[str, Any]) -> list[Comparison]:
    name = entry["name"]
    picture = file.tensor("image_uint8")
    prompt = region_prompt(entry["visual_prompt"], entry["labels"])
    batch = prompted_picture(picture, prompt, Geometry.of(model.backbone))
    regions = model.segment(batch.images, batch.image_index, batch.prompts)
    prefix = model.prefix(model.perceive(regions))
    questions, found = _asked(model, file, f"{name}.", name)
    sequences = model.decoder.sequences(prefix, questions)
    logits = logits_of(model.decoder, sequences.embeddings, sequences.attention_mask)
    golden = file.tensor(f"{name}.greedy_ids")
    with _recorded_words(model) as said:
        model.decoder.generate(prefix, questions, max_new_tokens=golden.shape[1])
    own = {
        "inputs_embeds": sequences.embeddings,
        "loss": model.decoder(prefix, questions).loss[None],
        "score": regions.object_score[:, None],
    }
    found += [close(what, value, file.tensor(f"{name}.{what}"), of=name) for what, value in own.items()]
    masks = file.tensor(f"{name}.mask_logits_strided")
    found.append(close("mask_logits_strided", _mask(regions, picture), masks, MASK_LOGITS_TOLERANCE, name))
    found.append(exact("labels", sequences.labels, file.tensor(f"{name}.labels"), of=name))
    found.append(exact("greedy_ids", torch.stack(said, dim=1), golden, of=name))
    return found + _compared_logits(file, f"{name}.logits", logits, name)


def _compared_clip(model: RegionVLM, file: GoldenFile) -> list[Comparison]:
    base, count = file.tensor("video.base_uint8"), int(file.tensor("video.num_frames"))
    frames = [base.roll((i * _MOVED[0], i * _MOVED[1]), (0, 1)) for i in range(count)]
    prompt, geometry = region_prompt(file.said("video_prompt"), None), Geometry.of(model.backbone)
    batches = (prompted_picture(frame, prompt, geometry) for frame in frames)
    prompts = prompted_picture(base, prompt, geometry).prompts
    read = sampled_frames(count, RELEASED_FRAMES)
    _, tokens = model.follow((batch.images[0] for batch in batches), read, prompts)
    prefix = model.prefix(tokens)
    questions, found = _asked(model, file, "video.", "clip")
    sequences = model.decoder.sequences(prefix, questions)
    logits = logits_of(model.decoder, sequences.embeddings, sequences.attention_mask)
    loss = model.decoder(prefix, questions).loss[None]
    found.append(close("loss", loss, file.tensor("video.loss"), of="clip"))
    return found + _compared_logits(file, "video.logits", logits, "clip")


def _asked(model: RegionVLM, file: GoldenFile, prefix: str, of: str) -> tuple[Questions, list[Comparison]]:
    """The question and answer that the golden ids spell, and the ids that the kit gives them."""
    tokenizer = model.decoder.tokenizer
    golden = file.tensor(f"{prefix}input_ids")
    conversation = conversation_of(text_of(golden[0], tokenizer))
    questions = plain_questions([conversation], [[0]])
    if questions is None:
        raise GoldenFileError(f"{prefix}input_ids are more than a question about a region and its answer")
    own = ChatML(tokenizer).conversation(read_conversation(conversation), "released").ids
    return questions, [exact("input_ids", own[None], golden, of=of)]


def _compared_logits(file: GoldenFile, name: str, logits: Tensor, of: str) -> list[Comparison]:
    """The first entries of the vocabulary at all or at some positions, and the normaliser over all entries."""
    found = []
    for stored, step in ((name, 1), (f"{name}_rows", _ROW_STRIDE)):
        if file.has(stored):
            golden = file.tensor(stored)
            own = logits[:, ::step, : golden.shape[-1]]
            found.append(close(stored.rpartition(".")[2], own, golden, LOGITS_TOLERANCE, of))
    golden = file.tensor(f"{name}_logsumexp")
    return [*found, close("logits_logsumexp", logits.logsumexp(-1), golden, LOGITS_TOLERANCE, of)]


def _mask(regions: RegionFeatures, picture: Tensor) -> Tensor:
    shown = full_size(regions.mask_logits, picture.shape[0], picture.shape[1])
    return shown[..., ::_MASK_STRIDE, ::_MASK_STRIDE]


@contextmanager
def _recorded_words(model: RegionVLM) -> Iterator[list[Tensor]]:
    """The most likely id (Q,) of each step that the language model takes meanwhile."""
    said: list[Tensor] = []
    handle = model.decoder.lm.register_forward_hook(lambda _m, _i, output: said.append(output.logits[:, -1].argmax(-1)))
    try:
        yield said
    finally:
        handle.remove()
