"""Where a recipe comes from: files found and read, with all that they extend, and the command line. Torch-free.

What is read here is not yet checked: ``pam_kit.recipe.check`` does that.
"""

from dataclasses import replace
from importlib.resources import files
from pathlib import Path

from pam_kit.errors import RecipeError
from pam_kit.recipe.marked_yaml import Marked, Place, Problems, read_yaml
from pam_kit.recipe.merge import merge, normalise
from pam_kit.registry import suggest
from pam_kit.sections import SLOTS, Recipe

RECIPE_PACKAGE = "pam_kit.recipes"


def shipped_files() -> dict[str, Path]:
    """The recipes that come with the package, by name."""
    folder = Path(str(files(RECIPE_PACKAGE)))
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def find_recipe(path_or_name: str | Path) -> Path:
    """A path on disk, else a shipped recipe by name, with or without ``.yaml``.

    Raises:
        RecipeError: there is neither; it names the nearest one and lists the shipped ones.
    """
    found = _find(str(path_or_name), Path())
    if found is None:
        raise RecipeError([_not_found(str(path_or_name), Path())])
    return found


def _find(name: str, folder: Path) -> Path | None:
    if (folder / name).is_file():
        return folder / name
    return shipped_files().get(name.removesuffix(".yaml"))


def _not_found(name: str, folder: Path) -> str:
    shipped = shipped_files()
    beside = (folder / name).parent
    local = [path.name for path in beside.iterdir() if path.suffix == ".yaml"] if beside.is_dir() else []
    near = suggest(Path(name).name, local) or suggest(Path(name).name.removesuffix(".yaml"), shipped) or ";"
    return f"there is no recipe {name!r}{near} recipes that are shipped: {', '.join(shipped) or 'none'}"


def read_recipe(path: Path, problems: Problems, children: tuple[Path, ...] = ()) -> Marked:
    """The file at ``path`` on top of all that it extends."""
    root = _read_file(path, problems)
    parent = root.value.pop("extends", None)
    inherited = None if parent is None else extended(parent, path, problems, children)
    if inherited is None:
        return root
    inherited.value.pop("name", None)  # a recipe is called as it says itself, or as its file
    return merge(inherited, root, problems)


def extended(parent: Marked, path: Path, problems: Problems, children: tuple[Path, ...] = ()) -> Marked | None:
    """The recipe that ``parent``, an ``extends`` of the file at ``path``, names; None if there is none.

    ``children`` are the files that extend the one at ``path``.
    """
    if not isinstance(parent.value, str):
        problems.unreadable(parent.place, "extends", f"expected a file or a recipe's name, got {parent.plain()!r}")
        return None
    found = _find(parent.value, path.parent)
    children = (*children, path)
    if found is None:
        problems.unreadable(parent.place, "extends", _not_found(parent.value, path.parent))
        return None
    if any(found.samefile(child) for child in children):
        chain = " -> ".join(str(file) for file in (*children, found))
        problems.unreadable(parent.place, "extends", f"a recipe cannot extend itself: {chain}")
        return None
    return read_recipe(found, problems, children)


def _read_file(path: Path, problems: Problems) -> Marked:
    start = Place(str(path), 1)
    empty = Marked({}, start)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        problems.unreadable(Place(str(path)), "", f"cannot be read: {error}")
        return empty
    root = read_yaml(text, lambda line: Place(str(path), line), problems)
    if root is None:
        return empty
    if not isinstance(root.value, dict):
        problems.unreadable(start, "", "expected a recipe, with sections such as model, data and train")
        return empty
    return replace(normalise(root, Recipe), place=start)


def read_override(text: str, problems: Problems) -> Marked | None:
    """One ``key=value`` of the command line as a tiny recipe; ``decoder`` is short for ``model.decoder``."""
    place = Place(f"command line: {text}")
    key, equals, value = text.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        problems.add(place, "", "expected key=value, for example train.learning_rate=1e-4")
        return None
    if parts[0] in ("extends", "schedule"):
        problems.add(place, parts[0], "can only stand in a file")
        return None
    marked = read_yaml(value, lambda line: place, problems)
    if marked is None:
        return None
    for part in reversed(["model", *parts] if parts[0] in SLOTS else parts):
        marked = Marked({part: marked}, place, partial=True)
    return normalise(marked, Recipe)
