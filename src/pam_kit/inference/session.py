"""Pictures that are looked at once, however many regions and questions follow."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch

from pam_kit.contracts import AnswerScores, RegionFeatures, RegionPrompt
from pam_kit.errors import PamKitError
from pam_kit.inference.answering import Answering
from pam_kit.inference.asked_regions import (
    Ask,
    AskedRegion,
    OwnQuestions,
    Pair,
    Wording,
    all_good,
    in_groups,
    looked_at,
    wordings,
)
from pam_kit.inference.kept_masks import KeptMasks
from pam_kit.inference.looking import Looking
from pam_kit.inference.out_of_memory import in_halves
from pam_kit.inference.pictures import Picture, as_array
from pam_kit.inference.region_masks import region_masks
from pam_kit.inference.result import RegionPrediction
from pam_kit.inference.session_events import MaskReady, RegionReady, SessionEvent, TextGrows, TextReady
from pam_kit.inference.session_settings import Bounds, SessionSettings, Work
from pam_kit.inference.shortage import Shortage
from pam_kit.model import RegionVLM
from pam_kit.tasks import TASKS

# Views whose embeddings wait for their questions; those of further ones are made again when it is their turn.
MOST_WAITING = 64
LABEL = TASKS[0]


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
        self._shortage, self._seen = Shortage(self._bounds, self._answering.kept), KeptMasks(self._answering.kept)

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
                ``RegionFeatures.candidate_logits``; None, for a region or for all: the one that the model tells of.

        Raises:
            PamKitError: an unknown task, language or picture, hypotheses of a model whose masks have none, or
                hypotheses of regions whose candidates are chosen.
        """
        if hypotheses and candidates is not None:
            raise PamKitError("a region whose candidate is chosen has no hypotheses left; ask for one or the other")
        labels = wordings([LABEL], languages) if hypotheses else []
        ask = Ask(wordings(tasks, languages, questions), labels, hypotheses, max_new_tokens)
        asked = looked_at(regions, self.sizes, pictures, candidates)
        yield from (_ready(region) for region in asked if region.error is not None)
        yield from self._all_masks(ask, asked)
        yield from (_ready(region) for region in asked if region.error is None and not region.missing)
        yield from self._all_pairs(ask, asked, partial(self._texts, ask))

    @torch.inference_mode()
    def segment(
        self, regions: Sequence[RegionPrompt], pictures: Sequence[int] | None = None
    ) -> Iterator[tuple[list[int], RegionFeatures]]:
        """The features of regions, some after the other, each time with their numbers; nothing of them is kept.

        They show the masks that ``ask`` shows.

        Raises PamKitError where a prompt does not fit its picture, or memory is not enough for a single region.
        """
        asked, short = all_good(looked_at(regions, self.sizes, pictures)), self._shortage
        for chunk in self._looking.chunks(asked):
            yield from in_halves(
                chunk, self._features, short.fewer_regions, self._no_features, short.release_for_region
            )

    @torch.inference_mode()
    def score(
        self,
        regions: Sequence[RegionPrompt],
        question: str,
        answers: Sequence[str],
        language: str = "en",
        *,
        pictures: Sequence[int] | None = None,
        candidates: Sequence[int | None] | None = None,
    ) -> AnswerScores:
        """How likely each of K answers is to a question about each of R regions: log-probabilities (R, K).

        What was read of the regions is kept as by ``ask``: who asks about them next finds it, and their masks.

        Args:
            question: its words, in ``language``.
            pictures: as of ``stream``, and so are ``candidates``.

        Raises:
            PamKitError: there is no region, a prompt does not fit its picture, an answer cannot be scored, or memory is
                not enough for a single region.
        """
        if not regions:
            raise PamKitError("answers are scored about regions; give one at least")
        ask, found = Ask([Wording(LABEL, language, question)], [], False, 1), dict[int, AnswerScores]()
        asked = all_good(looked_at(regions, self.sizes, pictures, candidates))
        for _ in self._all_masks(ask, asked):
            pass
        for _ in self._all_pairs(ask, asked, partial(self._scores, ask, answers, found)):
            pass
        if failed := next((region for region in asked if region.error is not None), None):
            raise PamKitError(f"region {failed.number + 1} of {len(asked)}: {failed.error}")
        parts = [found[region.number] for region in asked]
        return AnswerScores(torch.cat([one.log_probability for one in parts]), parts[0].num_tokens)

    def _all_masks(self, ask: Ask, asked: Sequence[AskedRegion]) -> Iterator[SessionEvent]:
        """``_masks`` of all regions that are not wrong, as many at once as memory allows."""
        work, short = partial(self._masks, ask), self._shortage
        for chunk in self._looking.chunks([region for region in asked if region.error is None]):
            yield from in_halves(chunk, work, short.fewer_regions, self._failed_region, short.release_for_region)

    def _all_pairs(
        self, ask: Ask, asked: Sequence[AskedRegion], work: Callable[[list[Pair]], Iterator[SessionEvent]]
    ) -> Iterator[SessionEvent]:
        """``work`` of all questions about all regions that are not wrong, as many at once as memory allows."""
        views = [view for region in asked if region.error is None for view in region.views]
        short = self._shortage
        for group in in_groups(views, self.settings.answer_batch):
            # The bound may have become lower since the group was made.
            most = self.settings.answer_batch
            for part in (group[start : start + most] for start in range(0, len(group), most)):
                release = partial(short.release_for_answer, ask.waiting)
                yield from in_halves(part, work, short.fewer_answers, self._failed_answer, release)

    def _features(self, chunk: list[AskedRegion]) -> Iterator[tuple[list[int], RegionFeatures]]:
        yield [region.number for region in chunk], self._looking.segment(chunk).as_described()

    def _no_features(self, _region: AskedRegion, reason: str) -> Iterator[tuple[list[int], RegionFeatures]]:
        raise PamKitError(f"there is not enough memory for a single region: {reason}")

    def _masks(self, ask: Ask, chunk: list[AskedRegion]) -> Iterator[SessionEvent]:
        """Make and tell the masks of some regions, and perceive what will be asked about."""
        for region in chunk:
            region.masks = self._seen.of(region, ask.hypotheses)
        new = [region for region in chunk if region.masks is None]
        if new:
            features = self._looking.segment(new)
            sizes, chosen = [region.size for region in new], [region.candidate for region in new]
            masks = region_masks(features, sizes, ask.hypotheses, chosen)
            for region, own in zip(new, masks, strict=True):
                region.masks = own
                self._seen.add(region, ask.hypotheses, own)
        for region in chunk:
            region.ask(ask.wordings, ask.labels)
            if region.number not in ask.told:
                ask.told.add(region.number)
                yield MaskReady(region.number, region.prediction())
        self._seen.shrink(self.settings.kept_regions)
        views = [view for region in new for view in region.views if view.wordings]
        views = views[: max(0, MOST_WAITING - len(ask.waiting))]
        if views:
            for view, prefix in zip(views, self._looking.perceive(views, new, features), strict=True):
                ask.waiting[view.name] = prefix

    def _texts(self, ask: Ask, pairs: list[Pair]) -> Iterator[SessionEvent]:
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

    def _scores(
        self, ask: Ask, answers: Sequence[str], found: dict[int, AnswerScores], pairs: list[Pair]
    ) -> Iterator[SessionEvent]:
        """Score the answers to some questions, one a region; nothing is told of it."""
        prefixes, most = partial(self._looking.prefixes, waiting=ask.waiting), self.settings.region_batch
        ordered, scores = self._answering.score(pairs, answers, prefixes, most)
        for row, pair in enumerate(ordered):
            found[pair.view.region.number] = AnswerScores(scores.log_probability[row : row + 1], scores.num_tokens)
            ask.waiting.pop(pair.view.name, None)
        yield from ()

    def _failed_region(self, region: AskedRegion, reason: str) -> Iterator[SessionEvent]:
        region.error = f"there is not enough memory for this region alone: {reason}"
        yield _ready(region)

    def _failed_answer(self, pair: Pair, reason: str) -> Iterator[SessionEvent]:
        self._answering.kept.forget()
        about = f"{pair.wording.task} in {pair.wording.language}"
        pair.view.region.error = f"there is not enough memory to answer {about} about this region alone: {reason}"
        yield from _answered(pair.view.region)


def _ready(region: AskedRegion) -> RegionReady:
    return RegionReady(region.number, region.prediction())


def _answered(region: AskedRegion) -> Iterator[RegionReady]:
    """One answer of a region is there, or has failed; maybe it was the last."""
    region.missing -= 1
    if not region.missing:
        yield _ready(region)
