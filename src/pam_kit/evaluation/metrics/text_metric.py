"""What metrics of texts have in common: texts are kept as bytes, joined over processes, and scored once."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torchmetrics import Metric

from pam_kit.errors import PamKitError

# What has been seen, as tensors, which is what processes can gather: the UTF-8 bytes of all texts behind each other,
# the bytes of each text, and how many texts (id, prediction, references) belong to each item.
_STATES = {"text_bytes": torch.uint8, "text_lengths": torch.int64, "item_texts": torch.int64}


@dataclass(frozen=True)
class ScoredText:
    """One item: what was said, what may be said, and its id; "" where it was given none."""

    id: str
    prediction: str
    references: tuple[str, ...]


@dataclass(frozen=True)
class TextScores:
    """Metric -> value over all items, and the same of each item, in their order."""

    corpus: dict[str, float] = field(default_factory=dict)
    items: list[dict[str, float]] = field(default_factory=list)


class TextMetric(Metric):
    """Predictions against references. Subclasses say what they are worth in ``score_texts``.

    All texts are kept until ``compute``, and those of all processes are scored together: CIDEr and METEOR are no means
    of parts. With ids, an item that a sampler handed out twice, to fill up its last batch for example, counts once.

    Args:
        kwargs: those of ``torchmetrics.Metric``.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    def __init__(self, **kwargs):
        # The memory of torchmetrics outlives a merge; ours knows the texts that it belongs to.
        super().__init__(**{"compute_with_cache": False} | kwargs)
        for name in _STATES:
            self.add_state(name, default=[], dist_reduce_fx="cat")
        self._scored: tuple[str, tuple[str, ...], TextScores] | None = None

    @property
    def notes(self) -> tuple[str, ...]:
        """What has to be said beside the numbers: models, tokens, how several references are used."""
        return ()

    def score_texts(self, texts: Sequence[ScoredText]) -> TextScores:
        """The values of at least one item."""
        raise NotImplementedError

    def update(
        self, predictions: Sequence[str], references: Sequence[Sequence[str]], ids: Sequence[str] | None = None
    ) -> None:
        """Some items; what was not predicted is "".

        Raises PamKitError where the three have not equally many entries, or an item has no reference.
        """
        _check(predictions, references, ids)
        items = [(ids[i] if ids is not None else "", predictions[i], *references[i]) for i in range(len(predictions))]
        encoded = [text.encode("utf-8", "surrogatepass") for item in items for text in item]
        self._append("text_bytes", torch.frombuffer(bytearray(b"".join(encoded)) or bytearray(1), dtype=torch.uint8))
        if not any(encoded):
            self.text_bytes[-1] = self.text_bytes[-1][:0]
        self._append("text_lengths", torch.tensor([len(text) for text in encoded], dtype=torch.int64))
        self._append("item_texts", torch.tensor([len(item) for item in items], dtype=torch.int64))

    def compute(self) -> dict[str, Tensor]:
        """Metric -> its value over all items, () float64. Raises PamKitError where there was no item."""
        _, _, scores = self._scores()
        return {
            name: torch.tensor(value, dtype=torch.float64, device=self.device) for name, value in scores.corpus.items()
        }

    def items(self) -> dict[str, dict[str, float]]:
        """Id -> metric -> value of that item; without ids, the item's place, "0", "1", ...

        With several processes all of them have to ask.
        """
        self.compute()
        assert self._scored is not None
        _, names, scores = self._scored
        return dict(zip(names, scores.items, strict=True))

    def texts(self) -> list[ScoredText]:
        """The items seen so far, each id once. Raises PamKitError where an id came back with other references."""
        data = b"".join(bytes(part.cpu().numpy()) for part in _parts(self.text_bytes))
        lengths = [length for part in _parts(self.text_lengths) for length in part.tolist()]
        found: dict[str, ScoredText] = {}
        unnamed: list[ScoredText] = []
        start = first = 0
        for count in (count for part in _parts(self.item_texts) for count in part.tolist()):
            texts = []
            for length in lengths[first : first + count]:
                texts.append(data[start : start + length].decode("utf-8", "surrogatepass"))
                start += length
            first += count
            item = ScoredText(texts[0], texts[1], tuple(texts[2:]))
            if not item.id:
                unnamed.append(item)
            elif found.setdefault(item.id, item).references != item.references:
                raise PamKitError(f"the id {item.id!r} came twice, with other references; ids name one item each")
        if found and unnamed:
            raise PamKitError("some items have ids and others have none; give ids in every update, or in none")
        return unnamed or list(found.values())

    def sync(self, *args, **kwargs) -> None:
        """As ``torchmetrics.Metric.sync``; a process without items sends empty tensors of the type of the others'."""
        for name, dtype in _STATES.items():
            if isinstance(getattr(self, name), list) and not getattr(self, name):
                self._append(name, torch.zeros(0, dtype=dtype))
        super().sync(*args, **kwargs)

    def _append(self, name: str, values: Tensor) -> None:
        getattr(self, name).append(values.to(self.device))

    def _scores(self) -> tuple[str, tuple[str, ...], TextScores]:
        """Of the texts at hand, remembered as long as they stay the same."""
        digest = hashlib.sha256()
        for name in _STATES:
            for part in _parts(getattr(self, name)):
                digest.update(part.cpu().numpy().tobytes())
        if self._scored is None or self._scored[0] != digest.hexdigest():
            texts = self.texts()
            if not texts:
                raise PamKitError(f"{type(self).__name__} has nothing to score; give it texts with update()")
            names = tuple(text.id or str(place) for place, text in enumerate(texts))
            self._scored = (digest.hexdigest(), names, self.score_texts(texts))
        return self._scored


def mean(values: Sequence[float]) -> float:
    """Of at least one value."""
    return sum(values) / len(values)


def _parts(state: Tensor | list[Tensor]) -> list[Tensor]:
    return state if isinstance(state, list) else [state]


def _check(predictions: Sequence[str], references: Sequence[Sequence[str]], ids: Sequence[str] | None) -> None:
    if len(predictions) != len(references) or (ids is not None and len(ids) != len(predictions)):
        named = "" if ids is None else f" and {len(ids)} ids"
        raise PamKitError(f"{len(predictions)} predictions but {len(references)} lists of references{named}")
    for place, (prediction, several) in enumerate(zip(predictions, references, strict=True)):
        name = f"item {ids[place]!r}" if ids is not None else f"item {place}"
        if ids is not None and not (isinstance(ids[place], str) and ids[place]):
            raise PamKitError(f"{name}: an id must be a text that is not empty")
        if not isinstance(prediction, str):
            raise PamKitError(f"{name}: the prediction must be a text ('' for none), not {type(prediction).__name__}")
        if isinstance(several, str) or not several or not all(isinstance(text, str) for text in several):
            raise PamKitError(f"{name}: references must be a list of at least one text, not {several!r}")
