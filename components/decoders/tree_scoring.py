"""Closed questions: how likely each of many answers is, over their tree, behind regions that are read once."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import Cache, PreTrainedModel

from pam_kit.components.decoders.answer_tree import AnswerTree, answer_words
from pam_kit.components.decoders.chat import ChatFormat
from pam_kit.components.decoders.conversation import around_region
from pam_kit.components.decoders.grouped_attention import sharing_heads
from pam_kit.components.decoders.growing_cache import cache_argument, new_cache, roll_back, selected
from pam_kit.components.decoders.sequence import check_length
from pam_kit.contracts import AnswerScores, Questions
from pam_kit.errors import PamKitError

# Logits that are held at once, in numbers: half a gigabyte in float32.
MOST_LOGITS = 1 << 27
# Nodes of a pass, for each region: attention among them takes the square of it.
MOST_NODES, FEWEST_NODES = 1024, 32
# Nodes whose logits are summed together: the sum of all would take their memory once more.
_NODES_TOGETHER = 32


@torch.inference_mode()
def score_answers(
    model: PreTrainedModel,
    form: ChatFormat,
    prefix: Sequence[Tensor] | Tensor,
    questions: Questions,
    answers: Sequence[str],
    max_positions: int | None = None,
) -> AnswerScores:
    """``Decoder.score_answers`` of a language model: each region is read once, each question behind it once.

    Regions are read together where they are equally long and the same words stand ahead of them.
    """
    asked = [_Asked.of(form, *pair) for pair in zip(questions.questions, questions.region_index.tolist(), strict=True)]
    together: dict[tuple, list[int]] = defaultdict(list)
    for number, one in enumerate(asked):
        length = len(prefix[one.region]) if one.region >= 0 else 0
        together[(one.region >= 0, length, tuple(one.ahead))].append(number)
    device = model.get_input_embeddings().weight.device
    found = torch.zeros(len(asked), len(answers), device=device)
    counts = torch.zeros(len(answers), dtype=torch.long, device=device)
    for numbers in together.values():
        regions = sorted({asked[number].region for number in numbers})
        first = asked[numbers[0]]
        scorer = TreeScorer.of(model, _read(model, first, regions, prefix), max_positions)
        about = [
            (one.question, regions.index(one.region), torch.tensor(one.behind))
            for one in map(asked.__getitem__, numbers)
        ]
        scores = scored(scorer, form, about, answers, first.region >= 0)
        found[numbers], counts = scores.log_probability, scores.num_tokens
    return AnswerScores(found, counts)


def scored(
    scorer: "TreeScorer",
    form: ChatFormat,
    asked: Sequence[tuple[str, int, Tensor]],
    answers: Sequence[str],
    about_region: bool = True,
) -> AnswerScores:
    """How likely each of K answers is to each of Q questions behind what a scorer has read; each question is read once.

    Args:
        asked: each question, which of the scorer's rows it is about, and its ids (T,) behind that.
        about_region: whether the rows are regions, or nothing.
    """
    by_question: dict[str, list[int]] = defaultdict(list)
    for number, (question, _, _) in enumerate(asked):
        by_question[question].append(number)
    parts: dict[int, Tensor] = {}
    for question, same in by_question.items():
        said = [answer_words(form, question, answer, about_region) for answer in answers]
        rows = sorted({asked[number][1] for number in same})
        scores = scorer.score(rows, asked[same[0]][2], AnswerTree.of(said))
        parts |= {number: scores[rows.index(asked[number][1])] for number in same}
        counts = [len(words) for words in said]
    values = torch.stack([parts[number] for number in range(len(asked))])
    return AnswerScores(values, torch.tensor(counts, device=values.device))


@dataclass(frozen=True)
class _Asked:
    """A question's ids ahead of its region and behind it; ``region`` is -1, and all is behind, where there is none."""

    question: str
    region: int
    ahead: list[int]
    behind: list[int]

    @classmethod
    def of(cls, form: ChatFormat, question: str, region: int) -> "_Asked":
        ids = form.prompt(question, region >= 0)
        ahead, behind = around_region(ids) if region >= 0 else (ids[:0], ids)
        return cls(question, region, ahead.tolist(), behind.tolist())


def _read(model: PreTrainedModel, asked: _Asked, regions: list[int], prefix: Sequence[Tensor] | Tensor):
    """(R, L, D): the words ahead of each region and the region; None where the questions are about none."""
    if asked.region < 0:
        return None
    words = model.get_input_embeddings()
    ahead = words(torch.tensor(asked.ahead, dtype=torch.long, device=words.weight.device))
    return torch.stack([torch.cat([ahead, prefix[region].to(words.weight)]) for region in regions])


