"""Schedules: a recipe whose ``schedule`` lists stages, each a run of its own that starts where the one before ended.

A stage is the name or file of a recipe, or a table of changes: to the recipe it ``extends``, or else to what stands
beside the schedule. What stands beside the schedule holds for all stages. Torch-free.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pam_kit.errors import RecipeError
from pam_kit.recipe.check import add_defaults, check
from pam_kit.recipe.interpolation import interpolate
from pam_kit.recipe.marked_yaml import Marked, Place, Problems
from pam_kit.recipe.merge import merge, normalise
from pam_kit.recipe.source import extended, find_recipe, read_override, read_recipe
from pam_kit.sections import Recipe


@dataclass
class Schedule:
    """Runs one after the other. A plain recipe is a schedule of one stage. Names of stages differ."""

    name: str
    stages: list[Recipe]
    source: str

    @property
    def single(self) -> bool:
        """Whether it comes from a plain recipe."""
        return len(self.stages) == 1 and self.stages[0].name == self.name


def load_schedule(path_or_name: str | Path, overrides: Sequence[str] = ()) -> Schedule:
    """The stages of a recipe by file or shipped name; ``overrides`` change every stage.

    Raises:
        RecipeError: every mistake in every stage, with file, line and key.
    """
    path = find_recipe(path_or_name)
    problems = Problems()
    root = read_recipe(path, problems)
    schedule = root.value.pop("schedule", None)
    if schedule is None:
        root.value.setdefault("name", Marked(path.stem, Place(str(path), 1)))
        recipe = _checked(root, path, overrides, problems)
        problems.raise_any()
        return Schedule(recipe.name, [recipe], str(path))
    # A name belongs to the schedule; its stages have their own.
    name = root.value.pop("name", None)
    names = [text.partition("=")[2] for text in overrides if text.startswith("name=")]
    rest = [text for text in overrides if not text.startswith("name=")]
    drafts = [
        _stage(entry, number, root, path, problems) for number, entry in enumerate(_entries(schedule, problems), 1)
    ]
    stages = [_checked(draft, path, rest, problems) for draft in drafts if draft is not None]
    problems.raise_any()
    _refuse_namesakes(stages, path)
    return Schedule((names or [str(name.value) if name else path.stem])[-1], stages, str(path))


def _refuse_namesakes(stages: list[Recipe], path: Path) -> None:
    names = [stage.name for stage in stages]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        text = f"{path}: schedule: two stages are called {repeated[0]!r}; give one of them another name"
        raise RecipeError([text])


def _entries(schedule: Marked, problems: Problems) -> list[Marked]:
    if isinstance(schedule.value, list) and schedule.value:
        return schedule.value
    problems.add(schedule.place, "schedule", f"expected a list of stages, got {schedule.plain()!r}")
    return []


def _stage(entry: Marked, number: int, root: Marked, path: Path, problems: Problems) -> Marked | None:
    if isinstance(entry.value, str):
        entry = replace(entry, value={"extends": Marked(entry.value, entry.place)})
    if not isinstance(entry.value, dict):
        problems.add(entry.place, "schedule", f"stage {number}: expected a recipe's name or a table of changes")
        return None
    entry = normalise(entry.copy(), Recipe)
    parent = entry.value.pop("extends", None)
    base, own_name = root.copy(), Marked(f"stage{number}", entry.place)
    if parent is not None:
        inherited = extended(parent, path, problems)
        if inherited is None:
            return None
        if inherited.value.pop("schedule", None):
            problems.add(parent.place, "schedule", f"{parent.value} is a schedule itself; name its stages instead")
        own_name = inherited.value.pop("name", None) or Marked(Path(str(parent.value)).stem, parent.place)
        base = merge(inherited, base, problems)
    entry.value.setdefault("name", own_name)
    return merge(base, entry, problems)


def _checked(root: Marked, path: Path, overrides: Sequence[str], problems: Problems) -> Recipe:
    for text in overrides:
        override = read_override(text, problems)
        root = merge(root, override, problems) if override else root
    add_defaults(root)
    interpolate(root, problems)
    recipe = check(root, problems)
    if not problems.found:
        recipe.source, recipe.overrides = str(path), list(overrides)
    return recipe
