"""Losses on the words of answers: what a language model predicts, and what tokens say without one."""

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel

from pam_kit.components.decoders.conversation import NO_LABEL
from pam_kit.components.decoders.sequence import Sequences
from pam_kit.components.decoders.vocabulary_rows import only_rows

# As sharp as contrastive image-text models use; the tokens have to choose their words.
ALIGNMENT_TEMPERATURE = 0.07


def prediction_losses(model: PreTrainedModel, sequences: Sequences) -> tuple[Tensor, Tensor]:
    """Cross-entropy summed over the labels of each of Q sequences, and the number of these, (Q,) each."""
    targets = sequences.labels[:, 1:]  # position i predicts token i + 1
    supervised = F.pad(targets != NO_LABEL, (0, 1))
    logits = logits_at(model, sequences.embeddings, supervised)
    losses = F.cross_entropy(logits, targets[targets != NO_LABEL], reduction="none")
    sums = losses.new_zeros(len(targets)).index_add(0, supervised.nonzero()[:, 0], losses)
    return sums, supervised.sum(1)


def logits_at(model: PreTrainedModel, embeddings: Tensor, supervised: Tensor) -> Tensor:
    """Logits (n, V) of the positions where ``supervised`` (Q, L) is True; no other is ever computed."""
    with only_rows(model, supervised.flatten()):
        return model(inputs_embeds=embeddings, use_cache=False).logits.float()


def alignment_loss(table: Tensor, tokens: Tensor, answers: list[Tensor], regions: list[int]) -> Tensor:
    """Mean negative log-probability of the words of answers under the tokens' similarity to all words, ().

    Args:
        table: (V, D) embeddings of the vocabulary.
        tokens: (R, N, D) of the regions.
        answers: ids (T,) of each answer; none is legal.
        regions: the region that each is about.
    """
    if not answers:
        return 0.0 * tokens.float().sum()
    words = torch.cat(answers).to(tokens.device)
    about = torch.tensor(regions).repeat_interleave(torch.tensor([len(answer) for answer in answers]))
    table = F.normalize(table.float(), dim=-1)
    similarity = F.normalize(tokens.float(), dim=-1) @ table.T / ALIGNMENT_TEMPERATURE  # (R, N, V)
    said = similarity.softmax(-1).mean(1)[about.to(tokens.device), words]
    # A word that many answers hold tells little about a region: all distinct words weigh the same together.
    weights = 1 / words.bincount(minlength=len(table))[words]
    return -(weights * said.clamp_min(1e-9).log()).sum() / weights.sum()
