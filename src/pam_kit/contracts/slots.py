"""One abstract class per slot: what a backbone, a perceiver, a projector and a decoder promise."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from pam_kit.contracts.batches import (
    AnswerScores,
    GeneratedText,
    ImageFeatures,
    PerceivedTokens,
    ProjectedTokens,
    PromptBatch,
    Questions,
    RegionFeatures,
    Spoken,
    TextLoss,
)
from pam_kit.contracts.places import CropWindow
from pam_kit.errors import PamKitError

# What a decoder computes in for inference: floating point of two sizes, or weights of 8 or 4 bits.
Precision = Literal["float32", "bfloat16", "float16", "int8", "nf4"]
Steps = Literal["growing", "fixed", "compiled"]


class RegionMemory(ABC):
    """What a backbone remembers of the regions it follows, of bounded size however many frames it has seen.

    Regions are numbered in the order in which they were first pointed at; ``len`` is how many there are.
    """

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def keep(self, rows: Sequence[int]) -> None:
        """Go on with these regions alone, renumbered in this order; the others are forgotten."""

    @abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """All of it as named tensors, numbers among them, so that it can be written to a file."""

    @abstractmethod
    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Become what ``tensors`` was taken from, to the last bit."""


class VisionBackbone(nn.Module, ABC):
    """Images and prompts in, features, masks and tokens out. Encodes an image once for all its regions.

    A backbone that ``tracks`` also follows regions through the frames of a clip or a stream.

    Attributes:
        image_size: S. The caller resizes pictures to S x S; normalisation is the backbone's own.
        embed_dim: C.
        grid: (h, w).
        frozen: whether the backbone keeps itself in eval mode and out of the graph.
        tracks: whether ``track`` is there.
        tracks_together: whether regions of several clips can be in one memory, each in a frame of its own.
        weight_files: the files its weights were read from; none where they are random.
    """

    image_size: int
    embed_dim: int
    grid: tuple[int, int]
    frozen: bool
    tracks: bool = False
    tracks_together: bool = False
    weight_files: tuple[Path, ...] = ()

    @abstractmethod
    def encode(self, images: Tensor) -> ImageFeatures:
        """(B, 3, S, S) uint8 -> ImageFeatures. The expensive half; independent of prompts."""

    @abstractmethod
    def segment(self, features: ImageFeatures, image_index: Tensor, prompts: PromptBatch) -> RegionFeatures:
        """R prompts, prompt i pointing into image ``image_index[i]`` -> RegionFeatures. R = 0 is legal."""

    def new_memory(self) -> RegionMemory:
        """A memory of no region yet. Only where the backbone ``tracks``."""
        raise PamKitError(
            f"{type(self).__name__} cannot follow a region through a clip; use a backbone that tracks, such as sam2"
        )

    def observe(
        self,
        features: ImageFeatures,
        memory: RegionMemory,
        prompts: PromptBatch | None = None,
        rows: Sequence[int] = (),
        image_index: Tensor | None = None,
    ) -> RegionFeatures:
        """The next frame -> RegionFeatures of all regions in ``memory``, in its order; the frame is remembered.

        Args:
            features: ``encode`` of the frame, B = 1; of the next frames of B clips where the backbone
                ``tracks_together``.
            memory: changed in place.
            prompts: regions that are pointed at in this frame; the others are followed.
            rows: the region of each prompt: one of the memory, which is pointed at anew, or the next new numbers.
            image_index: (R,) long: which of the B frames each region is in, new ones included; None where B = 1.
        """
        raise PamKitError(
            f"{type(self).__name__} cannot follow a region through a clip; use a backbone that tracks, such as sam2"
        )

    def track(self, frames: Iterable[Tensor], prompts: PromptBatch) -> Iterator[RegionFeatures]:
        """Frames (3, S, S) uint8 and R prompts in the first of them -> RegionFeatures of R regions, frame by frame.

        Each frame is encoded once, when it is asked for; nothing of the past is kept but a memory of bounded size.
        """
        memory, rows = self.new_memory(), range(len(prompts))
        pointing: PromptBatch | None = prompts
        for frame in frames:
            # No local name holds the features while the caller works with them.
            yield self.observe(self.encode(frame[None].to(prompts.points.device)), memory, pointing, rows)
            pointing, rows = None, range(0)


