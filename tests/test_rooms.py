"""The rules of the house, read off the sources: who may import whom, no circles, no heavy files, no catch-all names."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = {"pam_kit": ROOT / "src" / "pam_kit", "pam_kit.components": ROOT / "components"}
FOLDERS |= {"pam_kit.kernels": ROOT / "kernels", "pam_kit.recipes": ROOT / "recipes"}
MAX_LINES = 400

BOTTOM = {"errors", "tasks", "sections", "contracts", "geometry", "weights", "source_files", "atomic_files"}
REGISTRY = {"registry", "declarations"}
MODEL = {"recipe", "model", "checkpoints"}
# Room -> the rooms it may import. A room is a module or package directly below pam_kit; its own files are always free.
MAY_IMPORT = {
    **dict.fromkeys(BOTTOM, BOTTOM),
    "kernels": set(),
    "recipes": set(),
    **dict.fromkeys(REGISTRY, BOTTOM | REGISTRY),
    "components": {"contracts", "errors", "registry", "weights", "geometry", "kernels"},
    "recipe": BOTTOM | REGISTRY,
    "model": BOTTOM | REGISTRY | MODEL,
    "checkpoints": BOTTOM | REGISTRY | MODEL,
    # Samples know recipes (`pam-kit data check RECIPE`), but no model.
    "data": BOTTOM | REGISTRY | {"recipe"},
    "released": BOTTOM | REGISTRY | MODEL,
    # A picture on its way into the model is prepared by the data room, in training and prediction alike.
    "inference": BOTTOM | REGISTRY | MODEL | {"data"},
    # A run shows what its model says; the parity check knows the released names.
    "training": BOTTOM | REGISTRY | MODEL | {"data", "inference", "released"},
    "evaluation": BOTTOM | REGISTRY | MODEL | {"data", "inference"},
    # A study trains and scores.
    "ablation": BOTTOM | REGISTRY | MODEL | {"data", "inference", "training", "evaluation"},
    # Speed is measured of all that runs, and against plain code that knows the parts.
    "bench": BOTTOM | REGISTRY | MODEL | {"data", "inference", "training", "components", "kernels"},
}
MAY_IMPORT["cli"] = set(MAY_IMPORT)
# A package that may import more than its room: the check of the parts called `pam` has to name them.
BESIDES = {"pam_kit.training.parity": {"components", "kernels"}}
# Rooms in which one subfolder never imports another.
APART = ("components", "kernels")
# What lies beside the subfolders of such a room, for all of them.
COMMON_GROUND = {
    own: {f"pam_kit.{own}.{path.stem}" for path in (ROOT / own).glob("*.py") if path.stem != "__init__"}
    for own in APART
}
# Imports inside a function that point upwards, with the reason.
ALLOWED_CIRCLES = {("pam_kit.model", "pam_kit.checkpoints"): "RegionVLM.from_pretrained is a short name for load_model"}


@cache
def modules() -> dict[str, Path]:
    found = {}
    for package, folder in FOLDERS.items():
        for path in sorted(folder.rglob("*.py")):
            parts = path.relative_to(folder).with_suffix("").parts
            found[".".join((package, *parts)).removesuffix(".__init__")] = path
    return found


def room(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def imports(module: str, own_only: bool = True) -> Iterator[tuple[str, int, bool]]:
    """What ``module`` imports: name, line, and whether that happens as soon as it is itself imported."""
    tree = ast.parse(modules()[module].read_text(encoding="utf-8"))
    later = {id(node) for function in ast.walk(tree) if is_later(function) for node in ast.walk(function)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{modules()[module]}:{node.lineno}: write the import in full"
            below = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in modules() else str(node.module) for name in below]
        else:
            continue
        for name in names:
            if not own_only or name.partition(".")[0] == "pam_kit":
                yield name, node.lineno, id(node) not in later


def is_later(node: ast.AST) -> bool:
    typing_only = isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
    return typing_only or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)


def test_the_sources_are_found():
    assert {"pam_kit", "pam_kit.contracts", "pam_kit.components.backbones.sam2", "pam_kit.recipe.load"} <= set(
        modules()
    )


@pytest.mark.parametrize("module", sorted(modules()))
def test_imports_run_one_way(module):
    own = room(module)
    if not own:
        return
    besides = [rooms for package, rooms in BESIDES.items() if f"{module}.".startswith(f"{package}.")]
    assert own in MAY_IMPORT, f"{modules()[module]}: a new room; say in MAY_IMPORT what it may import"
    for name, line, _ in imports(module):
        place = f"{modules()[module].relative_to(ROOT)}:{line}"
        # The bare package stands for its version number.
        assert room(name) in {own, *MAY_IMPORT[own]}.union(*besides) or (own, name) == ("cli", "pam_kit"), (
            f"{place}: {own} may not import {name}; it may import {', '.join(sorted(MAY_IMPORT[own])) or 'nothing'}"
        )
        if own in APART and room(name) == own:
            # The room's own door may name its parts.
            same = module == f"pam_kit.{own}" or module.split(".")[:3] == name.split(".")[:3]
            assert same or name in COMMON_GROUND[own], (
                f"{place}: the parts of one folder of {own}/ never import another's, here {name}"
            )


def test_the_package_itself_imports_nothing():
    """Its names load on first use, so that the command line answers at once."""
    assert not [name for name, _, at_once in imports("pam_kit") if at_once]


def test_no_module_needs_itself():
    graph = {
        module: {name for name, _, at_once in imports(module) if at_once or (module, name) not in ALLOWED_CIRCLES}
        for module in modules()
        if module != "pam_kit"
    }
    assert circle(graph) is None, f"import circle: {' -> '.join(circle(graph))}"


def circle(graph: dict[str, set[str]]) -> list[str] | None:
    """A way from some module back to itself, or None."""
    done: set[str] = set()

    def walk(module: str, way: list[str]) -> list[str] | None:
        if module in way:
            return [*way[way.index(module) :], module]
        if module in done:
            return None
        for name in sorted(graph.get(module, ())):
            if name != module and (found := walk(name, [*way, module])):
                return found
        done.add(module)
        return None

    for module in sorted(graph):
        if found := walk(module, []):
            return found
    return None


def test_a_circle_would_be_found():
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"d"}, "d": {"b"}}) == ["b", "c", "d", "b"]
    assert circle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) is None


def torch_free() -> list[str]:
    """Modules whose docstring promises it."""
    return [
        module
        for module, path in modules().items()
        if "torch-free" in (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").lower()
    ]


def test_what_is_called_torch_free_is():
    assert {"pam_kit.sections", "pam_kit.registry", "pam_kit.recipe", "pam_kit.tasks"} <= set(torch_free())
    for start in [*torch_free(), "pam_kit", "pam_kit.cli"]:
        ways = {start: start}
        queue = [start]
        while queue:
            module = queue.pop()
            for name, _, at_once in imports(module, own_only=False):
                way = f"{ways[module]} -> {name}"
                assert not at_once or name.partition(".")[0] not in ("torch", "lightning", "transformers", "timm"), way
                if at_once and name in modules() and name not in ways:
                    ways[name] = way
                    queue.append(name)


@pytest.mark.parametrize("module", sorted(modules()))
def test_a_file_is_read_in_one_sitting(module):
    path = modules()[module]
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= MAX_LINES, f"{path.relative_to(ROOT)} has {lines} lines; more than {MAX_LINES} are two subjects"
    assert path.stem not in ("utils", "util", "helpers", "helper", "misc", "common"), "name it after its subject"
