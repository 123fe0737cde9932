"""What a session is asked: regions, what each of them may mean, and the questions about it."""

import hashlib
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from pam_kit.contracts import GeneratedText, Questions, RegionPrompt
from pam_kit.errors import PamKitError, PromptError
from pam_kit.inference.region_masks import RegionMasks
from pam_kit.inference.result import Hypothesis, RegionPrediction
from pam_kit.tasks import question

# Words of one's own, as in ``tasks.QUESTIONS``: name -> language -> words.
OwnQuestions = Mapping[str, Mapping[str, str]]
Texts = dict[str, dict[str, GeneratedText]]


@dataclass(frozen=True)
class Wording:
    """One question: under which task and language its answer is told, and its words."""

    task: str
    language: str
    words: str


@dataclass(eq=False)
class View:
    """A region with one of its masks: the one that the model tells of, or that of ``candidate``.

    ``place`` is that of the hypothesis among those of the prediction, None for what the prediction itself tells of.
    """

    region: "AskedRegion"
    candidate: int | None = None
    place: int | None = None
    wordings: list[Wording] = field(default_factory=list)
    answers: dict[Wording, GeneratedText] = field(default_factory=dict)

    @property
    def name(self) -> Hashable:
        """The same for what points at the same thing in the same picture."""
        return self.region.name, self.candidate

    def texts(self) -> Texts:
        """Task -> language -> answer of what is answered by now, in the order of the questions."""
        told: Texts = {}
        for one in self.wordings:
            if one in self.answers:
                told.setdefault(one.task, {})[one.language] = self.answers[one]
        return told


@dataclass(eq=False)
class AskedRegion:
    """One region while it is asked about; ``size`` (H, W) is that of its picture.

    ``candidate``: which of the decoder's masks it shows; None: the one that the model tells of.
    """

    number: int
    prompt: RegionPrompt
    picture: int
    size: tuple[int, int]
    candidate: int | None = None
    masks: RegionMasks | None = None
    views: list[View] = field(default_factory=list)
    missing: int = 0  # answers that are not there yet
    notes: list[str] = field(default_factory=list)
    error: str | None = None

    @property
    def name(self) -> Hashable:
        mask = self.prompt.mask
        digest = None if mask is None else hashlib.sha256(np.packbits(mask).tobytes()).digest()
        box = None if self.prompt.box is None else tuple(self.prompt.box)
        return self.picture, box, tuple(self.prompt.points), tuple(self.prompt.labels), digest

    def ask(self, wordings: Sequence[Wording], labels: Sequence[Wording]) -> None:
        """Open the views and their questions, once the masks are there; ``labels`` are asked about every hypothesis."""
        candidates = self.masks.candidates if self.masks else ()
        if candidates:
            further = [one for one in labels if one not in wordings]
            self.views = [
                View(self, one.candidate, None, [*wordings, *further])
                if one.chosen
                else View(self, one.candidate, place, list(labels))
                for place, one in enumerate(candidates)
            ]
        else:
            self.views = [View(self, self.candidate, wordings=list(wordings))]
        self.missing = sum(len(view.wordings) for view in self.views)

    def prediction(self) -> RegionPrediction:
        """All that is known of it by now."""
        masks = self.masks or RegionMasks(np.zeros(self.size, dtype=bool), 0.0, 0.0)
        texts = {view.candidate: view.texts() for view in self.views}
        own = next((view.texts() for view in self.views if view.place is None), {})
        return RegionPrediction(
            prompt=self.prompt,
            mask=masks.mask,
            iou=masks.iou,
            object_score=masks.object_score,
            texts=own,
            hypotheses=tuple(
                Hypothesis(one.name, one.mask, one.iou, texts.get(one.candidate, {}), one.chosen)
                for one in masks.candidates
            ),
            notes=tuple(dict.fromkeys(self.notes)),
            error=self.error,
        )


