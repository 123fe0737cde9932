"""What is said of a video against what happens in it, in words alone: VideoRefer-Bench-D and G-STDC. Torch-free.

Sources: Yuan et al., "VideoRefer Suite", CVPR 2025, section 4 (VideoRefer-Bench-D); Lin et al., "Perceive Anything",
2025, appendix C (G-STDC).
"""

from collections.abc import Iterable, Sequence
from functools import partial

from pam_kit.evaluation.judging import parsers
from pam_kit.evaluation.judging.aggregates import dimension_means, mean
from pam_kit.evaluation.judging.asking import Question, Reading, Verdict
from pam_kit.evaluation.judging.endpoint import Messages
from pam_kit.evaluation.judging.items import Item, grouped_items, single_items
from pam_kit.evaluation.judging.parsers import DIMENSIONS
from pam_kit.evaluation.records import RegionRecord

# As the paper heads its columns.
SHORT_NAMES = dict(zip(DIMENSIONS, ("SC", "AD", "TD", "HD"), strict=True))

_FACTS_ROLE = """\
You judge how true to the facts a description of one object in a video is. You are given the correct answer and a \
predicted answer; you do not see the video, so the correct answer is all that is known. Judge four things apart, each \
with a whole number from 0 (entirely wrong) to 5 (entirely right):
1. Subject Correspondence: is the object that is described the one that the correct answer is about?
2. Appearance Description: are its colours, shape, material, clothing and other visible traits right and complete?
3. Temporal Description: are its actions, movements and changes over time right and complete?
4. Hallucination Detection: is everything said backed by the correct answer? 5 stands for nothing invented.
Other words for the same thing are not a fault. Reply in exactly this form, with a number for N and one short sentence \
of explanation each:
1. Subject Correspondence: N
Explanation: ...
2. Appearance Description: N
Explanation: ...
3. Temporal Description: N
Explanation: ...
4. Hallucination Detection: N
Explanation: ..."""
_CONTINUITY_ROLE = """\
You judge whether descriptions of the successive segments of a video make one continuous account of a subject. Compare \
the predicted segments with the true ones, and look at five things:
1. Temporal continuity: does one event follow from the last in time?
2. Action continuity: do actions go on and lead to each other?
3. Subject consistency: does the subject stay the same one, in a state that fits what was said before?
4. Context preservation: do place and surroundings stay as they were, unless they really change?
5. Logical flow: does the order of what is told make sense?
Give one score for all of them together, from 0 (no continuity) to 5 (perfect continuity). Reply in exactly this form, \
with the number in the place of N:
Continuity Score: N
Explanation: ..."""


class VideoReferBenchD:
    """Four scores from 0 to 5 for the description of one object in a video."""

    name = "videorefer_bench_d"
    asks = "means of four scores from 0 to 5, and Avg, the mean of those; the judge sees no frames"

    def questions(self, records: Iterable[RegionRecord]) -> list[Question]:
        """A question for each record."""
        return [Question(item.id, partial(_facts, item), parsers.dimensions) for item in single_items(records)]

    def scores(self, verdicts: Sequence[Verdict]) -> tuple[dict[str, float | None], dict[str, Reading]]:
        """Means over the records that have a score, dimension by dimension, and the scores."""
        published = [
            parsers.published_videorefer(verdict.first_reply.text) if verdict.first_reply else None
            for verdict in verdicts
        ]
        corpus: dict[str, float | None] = {}
        for suffix, replies in (("", [verdict.scores for verdict in verdicts]), ("_reference_compat", published)):
            table = dimension_means(replies)
            corpus |= {short + suffix: table[name]["mean"] for name, short in SHORT_NAMES.items()}
            corpus[f"Avg{suffix}"] = table["Average"]
        items: dict[str, Reading] = {
            verdict.id: {short: verdict.scores[name] for name, short in SHORT_NAMES.items()} for verdict in verdicts
        }
        return corpus, items


class GStdc:
    """One score from 0 to 5 for the continuity of all that is said of a video's events."""

    name = "g_stdc"
    asks = "mean over videos of one score from 0 to 5 for all events of a video; the judge sees no frames"

    def questions(self, records: Iterable[RegionRecord]) -> list[Question]:
        """A question for each video."""
        items = grouped_items(records, "event", need_group=True)
        return [Question(item.id, partial(_segments, item), _read_continuity) for item in items]

    def scores(self, verdicts: Sequence[Verdict]) -> tuple[dict[str, float | None], dict[str, Reading]]:
        """The mean over videos, and the score of each; for PAM's script a failure is a 0."""
        known = [score for verdict in verdicts if (score := verdict.scores["G-STDC"]) is not None]
        published = [
            parsers.published_continuity(verdict.first_reply.text if verdict.first_reply else "")[0]
            for verdict in verdicts
        ]
        corpus = {"G-STDC": mean(known), "G-STDC_reference_compat": mean(published)}
        return corpus, {verdict.id: verdict.scores for verdict in verdicts}


def _facts(item: Item) -> Messages:
    told = f"##Correct answer: {item.first.references[0].strip()}\n##Predicted answer: {item.first.answer.strip()}\n"
    return [{"role": "system", "content": _FACTS_ROLE}, {"role": "user", "content": told}]


def _segments(item: Item) -> Messages:
    true = _numbered([record.references[0] for record in item.records])
    said = _numbered([record.answer for record in item.records])
    told = f"{_CONTINUITY_ROLE}\n\nTrue segments:\n{true}\n\nPredicted segments:\n{said}"
    return [{"role": "user", "content": told}]


def _numbered(texts: Sequence[str]) -> str:
    return "\n".join(f"Segment {number}: {text.strip()}" for number, text in enumerate(texts, 1))


def _read_continuity(reply: str) -> Reading:
    return {"G-STDC": parsers.continuity(reply)}
