"""Pictures that are looked at once, however many regions and questions follow."""

from collections import OrderedDict
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from pam_kit.contracts import RegionFeatures, RegionPrompt
from pam_kit.errors import PamKitError, PromptError
from pam_kit.inference.answering import Answering
from pam_kit.inference.asked_regions import (
    AskedRegion,
    OwnQuestions,
    Pair,
    Wording,
    in_groups,
    looked_at,
    wordings,
)
from pam_kit.inference.looking import Looking
from pam_kit.inference.out_of_memory import in_halves
from pam_kit.inference.pictures import Picture, as_array
from pam_kit.inference.region_masks import RegionMasks, region_masks
from pam_kit.inference.result import RegionPrediction
from pam_kit.inference.session_events import MaskReady, RegionReady, SessionEvent, TextGrows, TextReady
from pam_kit.inference.session_settings import Bounds, SessionSettings, Work
from pam_kit.model import RegionVLM
from pam_kit.tasks import TASKS

# Views whose embeddings wait for their questions; those of further ones are made again when it is their turn.
MOST_WAITING = 64
LABEL = TASKS[0]


@dataclass
class _Ask:
    """One call of ``Session.stream``, and what is under way in it.

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


class Session:
    """Answers questions about regions of pictures. Each picture is encoded once, when the session is opened.

    All regions that are asked about go through the mask decoder in batches; the language model reads each of them once,
    and all questions about it share what was read, also when the same region is asked about again.

    Attributes:
        work: what was computed so far.
        settings: how much is done at once; where memory was not enough, it is less than was wished for.
        notes: what a user should know, such as that memory was short.
        sizes: (H, W) of the pictures.

    Args:
        model: a RegionVLM in eval mode.
        images: picture files, PIL pictures or (H, W, 3) uint8 arrays.
        settings: how much is done at once.

    Example:
        >>> session = RegionPredictor.from_run("runs/pam_tiny").open("photo.jpg")
        >>> for event in session.stream([RegionPrompt(box=(10, 20, 110, 90))], ["recognize", "caption"], ["en", "zh"]):
        ...     print(event)
    """

    @torch.inference_mode()
    def __init__(self, model: RegionVLM, images: Sequence[Picture], settings: SessionSettings | None = None):
        self.model, self.work, self._bounds = model, Work(), Bounds(settings or SessionSettings())
        arrays = [as_array(image) for image in images]
        self.sizes = [(array.shape[0], array.shape[1]) for array in arrays]
        self._looking = Looking(model, arrays, self._bounds, self.work)
        kept, steps = self.settings.kept_regions, self.settings.steps
        self._answering = Answering(model.decoder, kept, steps, self.work, self._bounds.note)
        # Masks of the regions that were asked about last, by the region's name, which mask and whether with hypotheses.
        self._seen: OrderedDict[Hashable, RegionMasks] = OrderedDict()

    @property
    def settings(self) -> SessionSettings:
        return self._bounds.now

    @property
    def notes(self) -> list[str]:
        return list(self._bounds.notes)

    def ask(
        self,
        regions: Sequence[RegionPrompt],
        tasks: Sequence[str] = (LABEL,),
        languages: Sequence[str] = ("en",),
        max_new_tokens: int = 64,
        *,
        questions: OwnQuestions | None = None,
        hypotheses: bool = False,
        pictures: Sequence[int] | None = None,
        candidates: Sequence[int | None] | None = None,
    ) -> list[RegionPrediction]:
        """One prediction for each region, in their order; arguments as of ``stream``.

        What could not be answered has an ``error``; the others are answered.
        """
        asked = (regions, tasks, languages, max_new_tokens)
        events = self.stream(
            *asked, questions=questions, hypotheses=hypotheses, pictures=pictures, candidates=candidates
        )
        ready = {event.region: event.prediction for event in events if isinstance(event, RegionReady)}
        return [ready[number] for number in range(len(regions))]

    @torch.inference_mode()
    def stream(
        self,
        regions: Sequence[RegionPrompt],
        tasks: Sequence[str] = (LABEL,),
        languages: Sequence[str] = ("en",),
        max_new_tokens: int = 64,
        *,
        questions: OwnQuestions | None = None,
        hypotheses: bool = False,
        pictures: Sequence[int] | None = None,
        candidates: Sequence[int | None] | None = None,
    ) -> Iterator[SessionEvent]:
        """All masks as soon as they are there, then the pieces of the texts as they are made, token by token.

        A region that cannot be answered is told as ready with an ``error``, and the others are answered.

        Args:
            regions: where to look.
            tasks: what is asked about each region, in each of ``languages``.
            max_new_tokens: tokens of the longest answer.
            questions: further questions, in words of your own: name -> language -> words. The answers are found under
                ``texts[name][language]``.
            hypotheses: tell what else each prompt may mean: a part, the whole, a group of things, each with its mask,
                IoU and label. The region's own mask and texts are those of the highest expected IoU.
            pictures: the picture that each region is in, where the session is of several; all in the first otherwise.
            candidates: which of the decoder's masks each region shows and tells of, as counted in
                ``RegionFeatures.candidate_logits``; None, for a region or for all: the one that the model itself shows.

        Raises:
            PamKitError: an unknown task, language or picture, hypotheses of a model whose masks have none, or
                hypotheses of regions whose candidates are chosen.
        """
        if hypotheses and candidates is not None:
            raise PamKitError("a region whose candidate is chosen has no hypotheses left; ask for one or the other")
        labels = wordings([LABEL], languages) if hypotheses else []
        ask = _Ask(wordings(tasks, languages, questions), labels, hypotheses, max_new_tokens)
        asked = looked_at(regions, self.sizes, pictures, candidates)
        yield from (_ready(region) for region in asked if region.error is not None)
        good = [region for region in asked if region.error is None]
        for chunk in self._looking.chunks(good):
            yield from in_halves(chunk, partial(self._masks, ask), self._fewer_regions, self._failed_region)
        good = [region for region in good if region.error is None]
        yield from (_ready(region) for region in good if not region.missing)
        for group in in_groups([view for region in good for view in region.views], self.settings.answer_batch):
            # The bound may have become lower since the group was made.
            most = self.settings.answer_batch
            for part in (group[start : start + most] for start in range(0, len(group), most)):
                yield from in_halves(part, partial(self._texts, ask), self._fewer_answers, self._failed_answer)

    @torch.inference_mode()
    def segment(
        self, regions: Sequence[RegionPrompt], pictures: Sequence[int] | None = None
    ) -> Iterator[tuple[list[int], RegionFeatures]]:
        """The features of regions, some after the other, each time with their numbers; nothing of them is kept.

        Raises PamKitError where a prompt does not fit its picture, or memory is not enough for a single region.
        """
        asked = _all_good(looked_at(regions, self.sizes, pictures))
        for chunk in self._looking.chunks(asked):
            yield from in_halves(chunk, self._features, self._fewer_regions, self._no_features)

    @torch.inference_mode()
    def prefixes(
        self,
        regions: Sequence[RegionPrompt],
        pictures: Sequence[int] | None = None,
        candidates: Sequence[int | None] | None = None,
    ) -> Tensor:
        """What the decoder reads of regions, (R, L, D), for whatever is asked of it besides answers.

        Raises PamKitError where a prompt does not fit its picture.
        """
        asked = _all_good(looked_at(regions, self.sizes, pictures, candidates))
        for region in asked:
            region.ask([], [])
        return self._looking.prefixes([view for region in asked for view in region.views], {})

    def _features(self, chunk: list[AskedRegion]) -> Iterator[tuple[list[int], RegionFeatures]]:
        yield [region.number for region in chunk], self._looking.segment(chunk)

    def _no_features(self, _region: AskedRegion, reason: str) -> Iterator[tuple[list[int], RegionFeatures]]:
        raise PamKitError(f"there is not enough memory for a single region: {reason}")

    def _masks(self, ask: _Ask, chunk: list[AskedRegion]) -> Iterator[SessionEvent]:
        """Make and tell the masks of some regions, and perceive what will be asked about."""
        new = [region for region in chunk if not self._remembered(region, ask.hypotheses)]
        if new:
            features = self._looking.segment(new)
            sizes, chosen = [region.size for region in new], [region.candidate for region in new]
            masks = region_masks(features, sizes, ask.hypotheses, chosen)
            for region, own in zip(new, masks, strict=True):
                region.masks = self._seen[region.name, region.candidate, ask.hypotheses] = own
        for region in chunk:
            region.ask(ask.wordings, ask.labels)
            if region.number not in ask.told:
                ask.told.add(region.number)
                yield MaskReady(region.number, region.prediction())
        while len(self._seen) > self.settings.kept_regions:
            self._seen.popitem(last=False)
        views = [view for region in new for view in region.views if view.wordings]
        views = views[: max(0, MOST_WAITING - len(ask.waiting))]
        if views:
            for view, prefix in zip(views, self._looking.perceive(views, new, features), strict=True):
                ask.waiting[view.name] = prefix

    def _remembered(self, region: AskedRegion, hypotheses: bool) -> bool:
        """Whether its masks are known of an earlier ask, and the decoder has kept all that it read of it."""
        name = (region.name, region.candidate, hypotheses)
        if (masks := self._seen.get(name)) is None:
            return False
        meant: list[int | None] = [one.candidate for one in masks.candidates]
        candidates = meant or [region.candidate]
        if any((region.name, candidate) not in self._answering.kept for candidate in candidates):
            return False
        self._seen.move_to_end(name)
        region.masks = masks
        return True

    def _texts(self, ask: _Ask, pairs: list[Pair]) -> Iterator[SessionEvent]:
        """Answer some questions and tell the answers as they grow."""
        prefixes, most = partial(self._looking.prefixes, waiting=ask.waiting), self.settings.region_batch
        again = dict.fromkeys(pairs, 0)
        for pair, piece, answer in self._answering.say(pairs, prefixes, most, ask.max_new_tokens):
            region, wording, place = pair.view.region, pair.wording, pair.view.place
            # What is said once more, since memory was not enough to say it to its end, is not told once more.
            fresh = piece[max(0, ask.said.get(pair, 0) - again[pair]) :]
            again[pair] += len(piece)
            if fresh:
                ask.said[pair] = again[pair]
                yield TextGrows(region.number, wording.task, wording.language, fresh, place)
            if answer is not None and wording not in pair.view.answers:
                pair.view.answers[wording] = answer
                yield TextReady(region.number, wording.task, wording.language, answer, place)
                yield from _answered(region)
        for pair in pairs:
            ask.waiting.pop(pair.view.name, None)

    def _fewer_regions(self, chunk: list[AskedRegion]) -> None:
        self._answering.kept.forget()
        note = self._bounds.halve("region_batch", len(chunk), "regions at once")
        for region in chunk:
            region.notes.append(note)

    def _failed_region(self, region: AskedRegion, reason: str) -> Iterator[SessionEvent]:
        region.error = f"there is not enough memory for this region alone: {reason}"
        yield _ready(region)

    def _fewer_answers(self, pairs: list[Pair]) -> None:
        self._answering.kept.forget()
        note = self._bounds.halve("answer_batch", len(pairs), "answers at once")
        for pair in pairs:
            pair.view.region.notes.append(note)

    def _failed_answer(self, pair: Pair, reason: str) -> Iterator[SessionEvent]:
        about = f"{pair.wording.task} in {pair.wording.language}"
        pair.view.region.error = f"there is not enough memory to answer {about} about this region alone: {reason}"
        yield from _answered(pair.view.region)


def _all_good(asked: list[AskedRegion]) -> list[AskedRegion]:
    """The same; PromptError where a region cannot be looked at."""
    if failed := next((region for region in asked if region.error is not None), None):
        raise PromptError(f"region {failed.number + 1} of {len(asked)}: {failed.error}")
    return asked


def _ready(region: AskedRegion) -> RegionReady:
    return RegionReady(region.number, region.prediction())


def _answered(region: AskedRegion) -> Iterator[RegionReady]:
    """One answer of a region is there, or has failed; maybe it was the last."""
    region.missing -= 1
    if not region.missing:
        yield _ready(region)
