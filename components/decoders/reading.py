"""Regions read part by part, and questions about them answered from the keys and values of what was read."""

from collections.abc import Iterator, Sequence
from copy import copy
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Cache, PreTrainedModel

from pam_kit.components.decoders.chat import ChatFormat
from pam_kit.components.decoders.compiled_step import compiled_step
from pam_kit.components.decoders.conversation import around_region
from pam_kit.components.decoders.grouped_attention import sharing_heads, takes_booleans
from pam_kit.components.decoders.growing_cache import (
    cache_argument,
    concatenated,
    new_cache,
    of_fixed_size,
    roll_back,
    selected,
    up_to_the_last_keys,
)
from pam_kit.components.decoders.sequence import check_length, most_positions
from pam_kit.components.decoders.side_by_side import SideBySide
from pam_kit.components.decoders.spoken import SpokenAnswer
from pam_kit.components.decoders.tree_scoring import TreeScorer, scored
from pam_kit.components.decoders.vocabulary_rows import few_rows, only_rows
from pam_kit.contracts import AnswerScores, Questions, Reading, Spoken, Steps
from pam_kit.errors import CheckpointError, PamKitError

# What stands for the next token of a question whose answer has ended.
ENDED = -1


class CachedReading(Reading):
    """The keys and values of R regions in a language model, behind the words that stand ahead of a region.

    Answers go on behind what was read and are rolled back afterwards. All questions about a region share its keys and
    values, see ``SideBySide``, each at the positions it would have alone.

    Attributes:
        length: positions read of each region, the words ahead of it included.
        positions_computed: positions that have gone through the language model so far, of all rows and with padding.
        vocabulary_rows: logits (V,) computed so far.

    Args:
        model: the language model, in eval mode, with whatever adapters or quantised layers.
        form: its chat format.
        count: R, at least 1.
        max_positions: more positions are refused, since ``generate`` would cut them; null sets no such limit.
        steps: how the steps of an answer are computed, see ``Decoder.start_reading``.

    Raises:
        PamKitError: the model counts positions by itself, or its state cannot be rolled back.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        form: ChatFormat,
        count: int,
        max_positions: int | None = None,
        steps: Steps = "growing",
    ):
        if count < 1:
            raise PamKitError(f"a decoder reads at least one region, not {count}")
        self.model, self.form, self.count, self.max_positions, self.steps = model, form, count, max_positions, steps
        self.positions_computed = self.vocabulary_rows = 0
        self.length, self._lent = 0, False
        self._cache_name = cache_argument(model, "read part by part")
        self._cache, self._window = new_cache(model.config)
        self._ahead, _ = around_region(form.prompt("", True))
        with torch.inference_mode():
            # The words ahead are the same for all regions: one row of them is read.
            self.count = 1
            self._append(self._words(self._ahead[None].to(self._words.weight.device)))
            self.count = count
            self._cache = selected(self._cache, [0] * count) if self.length and count > 1 else self._cache

    @torch.inference_mode()
    def read(self, embeddings: Tensor) -> None:
        width = self._words.embedding_dim
        if embeddings.ndim != 3 or (embeddings.shape[0], embeddings.shape[2]) != (self.count, width):
            raise PamKitError(
                f"the next embeddings of {self.count} regions are ({self.count}, L, {width}), "
                f"not {tuple(embeddings.shape)}"
            )
        self._append(embeddings.to(self._words.weight))

    @torch.inference_mode()
    def say(self, questions: Questions, max_new_tokens: int) -> Iterator[Spoken]:
        if not len(questions):
            return
        tails, length = self._tails(questions), self.length
        longest = length + max(map(len, tails))
        self._check(longest)
        # As in ``generate``, answers end where the model does.
        room = max(most_positions(self.model.config) - longest, 1)
        steps = int(min(max_new_tokens, room))
        if steps < 1:
            raise PamKitError(f"an answer has at least one token; max_new_tokens is {max_new_tokens}")
        self._check(longest, steps - 1)
        about = questions.region_index.tolist()
        asked = sorted(set(about))
        # Another answer may be under way behind the same keys and values, between two of its steps.
        in_place = asked == list(range(self.count)) and not self._lent and self.steps == "growing"
        beside = SideBySide(
            [asked.index(region) for region in about], tails, len(asked), length, self._words.weight.device
        )
        cache = self._cache if in_place else self._unanswered(asked)
        if self.steps != "growing":
            cache = of_fixed_size(cache, range(len(asked)), beside.fix(steps))
        self._lent = self._lent or in_place
        try:
            yield from self._decode(cache, beside, steps)
        finally:
            if in_place:
                self._lent = False
                roll_back(self._cache, length)

    @torch.inference_mode()
    def score(self, questions: Questions, answers: Sequence[str]) -> AnswerScores:
        tails = self._tails(questions)
        # Another answer may be under way behind the same keys and values.
        cache = self._unanswered(range(self.count)) if self._lent else self._cache
        scorer = TreeScorer(self.model, cache, self.count, self.max_positions)
        about = questions.region_index.tolist()
        found = scored(scorer, self.form, list(zip(questions.questions, about, tails, strict=True)), answers)
        self.positions_computed += scorer.positions_computed
        self.vocabulary_rows += scorer.vocabulary_rows
        return found

    @torch.inference_mode()
    def of_rows(self, rows: Sequence[int]) -> "CachedReading":
        part = copy(self)
        part._cache, part.count, part._lent = self._unanswered(rows), len(rows), False
        part.positions_computed = part.vocabulary_rows = 0
        return part

    @torch.inference_mode()
    def joined(self, others: Sequence[Reading]) -> "CachedReading":
        parts = [self, *(other for other in others if isinstance(other, CachedReading))]
        if len(parts) <= len(others) or any(part.model is not self.model for part in parts):
            raise PamKitError("only what one decoder has read can be joined")
        if len({part.length for part in parts}) > 1:
            raise PamKitError("only readings of one length can be joined")
        whole = copy(self)
        caches = [part._unanswered(range(part.count)) for part in parts]
        whole._cache, whole.count, whole._lent = concatenated(caches), sum(part.count for part in parts), False
        whole.positions_computed = whole.vocabulary_rows = 0
        return whole

    @torch.inference_mode()
    def tensors(self) -> dict[str, Tensor]:
        # Copies: what is rolled back and read anew is written into the buffers that keys and values are views of.
        held = {"ahead": self._ahead.clone(), "count": torch.tensor(self.count)}
        held["positions_computed"] = torch.tensor(self.positions_computed)
        for index, layer in enumerate(self._cache.layers if self.length else ()):
            for name, part in (("keys", layer.keys), ("values", layer.values)):
                held[f"{name}.{index}"] = part[:, :, : self.length].clone(memory_format=torch.contiguous_format)
        return held

    @torch.inference_mode()
    def restore(self, tensors: dict[str, Tensor]) -> None:
        fresh, _ = new_cache(self.model.config)
        names = {f"{name}.{index}" for name in ("keys", "values") for index in range(len(fresh.layers))}
        numbers = {"ahead", "count", "positions_computed"}
        if set(tensors) not in (numbers, numbers | names) or not torch.equal(tensors["ahead"].cpu(), self._ahead):
            raise CheckpointError(
                "what was read does not fit this decoder: it is from a decoder of other layers or of another chat "
                "format; build the decoder from the same run folder"
            )
        device = self._words.weight.device
        if names <= set(tensors):
            for index, layer in enumerate(fresh.layers):
                layer.update(tensors[f"keys.{index}"].to(device), tensors[f"values.{index}"].to(device))
        self._cache, self.count, self.length, self._lent = fresh, int(tensors["count"]), fresh.get_seq_length(), False
        self.positions_computed = int(tensors["positions_computed"])

    @property
    def _words(self) -> nn.Embedding:
        return self.model.get_input_embeddings()

    def _append(self, embeddings: Tensor) -> None:
        """(R, L, D) behind what was read; no logits are made."""
        if self._lent:
            raise PamKitError("nothing can be read while an answer about it is under way: let it end, or close it")
        added = embeddings.shape[1]
        self._check(self.length + added)
        if added:
            places = torch.arange(self.length, self.length + added, device=embeddings.device)
            try:
                with sharing_heads(self.model.config), up_to_the_last_keys(self._cache):
                    self.model.base_model(**self._inputs(self._cache, embeddings, places.expand(self.count, -1), None))
                self.length += added
            finally:
                # Nothing stays that was read half-way.
                roll_back(self._cache, self.length)

    def _tails(self, questions: Questions) -> list[Tensor]:
        """The ids of each question that stand behind its region."""
        about = questions.region_index.tolist()
        if wrong := sorted({region for region in about if not 0 <= region < self.count}):
            raise PamKitError(
                f"{self.count} regions were read, numbered from 0; a question cannot be about region {wrong[0]}"
            )
        if self.length == len(self._ahead):
            raise PamKitError("nothing can be asked before anything was read of the regions")
        parts = [around_region(self.form.prompt(question, True)) for question in questions.questions]
        for question, (ahead, _) in zip(questions.questions, parts, strict=True):
            if not torch.equal(ahead, self._ahead):
                raise PamKitError(
                    f"the chat format puts other words ahead of the region for the question {question!r}, but those "
                    "were read before it was known; use decoder.template=chatml or plain"
                )
        return [behind for _, behind in parts]

    def _decode(self, cache: Cache, beside: SideBySide, steps: int) -> Iterator[Spoken]:
        """Greedy answers, step by step; what has ended is not computed any more."""
        ids, positions, mask, places = beside.words(self.form.pad)
        answers = [SpokenAnswer(self.form) for _ in beside.rows]
        going = list(range(len(answers)))
        for said in range(1, steps + 1):
            one_more = said > 1 and self.steps == "compiled"
            make = self._compiled_logits if one_more else self._logits
            logits = make(cache, self._words(ids), positions, mask, places).float()
            top = logits.max(-1)
            best, logs = top.indices.tolist(), (top.values - logits.logsumexp(-1)).tolist()
            del logits, top
            step = Spoken(torch.full((len(answers),), ENDED), [""] * len(answers), {})
            for question, word, log in zip(going, best, logs, strict=True):
                if answers[question].ended:
                    continue
                step.ids[question] = word
                step.pieces[question] = answers[question].add(word, log, said == steps)
                if answers[question].ended or said == steps:
                    step.ended[question] = answers[question].text()
            yield step
            if not (left := [row for row, question in enumerate(going) if not answers[question].ended]):
                return
            if said < steps:
                # Shapes that are to stay the same keep what has ended along.
                left = left if self.steps == "growing" else list(range(len(going)))
                going = [going[row] for row in left]
                places, positions, mask = beside.step(going, said - 1)
                words = torch.tensor([best[row] for row in left], device=places.device)
                ids = (
                    torch.full_like(positions, self.form.pad).flatten().index_copy(0, places, words).view_as(positions)
                )

    def _logits(
        self, cache: Cache, embeddings: Tensor, positions: Tensor, mask: Tensor | None, places: Tensor
    ) -> Tensor:
        """Logits (n, V) at ``places`` (n,) of the flattened ``embeddings`` (rows, L, D), which join the cache."""
        with sharing_heads(self.model.config), only_rows(self.model, places), few_rows(self.model):
            output = self.model(**self._inputs(cache, embeddings, positions, mask))
        self.vocabulary_rows += len(places)
        return output.logits

    def _compiled_logits(
        self, cache: Cache, embeddings: Tensor, positions: Tensor, mask: Tensor | None, places: Tensor
    ) -> Tensor:
        """As ``_logits``, of one step by compiled code, which is made once for all steps of these shapes."""
        with sharing_heads(self.model.config):
            output = compiled_step(self.model)(**self._inputs(cache, embeddings, positions, mask))
        self.vocabulary_rows += positions.numel()
        return output.logits.flatten(0, 1)[places]

    def _inputs(self, cache: Cache, embeddings: Tensor, positions: Tensor, mask: Tensor | None) -> dict[str, Any]:
        self.positions_computed += positions.numel()
        if mask is not None and not takes_booleans(self.model.config):
            mask = torch.zeros_like(mask, dtype=embeddings.dtype).masked_fill(~mask, torch.finfo(embeddings.dtype).min)
        held = {self._cache_name: cache}
        return {
            "inputs_embeds": embeddings,
            "attention_mask": mask,
            "position_ids": positions,
            "use_cache": True,
        } | held

    def _unanswered(self, rows: Sequence[int]) -> Cache:
        """Copies of what was read of these regions, also while an answer is under way behind it."""
        part = selected(self._cache, list(rows))
        roll_back(part, self.length)
        return part

    def _check(self, length: int, new_tokens: int = 0) -> None:
        check_length(length, self.model.config)
        if self.max_positions and length > self.max_positions:
            raise PamKitError(
                f"a reading of {length} positions is longer than decoder.max_positions={self.max_positions}, behind "
                "which a sequence is cut: read fewer frames or make fewer visual tokens (projector.ratio, "
                "projector.later_ratio)"
            )
        if length + new_tokens > self._window:
            raise PamKitError(
                f"a reading of {length + new_tokens} positions is longer than the window of {self._window} that this "
                "decoder's attention slides over it, and what leaves it cannot be put back after an answer: read "
                "fewer frames, make fewer visual tokens or use a decoder without a sliding window, such as qwen2"
            )
