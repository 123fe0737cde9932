"""Recognition out of a list of labels: how likely the model is to say each of them, instead of what it says freely.

The probability of a label is that of its words and of the end behind them, so that "cup" is not more likely than
"cupboard" because it comes first. Probabilities of strings favour what is short and common; two corrections are known:

- length: the mean over a label's tokens instead of the sum.
- prior: how likely a label is without looking is divided out. ``no_region`` asks the same question without a region, as
  the domain conditional PMI of Holtzman et al., "Surface Form Competition", EMNLP 2021, equation 1. ``regions`` takes
  the average over held-out regions, as Zhou et al., "Batch Calibration", ICLR 2024, section 3; it is kept in a
  ``Calibration``.

Confidence is the softmax over the list, at a temperature fitted on held-out regions where there is a ``Calibration``
(Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, section 4.2).
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pam_kit.atomic_files import write_json
from pam_kit.contracts import AnswerScores, Decoder, Questions, RegionPrompt
from pam_kit.data.label_lists import Label, checked_labels
from pam_kit.errors import PamKitError
from pam_kit.inference.predictor import RegionPredictor
from pam_kit.inference.session import Session
from pam_kit.tasks import question as question_of

Prior = Literal["none", "no_region", "regions"]
PRIORS = ("none", "no_region", "regions")


@dataclass(frozen=True)
class RankedLabel:
    """One label that a region may have.

    Args:
        name: of the label.
        log_probability: that the model says it, in nats; of all its words together where it has several.
        confidence: its share among the labels of the list, in [0, 1].
    """

    name: str
    log_probability: float
    confidence: float


@dataclass(frozen=True)
class Calibration:
    """What was learned from held-out regions about the labels of a list.

    Args:
        labels: their names; it is of use for this list alone.
        temperature: which confidences are taken at; 1 leaves them as they are.
        prior: log-probability of each label over held-out regions, of that list; None where it is not divided out.
        settings: of the ``ClosedSet`` it was fitted for, which must be the same where it is used.
        model: SHA-256 of the files of the model it was fitted for; None where no run holds that.
    """

    labels: tuple[str, ...]
    temperature: float = 1.0
    prior: tuple[float, ...] | None = None
    settings: dict[str, Any] | None = None
    model: str | None = None

    def save(self, path: Path) -> None:
        """As JSON."""
        write_json(path, asdict(self))

    @classmethod
    def load(cls, path: str | Path) -> "Calibration":
        """What ``save`` wrote; PamKitError where it is nothing of the kind."""
        try:
            facts = json.loads(Path(path).read_text(encoding="utf-8"))
            prior = facts["prior"]
            found = cls(
                tuple(map(str, facts["labels"])),
                float(facts["temperature"]),
                None if prior is None else tuple(map(float, prior)),
                dict(facts["settings"]),
                facts["model"],
            )
        except OSError as error:
            raise PamKitError(f"{path}: cannot be read: {error.strerror or error}") from error
        except (ValueError, KeyError, TypeError) as error:
            raise PamKitError(
                f"{path} is no calibration with all that it has to hold ({error}); fit one with pam-kit evaluate-labels"
            ) from error
        if not found.temperature > 0 or (found.prior is not None and len(found.prior) != len(found.labels)):
            raise PamKitError(f"{path}: a temperature above 0 and one prior a label are needed")
        return found


class ClosedSet:
    """A list of labels to choose from, and how.

    Args:
        labels: names, or ``Label`` where other words stand for a name. Of several words the probabilities add up; with
            ``per_token`` the best counts.
        language: of the question.
        question: the words of the question; None is that of the task ``recognize``.
        per_token: rank by the mean log-probability of a label's tokens instead of the sum.
        prior: what is divided out; ``regions`` needs a calibration.
        calibration: fitted for these labels, words and settings, and for the model that they are put to.

    Raises:
        PamKitError: the labels are fewer than two or alike, or the calibration is of others.
    """

    def __init__(
        self,
        labels: Sequence[str | Label],
        language: str = "en",
        question: str | None = None,
        per_token: bool = False,
        prior: Prior = "none",
        calibration: Calibration | None = None,
    ):
        self.labels = checked_labels(
            [label if isinstance(label, Label) else Label.plain(label) for label in labels], "the labels"
        )
        if prior not in PRIORS:
            raise PamKitError(f"prior {prior!r} is unknown; choose from {', '.join(PRIORS)}")
        self.question = question or question_of("recognize", language)
        self.language, self.per_token, self.prior = language, per_token, prior
        self.calibration = calibration
        self._check_calibration()
        # Words that stand for several labels are scored once.
        self.texts = list(dict.fromkeys(text for label in self.labels for text in label.texts))

    @property
    def names(self) -> list[str]:
        """The labels as they are called, in the order of the scores."""
        return [label.name for label in self.labels]

    @property
    def settings(self) -> dict[str, Any]:
        """What a calibration has to agree with; ``words`` is the SHA-256 of all that may be said for each label."""
        said = json.dumps([label.texts for label in self.labels], ensure_ascii=False)
        words = hashlib.sha256(said.encode("utf-8", "surrogatepass")).hexdigest()
        return {"question": self.question, "per_token": self.per_token, "prior": self.prior, "words": words}

    def log_probabilities(self, decoder: Decoder, prefix: Tensor | None) -> Tensor:
        """Log-probability (R, K) of each label for the regions of ``prefix`` (R, L, D); None is no region, R = 1."""
        about = [-1] if prefix is None else list(range(len(prefix)))
        asked = Questions(
            region_index=torch.tensor(about, dtype=torch.long),
            questions=[self.question] * len(about),
            answers=[""] * len(about),
            tasks=["recognize"] * len(about),
            languages=[self.language] * len(about),
        )
        return self._of_answers(decoder.score_answers(() if prefix is None else prefix, asked, self.texts))

    def scores(self, decoder: Decoder, values: Tensor) -> Tensor:
        """What confidences are the softmax of, (R, K): log-probabilities without the prior, over the temperature.

        ``values``: the ``log_probabilities`` of the regions.
        """
        if self.prior == "no_region":
            values = values - self.log_probabilities(decoder, None)
        if self.calibration is None:
            return values
        if self.prior == "regions":
            values = values - torch.tensor(self.calibration.prior, dtype=values.dtype, device=values.device)
        return values / self.calibration.temperature

    @torch.inference_mode()
    def rank(self, decoder: Decoder, prefix: Tensor, top_k: int = 5) -> list[list[RankedLabel]]:
        """The ``top_k`` best labels of each region, the best first. ``check_model`` says whose decoder it may be."""
        self._check_ranking(top_k)
        return self._ranked(decoder, self.log_probabilities(decoder, prefix), top_k)

    @torch.inference_mode()
    def rank_in(
        self, session: Session, regions: Sequence[RegionPrompt], top_k: int = 5, **where: Any
    ) -> list[list[RankedLabel]]:
        """The same of regions of a session's pictures, as many at once as memory allows; what was read of them is kept.

        Args:
            where: ``pictures`` and ``candidates`` of the regions, as of ``Session.score``, whose errors are raised.
        """
        self._check_ranking(top_k)
        if not regions:
            return []
        said = session.score(regions, self.question, self.texts, self.language, **where)
        return self._ranked(session.model.decoder, self._of_answers(said), top_k)

    def _check_ranking(self, top_k: int) -> None:
        if top_k < 1:
            raise PamKitError(f"top_k is {top_k}; ask for at least one label")
        self.check_usable()

    def _ranked(self, decoder: Decoder, said: Tensor, top_k: int) -> list[list[RankedLabel]]:
        """The best labels by their log-probabilities (R, K)."""
        confidence = self.scores(decoder, said).softmax(-1)
        best = confidence.topk(min(top_k, len(self.labels)))
        return [
            [
                RankedLabel(self.labels[index].name, float(said[region, index]), share)
                for index, share in zip(indices, shares, strict=True)
            ]
            for region, (indices, shares) in enumerate(zip(best.indices.tolist(), best.values.tolist(), strict=True))
        ]

    def check_usable(self) -> None:
        """PamKitError where ``rank`` would lack something, which is known before a model is loaded."""
        if self.prior == "regions" and self.calibration is None:
            raise PamKitError("prior=regions is known from held-out regions only: give the calibration that holds it")

    def check_model(self, predictor: RegionPredictor) -> None:
        """PamKitError where the calibration was fitted for another model, or where that cannot be told."""
        if self.calibration is None:
            return
        fitted, now = self.calibration.model, predictor.sha256
        if fitted is None or now is None:
            which = "this model" if now is None else "the model that the calibration was fitted for"
            raise PamKitError(
                f"{which} was not loaded from a run, so nobody can tell whether calibration and model belong together; "
                "save the model, load it with RegionPredictor.from_run and fit a calibration for it"
            )
        if fitted != now:
            raise PamKitError(
                f"the calibration was fitted for another model: for that with the SHA-256 {fitted}, here it is {now}; "
                "fit one for this model with pam-kit evaluate-labels"
            )

    def _of_answers(self, scores: AnswerScores) -> Tensor:
        """Of ``texts`` -> log-probabilities of labels (R, K)."""
        values = scores.log_probability.double()
        return self._of_labels(values / scores.num_tokens if self.per_token else values)

    def _of_labels(self, values: Tensor) -> Tensor:
        """Of texts (R, T) -> of labels (R, K)."""
        place = {text: index for index, text in enumerate(self.texts)}
        most = max(len(label.texts) for label in self.labels)
        if most == 1:
            return values[:, [place[label.texts[0]] for label in self.labels]]
        padded = torch.cat([values, values.new_full((len(values), 1), -torch.inf)], 1)
        rows = [[place[t] for t in label.texts] + [-1] * (most - len(label.texts)) for label in self.labels]
        own = padded[:, torch.tensor(rows, device=values.device)]
        return own.amax(-1) if self.per_token else own.logsumexp(-1)

    def _check_calibration(self) -> None:
        if self.calibration is None:
            return
        if list(self.calibration.labels) != self.names:
            raise PamKitError("the calibration is of other labels; fit one for this list with pam-kit evaluate-labels")
        fitted, now = self.calibration.settings or {}, self.settings
        if fitted.get("words", now["words"]) != now["words"]:
            raise PamKitError(
                "the calibration was fitted with other words for the same labels, such as with synonyms or without; "
                "give the words of then, or fit one for these with pam-kit evaluate-labels"
            )
        if differing := [
            f"{name} {fitted.get(name)!r}, here {now[name]!r}" for name in now if fitted.get(name) != now[name]
        ]:
            raise PamKitError(
                f"the calibration was fitted with {'; '.join(differing)}; use the same, or fit one for these with "
                "pam-kit evaluate-labels"
            )
        if self.prior == "regions" and self.calibration.prior is None:
            raise PamKitError("the calibration holds no prior of regions; fit one with prior=regions")


def recognise(
    predictor: RegionPredictor,
    image: str | Path | Image.Image | np.ndarray,
    prompts: Sequence[RegionPrompt],
    labels: ClosedSet | Sequence[str | Label],
    top_k: int = 5,
) -> list[list[RankedLabel]]:
    """The labels that regions of a picture most likely have, the best first; one list a prompt.

    Args:
        predictor: a trained model.
        image: encoded once, however many prompts and labels there are.
        prompts: where the regions are.
        labels: names, or a ``ClosedSet`` with a question, a prior or a calibration of its own.
        top_k: how many labels of each region.

    Raises:
        PamKitError: a prompt does not fit the picture, or the calibration was fitted for another model.

    Example:
        >>> recognise(predictor, "photo.jpg", [RegionPrompt(box=(10, 20, 110, 90))], ["cup", "bowl", "teapot"])[0][0]
        RankedLabel(name='cup', log_probability=-0.31, confidence=0.97)
    """
    chosen = labels if isinstance(labels, ClosedSet) else ClosedSet(labels)
    chosen.check_model(predictor)
    return chosen.rank_in(predictor.open(image), prompts, top_k) if prompts else []
