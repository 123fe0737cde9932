"""The runs that a study is made of: every variant and seed is a chain of stages, and what two chains share is run once.

A run is one stage trained with one seed. It is known by a key, a hash of all that its training depends on and of the
run it starts from; so variants, and studies that keep their runs in one folder, share their common stages, and whatever
is changed in a recipe makes other runs of it. Torch-free.
"""

import hashlib
import json
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

from pam_kit.ablation.study import Override, Study, Variant
from pam_kit.errors import RecipeError
from pam_kit.recipe import Schedule, load_schedule
from pam_kit.recipe.schema import default_of
from pam_kit.sections import EvaluateSection, Recipe

_COMMAND_LINE = "command line: "


@dataclass
class Run:
    """One stage, trained with one seed.

    Args:
        recipe: its ``seed`` is that of the chain; ``init_from`` is left to ``parent``.
        parent: the run from whose model it starts, or None.
        variants: whose chains it is part of.
        scored_on: held-out sets of the chains that end here; one that only others start from has none.
    """

    key: str
    recipe: Recipe
    parent: "Run | None"
    variants: list[str] = field(default_factory=list)
    scored_on: list[EvaluateSection] = field(default_factory=list)

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"{self.recipe.name}-seed{self.recipe.seed}-{self.key}"

    @property
    def title(self) -> str:
        """For people: recipe, seed and variants."""
        return f"{self.recipe.name}, seed {self.recipe.seed} ({'; '.join(self.variants)})"

    @property
    def level(self) -> int:
        """How many runs come before it, one after the other."""
        return 0 if self.parent is None else 1 + self.parent.level


@dataclass(frozen=True)
class Chain:
    """The runs of one variant and seed, in order; the last one's model is scored on ``evaluate``."""

    variant: str
    seed: int
    runs: tuple[Run, ...]
    evaluate: EvaluateSection

    @property
    def last(self) -> Run:
        return self.runs[-1]


@dataclass(frozen=True)
class Chains:
    """All chains of a study, and their runs: those that nothing precedes first, so that none needs a later one."""

    study: Study
    chains: tuple[Chain, ...]
    runs: tuple[Run, ...]

    def of(self, variant: str) -> list[Chain]:
        return [chain for chain in self.chains if chain.variant == variant]


def make_chains(study: Study, seeds: Sequence[int] = (), only: Collection[str] = ()) -> Chains:
    """Load and check every recipe that the study makes.

    Args:
        seeds: in the place of the study's.
        only: the variants to run; all where it is empty.

    Raises:
        RecipeError: every mistake in every recipe; a mistaken override is named by its line in the study.
    """
    names = [variant.name for variant in study.variants]
    if unknown := [name for name in only if name not in names]:
        raise RecipeError([f"{study.path}: there is no variant {unknown[0]!r}; it has {', '.join(names)}"])
    maker = _Maker(study)
    for seed in seeds or study.seeds:
        for variant in study.variants:
            if not only or variant.name in only:
                maker.add(variant, seed)
    if maker.problems:
        raise RecipeError(list(dict.fromkeys(maker.problems)))
    runs = sorted(maker.runs.values(), key=lambda run: run.level)
    return Chains(study, tuple(maker.chains), tuple(runs))


