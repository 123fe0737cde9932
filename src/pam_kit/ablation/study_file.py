"""A study's file: found, read, and its own keys checked; every mistake is reported with file and line. Torch-free.

The recipes that its variants make are checked by ``pam_kit.ablation.chains``.
"""

from importlib.resources import files
from itertools import product
from pathlib import Path
from typing import Any

from pam_kit.ablation.statistics import TESTS
from pam_kit.ablation.study import Override, Published, Score, Study, Variant, Verdict
from pam_kit.errors import RecipeError
from pam_kit.recipe.marked_yaml import Marked, Place, Problems, read_yaml, shown
from pam_kit.recipe.source import RECIPE_PACKAGE
from pam_kit.registry import suggest

STUDY_FOLDER = "ablations"


def shipped_studies() -> dict[str, Path]:
    """The studies that come with the package, by name."""
    folder = Path(str(files(RECIPE_PACKAGE))) / STUDY_FOLDER
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def find_study(path_or_name: str | Path) -> Path:
    """A path on disk, else a shipped study by name. RecipeError names the nearest one and lists them."""
    path, shipped = Path(path_or_name), shipped_studies()
    if path.is_file():
        return path
    name = str(path_or_name).removesuffix(".yaml")
    if name not in shipped:
        near = suggest(path.stem, shipped) or ";"
        raise RecipeError(
            [f"there is no study {str(path_or_name)!r}{near} studies that are shipped: {', '.join(shipped)}"]
        )
    return shipped[name]


def read_study(path_or_name: str | Path) -> Study:
    """The study of a file or shipped name, with its own keys checked; RecipeError holds every mistake."""
    path, problems = find_study(path_or_name), Problems()
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError([f"{path}: cannot be read: {error}"]) from error
    root = read_yaml(text, lambda line: Place(str(path), line), problems)
    study = None
    if root is not None and not isinstance(root.value, dict):
        problems.add(Place(str(path), 1), "", "expected a study, with keys such as stages, variants and scores")
    elif root is not None:
        study = _Reader(problems).study(root, path)
    problems.raise_any()
    assert study is not None
    return study


_KEYS = (
    "title question remarks fixture stages overrides variants axes seeds reference test "
    "scores verdicts plot evaluate paper"
)
_VARIANT_KEYS, _SCORE_KEYS, _VERDICT_KEYS, _PAPER_KEYS = (
    "fixture stages overrides",
    "split prompt streams score",
    "score above",
    "source columns rows",
)


