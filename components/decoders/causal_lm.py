"""Any Hugging Face causal language model as the decoder."""

from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig, PreTrainedConfig

from pam_kit.components.decoders.chat import ChatTemplate, chat_pieces, end_of_answer
from pam_kit.components.decoders.vocabulary import learn_tokenizer
from pam_kit.contracts import Decoder, GeneratedText, Questions, TextLoss
from pam_kit.errors import CheckpointError
from pam_kit.registry import register
from pam_kit.weights import pretrained_weights_wanted

_NO_LABEL = -100
# Beside a saved tokenizer: the whole configuration of the language model, of which a recipe holds the sizes only.
_CONFIG_FOLDER = "language_model"
# As sharp as contrastive image-text models use; the tokens have to choose their words.
ALIGNMENT_TEMPERATURE = 0.07
# A batch is split by length when that leaves at most this share of its positions.
WORTH_SPLITTING = 0.85


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
        max_length: longest sequence a random model is made for.
        template: chatml is PAM's and Qwen's chat format, native the tokenizer's own, plain none.
        dtype: of the weights.
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
        max_length: int = 32768,
        template: Literal["chatml", "native", "plain"] = "chatml",
        dtype: Literal["float32", "bfloat16", "float16"] = "float32",
    ):
        super().__init__()
        sizes = {
            "hidden_size": hidden_size,
            "num_hidden_layers": num_layers,
            "num_attention_heads": num_heads,
            "num_key_value_heads": num_key_value_heads,
            "intermediate_size": intermediate_size,
            "vocab_size": vocab_size,
        }
        self.template: ChatTemplate = template
        self.tokenizer = None
        torch_dtype = getattr(torch, dtype)
        if path is None or (hidden_size is not None and not pretrained_weights_wanted()):
            self.lm = AutoModelForCausalLM.from_config(_config(architecture, sizes, max_length), dtype=torch_dtype)
        else:
            self.lm = _pretrained(path, sizes, torch_dtype)
            self._use_tokenizer(_read_tokenizer(path))
        # Answers are greedy: what a model is published with, such as a repetition penalty, would bend them.
        self.lm.generation_config = GenerationConfig()
        self.embed_dim = self.lm.get_input_embeddings().embedding_dim

    def needs_vocabulary(self) -> bool:
        return self.tokenizer is None

    def learn_vocabulary(self, texts: Iterable[str]) -> None:
        if not self.needs_vocabulary():
            return super().learn_vocabulary(texts)
        self._use_tokenizer(learn_tokenizer(texts, self.lm.config.vocab_size))

    def layers(self) -> list[torch.nn.Module]:
        return list(self.lm.base_model.layers)

    def save_tokenizer(self, folder: str) -> None:
        self._ready_tokenizer().save_pretrained(folder)
        self.lm.config.save_pretrained(Path(folder, _CONFIG_FOLDER))

    def load_tokenizer(self, folder: str) -> None:
        config_folder = Path(folder, _CONFIG_FOLDER)
        if config_folder.is_dir():
            self._follow(AutoConfig.from_pretrained(config_folder))
        self._use_tokenizer(_read_tokenizer(folder))

    def forward(self, prefix: Tensor, questions: Questions) -> TextLoss:
        pieces = [self._text_ids(q, a) for q, a in zip(questions.questions, questions.answers, strict=True)]
        order, sums, counts = [], [], []
        for rows in _like_lengths([len(ids) for ids, _ in pieces], prefix.shape[1]):
            group_sums, group_counts = self._losses(prefix, questions.region_index[rows], [pieces[i] for i in rows])
            order += rows
            sums.append(group_sums)
            counts.append(group_counts)
        place = torch.tensor(order, device=prefix.device).argsort()
        total, tokens = torch.cat(sums)[place], torch.cat(counts)[place]
        return TextLoss(loss=total.sum() / tokens.sum(), per_question=total / tokens, num_tokens=tokens.sum())

    def _losses(self, prefix: Tensor, region_index: Tensor, pieces: list[tuple[Tensor, Tensor]]):
        """Summed loss and number of supervised tokens of some questions, (q,) each."""
        embeddings, before = self._embed(prefix, region_index, [ids for ids, _ in pieces])
        labels = pad_sequence([labels for _, labels in pieces], True, _NO_LABEL).to(prefix.device)
        first_text = before + prefix.shape[1]
        supervised = torch.zeros(embeddings.shape[:2], dtype=torch.bool, device=prefix.device)
        supervised[:, first_text - 1 : -1] = labels != _NO_LABEL  # position i predicts token i + 1
        losses = F.cross_entropy(self._logits_at(embeddings, supervised), labels[labels != _NO_LABEL], reduction="none")
        sums = losses.new_zeros(len(pieces)).index_add(0, supervised.nonzero()[:, 0], losses)
        return sums, supervised.sum(1)

    def align(self, tokens: Tensor, questions: Questions) -> Tensor:
        ids = [self._ids(answer) for answer in questions.answers]
        rows = torch.cat([torch.full_like(words, i) for i, words in enumerate(ids)]).to(tokens.device)
        table = F.normalize(self.lm.get_input_embeddings().weight.float(), dim=-1)
        similarity = F.normalize(tokens.float(), dim=-1) @ table.T / ALIGNMENT_TEMPERATURE  # (R, N, V)
        words = torch.cat(ids).to(tokens.device)
        said = similarity.softmax(-1).mean(1)[questions.region_index[rows], words]
        # A word that many answers hold tells little about a region: all distinct words weigh the same together.
        weights = 1 / words.bincount(minlength=len(table))[words]
        return -(weights * said.clamp_min(1e-9).log()).sum() / weights.sum()

    @torch.inference_mode()
    def generate(self, prefix: Tensor, questions: Questions, max_new_tokens: int) -> list[GeneratedText]:
        if not len(questions):
            return []
        texts = [self._ids(chat_pieces(self._ready_tokenizer(), self.template, q)[1]) for q in questions.questions]
        embeddings, before = self._embed(prefix, questions.region_index, texts)
        lengths = torch.tensor([len(ids) for ids in texts], device=prefix.device) + before + prefix.shape[1]
        embeddings, mask = _left_padded(embeddings, lengths)
        output = self.lm.generate(
            inputs_embeds=embeddings,
            attention_mask=mask,
            generation_config=GenerationConfig(
                do_sample=False,
                max_new_tokens=max_new_tokens,
                eos_token_id=self._end,
                pad_token_id=self._pad,
                return_dict_in_generate=True,
                output_scores=True,
            ),
        )
        steps = self.lm.compute_transition_scores(output.sequences, output.scores, normalize_logits=True)
        return [self._answer(ids, logs) for ids, logs in zip(output.sequences, steps, strict=True)]

    def _follow(self, saved: PreTrainedConfig) -> None:
        """Make the model anew where its sizes alone did not say all: rope base, norms, tied or scaled embeddings."""
        if _settings(saved) != _settings(self.lm.config):
            self.lm = AutoModelForCausalLM.from_config(saved, dtype=self.lm.dtype).to(self.lm.device)
            self.lm.generation_config = GenerationConfig()

    def _answer(self, ids: Tensor, log_probabilities: Tensor) -> GeneratedText:
        ended = (ids == self._end).nonzero()
        stop = int(ended[0]) + 1 if len(ended) else len(ids)
        text = self._ready_tokenizer().decode(ids[:stop], skip_special_tokens=True).strip()
        return GeneratedText(text=text, score=float(log_probabilities[:stop].mean().exp()))

    def _embed(self, prefix: Tensor, region_index: Tensor, texts: list[Tensor]) -> tuple[Tensor, int]:
        """[before | region | text] of every question, right-padded: (Q, L, D), and the length of ``before``."""
        words = self.lm.get_input_embeddings()
        before = self._ids(chat_pieces(self._ready_tokenizer(), self.template, "")[0]).to(prefix.device)
        text = words(pad_sequence(texts, True, self._pad).to(prefix.device))
        regions = prefix.to(text.dtype)[region_index]
        return torch.cat([words(before).expand(len(text), -1, -1), regions, text], dim=1), len(before)

    def _logits_at(self, embeddings: Tensor, supervised: Tensor) -> Tensor:
        """Logits (n, V) of the positions where ``supervised`` (Q, L) is True; no other is ever computed.

        The rows are picked in front of the model's own vocabulary projection, so that what it does after it
        (scaling, soft-capping) stays its own.
        """

        def pick(_module, inputs):
            return (inputs[0][supervised],)

        hook = self.lm.get_output_embeddings().register_forward_pre_hook(pick)
        try:
            return self.lm(inputs_embeds=embeddings, use_cache=False).logits.float()
        finally:
            hook.remove()

    def _text_ids(self, question: str, answer: str) -> tuple[Tensor, Tensor]:
        """Ids of question and answer, and their labels."""
        asked = self._ids(chat_pieces(self._ready_tokenizer(), self.template, question)[1])
        said = torch.cat([self._ids(answer), torch.tensor([self._end])])
        return torch.cat([asked, said]), torch.cat([torch.full_like(asked, _NO_LABEL), said])

    def _use_tokenizer(self, tokenizer) -> None:
        if len(tokenizer) > self.lm.config.vocab_size:
            raise CheckpointError(
                f"the tokenizer has {len(tokenizer)} entries, the decoder's embedding only {self.lm.config.vocab_size}"
            )
        self.tokenizer = tokenizer
        self._end = end_of_answer(tokenizer, self.template)
        self._pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else self._end
        self._encode = lru_cache(maxsize=4096)(lambda text: tokenizer(text, add_special_tokens=False).input_ids)

    def _ids(self, text: str) -> Tensor:
        self._ready_tokenizer()
        return torch.tensor(self._encode(text), dtype=torch.long)

    def _ready_tokenizer(self):
        if self.tokenizer is None:
            raise CheckpointError("the decoder has no tokenizer yet: train it, or load a run that has one")
        return self.tokenizer


