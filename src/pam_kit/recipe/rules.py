"""Which values of the right type a recipe may hold: ranges of numbers, known names, sensible shares. Torch-free."""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import fields
from typing import Any

from pam_kit.registry import specs, suggest
from pam_kit.sections import (
    DATASET_SLOT,
    QUESTION_TEXTS,
    STREAM_SWITCHES,
    TRAINABLE_PARTS,
    DataSection,
    EvaluateSection,
    LossWeights,
    MixedIn,
    Recipe,
    SplitChoice,
    TrainSection,
)
from pam_kit.tasks import LANGUAGES, TASKS

TRAINING_PROMPTS = ("box", "point", "mask")
JOINING_PARTS = ("perceiver", "decoder")
COMPILED_PARTS = ("perceiver", "projector", "decoder")
PRECISIONS = ("auto", "32-true", "16-mixed", "bf16-mixed", "16-true", "bf16-true", "64-true")
LOGGERS = ("csv", "tensorboard", "wandb")
EVALUATION_PROMPTS = (*TRAINING_PROMPTS, "whole_image", "given")

# A rule looks at one value of the right type and yields what is wrong with it: an entry (or None for all) and a text.
_Findings = Iterator[tuple[Any, str]]
_Rule = Callable[[Any], _Findings]


def _number(words: str, allows: Callable[[float], bool]) -> _Rule:
    def rule(value: Any) -> _Findings:
        if value is not None and not allows(value):
            yield None, f"must be {words}, not {value}"

    return rule


def _entries(words: str, allows: Callable[[float], bool]) -> _Rule:
    """The rule of a number for each entry of a list or table."""

    def rule(value: Any) -> _Findings:
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            if not allows(item):
                yield key, f"must be {words}, not {item}"

    return rule


def _names(kind: str, valid: Iterable[str]) -> _Rule:
    valid = tuple(valid)

    def rule(value: Any) -> _Findings:
        for index, name in enumerate(value):
            if name not in valid:
                entry = name if isinstance(value, dict) else index
                yield entry, f"unknown {kind} {name!r}{suggest(name, valid, 'valid')}"

    return rule


def _optional(rule: _Rule) -> _Rule:
    return lambda value: rule(value) if value is not None else iter(())


def _any_share(value: dict[str, float]) -> _Findings:
    if not any(value.values()):
        yield None, "at least one share must be above 0"


def _not_empty(value: list) -> _Findings:
    if not value:
        yield None, "must name at least one"


def _leaves_something(value: dict[str, MixedIn]) -> _Findings:
    total = sum(mixed.share for mixed in value.values())
    if total >= 1:
        yield None, f"the shares sum to {total:g} and leave no step to data.train; they must sum to less than 1"


def _one_of(kind: str, valid: Iterable[str]) -> _Rule:
    valid = tuple(valid)

    def rule(value: str) -> _Findings:
        if value not in valid:
            yield None, f"unknown {kind} {value!r}{suggest(value, valid, 'valid')}"

    return rule


def _devices(value: int | str) -> _Findings:
    if value != "auto" and not (isinstance(value, int) and value > 0):
        yield None, f"must be auto or a number of devices above 0, not {value!r}"


def _two(value: list) -> _Findings:
    if len(value) != 2:
        yield None, f"must be two numbers, not {len(value)}"


def _text_sources(value: list) -> _Findings:
    """Packages may register datasets of their own, so the names are known when the rule is asked."""
    return _names("source of texts", (QUESTION_TEXTS, *specs(DATASET_SLOT)))(value)


def _switches(value: list) -> _Findings:
    for index, words in enumerate(value):
        wrong = [word for word in words.split("+") if word not in STREAM_SWITCHES]
        if wrong and words != "none":
            yield index, f"unknown switch {wrong[0]!r} of a stream; join {', '.join(STREAM_SWITCHES)} by +, or none"


_positive = _number("above 0", lambda value: 0 < value < math.inf)
_not_negative = _number("0 or more", lambda value: 0 <= value < math.inf)
_part_of_one = _number("from 0 to 1", lambda value: 0 <= value <= 1)
_entries_not_negative = _entries("0 or more", lambda value: 0 <= value < math.inf)


def _shares(kind: str, valid: Iterable[str]) -> list[_Rule]:
    return [_names(kind, valid), _entries_not_negative, _any_share]


def _choices(kind: str, valid: Iterable[str]) -> list[_Rule]:
    return [_names(kind, valid), _not_empty]


_RULES: dict[type, dict[str, list[_Rule]]] = {
    Recipe: {"seed": [_number("from 0 to 2^32 - 1", lambda value: 0 <= value < 2**32)]},
    DataSection: {
        "tasks": _shares("task", TASKS),
        "languages": _shares("language", LANGUAGES),
        "prompts": _shares("prompt", TRAINING_PROMPTS),
        "num_workers": [_not_negative],
        **dict.fromkeys(("max_broken_share", "absent_prompts"), [_part_of_one]),
        "vocabulary_from": [_text_sources],
        **dict.fromkeys(("regions_per_image", "questions_per_region", "clip_frames"), [_positive]),
        "mixed_in": [_leaves_something],
    },
    MixedIn: {"share": [_number("above 0 and below 1", lambda value: 0 < value < 1)]},
    LossWeights: dict.fromkeys((field.name for field in fields(LossWeights)), [_not_negative]),
    TrainSection: {
        "trainable": [_names("part", TRAINABLE_PARTS)],
        "learning_rate_factors": [_names("part", TRAINABLE_PARTS), _entries_not_negative],
        "betas": [_two, _entries("from 0 to below 1", lambda value: 0 <= value < 1)],
        "warmup_ratio": [_number("from 0 to below 1", lambda value: 0 <= value < 1)],
        "join_at": [_names("part", JOINING_PARTS), _entries("from 0 to below 1", lambda value: 0 <= value < 1)],
        **dict.fromkeys(("weight_decay", "gradient_clip"), [_not_negative]),
        **dict.fromkeys(("learning_rate", "max_steps", "epochs", "num_nodes", "num_threads"), [_positive]),
        "decoder_questions": [_positive],
        "precision": [_one_of("precision", PRECISIONS)],
        "devices": [_devices],
        "compile": [_names("part", COMPILED_PARTS)],
        "loggers": [_names("logger", LOGGERS)],
        "preview_every": [_positive],
        "alignment_tasks": [_optional(_names("task", TASKS))],
        **dict.fromkeys(("global_batch_size", "device_batch_size", "log_every", "checkpoint_every"), [_positive]),
    },
    SplitChoice: {
        "prompts": _choices("prompt", EVALUATION_PROMPTS),
        "tasks": _choices("task", TASKS),
        "languages": _choices("language", LANGUAGES),
        **dict.fromkeys(("limit", "clip_frames"), [_positive]),
        "streams": [_not_empty, _switches],
    },
    EvaluateSection: {"batch_size": [_positive], "max_new_tokens": [_positive], "pictures": [_not_negative]},
}


def findings(section: type, key: str, value: Any) -> _Findings:
    """What is wrong with a value of the right type: the entry it concerns, or None for all of it, and a text."""
    for rule in _RULES.get(section, {}).get(key, ()):
        yield from rule(value)