class Perceiver(nn.Module, ABC):
    """Region features in, visual and semantic tokens out.

    Attributes:
        num_semantic_tokens: N; 0 is legal.
        num_characters: W, how long the text is that a region brings along in each frame; 0 is none.
        crop: the part of the picture around each region whose embedding it needs besides; None needs no crop.
        clip_tokens: M >= N; the semantic tokens of all read frames of a clip become at most so many, which close it, in
            the place of those in each frame. 0: each frame has its own.
    """

    num_semantic_tokens: int
    num_characters: int = 0
    clip_tokens: int = 0
    crop: CropWindow | None = None

    @abstractmethod
    def forward(self, regions: RegionFeatures) -> PerceivedTokens: ...

    def merged_over_frames(self, tokens: Tensor) -> Tensor:
        """Semantic tokens of the F read frames of a clip, projected and in their order, (R, F*N, D) -> those that close
        it, (R, min(F*N, M), D). Only where there are ``clip_tokens``."""
        raise PamKitError(f"{type(self).__name__} does not merge over frames; its clip_tokens must be 0")


class Projector(nn.Module, ABC):
    """Tokens of width C in, fewer tokens of the decoder's width D out.

    The first frame of a clip is projected like an image; ``later`` frames may become fewer visual tokens.
    """

    @abstractmethod
    def forward(self, tokens: PerceivedTokens, later: bool = False) -> ProjectedTokens: ...

    @abstractmethod
    def num_visual_tokens(self, grid: tuple[int, int], later: bool = False) -> int:
        """How many visual tokens a feature grid (h, w) becomes."""

    def clip_parameters(self) -> list[nn.Parameter]:
        """Parameters that only later frames of clips reach."""
        return []