def all_good(asked: list[AskedRegion]) -> list[AskedRegion]:
    """The same; PromptError where a region cannot be looked at."""
    if failed := next((region for region in asked if region.error is not None), None):
        raise PromptError(f"region {failed.number + 1} of {len(asked)}: {failed.error}")
    return asked


def looked_at(
    regions: Sequence[RegionPrompt],
    sizes: Sequence[tuple[int, int]],
    pictures: Sequence[int] | None = None,
    candidates: Sequence[int | None] | None = None,
) -> list[AskedRegion]:
    """The regions of a session about pictures of these sizes (H, W); one that does not fit its picture has an error.

    ``pictures`` and ``candidates`` as of ``Session.stream``. Raises PamKitError for a picture that is not there.
    """
    pictures = [0] * len(regions) if pictures is None else pictures
    candidates = [None] * len(regions) if candidates is None else candidates
    if wrong := [number for number in pictures if not 0 <= number < len(sizes)]:
        raise PamKitError(f"this session is of {len(sizes)} pictures, counted from 0; there is no {wrong[0]}")
    found = []
    for number, (prompt, picture, candidate) in enumerate(zip(regions, pictures, candidates, strict=True)):
        region = AskedRegion(number, prompt, picture, sizes[picture], candidate)
        try:
            prompt.check(region.size[1], region.size[0])
        except PromptError as error:
            region.error = str(error)
        found.append(region)
    return found


@dataclass(frozen=True)
class Pair:
    """One question about one view."""

    view: View
    wording: Wording


@dataclass
class Ask:
    """One call of a session, and what is under way in it.

    ``told``: regions whose masks were told; ``waiting``: embeddings (L, D) that the decoder will read, by the name of
    the view; ``said``: how many characters of each answer were told.
    """

    wordings: list[Wording]
    labels: list[Wording]
    hypotheses: bool
    max_new_tokens: int
    told: set[int] = field(default_factory=set)
    waiting: dict[Hashable, Tensor] = field(default_factory=dict)
    said: dict[Pair, int] = field(default_factory=dict)


def wordings(tasks: Sequence[str], languages: Sequence[str], own: OwnQuestions | None = None) -> list[Wording]:
    """All questions about a region; PamKitError for a task or language that nobody knows, or one asked twice."""
    try:
        known = [Wording(task, language, question(task, language)) for task in tasks for language in languages]
    except KeyError as error:
        raise PamKitError(
            f"{error.args[0]}; a question in words of your own goes into questions={{name: {{language: words}}}}"
        ) from None
    further = [Wording(name, language, words) for name, said in (own or {}).items() for language, words in said.items()]
    asked = known + further
    if len({(one.task, one.language) for one in asked}) < len(asked):
        raise PamKitError("a question is asked twice: each task and language once, own questions by other names")
    return asked


def in_groups(views: Sequence[View], most: int) -> Iterator[list[Pair]]:
    """All questions about all views, at most ``most`` together; those about one view stay together if they can."""
    group: list[Pair] = []
    for view in views:
        pairs = [Pair(view, wording) for wording in view.wordings]
        for start in range(0, len(pairs), most):
            part = pairs[start : start + most]
            if group and len(group) + len(part) > most:
                yield group
                group = []
            group = group + part
    if group:
        yield group


def views_of(pairs: Sequence[Pair]) -> list[View]:
    """The views that questions are about, each once, in their order."""
    return list(dict.fromkeys(pair.view for pair in pairs))


def as_questions(pairs: Sequence[Pair]) -> Questions:
    """The questions of ``pairs`` about regions 0, 1, ..., which are the views in the order of ``views_of``."""
    rows = {view: row for row, view in enumerate(views_of(pairs))}
    return Questions(
        region_index=torch.tensor([rows[pair.view] for pair in pairs], dtype=torch.long),
        questions=[pair.wording.words for pair in pairs],
        answers=[""] * len(pairs),
        tasks=[pair.wording.task for pair in pairs],
        languages=[pair.wording.language for pair in pairs],
    )
