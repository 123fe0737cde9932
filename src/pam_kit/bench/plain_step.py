"""A training step written down plainly, which the kit's own is measured against: nothing is shared or left out.

It is what a first reading of the paper suggests: every region is a sample of its own that brings its picture along, all
questions are padded to one length, and the language model says something about every position.
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from pam_kit.contracts import RegionBatch
from pam_kit.model import RegionVLM

_IGNORED = -100


def plain_loss(model: RegionVLM, batch: RegionBatch) -> Tensor:
    """The loss () that ``model(batch).text.loss`` has, of a decoder without a chat format (``template: plain``)."""
    prefixes = [_prefix(model, batch, region) for region in range(len(batch))]
    sequences, labels = [], []
    asked = batch.questions
    for region, question, answer in zip(asked.region_index.tolist(), asked.questions, asked.answers, strict=True):
        question_ids, answer_ids = _ids(model, f"{question}\n"), _ids(model, answer, ended=True)
        words = model.decoder.lm.get_input_embeddings()(torch.cat([question_ids, answer_ids]))
        sequences.append(torch.cat([prefixes[region], words]))
        silent = len(prefixes[region]) + len(question_ids)
        labels.append(F.pad(answer_ids, (silent, 0), value=_IGNORED))
    mask = pad_sequence([torch.ones(len(row), dtype=torch.long) for row in sequences], batch_first=True)
    embeddings = pad_sequence(sequences, batch_first=True)
    logits = model.decoder.lm(
        inputs_embeds=embeddings, attention_mask=mask.to(embeddings.device), use_cache=False
    ).logits.float()
    # Position i predicts token i + 1. The labels move, since a copy of the logits would be large.
    following = F.pad(pad_sequence(labels, batch_first=True, padding_value=_IGNORED)[:, 1:], (0, 1), value=_IGNORED)
    return F.cross_entropy(logits.flatten(0, 1), following.flatten(), ignore_index=_IGNORED)


def _prefix(model: RegionVLM, batch: RegionBatch, region: int) -> Tensor:
    """(L, D): a region's embeddings, from a picture that is encoded for it alone."""
    image = int(batch.image_index[region])
    only = torch.tensor([region], device=batch.image_index.device)
    regions = model.segment(batch.images[image : image + 1], torch.zeros_like(only), batch.prompts.of_rows(only))
    return model.prefix(model.perceive(regions))[0]


def _ids(model: RegionVLM, text: str, ended: bool = False) -> Tensor:
    tokenizer = model.decoder.tokenizer
    ids = tokenizer(text, add_special_tokens=False).input_ids + [tokenizer.eos_token_id] * ended
    return torch.tensor(ids, device=next(model.decoder.parameters()).device)
