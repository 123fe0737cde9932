"""The sentences of the moving micro dataset: what an object does, in English and Chinese, and how to read it back."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import product

from pam_kit.data.micro.language import COLOUR_WORDS_ZH, KIND_WORDS
from pam_kit.data.micro.painting import COLOURS
from pam_kit.data.micro.shapes import KINDS

EVENTS = ("moves", "grows", "shrinks", "spins", "turns", "hides", "leaves", "returns", "stays")
DIRECTION_WORDS_ZH = {"left": "左", "right": "右", "up": "上", "down": "下"}
DIRECTIONS = tuple(DIRECTION_WORDS_ZH)
# What can be an object to hide behind: wide enough everywhere, and without a hole.
COVERS = ("box", "ball")

_VERBS_EN = {
    "moves": "moves {direction}",
    "grows": "grows",
    "shrinks": "shrinks",
    "spins": "spins",
    "turns": "turns {new}",
    "hides": "hides behind the {behind}",
    "leaves": "leaves",
    "returns": "comes back",
    "stays": "stays",
}
_VERBS_ZH = {
    "moves": "向{direction}移动",
    "grows": "变大",
    "shrinks": "变小",
    "spins": "旋转",
    "turns": "变成{new}",
    "hides": "躲到{behind}后面",
    "leaves": "离开",
    "returns": "回来",
    "stays": "不动",
}


@dataclass(frozen=True)
class EventFacts:
    """What one object does during one event, in canonical English values.

    ``colour`` is the colour it ends with; ``old_colour`` is set where that is another one ("turns"), ``direction``
    where it "moves", and ``behind``, a colour and a kind ("green box"), where it "hides".
    """

    event: str
    label: str
    colour: str
    old_colour: str | None = None
    direction: str | None = None
    behind: str | None = None

    def attributes(self) -> dict[str, str]:
        """The facts that are set, by name."""
        return {name: value for name, value in vars(self).items() if value is not None}


def event_texts(facts: EventFacts) -> dict[str, dict[str, str]]:
    """The caption of an event: task -> language -> text."""
    shown = facts.old_colour or facts.colour
    verb_en = _VERBS_EN[facts.event].format(direction=facts.direction, new=facts.colour, behind=facts.behind)
    verb_zh = _VERBS_ZH[facts.event].format(
        direction=DIRECTION_WORDS_ZH.get(facts.direction or ""),
        new=COLOUR_WORDS_ZH[facts.colour],
        behind=_look_zh(*facts.behind.split()) if facts.behind else "",
    )
    return {"caption": {"en": f"the {shown} {facts.label} {verb_en}", "zh": _look_zh(shown, facts.label) + verb_zh}}


def _look_zh(colour: str, kind: str) -> str:
    return f"{COLOUR_WORDS_ZH[colour]}的{KIND_WORDS[kind].zh}"


def all_event_texts() -> Iterator[str]:
    """Captions that use every word of both languages in every place it can take, next to every event."""
    for number, (label, colour, event) in enumerate(product(KINDS, COLOURS, EVENTS)):
        other = COLOURS[(COLOURS.index(colour) + 1 + number % (len(COLOURS) - 1)) % len(COLOURS)]
        facts = EventFacts(
            event,
            label,
            colour,
            old_colour=other if event == "turns" else None,
            direction=DIRECTIONS[number // len(EVENTS) % len(DIRECTIONS)] if event == "moves" else None,
            behind=f"{other} {COVERS[number % len(COVERS)]}" if event == "hides" else None,
        )
        yield from event_texts(facts)["caption"].values()


EVENT_ATTRIBUTES = ("event", "label", "colour", "old_colour", "direction", "behind")


def find_event_attribute(text: str, attribute: str, language: str) -> str | None:
    """Read one attribute off the caption of an event.

    Args:
        text: what a model or the dataset wrote.
        attribute: event, label, colour, old_colour, direction or behind ("green box").
        language: en or zh.

    Returns:
        The canonical English value, as in ``Event.attributes``; None where the text does not say. ``colour`` is the new
        one where the object "turns". What the object is can be read even where what it does cannot.

    Raises:
        ValueError: for an unknown attribute or language.
    """
    if attribute not in EVENT_ATTRIBUTES or language not in ("en", "zh"):
        raise ValueError(
            f"cannot read {attribute!r} in {language!r}; choose of {', '.join(EVENT_ATTRIBUTES)} and en, zh"
        )
    look_pattern, verb_pattern = _patterns(language)
    look = look_pattern.search(text.lower())
    if look is None:
        return None
    verb = verb_pattern.match(text.lower(), look.end())
    if attribute == "label" or verb is None:
        return _english(look[attribute]) if attribute in ("label", "colour") else None
    return _told(attribute, look["colour"], verb.groupdict())


def _told(attribute: str, shown: str, verb: dict[str, str | None]) -> str | None:
    """What an event's sentence says beside its label; ``shown`` is the colour it begins with."""
    if attribute == "event":
        return next(name for name in EVENTS if verb[name] is not None)
    if attribute == "behind":
        words = [verb["behind_colour"], verb["behind_label"]]
        return " ".join(_english(word) for word in words if word) or None
    values = {"colour": verb["new"] or shown, "old_colour": shown if verb["new"] else None}
    word = {**values, "direction": verb["direction"]}[attribute]
    return _english(word) if word else None


@cache
def _patterns(language: str) -> tuple[re.Pattern[str], re.Pattern[str]]:
    """A look, and what may follow it; each verb is a named group, and so is every word that a verb takes."""
    if language == "en":
        colours, kinds, directions = COLOURS, KINDS, DIRECTIONS
        look, verbs, before, behind_it = "(?P<{}>{}) (?P<{}>{})", _VERBS_EN, r"\b", r"\b"
    else:
        colours, kinds = tuple(COLOUR_WORDS_ZH.values()), tuple(words.zh for words in KIND_WORDS.values())
        directions = tuple(DIRECTION_WORDS_ZH.values())
        look, verbs, before, behind_it = "(?P<{}>{})的(?P<{}>{})", _VERBS_ZH, "", ""
    colour, kind = "|".join(colours), "|".join(kinds)
    words = {
        "direction": f"(?P<direction>{'|'.join(directions)})",
        "new": f"(?P<new>{colour})",
        "behind": look.format("behind_colour", colour, "behind_label", kind),
    }
    verb = "|".join(f"(?P<{event}>{words_of.format(**words)})" for event, words_of in verbs.items())
    subject = before + look.format("colour", colour, "label", kind) + behind_it
    return re.compile(subject), re.compile(rf"\s*(?:{verb}){behind_it}")


@cache
def _dictionary() -> dict[str, str]:
    """Chinese words -> English ones."""
    words = {word: colour for colour, word in COLOUR_WORDS_ZH.items()}
    words |= {names.zh: kind for kind, names in KIND_WORDS.items()}
    return words | {word: direction for direction, word in DIRECTION_WORDS_ZH.items()}


def _english(word: str) -> str:
    return _dictionary().get(word, word)
