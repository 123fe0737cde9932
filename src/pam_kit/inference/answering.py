"""Questions about views of regions, answered by a decoder that reads each view once."""

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing

from torch import Tensor

from pam_kit.contracts import AnswerScores, Decoder, GeneratedText, Reading, Spoken, Steps
from pam_kit.errors import PamKitError
from pam_kit.inference.asked_regions import Pair, View, as_questions, views_of
from pam_kit.inference.kept_readings import KeptReadings
from pam_kit.inference.session_settings import Work

# Of one step: the question, the next piece of its answer, and the whole answer once it is there.
Said = tuple[Pair, str, GeneratedText | None]


class Answering:
    """Answers questions side by side; what was read of the views that were asked about last is kept.

    Args:
        decoder: reads and answers.
        kept: how many views are kept.
        steps: see ``Decoder.start_reading``.
        work: what is computed is counted there.
        note: told of what a user should know.
    """

    def __init__(self, decoder: Decoder, kept: int, steps: Steps, work: Work, note: Callable[[str], object]):
        self.decoder, self.kept, self._steps, self._work, self._note = decoder, KeptReadings(kept), steps, work, note

    def say(
        self,
        pairs: Sequence[Pair],
        prefixes: Callable[[Sequence[View]], Tensor],
        together: int,
        max_new_tokens: int,
    ) -> Iterator[Said]:
        """The answers to all ``pairs``, step by step.

        Args:
            prefixes: gives the embeddings (R, L, D) of views that have to be read.
            together: how many views are read at once.
        """
        # Views that are kept stand ahead of those that are not.
        ordered = sorted(pairs, key=lambda pair: pair.view.name not in self.kept)
        views, questions = views_of(ordered), as_questions(ordered)
        try:
            reading = self._read(views, prefixes, together)
            steps = self._counted(reading, reading.say(questions, max_new_tokens))
            first = next(steps)
        except PamKitError as error:
            # Such a decoder reads every question with its region, and refuses by itself what nobody can answer.
            answers = self.decoder.generate(prefixes(views), questions, max_new_tokens)
            self._note_unshared(error)
            yield from ((pair, answer.text, answer) for pair, answer in zip(ordered, answers, strict=True))
            return
        with closing(steps):
            yield from self._told(ordered, first)
            for step in steps:
                yield from self._told(ordered, step)

    def score(
        self,
        pairs: Sequence[Pair],
        answers: Sequence[str],
        prefixes: Callable[[Sequence[View]], Tensor],
        together: int,
    ) -> tuple[Sequence[Pair], AnswerScores]:
        """How likely each of K answers is to each of ``pairs``, which are told in the order of the scores.

        Args:
            prefixes: as of ``say``, and so is ``together``.
        """
        ordered = sorted(pairs, key=lambda pair: pair.view.name not in self.kept)
        views, questions = views_of(ordered), as_questions(ordered)
        try:
            reading = self._read(views, prefixes, together)
            before = (reading.positions_computed, reading.vocabulary_rows)
            scores = reading.score(questions, answers)
        except PamKitError as error:
            # As above: what cannot be scored at all is refused here once more.
            scores = self.decoder.score_answers(prefixes(views), questions, answers)
            self._note_unshared(error)
            return ordered, scores
        self._count(reading, before)
        return ordered, scores

    def _note_unshared(self, error: PamKitError) -> None:
        self._note(f"each question was read together with its region, and nothing of it kept: {error}")

    def _count(self, reading: Reading, before: tuple[int, int]) -> tuple[int, int]:
        """Count what was computed since ``before``: positions and vocabulary rows, as they are now."""
        now = (reading.positions_computed, reading.vocabulary_rows)
        self._work.positions += now[0] - before[0]
        self._work.vocabulary_rows += now[1] - before[1]
        return now

    def _told(self, pairs: Sequence[Pair], step: Spoken) -> Iterator[Said]:
        for number, pair in enumerate(pairs):
            if step.pieces[number] or number in step.ended:
                yield pair, step.pieces[number], step.ended.get(number)

    def _counted(self, reading: Reading, steps: Iterator[Spoken]) -> Generator[Spoken, None, None]:
        """The same steps; what each of them computed is counted."""
        try:
            before = (reading.positions_computed, reading.vocabulary_rows)
            for step in steps:
                before = self._count(reading, before)
                yield step
        finally:
            steps.close()  # type: ignore[attr-defined]

    def _read(self, views: Sequence[View], prefixes: Callable[[Sequence[View]], Tensor], together: int) -> Reading:
        """One reading of all views, in their order; those that are not kept are read."""
        known = [view.name for view in views if view.name in self.kept]
        new = views[len(known) :]
        parts = [self.kept.of(known)] if known else []
        fresh = []
        for start in range(0, len(new), together):
            embeddings = prefixes(new[start : start + together])
            reading = self.decoder.start_reading(len(embeddings), self._steps)
            reading.read(embeddings)
            self._work.prefix_positions += reading.positions_computed
            self._work.positions += reading.positions_computed
            fresh.append(reading)
        if fresh:
            parts.append(fresh[0] if len(fresh) == 1 else fresh[0].joined(fresh[1:]))
            self.kept.add([view.name for view in new], parts[-1])
        return parts[0] if len(parts) == 1 else parts[0].joined(parts[1:])