def _like_lengths(lengths: list[int], prefix: int) -> list[list[int]]:
    """Rows in one group, or in a short and a long one where that saves enough padding to be worth a second pass."""
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    whole = len(order) * (prefix + lengths[order[-1]])
    costs = [
        cut * (prefix + lengths[order[cut - 1]]) + (len(order) - cut) * (prefix + lengths[order[-1]])
        for cut in range(1, len(order))
    ]
    if not costs or min(costs) > WORTH_SPLITTING * whole:
        return [order]
    cut = 1 + costs.index(min(costs))
    return [order[:cut], order[cut:]]


def _left_padded(embeddings: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Move the padding of (Q, L, D) rows from the right to the left; also their attention mask (Q, L)."""
    longest = embeddings.shape[1]
    source = torch.arange(longest, device=embeddings.device) - (longest - lengths)[:, None]
    mask = source >= 0
    rows = torch.arange(len(lengths), device=embeddings.device)[:, None]
    return embeddings[rows, source.clamp_min(0)] * mask[..., None], mask.long()


def _config(architecture: str, sizes: dict[str, int | None], max_length: int) -> PreTrainedConfig:
    needed = ("hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size")
    missing = [name for name in needed if sizes[name] is None]
    if missing:
        raise CheckpointError(f"a decoder without a path needs its sizes; missing: {', '.join(missing)}")
    given = {name: size for name, size in sizes.items() if size is not None}
    given.setdefault("num_key_value_heads", given["num_attention_heads"])
    given.setdefault("intermediate_size", 4 * given["hidden_size"])
    return AutoConfig.for_model(
        architecture, **given, max_position_embeddings=max_length, tie_word_embeddings=True, use_cache=True
    )


def _settings(config: PreTrainedConfig) -> dict:
    """What the weights mean, without where they came from and what they were stored as."""
    about = ("_name_or_path", "architectures", "dtype", "transformers_version")
    return {key: value for key, value in config.to_dict().items() if key not in about}


def _pretrained(path: str, sizes: dict[str, int | None], dtype: torch.dtype):
    try:
        config = AutoConfig.from_pretrained(path)
        wrong = [
            f"{k} is {getattr(config, k)}, not {v}" for k, v in sizes.items() if v not in (None, getattr(config, k))
        ]
        if wrong:
            raise CheckpointError(f"{path} is not the model the recipe describes: {'; '.join(wrong)}")
        if not pretrained_weights_wanted():
            return AutoModelForCausalLM.from_config(config, dtype=dtype)
        return AutoModelForCausalLM.from_pretrained(path, dtype=dtype)
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"cannot load the decoder from {path!r}: it is neither a local folder with config.json and weights nor a "
            f"hub name that can be reached from here. Download it first and give the folder: decoder.path=/folder"
        ) from error


def _read_tokenizer(path: str):
    try:
        tokenizer = AutoTokenizer.from_pretrained(path)
        # Where the files are missing, transformers may make up a tokenizer that knows no word.
        works = tokenizer.decode(tokenizer("a").input_ids, skip_special_tokens=True).strip() == "a"
    except (OSError, ValueError) as error:
        raise CheckpointError(f"cannot load a tokenizer from {path!r}: {error}") from error
    if not works:
        raise CheckpointError(f"cannot load a tokenizer from {path!r}: it lacks tokenizer.json; copy it there")
    return tokenizer
