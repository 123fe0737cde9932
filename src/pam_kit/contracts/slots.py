"""One abstract class per slot: what a backbone, a perceiver, a projector and a decoder promise."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from torch import Tensor, nn

from pam_kit.contracts.batches import (
    GeneratedText,
    ImageFeatures,
    PerceivedTokens,
    ProjectedTokens,
    PromptBatch,
    Questions,
    RegionFeatures,
    TextLoss,
)
from pam_kit.errors import PamKitError


class VisionBackbone(nn.Module, ABC):
    """Images and prompts in, features, masks and tokens out. Encodes an image once for all its regions.

    A backbone that ``tracks`` also follows regions through the frames of a clip.

    Attributes:
        image_size: S. The caller resizes pictures to S x S; normalisation is the backbone's own.
        embed_dim: C.
        grid: (h, w).
        frozen: whether the backbone keeps itself in eval mode and out of the graph.
        tracks: whether ``track`` is there.
        weight_files: the files its weights were read from; none where they are random.
    """

    image_size: int
    embed_dim: int
    grid: tuple[int, int]
    frozen: bool
    tracks: bool = False
    weight_files: tuple[Path, ...] = ()

    @abstractmethod
    def encode(self, images: Tensor) -> ImageFeatures:
        """(B, 3, S, S) uint8 -> ImageFeatures. The expensive half; independent of prompts."""

    @abstractmethod
    def segment(self, features: ImageFeatures, image_index: Tensor, prompts: PromptBatch) -> RegionFeatures:
        """R prompts, prompt i pointing into image ``image_index[i]`` -> RegionFeatures. R = 0 is legal."""

    def track(self, frames: Iterable[Tensor], prompts: PromptBatch) -> Iterator[RegionFeatures]:
        """Frames (3, S, S) uint8 and R prompts in the first of them -> RegionFeatures of R regions, frame by frame.

        Each frame is encoded once, when it is asked for; nothing of the past is kept but a memory of bounded size.
        """
        raise PamKitError(
            f"{type(self).__name__} cannot follow a region through a clip; use a backbone that tracks, such as sam2"
        )


class Perceiver(nn.Module, ABC):
    """Region features in, visual and semantic tokens out. ``num_semantic_tokens`` is N; 0 is legal."""

    num_semantic_tokens: int

    @abstractmethod
    def forward(self, regions: RegionFeatures) -> PerceivedTokens: ...


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

    @abstractmethod
    def align(self, tokens: Tensor, questions: Questions) -> Tensor:
        """How far the words of the answers are from being readable off ``tokens`` (R, N, D) directly, (): the mean
        negative log-probability of each word under the tokens' average similarity to the word embeddings, every
        distinct word of the batch counting alike."""

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
