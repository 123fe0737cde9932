"""Any Hugging Face causal language model as the decoder."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from transformers import AutoConfig, GenerationConfig, PreTrainedConfig, PreTrainedModel

from pam_kit.components.decoders.adapters import add_adapters, merge_adapters
from pam_kit.components.decoders.chat import ChatFormat, ChatTemplate
from pam_kit.components.decoders.conversation import NO_LABEL, TokenizedText
from pam_kit.components.decoders.growing_cache import new_cache
from pam_kit.components.decoders.pretrained import (
    config_of_sizes,
    meaning,
    pretrained_config,
    pretrained_model,
    random_model,
    read_tokenizer,
    weight_files,
)
from pam_kit.components.decoders.quantised import leave_base_out_of_state, loading_options, lower_precision
from pam_kit.components.decoders.reading import CachedReading
from pam_kit.components.decoders.sequence import (
    Sequences,
    assemble,
    check_length,
    like_lengths,
    most_positions,
    num_supervised,
    prefix_lengths,
)
from pam_kit.components.decoders.text_losses import alignment_loss, prediction_losses
from pam_kit.components.decoders.tree_scoring import score_answers
from pam_kit.components.decoders.vocabulary import learn_tokenizer
from pam_kit.contracts import AnswerScores, Decoder, GeneratedText, Precision, Questions, Reading, Steps, TextLoss
from pam_kit.errors import CheckpointError, PamKitError, RecipeError
from pam_kit.registry import register
from pam_kit.weights import pretrained_weights_wanted

# Beside a saved tokenizer: the whole configuration of the language model, of which a recipe holds the sizes only.
_CONFIG_FOLDER = "language_model"


# The sizes stand here so that a recipe can be planned before the weights are at hand.
@register(
    "decoder",
    "causal_lm",
    presets={
        "qwen2_5_0_5b": {
            "path": "Qwen/Qwen2.5-0.5B-Instruct",
            "hidden_size": 896,
            "num_layers": 24,
            "num_heads": 14,
            "num_key_value_heads": 2,
            "intermediate_size": 4864,
            "vocab_size": 151936,
        },
        "qwen2_5_1_5b": {
            "path": "Qwen/Qwen2.5-1.5B-Instruct",
            "hidden_size": 1536,
            "num_layers": 28,
            "num_heads": 12,
            "num_key_value_heads": 2,
            "intermediate_size": 8960,
            "vocab_size": 151936,
        },
        "qwen2_5_3b": {
            "path": "Qwen/Qwen2.5-3B-Instruct",
            "hidden_size": 2048,
            "num_layers": 36,
            "num_heads": 16,
            "num_key_value_heads": 2,
            "intermediate_size": 11008,
            "vocab_size": 151936,
        },
        "pam_1_5b": {
            "path": "Qwen/Qwen2.5-1.5B-Instruct",
            "hidden_size": 1536,
            "num_layers": 28,
            "num_heads": 12,
            "num_key_value_heads": 2,
            "intermediate_size": 8960,
            "vocab_size": 151665,
            "resize_vocabulary": True,
            "template": "chatml",
            "supervision": "released",
            "max_positions": 12288,
        },
        "pam_3b": {
            "path": "Qwen/Qwen2.5-3B-Instruct",
            "hidden_size": 2048,
            "num_layers": 36,
            "num_heads": 16,
            "num_key_value_heads": 2,
            "intermediate_size": 11008,
            "vocab_size": 151665,
            "resize_vocabulary": True,
            "template": "chatml",
            "supervision": "released",
            "max_positions": 12288,
        },
    },
)
class CausalLM(Decoder):
    """A Hugging Face causal language model: pretrained from a folder or hub name, or random with a learned tokenizer.

    Args:
        path: local folder or hub name of pretrained weights and tokenizer; null starts from random weights.
        architecture: Hugging Face model type of a random model.
        hidden_size: width D. With a path, this and the next five say what is expected there; null takes what is there.
        num_layers: transformer layers.
        num_heads: attention heads.
        num_key_value_heads: key/value heads; null: as many as heads.
        intermediate_size: hidden width of the MLPs; null: four times the width.
        vocab_size: rows of the embedding; the learned tokenizer has at most this many entries.
        resize_vocabulary: give pretrained weights vocab_size rows, whatever they come with; null is one for each entry
            of the tokenizer. Qwen2.5 comes with 151936 rows for 151665 entries, the released PAM keeps the latter.
        max_length: longest sequence a random model is made for.
        max_positions: cut sequences behind that many positions, as the released PAM does behind 12288; null cuts
            nothing, and refuses what is longer than the model was made for.
        template: chatml is PAM's and Qwen's chat format, native the tokenizer's own, plain none.
        supervision: answer learns the answer and its end; released, with chatml, learns what the released PAM does: the
            assistant's whole turn and, anywhere, the chat tokens and line breaks that are tokens of their own.
        dtype: of the weights.
        quantize: keep the linear layers of pretrained weights in 8 bits (int8) or 4 (nf4); they are frozen and stay out
            of checkpoints, which read them from path again. Only adapters (lora_rank) learn then.
        lora_rank: rank of adapters beside the linear layers, all else being frozen; 0 is no adapters. Needs
            pam-kit[lora].
        lora_alpha: adapters are scaled by lora_alpha / lora_rank.
        lora_dropout: share of the adapters' inputs that is dropped in training.
        lora_targets: names of the layers that get an adapter, such as q_proj; null is every linear one of the
            transformer.
    """

    def __init__(
        self,
        path: str | None = None,
        architecture: str = "qwen2",
        hidden_size: int | None = None,
        num_layers: int | None = None,
        num_heads: int | None = None,
        num_key_value_heads: int | None = None,
        intermediate_size: int | None = None,
        vocab_size: int | None = None,
        resize_vocabulary: bool = False,
        max_length: int = 32768,
        max_positions: int | None = None,
        template: Literal["chatml", "native", "plain"] = "chatml",
        supervision: Literal["answer", "released"] = "answer",
        dtype: Literal["float32", "bfloat16", "float16"] = "float32",
        quantize: Literal["int8", "nf4"] | None = None,
        lora_rank: int = 0,
        lora_alpha: float = 16,
        lora_dropout: float = 0.0,
        lora_targets: list[str] | None = None,
    ):
        super().__init__()
        if supervision == "released" and template != "chatml":
            raise RecipeError([f"decoder.supervision=released needs decoder.template=chatml, not {template}"])
        if quantize and path is None:
            raise RecipeError([f"decoder.quantize={quantize} needs pretrained weights: give decoder.path"])
        self.template: ChatTemplate = template
        self.supervision, self.max_positions, self.quantize = supervision, max_positions, quantize
        self._adapters = (lora_rank, lora_alpha, lora_dropout, lora_targets)
        self.frozen = quantize is not None and not lora_rank
        self.tokenizer = None
        sizes = {
            "hidden_size": hidden_size,
            "num_hidden_layers": num_layers,
            "num_attention_heads": num_heads,
            "num_key_value_heads": num_key_value_heads,
            "intermediate_size": intermediate_size,
            "vocab_size": vocab_size,
        }
        torch_dtype = getattr(torch, dtype)
        if path is None or (hidden_size is not None and not self._reads_weights()):
            self._adopt(random_model(config_of_sizes(architecture, sizes, max_length), torch_dtype))
        else:
            self._start_from(path, sizes, torch_dtype, resize_vocabulary)
        if quantize:
            leave_base_out_of_state(self, "lm")

    def _reads_weights(self) -> bool:
        """Checkpoints hold no quantised weights, so these are read even where a checkpoint will be."""
        return pretrained_weights_wanted() or (self.quantize is not None and torch.get_default_device().type != "meta")

    def _start_from(self, path: str, sizes: dict[str, int | None], dtype: torch.dtype, resize_vocabulary: bool) -> None:
        expected = sizes | {"vocab_size": None} if resize_vocabulary else sizes
        if self._reads_weights():
            options = loading_options(self.quantize, dtype) if self.quantize else {}
            model = pretrained_model(path, expected, dtype, **options)
            self.weight_files = weight_files(path)
        else:
            model = random_model(pretrained_config(path, expected), dtype)
        tokenizer = read_tokenizer(path)
        if resize_vocabulary:
            model.resize_token_embeddings(sizes["vocab_size"] or len(tokenizer))
        self._adopt(model)
        self._use_tokenizer(tokenizer)

    def _adopt(self, model: PreTrainedModel) -> None:
        self.lm = model
        # Answers are greedy: what a model is published with, such as a repetition penalty, would bend them.
        self.lm.generation_config = GenerationConfig()
        words = self.lm.get_input_embeddings()
        self.embed_dim, self.vocabulary_size = words.embedding_dim, words.num_embeddings
        if self.quantize:
            self.lm.requires_grad_(False)
        if self._adapters[0]:
            add_adapters(self.lm, *self._adapters)

    def merge_adapters(self) -> None:
        """Fold the adapters into the weights, for export: a plain language model that answers as before.

        A quantised one gets plain weights again. What is saved then is a decoder of lora_rank=0 and quantize=null.
        """
        if not self._adapters[0]:
            raise PamKitError("this decoder has no adapters to merge; decoder.lora_rank is 0")
        merge_adapters(self.lm)
        self._adapters, self.quantize, self.frozen = (0, *self._adapters[1:]), None, False

    def needs_vocabulary(self) -> bool:
        return self.tokenizer is None

    def learn_vocabulary(self, texts: Iterable[str]) -> None:
        if not self.needs_vocabulary():
            return super().learn_vocabulary(texts)
        self._use_tokenizer(learn_tokenizer(texts, self.lm.config.vocab_size))

    def layers(self) -> list[torch.nn.Module]:
        count = self.lm.config.num_hidden_layers
        lists = (part for part in self.lm.modules() if isinstance(part, torch.nn.ModuleList) and len(part) == count)
        return list(next(lists))

    def save_tokenizer(self, folder: str) -> None:
        self._ready_format().tokenizer.save_pretrained(folder)
        self.lm.config.save_pretrained(Path(folder, _CONFIG_FOLDER))

    def load_tokenizer(self, folder: str) -> None:
        config_folder = Path(folder, _CONFIG_FOLDER)
        if config_folder.is_dir():
            self.follow_config(AutoConfig.from_pretrained(config_folder, trust_remote_code=False))
        self._use_tokenizer(read_tokenizer(folder))

    def follow_config(self, config: PreTrainedConfig) -> None:
        """Make the model anew where its sizes alone did not say all: rope base, norms, tied or scaled embeddings."""
        if meaning(config) != meaning(self.lm.config):
            if self.quantize:
                raise CheckpointError("the weights of decoder.path are not those that this run was quantised from")
            self._adopt(random_model(config, self.lm.dtype).to(self.lm.device))

    def num_supervised_tokens(self, questions: Questions, lengths: Sequence[int]) -> int:
        return self._num_supervised(self._examples(questions), _regions(questions), lengths)

    def _num_supervised(self, texts: list[TokenizedText], regions: list[list[int]], lengths: Sequence[int]) -> int:
        inside = [[lengths[region] for region in about] for about in regions]
        return sum(num_supervised(text, own, self.max_positions) for text, own in zip(texts, inside, strict=True))

    def forward(self, prefix: Sequence[Tensor] | Tensor, questions: Questions) -> TextLoss:
        texts, regions = self._examples(questions), _regions(questions)
        if self.max_positions and not self._num_supervised(texts, regions, prefix_lengths(prefix)):
            raise PamKitError(f"decoder.max_positions={self.max_positions} cuts off all that could be learned")
        total, tokens, positions = self._losses(prefix, texts, regions)
        return TextLoss(total.sum() / tokens.sum(), total / tokens.clamp_min(1), tokens.sum(), positions)

    def _losses(
        self, prefix: Sequence[Tensor] | Tensor, texts: list[TokenizedText], regions: list[list[int]]
    ) -> tuple[Tensor, Tensor, int]:
        """The summed loss of each of Q texts and its supervised tokens, (Q,) each, and the positions of all texts."""
        taken = prefix_lengths(prefix)
        lengths = [len(t.ids) + sum(taken[r] - 1 for r in inside) for t, inside in zip(texts, regions, strict=True)]
        lengths = [min(length, self.max_positions or length) for length in lengths]
        order: list[int] = []
        sums, counts = [], []
        for rows in [list(range(len(lengths)))] if self.one_pass else like_lengths(lengths):
            sequences = self._assemble([texts[i] for i in rows], [regions[i] for i in rows], prefix)
            group_sums, group_counts = prediction_losses(self.lm, sequences)
            order += rows
            sums.append(group_sums)
            counts.append(group_counts)
        place = torch.tensor(order, device=sums[0].device).argsort()
        return torch.cat(sums)[place], torch.cat(counts)[place], sum(lengths)

    @torch.inference_mode()
    def log_likelihoods(self, prefix: Sequence[Tensor] | Tensor, questions: Questions) -> tuple[Tensor, Tensor]:
        form = self._ready_format()
        if self.supervision != "answer":
            form = ChatFormat(form.tokenizer, self.template)
        asked = zip(questions.questions, questions.answers, regions := _regions(questions), strict=True)
        texts = [form.example(question, answer, bool(inside)) for question, answer, inside in asked]
        if not texts:
            nothing = torch.zeros(0, device=self.lm.device)
            return nothing, nothing.long()
        total, tokens, _ = self._losses(prefix, texts, regions)
        said = torch.tensor([int((text.labels != NO_LABEL).sum()) for text in texts], device=tokens.device)
        if bool((tokens < said).any()):
            raise PamKitError(f"decoder.max_positions={self.max_positions} cuts off a text that is to be scored")
        return -total, tokens

    def score_answers(
        self, prefix: Sequence[Tensor] | Tensor, questions: Questions, answers: Sequence[str]
    ) -> AnswerScores:
        return score_answers(self.lm, self._ready_format(), prefix, questions, answers, self.max_positions)

    def sequences(
        self, prefix: Sequence[Tensor] | Tensor, questions: Questions, padding_side: Literal["left", "right"] = "right"
    ) -> Sequences:
        """What ``forward`` puts before the language model, with all questions in one group; for comparisons."""
        return self._assemble(self._examples(questions), _regions(questions), prefix, padding_side)

    def align(self, tokens: Tensor, questions: Questions) -> Tensor:
        form, about = self._ready_format(), questions.region_index.tolist()
        answers = [form.words(answer) for answer, region in zip(questions.answers, about, strict=True) if region >= 0]
        table = self.lm.get_input_embeddings().weight
        return alignment_loss(table, tokens, answers, [region for region in about if region >= 0])

    def spell(self, characters: Tensor) -> Tensor:
        codes, places = characters.unique(return_inverse=True)
        ids = [self._ready_format().character(chr(code)) for code in codes.tolist()]
        return self.lm.get_input_embeddings()(torch.tensor(ids, dtype=torch.long, device=characters.device)[places])

    @torch.inference_mode()
    def generate(
        self, prefix: Sequence[Tensor] | Tensor, questions: Questions, max_new_tokens: int
    ) -> list[GeneratedText]:
        if not len(questions):
            return []
        form, regions = self._ready_format(), _regions(questions)
        ids = [form.prompt(q, bool(inside)) for q, inside in zip(questions.questions, regions, strict=True)]
        texts = [TokenizedText(prompt, torch.full_like(prompt, NO_LABEL)) for prompt in ids]
        prompts = self._assemble(texts, regions, prefix, padding_side="left")
        room = most_positions(self.lm.config) - prompts.embeddings.shape[1]
        output = self.lm.generate(
            inputs_embeds=prompts.embeddings,
            attention_mask=prompts.attention_mask.long(),
            # One process may answer alone, where the others have gathered the sharded layers for it.
            synced_gpus=False,
            generation_config=GenerationConfig(
                do_sample=False,
                max_new_tokens=int(min(max_new_tokens, max(room, 1))),
                eos_token_id=form.end,
                pad_token_id=form.pad,
                return_dict_in_generate=True,
                output_scores=True,
            ),
        )
        steps = self.lm.compute_transition_scores(output.sequences, output.scores, normalize_logits=True)
        return [form.answer(said, logs) for said, logs in zip(output.sequences, steps, strict=True)]

    def room(self, in_parts: bool = False) -> float:
        window = new_cache(self.lm.config)[1] if in_parts else float("inf")
        return min(most_positions(self.lm.config), self.max_positions or float("inf"), window)

    def question_length(self, question: str) -> int:
        return len(self._ready_format().prompt(question)) - 1

    def start_reading(self, count: int, steps: Steps = "growing") -> Reading:
        return CachedReading(self.lm, self._ready_format(), count, self.max_positions, steps)

    def lower_precision(self, precision: Precision, device: torch.device | None = None) -> None:
        if self.quantize:
            raise PamKitError(f"this decoder is quantised already (decoder.quantize={self.quantize})")
        lower_precision(self.lm, precision, device)

    def _examples(self, questions: Questions) -> list[TokenizedText]:
        form, regions = self._ready_format(), _regions(questions)
        asked = zip(questions.questions, questions.answers, regions, strict=True)
        return [form.example(question, answer, bool(inside)) for question, answer, inside in asked]

    def _assemble(self, texts, regions, prefix, padding_side: Literal["left", "right"] = "right") -> Sequences:
        words = self.lm.get_input_embeddings()
        found = assemble(words, texts, regions, prefix, padding_side, self.max_positions)
        check_length(found.embeddings.shape[1], self.lm.config)
        return found

    def _use_tokenizer(self, tokenizer) -> None:
        if len(tokenizer) > self.lm.config.vocab_size:
            raise CheckpointError(
                f"the tokenizer has {len(tokenizer)} entries, the decoder's embedding only {self.lm.config.vocab_size}"
            )
        self.tokenizer = tokenizer
        self._format = ChatFormat(tokenizer, self.template, self.supervision)

    def _ready_format(self) -> ChatFormat:
        if self.tokenizer is None:
            raise CheckpointError("the decoder has no tokenizer yet: train it, or load a run that has one")
        return self._format


def _regions(questions: Questions) -> list[list[int]]:
    """The regions that each question is about: one, or none where it is about text alone."""
    return [[region] if region >= 0 else [] for region in questions.region_index.tolist()]
