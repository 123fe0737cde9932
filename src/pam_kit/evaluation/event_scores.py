"""What a model says of events in videos, against what happened: word for word, and fact by fact."""

import math
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pam_kit.contracts import GeneratedText
from pam_kit.evaluation.scores import AttributeReader, Score, normal

EVENT_ATTRIBUTES = ("event", "label", "colour", "old_colour", "direction")
_TOGETHER = ("event", "label", "colour")


@dataclass
class EventScores:
    """Scores by name of the events of one held-out set; add them one by one.

    A fact counts where the true caption states it and ``read_attribute`` finds it there.
    """

    read_attribute: AttributeReader | None = None
    scores: dict[str, Score] = field(default_factory=lambda: defaultdict(Score))
    events: Counter = field(default_factory=Counter)

    def add(
        self,
        texts: Mapping[str, Mapping[str, str]],
        attributes: Mapping[str, Any],
        said: Mapping[str, Mapping[str, GeneratedText]],
    ) -> None:
        """One event: what is true of it, by task and language, the facts behind it, and the answers.

        Where nothing was said of a question that has an answer, it is answered wrongly.
        """
        if "event" in attributes:
            self.events[attributes["event"]] += 1
        for task, by_language in texts.items():
            for language, expected in by_language.items():
                answer = said.get(task, {}).get(language)
                self._add_text(task, language, expected, "" if answer is None else answer.text, attributes)

    def table(self) -> dict[str, dict[str, float]]:
        """name -> mean, standard error, count; the share of the commonest event beside what it is the floor of."""
        rows = {n: {"mean": s.mean, "se": s.standard_error, "n": s.count} for n, s in self.scores.items()}
        if self.events:
            total = sum(self.events.values())
            rows["majority event"] = {"mean": max(self.events.values()) / total, "se": math.nan, "n": total}
        return rows

    def _add_text(self, task: str, language: str, expected: str, said: str, attributes: Mapping[str, Any]) -> None:
        self.scores[f"{task} exact {language}"].add(normal(said) == normal(expected))
        if self.read_attribute is None:
            return
        right = {}
        for name in EVENT_ATTRIBUTES:
            truth = self.read_attribute(expected, name, language)
            if truth is not None and name in attributes:
                right[name] = self.read_attribute(said, name, language) == truth
        for name, told in right.items():
            self.scores[f"{task} {name.replace('_', ' ')} {language}"].add(told)
        if all(name in right for name in _TOGETHER):
            self.scores[f"{task} {', '.join(_TOGETHER)} {language}"].add(all(right[name] for name in _TOGETHER))
