"""The words of the micro dataset: names, definitions, captions and descriptions in English and Chinese, and how to
read the facts back off a caption."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import product

from pam_kit.data.micro.painting import COLOURS, SIZES, TEXTURES
from pam_kit.data.micro.shapes import KINDS


@dataclass(frozen=True)
class KindWords:
    """Chinese name and measure word of a kind, and what it is and is for, in both languages."""

    zh: str
    measure: str
    definition: str
    definition_zh: str


KIND_WORDS: dict[str, KindWords] = {
    "ball": KindWords("皮球", "个", "a round toy to throw and kick", "圆形的玩具，用来抛和踢"),
    "box": KindWords("盒子", "个", "a case with flat sides to keep things in", "四面平直的容器，用来装东西"),
    "tent": KindWords("帐篷", "顶", "a shelter of cloth to sleep in outdoors", "布做的住所，用来在野外过夜"),
    "star": KindWords("星星", "颗", "a bright point in the night sky to find the way by", "夜空中的亮点，用来辨别方向"),
    "ring": KindWords("圆环", "个", "a round band with a hole to wear or to hold", "中间有孔的圆圈，用来佩戴或抓握"),
    "heart": KindWords("爱心", "颗", "a symbol with two round tops to show love", "上面有两个圆弧的图案，用来表达爱意"),
    "cross": KindWords("十字", "个", "a mark of two crossing bars to show a clinic", "两条线相交的标志，用来指示医院"),
    "moon": KindWords(
        "月亮", "个", "a body that circles the earth and lights the night", "绕地球转动的天体，在夜里照明"
    ),
    "arrow": KindWords("箭头", "个", "a sign with a sharp head to show a direction", "一端尖的标志，用来指示方向"),
    "fish": KindWords("鱼", "条", "an animal with fins that swims and serves as food", "有鳍会游泳的动物，可以做食物"),
    "tree": KindWords(
        "树", "棵", "a tall plant with a trunk that gives wood and shade", "有树干的高大植物，提供木材和树荫"
    ),
    "key": KindWords("钥匙", "把", "a metal tool with teeth to open a lock", "带齿的金属工具，用来开锁"),
    "cup": KindWords("杯子", "个", "a vessel with a handle to drink from", "有把手的容器，用来喝水"),
    "mushroom": KindWords("蘑菇", "朵", "a fungus with a cap that is cooked and eaten", "有伞盖的真菌，可以烹饪食用"),
}
COLOUR_WORDS_ZH = {
    "red": "红色",
    "orange": "橙色",
    "yellow": "黄色",
    "green": "绿色",
    "cyan": "青色",
    "blue": "蓝色",
    "purple": "紫色",
    "pink": "粉色",
    "white": "白色",
    "black": "黑色",
}
# "plain" stands before the colour in Chinese (纯红色), the patterns after it (红色条纹).
TEXTURE_WORDS_ZH = {"plain": "纯", "striped": "条纹", "dotted": "圆点", "checked": "格子"}
SIZE_WORDS_ZH = {"small": "小", "medium": "中等大小", "large": "大"}
POSITION_WORDS_ZH = {
    "top left": "左上角",
    "top": "上方",
    "top right": "右上角",
    "left": "左侧",
    "centre": "中央",
    "right": "右侧",
    "bottom left": "左下角",
    "bottom": "下方",
    "bottom right": "右下角",
}
POSITIONS = tuple(POSITION_WORDS_ZH)
_PREPOSITIONS = {"top": "at", "bottom": "at", "left": "on", "right": "on"}
RELATION_WORDS_ZH = {"left of": "左边", "right of": "右边", "above": "上面", "below": "下面"}
RELATIONS = tuple(RELATION_WORDS_ZH)
_HIDDEN_EN = {True: "partly hidden", False: "fully visible"}
_HIDDEN_ZH = {True: "部分被遮挡", False: "完整可见"}


@dataclass(frozen=True)
class Facts:
    """What is said about one object, in canonical English values."""

    label: str
    colour: str
    texture: str
    size: str
    position: str
    relation: str
    neighbour_label: str
    neighbour_colour: str
    occluded: bool


def region_texts(facts: Facts) -> dict[str, dict[str, str]]:
    """All texts about one object: task -> language -> text."""
    words = KIND_WORDS[facts.label]
    return {
        "recognize": {"en": facts.label, "zh": words.zh},
        "explain": {"en": f"{facts.label}: {words.definition}", "zh": f"{words.zh}：{words.definition_zh}"},
        "caption": {"en": _caption_en(facts), "zh": _caption_zh(facts)},
        "describe": {"en": _describe_en(facts), "zh": _describe_zh(facts)},
    }


def _caption_en(facts: Facts) -> str:
    return f"a {facts.size} {facts.texture} {facts.colour} {facts.label}"


def _caption_zh(facts: Facts) -> str:
    words, texture = KIND_WORDS[facts.label], TEXTURE_WORDS_ZH[facts.texture]
    colour = COLOUR_WORDS_ZH[facts.colour]
    surface = texture + colour if facts.texture == "plain" else colour + texture
    return f"一{words.measure}{SIZE_WORDS_ZH[facts.size]}的{surface}{words.zh}"


def _describe_en(facts: Facts) -> str:
    article = "an" if facts.neighbour_colour[0] in "aeiou" else "a"
    neighbour = f"{facts.relation} {article} {facts.neighbour_colour} {facts.neighbour_label}"
    where = f"{_PREPOSITIONS.get(facts.position, 'in')} the {facts.position}"
    return f"{_caption_en(facts)} {where}, {neighbour}, {_HIDDEN_EN[facts.occluded]}"


def _describe_zh(facts: Facts) -> str:
    words = KIND_WORDS[facts.neighbour_label]
    neighbour = f"一{words.measure}{COLOUR_WORDS_ZH[facts.neighbour_colour]}{words.zh}"
    where = f"画面{POSITION_WORDS_ZH[facts.position]}有{_caption_zh(facts)}"
    return f"{where}，在{neighbour}的{RELATION_WORDS_ZH[facts.relation]}，{_HIDDEN_ZH[facts.occluded]}"


def all_texts() -> Iterator[str]:
    """Every label and explanation, and captions and descriptions that use every word in every place it can take."""
    everything = product(SIZES, TEXTURES, COLOURS, KINDS)
    places = list(product(POSITIONS, RELATIONS, (False, True)))
    for number, (size, texture, colour, label) in enumerate(everything):
        position, relation, occluded = places[number % len(places)]
        # The neighbour walks through kinds and colours at its own pace; 3 and 7 have no factor in common with 14 or 10.
        kind, other = KINDS[3 * number % len(KINDS)], COLOURS[7 * (number // len(COLOURS)) % len(COLOURS)]
        facts = Facts(label, colour, texture, size, position, relation, kind, other, occluded)
        for by_language in region_texts(facts).values():
            yield from by_language.values()


_VALUES: dict[str, dict[str, dict[str, str]]] = {
    "label": {"en": {k: k for k in KINDS}, "zh": {w.zh: k for k, w in KIND_WORDS.items()}},
    "colour": {"en": {c: c for c in COLOURS}, "zh": {w: c for c, w in COLOUR_WORDS_ZH.items()}},
    "texture": {"en": {t: t for t in TEXTURES}, "zh": {w: t for t, w in TEXTURE_WORDS_ZH.items()}},
    "size": {"en": {s: s for s in SIZES}, "zh": {w: s for s, w in SIZE_WORDS_ZH.items()}},
    "position": {"en": {p: p for p in POSITIONS}, "zh": {w: p for p, w in POSITION_WORDS_ZH.items()}},
    "relation": {"en": {r: r for r in RELATIONS}, "zh": {w: r for r, w in RELATION_WORDS_ZH.items()}},
}
ATTRIBUTES = (*_VALUES, "neighbour")


@cache
def _pattern(attribute: str, language: str) -> re.Pattern[str]:
    """Longest words first, so that "top left" is not read as "left"; English words only as a whole."""
    words = sorted(_VALUES[attribute][language], key=len, reverse=True)
    alternatives = "|".join(re.escape(word) for word in words)
    return re.compile(rf"\b(?:{alternatives})\b" if language == "en" else alternatives)


def find_attribute(text: str, attribute: str, language: str) -> str | None:
    """Read one attribute of the described object off a label, explanation, caption or description.

    Args:
        text: what a model or the dataset wrote.
        attribute: label, colour, texture, size or position, read off the first clause, the label being its last
            noun; relation or neighbour ("blue ring"), read off the second clause.
        language: en or zh.

    Returns:
        The canonical English value, as in ``Region.attributes``; None where the text does not say, or says two
        different things.

    Raises:
        ValueError: for an unknown attribute or language.
    """
    if attribute not in ATTRIBUTES or language not in ("en", "zh"):
        raise ValueError(f"cannot read {attribute!r} in {language!r}; choose of {', '.join(ATTRIBUTES)} and en, zh")
    clauses = [*re.split(r"[,:;.，：；。]", text.lower()), ""]
    if attribute == "neighbour":
        found = [_values(clauses[1], name, language) for name in ("colour", "label")]
        return " ".join(values[-1] for values in found) if all(found) else None
    values = _values(clauses[1] if attribute == "relation" else clauses[0], attribute, language)
    if not values or (attribute != "label" and len(set(values)) > 1):
        return None
    return values[-1]


def _values(clause: str, attribute: str, language: str) -> list[str]:
    words = _VALUES[attribute][language]
    return [words[word] for word in _pattern(attribute, language).findall(clause)]