class _Maker:
    """Chains of a study, made one by one; ``problems`` are those of all."""

    def __init__(self, study: Study):
        self.study = study
        self.problems: list[str] = []
        self.runs: dict[str, Run] = {}
        self.chains: list[Chain] = []
        # Variants have stages in common.
        self._loaded: dict[tuple[str, ...], Schedule] = {}

    def add(self, variant: Variant, seed: int) -> None:
        known = len(self.problems)
        fixed = self._stages(variant.fixture, (), variant, seed)
        stages = [*fixed, *self._stages(variant.stages, variant.overrides, variant, seed)]
        if len(self.problems) > known:
            return
        parent, chain = None, []
        for stage in stages:
            # Each starts from the one before; only the first may name a run of its own.
            recipe = replace(stage, init_from=None) if parent else stage
            key = _key(recipe, parent)
            parent = self.runs.setdefault(key, Run(key, recipe, parent))
            if variant.name not in parent.variants:
                parent.variants.append(variant.name)
            chain.append(parent)
        evaluate = self._held_out(stages[-1])
        if evaluate not in chain[-1].scored_on:
            chain[-1].scored_on.append(evaluate)
        self._check_scores(variant, evaluate)
        self.chains.append(Chain(variant.name, seed, tuple(chain), evaluate))

    def _stages(self, names: Iterable[str], overrides: Sequence[Override], variant: Variant, seed: int) -> list[Recipe]:
        found: list[Recipe] = []
        for name in names:
            try:
                found += self._load(name, [*(override.text for override in overrides), f"seed={seed}"]).stages
            except RecipeError as error:
                self.problems += [_placed(problem, overrides, variant) for problem in error.problems]
        return found

    def _load(self, name: str, changes: Sequence[str] = ()) -> Schedule:
        """A recipe by file, beside the study or not, or by name."""
        key = (name, *changes)
        if key not in self._loaded:
            beside = self.study.path.parent / name
            self._loaded[key] = load_schedule(beside if beside.is_file() else name, changes)
        return self._loaded[key]

    def _held_out(self, last: Recipe) -> EvaluateSection:
        if self.study.evaluate is None:
            return last.evaluate
        try:
            return self._load(self.study.evaluate).stages[-1].evaluate
        except RecipeError as error:
            self.problems += [f"{self.study.path}: evaluate: {problem}" for problem in error.problems]
            return last.evaluate

    def _check_scores(self, variant: Variant, evaluate: EvaluateSection) -> None:
        for score in self.study.scores:
            split, _, rest = score.row.partition(" / ")
            prompt = rest.partition(" / ")[0]
            text = ""
            if split not in evaluate.splits:
                has = ", ".join(evaluate.splits) or "none"
                text = f"variant {variant.name!r} is not scored on a split {split!r}; its splits: {has}"
            elif prompt not in evaluate.splits[split].prompts:
                has = ", ".join(evaluate.splits[split].prompts)
                text = f"the split {split!r} has no prompt {prompt!r}; it has {has}"
            if text:
                self.problems.append(f"{score.place}: scores.{score.name}: {text}")


def _placed(problem: str, overrides: Sequence[Override], variant: Variant) -> str:
    """A problem with an override at the override's own place, and one with a recipe with the variant it is part of."""
    for override in overrides:
        start = f"{_COMMAND_LINE}{override.text}"
        if problem.startswith(start):
            return f"{override.place}: variant {variant.name!r}: {problem.removeprefix(_COMMAND_LINE)}"
    return f"{variant.place}: variant {variant.name!r}: {problem}"


def _key(recipe: Recipe, parent: Run | None) -> str:
    """Of all that training depends on; where features are kept and what is scored afterwards changes nothing."""
    trained = replace(recipe, evaluate=EvaluateSection(), data=replace(recipe.data, cache_folder=None))
    return _hash([parent.key if parent else "", _told(trained)])


def _told(value: Any) -> Any:
    """What a section says besides its defaults, so that a key which is new to the kit changes no former run's hash."""
    if not is_dataclass(value):
        return {name: _told(item) for name, item in value.items()} if isinstance(value, dict) else value
    return {
        one.name: _told(getattr(value, one.name))
        for one in fields(value)
        if one.name not in ("source", "overrides") and getattr(value, one.name) != default_of(one)
    }


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:10]


def evaluation_key(section: EvaluateSection) -> str:
    """A hash of the held-out sets, and of how they are asked."""
    return _hash(_told(section))


def run_folder(out: Path, run: Run) -> Path:
    """Where a run lies in a folder of studies."""
    return out / "runs" / run.name


def study_folder(out: Path, study: Study) -> Path:
    """Where a study's tables lie."""
    return out / study.name
