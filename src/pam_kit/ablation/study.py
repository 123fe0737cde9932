"""A study: what varies, what is scored, and what a paper says of it. Torch-free."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pam_kit.recipe.marked_yaml import Place


@dataclass(frozen=True)
class Override:
    """``KEY=VALUE`` and where it stands."""

    text: str
    place: Place


@dataclass(frozen=True)
class Variant:
    """One row of the table.

    Args:
        fixture: recipes whose training comes first and is the same for all variants that name them.
        stages: recipes that follow, each from where the one before ended.
        overrides: changes to the stages.
    """

    name: str
    fixture: tuple[str, ...]
    stages: tuple[str, ...]
    overrides: tuple[Override, ...]
    place: Place


@dataclass(frozen=True)
class Score:
    """One column of the table: a score of the evaluation, in percent.

    Args:
        row: split, prompt and, of videos, streams, as the evaluation joins them: ``lookalike / box``.
        score: its name there, such as ``caption colour en``.
    """

    name: str
    row: str
    score: str
    place: Place


@dataclass(frozen=True)
class Verdict:
    """A column that answers yes or no: whether a variant's score lies above another one of its scores.

    Args:
        name: what is answered, such as ``tells it from its twin``.
        score, floor: columns of the study.
    """

    name: str
    score: str
    floor: str


@dataclass(frozen=True)
class Published:
    """What somebody else has measured for the same variants; None where they have not."""

    source: str = ""
    columns: tuple[str, ...] = ()
    rows: Mapping[str, tuple[float | None, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Study:
    """Variants x seeds, and how they are compared.

    Args:
        reference: the variant that the others are compared with.
        evaluate: the recipe on whose held-out sets every variant is scored; None: those of its own last stage.
        plot: the columns that are drawn.
        test: ``paired``: runs of the same seed are compared; ``welch``: all runs of two variants.
    """

    name: str
    title: str
    question: str
    remarks: str
    variants: tuple[Variant, ...]
    seeds: tuple[int, ...]
    reference: str
    scores: tuple[Score, ...]
    verdicts: tuple[Verdict, ...]
    plot: tuple[str, ...]
    test: str
    evaluate: str | None
    published: Published
    path: Path

    def variant(self, name: str) -> Variant:
        return next(variant for variant in self.variants if variant.name == name)