class Reading(ABC):
    """What a decoder has read of R regions so far: its keys and values, growing part by part.

    A stream is read while it comes in, so that when it is asked about only the question and the answer remain.

    Attributes:
        length: positions read of each region, the words ahead of it included.
        positions_computed: positions that have gone through the language model so far, of all regions and questions.
        vocabulary_rows: positions of which the logits of all words were made so far.
    """

    length: int
    positions_computed: int
    vocabulary_rows: int

    @abstractmethod
    def read(self, embeddings: Tensor) -> None:
        """(R, L, D): the next embeddings of each region, behind those read before."""

    @abstractmethod
    def say(self, questions: Questions, max_new_tokens: int) -> Iterator[Spoken]:
        """Greedy answers to Q questions, batched, each about one of the R regions, step by step as they are made.

        What was read stays as it was once the iterator has ended or is closed; nothing can be read before that.
        """

    def answer(
        self, questions: Questions, max_new_tokens: int, on_step: Callable[[Tensor], None] | None = None
    ) -> list[GeneratedText]:
        """The whole answers that ``say`` makes.

        ``on_step`` is given the ids (Q,) of every decoding step as soon as they are known; -1 where a question's answer
        has ended.
        """
        ended: dict[int, GeneratedText] = {}
        with closing(self.say(questions, max_new_tokens)) as steps:  # type: ignore[type-var]
            for step in steps:
                ended |= step.ended
                if on_step:
                    on_step(step.ids)
        return [ended[question] for question in range(len(questions))]

    def score(self, questions: Questions, answers: Sequence[str]) -> AnswerScores:
        """As ``Decoder.score_answers``, of at least one question, behind what was read; that stays as it was."""
        raise PamKitError(f"{type(self).__name__} does not tell how likely a text is")

    @abstractmethod
    def of_rows(self, rows: Sequence[int]) -> "Reading":
        """A copy of what was read of some of the regions, in that order."""

    @abstractmethod
    def joined(self, others: Sequence["Reading"]) -> "Reading":
        """A copy of what was read of these regions and, behind them, of those of other readings of the same length."""

    @abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """All of it as named tensors, so that it can be written to a file."""

    @abstractmethod
    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Become what ``tensors`` was taken from, to the last bit."""


class Decoder(nn.Module, ABC):
    """A language model that reads a region's embeddings in the place of words. Owns its tokenizer and chat format.

    ``embed_dim`` is D, ``vocabulary_size`` the number of its words; ``weight_files`` are the files its weights were
    read from, none where they are random. With ``one_pass``, which is set where layers are sharded, ``forward`` visits
    each layer exactly once: devices gather a layer together, so all of them must come by equally often.
    """

    embed_dim: int
    vocabulary_size: int
    weight_files: tuple[Path, ...] = ()
    one_pass: bool = False

    @abstractmethod
    def forward(self, prefix: Sequence[Tensor] | Tensor, questions: Questions) -> TextLoss:
        """``prefix``: the embeddings of R regions, (L, D) each; L may differ. Loss on answers; questions need them."""

    @abstractmethod
    def num_supervised_tokens(self, questions: Questions, lengths: Sequence[int]) -> int:
        """Over how many tokens ``forward`` takes its mean for these questions; known before anything is computed.

        ``lengths``: how many embeddings each of the R regions will have.
        """

    @abstractmethod
    def layers(self) -> list[nn.Module]:
        """The transformer's layers, in order: what is recomputed, compiled and sharded one by one."""

    @abstractmethod
    def generate(
        self, prefix: Sequence[Tensor] | Tensor, questions: Questions, max_new_tokens: int
    ) -> list[GeneratedText]:
        """Greedy answers to Q questions, batched; the same text as one at a time."""

    def log_likelihoods(self, prefix: Sequence[Tensor] | Tensor, questions: Questions) -> tuple[Tensor, Tensor]:
        """Log-probability of each question's answer, summed over its words and its end, and their number; (Q,) each.

        Without gradient. What ``forward`` learns besides answers is left out.
        """
        raise PamKitError(f"{type(self).__name__} does not tell how likely a text is; use causal_lm")

    def score_answers(
        self, prefix: Sequence[Tensor] | Tensor, questions: Questions, answers: Sequence[str]
    ) -> AnswerScores:
        """How likely each of K answers is to each of Q questions; those that the questions hold are not looked at.

        This way takes a pass for each answer. A question about no region (-1) is scored as text alone.
        """
        scores, counts = [], []
        for answer in answers:
            sums, numbers = self.log_likelihoods(prefix, replace(questions, answers=[answer] * len(questions)))
            scores.append(sums)
            counts.append(numbers[:1])
        return AnswerScores(torch.stack(scores, 1), torch.cat(counts))

    def room(self, in_parts: bool = False) -> float:
        """How many positions a sequence may have, region, question and answer together; infinite where nothing says.

        ``in_parts``: of one that is read part by part.
        """
        return float("inf")

    def question_length(self, question: str) -> int:
        """How many positions a question about a region takes beside the region's own. Only where ``room`` ends."""
        raise PamKitError(f"{type(self).__name__} has to say how long a question is, since its room ends")

    def lower_precision(self, precision: Precision, device: torch.device | None = None) -> None:
        """Compute in ``precision`` from now on, to answer faster or in less memory; nothing can be trained then.

        ``device``: where the decoder moves meanwhile, so that it is never there in its old precision; None: it stays.

        Raises PamKitError where this decoder, its device or an installed package cannot.
        """
        raise PamKitError(f"{type(self).__name__} has one precision only; use causal_lm")

    def start_reading(self, count: int, steps: Steps = "growing") -> Reading:
        """Read ``count`` regions part by part, to be asked about at any time; the same answers as ``generate``.

        ``steps``: keys and values that grow with the answers, and answers that drop out as they end; or buffers and
        masks of one shape for all steps of a batch of answers (``fixed``), for which the code of a step can be compiled
        (``compiled``).
        """
        raise PamKitError(f"{type(self).__name__} cannot read a stream part by part; use causal_lm")

    @abstractmethod
    def align(self, tokens: Tensor, questions: Questions) -> Tensor:
        """How far the words of the answers are from being readable off ``tokens`` (R, N, D) directly, (): the mean
        negative log-probability of each word under the tokens' average similarity to the word embeddings, every
        distinct word of the batch counting alike."""

    def spell(self, characters: Tensor) -> Tensor:
        """Code points (R, W) -> the word embeddings of these characters, one for each, (R, W, D)."""
        raise PamKitError(f"{type(self).__name__} cannot read a region's text; use causal_lm, or another perceiver")

    def needs_vocabulary(self) -> bool:
        """Whether ``learn_vocabulary`` must be called before training."""
        return False

    def learn_vocabulary(self, texts: Iterable[str]) -> None:
        """Make a tokenizer from the texts of the training set. Only where ``needs_vocabulary``."""
        raise TypeError(f"{type(self).__name__} comes with its own vocabulary")

    @abstractmethod
    def save_tokenizer(self, folder: str) -> None:
        """Write the tokenizer's files into ``folder``."""

    @abstractmethod
    def load_tokenizer(self, folder: str) -> None:
        """Read what ``save_tokenizer`` wrote."""