class _Reader:
    """Marked YAML -> Study; what is wrong is added to ``problems``, and something harmless stands in its place."""

    def __init__(self, problems: Problems):
        self.problems = problems

    def study(self, root: Marked, path: Path) -> Study:
        items = self.table(root, "", _KEYS)
        variants = self.variants(items, root)
        names = [variant.name for variant in variants]
        scores = tuple(self.score(name, item) for name, item in self.named(items, "scores", root))
        columns = [score.name for score in scores]
        reference = self.text(items, "reference", names[0] if names else "")
        self.known(items.get("reference"), "reference", [reference], names)
        plot = self.texts(items.get("plot"), "plot") or tuple(columns[:1])
        self.known(items.get("plot"), "plot", plot, columns)
        test = self.text(items, "test", TESTS[0])
        self.known(items.get("test"), "test", [test], TESTS)
        return Study(
            name=path.stem,
            title=self.text(items, "title", path.stem),
            question=self.text(items, "question", ""),
            remarks=self.text(items, "remarks", ""),
            variants=variants,
            seeds=self.seeds(items.get("seeds")),
            reference=reference,
            scores=scores,
            verdicts=self.verdicts(items, root, columns),
            plot=plot,
            test=test,
            evaluate=self.text(items, "evaluate", "") or None,
            published=self.published(items.get("paper"), names),
            path=path,
        )

    def variants(self, items: dict[str, Marked], root: Marked) -> tuple[Variant, ...]:
        fixture = self.texts(items.get("fixture"), "fixture")
        stages = self.texts(items.get("stages"), "stages")
        common = self.overrides(items.get("overrides"), "overrides")
        if ("variants" in items) == ("axes" in items):
            self.problems.add(root.place, "variants", "a study has either variants, or axes whose products they are")
            return ()
        if "axes" in items:
            return self.products(items["axes"], fixture, stages, common)
        found = []
        for name, item in self.named(items, "variants", root):
            key, own = f"variants.{name}", {"overrides": item}
            if isinstance(item.value, dict):
                own = self.table(item, key, _VARIANT_KEYS)
            own_stages = self.texts(own["stages"], f"{key}.stages") if "stages" in own else stages
            own_fixture = self.texts(own["fixture"], f"{key}.fixture") if "fixture" in own else fixture
            changes = self.overrides(own.get("overrides"), key)
            if not own_stages and not own_fixture:
                self.problems.add(item.place, key, "has no stages; name recipes under stages, here or for all variants")
            found.append(Variant(name, own_fixture, own_stages, (*common, *changes), item.place))
        return tuple(found)

    def products(self, axes: Marked, fixture, stages, common) -> tuple[Variant, ...]:
        choices: list[list[tuple[str, tuple[Override, ...]]]] = []
        for axis, values in self.named({"axes": axes}, "axes", axes):
            key = f"axes.{axis}"
            choices.append(
                [(name, self.overrides(item, f"{key}.{name}")) for name, item in self.named({key: values}, key, values)]
            )
        if not stages:
            self.problems.add(axes.place, "axes", "have nothing to change; name recipes under stages")
        found = []
        for combination in product(*choices):
            name = ", ".join(name for name, _ in combination)
            changes = tuple(change for _, own in combination for change in own)
            found.append(Variant(name, fixture, stages, (*common, *changes), axes.place))
        return tuple(found)

    def score(self, name: str, item: Marked) -> Score:
        key = f"scores.{name}"
        parts = self.table(item, key, _SCORE_KEYS)
        for needed in ("split", "score"):
            if needed not in parts:
                self.problems.add(item.place, f"{key}.{needed}", "is missing")
        row = [self.text(parts, part, default) for part, default in (("split", ""), ("prompt", "box"), ("streams", ""))]
        return Score(name, " / ".join(part for part in row if part), self.text(parts, "score", ""), item.place)

    def verdicts(self, items: dict[str, Marked], root: Marked, columns: list[str]) -> tuple[Verdict, ...]:
        found = []
        for name, item in self.named(items, "verdicts", root) if "verdicts" in items else ():
            parts = self.table(item, f"verdicts.{name}", _VERDICT_KEYS)
            for needed in _VERDICT_KEYS.split():
                key = f"verdicts.{name}.{needed}"
                if needed not in parts:
                    self.problems.add(item.place, key, "is missing")
                self.known(parts.get(needed), key, [self.text(parts, needed, "")], columns)
            found.append(Verdict(name, self.text(parts, "score", ""), self.text(parts, "above", "")))
        return tuple(found)

    def published(self, item: Marked | None, names: list[str]) -> Published:
        if item is None:
            return Published()
        parts = self.table(item, "paper", _PAPER_KEYS)
        columns, rows = self.texts(parts.get("columns"), "paper.columns"), {}
        if not self.text(parts, "source", ""):
            self.problems.add(
                item.place, "paper.source", "is missing; figures need a place where they can be looked up"
            )
        for name, row in self.named(parts, "rows", item, "paper.rows"):
            key = f"paper.rows.{name}"
            self.known(row, key, [name], names)
            values = row.plain() if isinstance(row.value, list) else None
            if values is None or len(values) != len(columns) or not all(_is_figure(value) for value in values):
                text = f"expected {len(columns)} numbers, one for each of paper.columns, or null; got {shown(row)}"
                self.problems.add(row.place, key, text)
                continue
            rows[name] = tuple(None if value is None else float(value) for value in values)
        return Published(self.text(parts, "source", ""), columns, rows)

    def seeds(self, item: Marked | None) -> tuple[int, ...]:
        values = [0, 1, 2] if item is None else item.plain()
        fit = isinstance(values, list) and all(type(seed) is int and seed >= 0 for seed in values)
        if item is not None and (not fit or not values or len(set(values)) < len(values)):
            self.problems.add(item.place, "seeds", f"expected different whole numbers from 0 up, got {shown(item)}")
            return (0,)
        return tuple(values)

    def overrides(self, item: Marked | None, key: str) -> tuple[Override, ...]:
        entries = [] if item is None or item.value is None else item.value
        if not isinstance(entries, list):
            assert item is not None
            self.problems.add(item.place, key, f"expected a list of KEY=VALUE, got {shown(item)}")
            return ()
        return tuple(
            Override(entry.value, entry.place) for entry in entries if self.is_text(entry, key, "KEY=VALUE, in quotes")
        )

    def table(self, item: Marked, key: str, known: str) -> dict[str, Marked]:
        """The entries of a table whose keys are known."""
        if not isinstance(item.value, dict):
            self.problems.add(item.place, key, f"expected keys such as {known.replace(' ', ', ')}, got {shown(item)}")
            return {}
        for name, below in item.value.items():
            if name not in known.split():
                near = suggest(name, known.split()) or f"; valid: {known.replace(' ', ', ')}"
                self.problems.add(below.place, f"{key}.{name}".lstrip("."), f"unknown key{near}")
        return item.value

    def named(self, items: dict[str, Marked], name: str, around: Marked, key: str = "") -> list[tuple[str, Marked]]:
        """The entries of a table whose keys are names; there has to be one."""
        item, key = items.get(name), key or name
        if item is None or not isinstance(item.value, dict) or not item.value:
            place = around.place if item is None else item.place
            got = "is missing" if item is None else f"expected names and what they stand for, got {shown(item)}"
            self.problems.add(place, key, got)
            return []
        return list(item.value.items())

    def text(self, items: dict[str, Marked], name: str, default: str) -> str:
        item = items.get(name)
        if item is None or item.value is None or not self.is_text(item, name, "text; put numbers in quotes"):
            return default
        return " ".join(item.value.split()) if name != "remarks" else item.value.strip()

    def texts(self, item: Marked | None, key: str) -> tuple[str, ...]:
        if item is None or item.value is None:
            return ()
        entries = item.value if isinstance(item.value, list) else [item]
        return tuple(entry.value for entry in entries if self.is_text(entry, key, "text, or a list of texts"))

    def is_text(self, item: Marked, key: str, expected: str) -> bool:
        if isinstance(item.value, str):
            return True
        self.problems.add(item.place, key, f"expected {expected}, got {shown(item)}")
        return False

    def known(self, item: Marked | None, key: str, chosen, valid) -> None:
        for name in chosen:
            if item is not None and name not in valid:
                near = suggest(name, valid) or f"; valid: {', '.join(valid)}"
                self.problems.add(item.place, key, f"unknown {name!r}{near}")


def _is_figure(value: Any) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))
