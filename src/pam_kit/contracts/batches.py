"""What flows through a model: batches, features, tokens, texts. Tensors of a record move together."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from pam_kit.contracts.samples import PAD_POINT


@dataclass
class TensorRecord:
    """A dataclass whose tensors move together."""

    def to(self, device: torch.device | str):
        return self._changed(lambda tensor: tensor.to(device))

    def out_of_shared_memory(self):
        """The same, with no tensor that another process can see; each of those holds a file open."""
        return self._changed(lambda tensor: tensor.clone() if tensor.is_shared() else tensor)

    def _of_rows(self, rows: Sequence[int] | slice):
        """A record of regions, the first axis of all its tensors, with some of them; a slice copies nothing."""
        if isinstance(rows, slice):
            return self._changed(lambda tensor: tensor[rows])
        index = torch.tensor(list(rows), dtype=torch.long)
        return self._changed(lambda tensor: tensor[index.to(tensor.device)])

    def _changed(self, change: Callable[[Tensor], Tensor]):
        def changed(value):
            if isinstance(value, list | tuple):
                return type(value)(changed(item) for item in value)
            if isinstance(value, TensorRecord):
                return value._changed(change)
            return change(value) if isinstance(value, Tensor) else value

        return type(self)(**{f.name: changed(getattr(self, f.name)) for f in fields(self)})


@dataclass
class PromptBatch(TensorRecord):
    """Prompts of R regions in pixels of the model image.

    ``points`` (R, P, 2) float; ``labels`` (R, P) long with SAM's codes: 1 and 0 for points, 2 and 3 for the corners
    of a box, -1 for padding. ``masks`` (R, 1, 4h, 4w) float in {0, 1}; ``has_mask`` (R,) bool. P may be 0.
    """

    points: Tensor
    labels: Tensor
    masks: Tensor
    has_mask: Tensor

    def __len__(self) -> int:
        return len(self.points)

    def of_rows(self, rows: Tensor) -> "PromptBatch":
        """Some of the prompts; ``rows`` is a boolean (R,) or a long (r,)."""
        return PromptBatch(self.points[rows], self.labels[rows], self.masks[rows], self.has_mask[rows])


@dataclass
class Questions(TensorRecord):
    """Q questions and, in training, their answers.

    ``region_index`` (Q,) long says which region each is about; -1 is no region: text alone.
    """

    region_index: Tensor
    questions: list[str]
    answers: list[str]
    tasks: list[str]
    languages: list[str]

    def __len__(self) -> int:
        return len(self.questions)

    def first_of_each_region(self, count: int) -> "Questions":
        """At most ``count`` questions about each region, in their order, and all about none."""
        seen: dict[int, int] = {}
        chosen = []
        for i, region in enumerate(self.region_index.tolist()):
            seen[region] = seen.get(region, 0) + 1
            if region < 0 or seen[region] <= count:
                chosen.append(i)
        return self._chosen(chosen)

    def of_tasks(self, tasks: Sequence[str]) -> "Questions":
        """The questions of some tasks."""
        return self._chosen([i for i, task in enumerate(self.tasks) if task in tasks])

    def _chosen(self, rows: list[int]) -> "Questions":
        values = (self.questions, self.answers, self.tasks, self.languages)
        return Questions(self.region_index[rows], *([value[i] for i in rows] for value in values))


@dataclass
class RegionBatch(TensorRecord):
    """B pictures, R regions in them, Q questions about them.

    ``images`` (B, 3, S, S) uint8; ``image_index`` (R,) long; ``target_masks`` (R, 1, 4h, 4w) float in {0, 1} with
    ``has_target`` (R,) bool.
    """

    images: Tensor
    image_index: Tensor
    prompts: PromptBatch
    questions: Questions
    target_masks: Tensor
    has_target: Tensor

    def __len__(self) -> int:
        return len(self.image_index)


@dataclass
class ClipBatch(TensorRecord):
    """K clips, R regions in them, Q questions about them; every region is pointed at in the first frame of its clip.

    ``frames``: K tensors (F, 3, S, S) uint8; F may differ. ``read``: for each clip the indices of the frames whose
    tokens the decoder reads, in order; the others are tracked through. ``clip_index`` (R,) long, in ascending order.
    """

    frames: list[Tensor]
    read: list[list[int]]
    clip_index: Tensor
    prompts: PromptBatch
    questions: Questions
    target_masks: Tensor
    has_target: Tensor

    def __len__(self) -> int:
        return len(self.clip_index)

    def to(self, device: torch.device | str) -> "ClipBatch":
        """All but ``frames`` on ``device``; these stay where they are, and ``VisionBackbone.track`` moves one by one.

        A clip that is tracked through has many more frames than are ever looked at together.
        """
        rest = TensorRecord.to(replace(self, frames=[]), device)
        return replace(rest, frames=self.frames)


@dataclass
class ImageFeatures(TensorRecord):
    """What is computed once an image.

    ``embedding`` (B, C, h, w): the stride-16 embedding before the fusing module ("pre S2-FFM").
    ``high_resolution``: skip features for the mask decoder, at strides 4 and 8; private to the backbone.
    """

    embedding: Tensor
    high_resolution: Sequence[Tensor] = ()


@dataclass
class RegionFeatures(TensorRecord):
    """What the mask decoder yields for R regions.

    ``image_embedding`` (R, C, h, w): image output of the two-way transformer ("after S2-FFM").
    ``source_embedding`` (R, C, h, w): the same image before it ("pre S2-FFM").
    ``mask_tokens`` (R, 2, C): the stable-or-best token and the single-mask token.
    ``all_tokens`` (R, T, C): the object-score token where the decoder has one, the IoU and mask tokens, then prompt
    tokens; padded rows are marked True in ``token_padding`` (R, T).
    ``mask_logits`` (R, 1, 4h, 4w), ``iou`` (R,), ``object_score`` (R,) logits: of the mask that is shown. It is the one
    ``mask_tokens[:, 0]`` makes, unless the backbone always shows the single one; -1024 where a tracked object is gone.
    ``candidate_logits`` (R, M, 4h, 4w) and ``candidate_iou`` (R, M): every hypothesis, the single-mask one first;
    ``candidate_tokens`` (R, M, C): the mask tokens that make them. None where the backbone does not say.
    ``points`` (R, P, 2) float and ``labels`` (R, P) long: what the region is pointed at with in this frame, as in
    PromptBatch but in shares of the picture; all padding where it is followed. None where the backbone does not say.
    ``crop_embedding`` (R, C, h, w): the embedding of the crop that the perceiver asks for; ``RegionVLM`` adds it.
    ``described`` (R,) long: the candidate whose token ``mask_tokens[:, 0]`` is. None where the backbone does not say.
    """

    image_embedding: Tensor
    source_embedding: Tensor
    mask_tokens: Tensor
    all_tokens: Tensor
    token_padding: Tensor
    mask_logits: Tensor
    iou: Tensor
    object_score: Tensor
    candidate_logits: Tensor
    candidate_iou: Tensor
    points: Tensor | None = None
    labels: Tensor | None = None
    crop_embedding: Tensor | None = None
    candidate_tokens: Tensor | None = None
    described: Tensor | None = None

    def __len__(self) -> int:
        return len(self.iou)

    def of_rows(self, rows: Sequence[int] | slice) -> "RegionFeatures":
        """Some of the regions, in that order: copies, or with a slice views."""
        return self._of_rows(rows)

    def hypothesis(self, candidate: int) -> "RegionFeatures":
        """The same regions, showing the mask of one candidate, which is what ``mask_tokens[:, 0]`` describes then.

        Raises ValueError where there is no such candidate, or the backbone gives no tokens of it.
        """
        if self.candidate_tokens is None or not 0 <= candidate < self.candidate_tokens.shape[1]:
            raise ValueError(f"these regions have no mask tokens of a candidate {candidate}")
        tokens = torch.stack([self.candidate_tokens[:, candidate], self.mask_tokens[:, 1]], dim=1)
        logits, iou = self.candidate_logits[:, candidate : candidate + 1], self.candidate_iou[:, candidate]
        described = None if self.described is None else torch.full_like(self.described, candidate)
        return replace(self, mask_tokens=tokens, mask_logits=logits, iou=iou, described=described)

    def as_described(self) -> "RegionFeatures":
        """The same regions, each with the mask that ``mask_tokens[:, 0]`` makes, whichever one the backbone shows.

        What is perceived of a region may depend on the mask that the backbone shows, so these are for showing alone.
        """
        if self.described is None:
            return self
        rows = torch.arange(len(self), device=self.described.device)
        logits, iou = self.candidate_logits[rows, self.described], self.candidate_iou[rows, self.described]
        return replace(self, mask_logits=logits.unsqueeze(1), iou=iou)

    @classmethod
    def joined(cls, parts: Sequence["RegionFeatures"]) -> "RegionFeatures":
        """The regions of several records, one after the other; tokens and points are padded to one length."""
        joined = {}
        for field in fields(cls):
            tensors = [getattr(part, field.name) for part in parts]
            if field.name in _PADDING and tensors[0] is not None:
                tensors = _of_one_length(tensors, _PADDING[field.name])
            joined[field.name] = None if tensors[0] is None else torch.cat(tensors)
        return cls(**joined)


# What fills up the second axis of the tensors that differ in it.
_PADDING: dict[str, float] = {"all_tokens": 0, "token_padding": True, "points": 0, "labels": PAD_POINT}


def _of_one_length(tensors: Sequence[Tensor], value: float) -> list[Tensor]:
    longest = max(tensor.shape[1] for tensor in tensors)
    return [F.pad(t, (0, 0) * (t.ndim - 2) + (0, longest - t.shape[1]), value=value) for t in tensors]


@dataclass
class PerceivedTokens(TensorRecord):
    """Perceiver output: ``visual`` (R, h*w, C) in row-major order of ``grid`` = (h, w); ``semantic`` (R, N, C).

    ``mask_logits`` (R, 1, 4h, 4w): the mask in what ``visual`` shows, for projectors that choose tokens by it;
    ``RegionVLM`` adds the predicted one where the perceiver gives none.
    ``characters`` (R, W) long: code points of a text that the decoder reads behind the tokens; None where there is
    none.
    """

    visual: Tensor
    semantic: Tensor
    grid: tuple[int, int]
    mask_logits: Tensor | None = None
    characters: Tensor | None = None

    def of_rows(self, rows: Sequence[int]) -> "PerceivedTokens":
        """Some of the regions, in that order."""
        return self._of_rows(rows)


@dataclass
class ProjectedTokens(TensorRecord):
    """Projector output in the decoder's width: ``visual`` (R, h*w/r^2, D) and ``semantic`` (R, N, D).

    ``characters`` (R, W, D): word embeddings of the perceiver's text; ``RegionVLM`` adds them.
    """

    visual: Tensor
    semantic: Tensor
    characters: Tensor | None = None

    def of_rows(self, rows: Sequence[int]) -> "ProjectedTokens":
        """Copies of those of some of the regions, in that order."""
        return self._of_rows(rows)

    def split(self, sizes: Sequence[int]) -> list["ProjectedTokens"]:
        """Those of the first ``sizes[0]`` regions, of the next ``sizes[1]``, and so on."""
        split = [
            None if part is None else part.split(list(sizes)) for part in (self.visual, self.semantic, self.characters)
        ]
        return [ProjectedTokens(*(None if part is None else part[i] for part in split)) for i in range(len(sizes))]


@dataclass
class TextLoss(TensorRecord):
    """Decoder output in training: ``loss`` () the mean over supervised tokens; ``per_question`` (Q,) the mean negative
    log-likelihood of each answer; ``num_tokens`` () the number of supervised tokens; ``num_positions`` the number of
    positions that were read, padding left out."""

    loss: Tensor
    per_question: Tensor
    num_tokens: Tensor
    num_positions: int


@dataclass
class GeneratedText:
    """One answer. ``score`` is the geometric mean of its tokens' probabilities, in [0, 1]."""

    text: str
    score: float


@dataclass
class Spoken:
    """One step of Q answers that are made side by side.

    ``ids`` (Q,) long: the token that each answer goes on with; -1 where it has ended before. ``pieces``: the text that
    came with it, empty while a character is not whole; the pieces of an answer put together are its text, but for
    space around it. ``ended``: the answers that end with this step.
    """

    ids: Tensor
    pieces: list[str]
    ended: dict[int, GeneratedText]


@dataclass
class AnswerScores(TensorRecord):
    """How likely K answers are to Q questions: ``log_probability`` (Q, K), the sum over an answer's words and its end;
    ``num_tokens`` (K,) long is how many these are."""

    log_probability: Tensor
    num_tokens: Tensor
