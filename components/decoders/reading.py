"""Regions read part by part, and questions about them answered from the keys and values of what was read."""

import inspect
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import Cache, PreTrainedModel

from pam_kit.components.decoders.chat import ChatFormat
from pam_kit.components.decoders.conversation import REGION_ID
from pam_kit.components.decoders.grouped_attention import sharing_heads
from pam_kit.components.decoders.growing_cache import new_cache, selected
from pam_kit.components.decoders.sequence import check_length, most_positions
from pam_kit.contracts import GeneratedText, Questions, Reading
from pam_kit.errors import CheckpointError, PamKitError

# What ``on_step`` is given of a question whose answer has ended.
ENDED = -1


class CachedReading(Reading):
    """The keys and values of R regions in a language model, behind the words that stand ahead of a region.

    An answer goes on behind what was read and is rolled back afterwards. Questions of different length stand in one
    batch with their padding between what was read and their first word, each at the positions it would have alone.

    Attributes:
        length: positions read of each region, the words ahead of it included.
        positions_computed: positions that have gone through the language model so far, of all rows and with padding.

    Args:
        model: the language model, in eval mode, with whatever adapters or quantised layers.
        form: its chat format.
        count: R, at least 1.
        max_positions: more positions are refused, since ``generate`` would cut them; null sets no such limit.

    Raises:
        PamKitError: the model counts positions by itself, or its state cannot be rolled back.
    """

    def __init__(self, model: PreTrainedModel, form: ChatFormat, count: int, max_positions: int | None = None):
        if count < 1:
            raise PamKitError(f"a decoder reads at least one region, not {count}")
        accepted = inspect.signature(model.forward).parameters
        if "position_ids" not in accepted or "logits_to_keep" not in accepted:
            raise PamKitError(
                f"a {model.config.model_type} model cannot read part by part, since it counts positions by itself; "
                "use a decoder that is told them (position_ids), such as qwen2"
            )
        self.model, self.form, self.count, self.max_positions = model, form, count, max_positions
        self.positions_computed = 0
        self._cache_name = "cache" if "cache" in accepted else "past_key_values"
        self._cache, self._window = new_cache(model.config)
        self._ahead, _ = _around_region(form.prompt("", True))
        with torch.inference_mode():
            self._append(self._words(self._ahead[None].expand(count, -1)))

    @property
    def length(self) -> int:  # type: ignore[override]
        return self._cache.get_seq_length()

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
    def answer(
        self, questions: Questions, max_new_tokens: int, on_step: Callable[[Tensor], None] | None = None
    ) -> list[GeneratedText]:
        if not len(questions):
            return []
        tails, length = self._tails(questions), self.length
        longest = length + max(map(len, tails))
        self._check(longest)
        # As in ``generate``, answers end where the model does.
        room = max(most_positions(self.model.config) - longest, 1)
        steps = int(min(max_new_tokens, room))
        if steps < 1:
            raise PamKitError(f"an answer has at least one token; max_new_tokens is {max_new_tokens}")
        self._check(longest, steps - 1)
        rows = questions.region_index.to(self._words.weight.device)
        in_place = rows.tolist() == list(range(self.count))
        try:
            said = self._decode(self._cache if in_place else selected(self._cache, rows), tails, steps, on_step)
        finally:
            self._cache.crop(length - self.length)
        return [self.form.answer(ids, logs) for ids, logs in zip(*said, strict=True)]

    @torch.inference_mode()
    def tensors(self) -> dict[str, Tensor]:
        # Copies: what is rolled back and read anew is written into the buffers that keys and values are views of.
        held = {"ahead": self._ahead.clone(), "count": torch.tensor(self.count)}
        held["positions_computed"] = torch.tensor(self.positions_computed)
        for index, layer in enumerate(self._cache.layers if self.length else ()):
            for name, part in (("keys", layer.keys), ("values", layer.values)):
                held[f"{name}.{index}"] = part.clone(memory_format=torch.contiguous_format)
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
        self._cache, self.count = fresh, int(tensors["count"])
        self.positions_computed = int(tensors["positions_computed"])

    @property
    def _words(self) -> nn.Embedding:
        return self.model.get_input_embeddings()

    def _append(self, embeddings: Tensor) -> None:
        """(R, L, D) behind what was read; no logits but the last are made, and nobody looks at those."""
        added = embeddings.shape[1]
        self._check(self.length + added)
        if added:
            places = torch.arange(self.length, self.length + added, device=embeddings.device)
            self._logits(self._cache, embeddings, places.expand(self.count, -1), None)

    def _tails(self, questions: Questions) -> list[Tensor]:
        """The ids of each question that stand behind its region."""
        about = questions.region_index.tolist()
        if wrong := sorted({region for region in about if not 0 <= region < self.count}):
            raise PamKitError(
                f"{self.count} regions were read, numbered from 0; a question cannot be about region {wrong[0]}"
            )
        if self.length == len(self._ahead):
            raise PamKitError("nothing can be asked before anything was read of the regions")
        parts = [_around_region(self.form.prompt(question, True)) for question in questions.questions]
        for question, (ahead, _) in zip(questions.questions, parts, strict=True):
            if not torch.equal(ahead, self._ahead):
                raise PamKitError(
                    f"the chat format puts other words ahead of the region for the question {question!r}, but those "
                    "were read before it was known; use decoder.template=chatml or plain"
                )
        return [behind for _, behind in parts]

    def _decode(
        self, cache: Cache, tails: list[Tensor], steps: int, on_step: Callable[[Tensor], None] | None
    ) -> tuple[Tensor, Tensor]:
        """Greedy ids (Q, steps), ENDED behind an answer's end, and their log-probabilities (Q, steps)."""
        device = self._words.weight.device
        ids = pad_sequence(tails, True, self.form.pad, "left").to(device)
        positions, mask = self._places(tails, steps, device)
        ended, said, logs = torch.zeros(len(tails), dtype=torch.bool, device=device), [], []
        for _ in range(steps):
            logits = self._logits(cache, self._words(ids), positions, mask).float()
            best = logits.argmax(-1)
            logs.append(logits.log_softmax(-1).gather(1, best[:, None])[:, 0])
            said.append(best.masked_fill(ended, ENDED))
            if on_step:
                on_step(said[-1].clone())
            ended = ended | (best == self.form.end)
            if ended.all():
                break
            ids, positions = best[:, None], positions[:, -1:] + 1
        return torch.stack(said, 1), torch.stack(logs, 1)

    def _places(self, tails: list[Tensor], steps: int, device: torch.device) -> tuple[Tensor, Tensor | None]:
        """Positions (Q, T) of the padded tails, and which columns (Q, length + T + steps) are looked at; null: all."""
        lengths = torch.tensor([len(tail) for tail in tails], device=device)[:, None]
        columns = torch.arange(int(lengths.max()), device=device)
        inside = columns - (len(columns) - lengths)
        positions = self.length + inside.clamp_min(0)
        if bool((lengths == len(columns)).all()):
            return positions, None
        mask = torch.ones(len(tails), self.length + len(columns) + steps, dtype=torch.bool, device=device)
        mask[:, self.length : self.length + len(columns)] = inside >= 0
        return positions, mask

    def _logits(self, cache: Cache, embeddings: Tensor, positions: Tensor, mask: Tensor | None) -> Tensor:
        """Logits (rows, V) behind the last of ``embeddings`` (rows, L, D), which join the cache."""
        rows, added = embeddings.shape[:2]
        total = cache.get_seq_length() + added
        with sharing_heads(self.model.config):
            output = self.model(
                inputs_embeds=embeddings,
                attention_mask=None if mask is None else mask[:, :total],
                position_ids=positions,
                use_cache=True,
                logits_to_keep=1,
                **{self._cache_name: cache},
            )
        self.positions_computed += rows * added
        return output.logits[:, -1]

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


def _around_region(prompt: Tensor) -> tuple[Tensor, Tensor]:
    """The ids (T,) of a prompt ahead of its region and behind it."""
    place = int((prompt == REGION_ID).nonzero()[0])
    return prompt[:place], prompt[place + 1 :]
