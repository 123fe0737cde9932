"""Scores out of a judge's reply: as the published scripts read it, and as it is meant. Torch-free.

The published readers (``published_*``) are kept to tell what their scripts would have reported; they miss scores in
bold, brackets or lower case, take some that are none, and count failures in. Scores of our own come from the others,
for which None is a failure.
"""

import re
from typing import TypeAlias

Pair: TypeAlias = tuple[float, float]

# VideoRefer-Bench-D, in the order of its instructions.
DIMENSIONS = (
    "Subject Correspondence",
    "Appearance Description",
    "Temporal Description",
    "Hallucination Detection",
)
# What the script of Ferret-Bench puts in the place of a pair that it cannot read, and averages in.
FAILED_PAIR: Pair = (-1, -1)

_NUMBERED = re.compile(r"\d+\.\s+(?P<name>.*?):\s+(?P<score>[\d.]+)")
_PUBLISHED_CONTINUITY = re.compile(r"Continuity Score:\s*(\d+(?:\.\d+)?)")
_PUBLISHED_EXPLANATION = re.compile(r"Explanation:\s*(.*)")
_NUMBER = re.compile(r"-?[0-9]+(?:\.[0-9]+)?")
_ASSISTANT_LABEL = re.compile(r"assistant\s*[0-9]+\s*:", re.IGNORECASE)


def published_videorefer(reply: str) -> dict[str, float] | None:
    """Every ``N. name: number`` of a reply, as VideoRefer's script for VideoRefer-Bench-D has it; a name that comes
    again takes the last number. None where one of the numbers is none, such as ``..``: the script drops that reply.
    """
    try:
        return {found["name"]: float(found["score"]) for found in _NUMBERED.finditer(reply)}
    except ValueError:
        return None


def published_pair_ferret(reply: str) -> Pair:
    """Two numbers with one space or comma between them on the first line (Ferret, Osprey, Draw-and-Understand)."""
    return _published_pair(reply.split("\n")[0])


def published_pair_lmms_eval(reply: str) -> Pair:
    """The same, but for blanks around the first line, which do no harm (lmms-eval)."""
    return _published_pair(reply.split("\n")[0].strip())


def published_continuity(reply: str) -> tuple[float, str]:
    """Score and the explanation's first line, as PAM's eval.py reads them; a failure is a score of 0."""
    score = _PUBLISHED_CONTINUITY.search(reply)
    explanation = _PUBLISHED_EXPLANATION.search(reply)
    if score is None or not 0 <= float(score[1]) <= 5:
        return 0, ""
    return float(score[1]), explanation[1] if explanation else ""


def dimensions(reply: str) -> dict[str, float | None]:
    """The four scores of VideoRefer-Bench-D, each in [0, 5]; None where the reply gives none."""
    plain = _plain(reply)
    return {name: _named_score(plain, name) for name in DIMENSIONS}


def continuity(reply: str) -> float | None:
    """The continuity score of G-STDC, in [0, 5]."""
    return _named_score(_plain(reply), "Continuity Score")


def pair(reply: str) -> Pair | None:
    """The scores of the first and the second answer, each in [1, 10], off the first line that is not blank."""
    line = next((line for line in _plain(reply).splitlines() if line.strip()), "")
    numbers = [float(number) for number in _NUMBER.findall(_ASSISTANT_LABEL.sub(" ", line))]
    if len(numbers) != 2 or not all(1 <= number <= 10 for number in numbers):
        return None
    return numbers[0], numbers[1]


def _published_pair(line: str) -> Pair:
    words = line.replace(",", " ").split(" ")
    if len(words) != 2:
        return FAILED_PAIR
    try:
        return float(words[0]), float(words[1])
    except ValueError:
        return FAILED_PAIR


def _plain(reply: str) -> str:
    """Without bold type, and with line ends where a judge wrote them out as a backslash and an n."""
    return reply.replace("*", "").replace("\\n", "\n")


def _named_score(plain: str, name: str) -> float | None:
    """The number behind the first ``name:`` that has one; None where that is not in [0, 5].

    It may stand on a later line, unless it is the number of the next item of a list.
    """
    later_line = r"(?:\n\s*+(?![0-9]+[.)][ \t]))?"
    field = rf"(?<![a-z]){re.escape(name)}\s*:[ \t]*+{later_line}\[?[ \t]*({_NUMBER.pattern})"
    found = re.search(field, plain, re.IGNORECASE)
    if found is None:
        return None
    score = float(found[1])
    return score if 0 <= score <= 5 else None
