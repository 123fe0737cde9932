"""What is installed is what lies in the repository: packages, recipes, data files, and nobody else's name."""

import importlib.util
import re
import sys
import tomllib
from pathlib import Path

import pytest

from pam_kit.errors import RecipeError
from pam_kit.recipe import load_schedule, shipped_recipes
from pam_kit.sections import Recipe

ROOT = Path(__file__).parents[1]
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
FOLDERS = {package: ROOT / folder for package, folder in SETTINGS["package-dir"].items()}
RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))


def packages_on_disk() -> set[str]:
    found = set()
    for package, folder in FOLDERS.items():
        for marker in folder.rglob("__init__.py"):
            found.add(".".join((package, *marker.parent.relative_to(folder).parts)))
    return found


def package_folder(package: str) -> Path:
    """As setuptools finds it: the longest entry of package-dir, then folders by name."""
    root = max((name for name in FOLDERS if f"{package}.".startswith(f"{name}.")), key=len)
    return (
        FOLDERS[root].joinpath(*package.removeprefix(root).strip(".").split(".")) if package != root else FOLDERS[root]
    )


def test_every_package_is_listed_once():
    listed = SETTINGS["packages"]
    assert sorted(listed) == sorted(set(listed))
    assert set(listed) == packages_on_disk(), "pyproject.toml lists other packages than there are __init__.py files"


def test_every_folder_of_sources_is_a_package():
    folders = {path.parent for folder in FOLDERS.values() for path in folder.rglob("*.py")}
    assert not [folder for folder in folders if not (folder / "__init__.py").is_file()]


def data_files() -> list[Path]:
    """Everything beside the sources; caches and pages for readers of the repository are left out."""
    files = [path for folder in FOLDERS.values() for path in folder.rglob("*") if path.is_file()]
    caches = (".", "__pycache__")
    shown = [path for path in files if not any(part.startswith(caches) for part in path.relative_to(ROOT).parts)]
    return [path for path in shown if path.suffix != ".py" and path.name != "README.md"]


def test_every_file_that_is_no_source_is_packaged():
    assert ROOT / "src" / "pam_kit" / "py.typed" in data_files()
    packaged = {
        path
        for package, globs in SETTINGS["package-data"].items()
        for glob in globs
        for path in package_folder(package).glob(glob)
    }
    missing = [str(path.relative_to(ROOT)) for path in data_files() if path not in packaged]
    assert not missing, f"in no wheel: {', '.join(missing)}; add them to package-data in pyproject.toml"


@pytest.mark.parametrize("package", SETTINGS["package-data"])
def test_no_pattern_of_package_data_is_stale(package):
    for glob in SETTINGS["package-data"][package]:
        assert list(package_folder(package).glob(glob)), f"package-data {glob!r} of {package} matches no file"


def test_the_shipped_recipes_are_those_of_the_folder():
    assert {name: path.resolve() for name, (path, _) in shipped_recipes().items()} == {
        path.stem: path.resolve() for path in RECIPES
    }


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_is_valid_and_described(path):
    given = [f"{key}=somewhere" for key in left_to_the_user(path)]
    schedule = load_schedule(path, given)
    assert schedule.name == path.stem and all(isinstance(stage, Recipe) for stage in schedule.stages)
    assert [stage.model for stage in load_schedule(path.stem, given).stages] == [s.model for s in schedule.stages]
    assert len(shipped_recipes()[path.stem][1]) > 20


def left_to_the_user(path: Path) -> list[str]:
    """The keys that a recipe marks with ``???``."""
    try:
        load_schedule(path)
    except RecipeError as error:
        return sorted(set(re.findall(r"(\S+): has to be given", str(error))))
    return []


def test_the_folder_kernels_does_not_shadow_a_package_of_that_name():
    """transformers looks for Hugging Face's `kernels`; ours is reached as pam_kit.kernels only."""
    spec = importlib.util.find_spec("kernels")
    cause = (
        "the repository's root is on sys.path, so its folder `kernels` hides Hugging Face's package of that name. Run "
        "`pytest` (not `python -m pytest`) with --import-mode=importlib, keep tests/ free of __init__.py, and start "
        f"scripts with `python -P`; sys.path is {sys.path}"
    )
    places = [] if spec is None else [*(spec.submodule_search_locations or []), spec.origin]
    assert not [place for place in places if place and Path(place).resolve().is_relative_to(ROOT / "kernels")], cause
    assert not list((ROOT / "tests").rglob("__init__.py")), cause
    assert importlib.util.find_spec("pam_kit.kernels") is not None