class TreeScorer:
    """How likely answers are behind regions that were read once, whatever is asked about them.

    Attributes:
        positions_computed: positions that have gone through the language model so far, of all rows.
        vocabulary_rows: logits (V,) computed so far.

    Args:
        model: the language model, in eval mode.
        cache: the keys and values of R regions and the words ahead of them; it is rolled back after each score.
        count: R; 1 for questions about no region.
        max_positions: more positions are refused, since ``generate`` would cut them; null sets no such limit.

    Raises:
        PamKitError: the model counts positions by itself, has no mask of its own for each word, or its state cannot be
            rolled back.
    """

    def __init__(self, model: PreTrainedModel, cache: Cache, count: int, max_positions: int | None = None):
        self._cache_name = cache_argument(model, "score a tree of answers")
        if str(model.config._attn_implementation).startswith(("flash", "flex")):
            raise PamKitError(
                f"attention {model.config._attn_implementation!r} takes no mask of its own for each word, which a tree "
                "of answers needs; use sdpa or eager"
            )
        self.model, self.count, self.max_positions = model, count, max_positions
        self.positions_computed = self.vocabulary_rows = 0
        self._cache, self._window = cache, new_cache(model.config)[1]

    @classmethod
    def of(cls, model: PreTrainedModel, regions: Tensor | None, max_positions: int | None = None) -> "TreeScorer":
        """Read (R, L, D): the words ahead of each region and the region; None for questions about no region."""
        made = cls(model, new_cache(model.config)[0], 1 if regions is None else len(regions), max_positions)
        if regions is not None:
            places = torch.arange(regions.shape[1], device=regions.device)
            made._run(made._cache, regions, places, None, 1)
        return made

    def score(self, rows: Sequence[int], question: Tensor, tree: AnswerTree) -> Tensor:
        """Log-probabilities (q, K) of the answers of a tree, behind one question (T,) about the regions ``rows``.

        Memory is bounded: by the nodes of a pass, and by the regions of a pass where there are many.
        """
        length = self._cache.get_seq_length()
        self._check(length + len(question) + tree.depth - 1)
        together = max(1, MOST_LOGITS // (self.model.config.get_text_config().vocab_size * FEWEST_NODES))
        parts = [list(rows[start : start + together]) for start in range(0, len(rows), together)]
        return torch.cat([self._score(part, question, tree) for part in parts])

    def _score(self, rows: list[int], question: Tensor, tree: AnswerTree) -> Tensor:
        before = self._cache.get_seq_length()
        in_place = rows == list(range(self.count))
        chosen = torch.tensor(rows, device=self._words.weight.device)
        cache = self._cache if in_place or not before else selected(self._cache, chosen)
        try:
            return tree.along(self._steps(cache, len(rows), question, tree))
        finally:
            roll_back(cache, before)

    def _steps(self, cache: Cache, rows: int, question: Tensor, tree: AnswerTree) -> Tensor:
        """Log-probabilities (rows, N) of the word of each node behind its parent; 0 at the root."""
        device = self._words.weight.device
        start = cache.get_seq_length()
        asked = self._words(question.to(device)).expand(rows, -1, -1)
        logits = self._run(cache, asked, start + torch.arange(len(question), device=device), None, 1)
        steps = torch.zeros(rows, len(tree.words), device=device)
        _follow(steps, tree, [0], logits)
        start = cache.get_seq_length()
        most = min(MOST_NODES, max(FEWEST_NODES, MOST_LOGITS // (rows * logits.shape[-1])))
        del logits
        for nodes, known in tree.parts(most):
            embeddings = self._words(tree.words[nodes].to(device)).expand(rows, -1, -1)
            places = start - 1 + tree.depths[nodes].to(device)
            mask = torch.zeros(len(nodes), start + len(nodes), dtype=embeddings.dtype, device=device)
            mask[:, start:].masked_fill_(~tree.visible(nodes).to(device), torch.finfo(embeddings.dtype).min)
            logits = self._run(cache, embeddings, places, mask[None, None], len(nodes) - known)
            _follow(steps, tree, nodes[known:], logits)
            roll_back(cache, start)
        return steps

    def _run(self, cache: Cache, embeddings: Tensor, places: Tensor, mask: Tensor | None, keep: int) -> Tensor:
        """Logits (rows, keep, V) behind the last of ``embeddings`` (rows, n, D), which join the cache."""
        self._check(int(places.max()) + 1)
        self.positions_computed += embeddings.shape[:2].numel()
        self.vocabulary_rows += len(embeddings) * keep
        with sharing_heads(self.model.config):
            return self.model(
                inputs_embeds=embeddings,
                attention_mask=mask,
                position_ids=places.expand(len(embeddings), -1),
                use_cache=True,
                logits_to_keep=keep,
                **{self._cache_name: cache},
            ).logits

    @property
    def _words(self) -> nn.Embedding:
        return self.model.get_input_embeddings()

    def _check(self, length: int) -> None:
        check_length(length, self.model.config)
        if self.max_positions and length > self.max_positions:
            raise PamKitError(
                f"an answer that ends at position {length} is behind decoder.max_positions={self.max_positions}, where "
                "a sequence is cut: make fewer visual tokens (projector.ratio, projector.later_ratio)"
            )
        if length > self._window:
            raise PamKitError(
                f"an answer that ends at position {length} is behind the window of {self._window} that this decoder's "
                "attention slides over a region: make fewer visual tokens (projector.ratio, projector.later_ratio) or "
                "use a decoder without one, such as qwen2"
            )


def _follow(steps: Tensor, tree: AnswerTree, nodes: Sequence[int], logits: Tensor) -> None:
    """Write the log-probabilities of the words that come behind ``nodes``, whose ``logits`` (rows, n, V) are given."""
    row_of = torch.full((len(tree.words),), -1)
    row_of[list(nodes)] = torch.arange(len(nodes))
    below = row_of[tree.parents]
    below[0] = -1
    children = (below >= 0).nonzero()[:, 0]
    rows, words = below[children].to(logits.device), tree.words[children].to(logits.device)
    total = torch.cat([part.float().logsumexp(-1) for part in logits.split(_NODES_TOGETHER, 1)], 1)
    steps[:, children.to(steps.device)] = logits[:, rows, words].float() - total[:, rows]
