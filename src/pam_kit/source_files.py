"""Python files found and parsed without being imported, and what the names in them stand for. Torch-free."""

import ast
import sys
from collections.abc import Iterator
from functools import cache
from importlib.machinery import ModuleSpec
from importlib.util import resolve_name
from pathlib import Path

from pam_kit.errors import PamKitError


def locate(module: str) -> ModuleSpec | None:
    """Find a module as ``import`` would, but without importing the packages it lies in; None where there is none."""
    path: list[str] | None = None
    spec = None
    parts = module.split(".")
    if not all(part.isidentifier() for part in parts):
        return None
    for end, part in enumerate(parts, 1):
        name = ".".join(parts[:end])
        try:
            finders = (finder for finder in sys.meta_path if hasattr(finder, "find_spec"))
            spec = next((found for finder in finders if (found := finder.find_spec(name, path))), None)
        except KeyError:  # Python finds a folder without __init__.py only inside packages that are imported
            spec = ModuleSpec(name, None, is_package=True)
            spec.submodule_search_locations = [
                str(Path(entry, part)) for entry in path or [] if Path(entry, part).is_dir()
            ]
        if spec is None or (end < len(parts) and spec.submodule_search_locations is None):
            return None
        if spec.submodule_search_locations is not None:
            path = list(spec.submodule_search_locations)
    return spec


def python_files(module: str) -> list[tuple[str, Path]]:
    """Module names and files of a module, or of a package and everything below it.

    Raises:
        PamKitError: there is no such module, or it has no source file.
    """
    spec = locate(module)
    if spec is None:
        raise PamKitError(f"there is no module named {module!r}")
    if spec.submodule_search_locations is None:
        if not spec.origin or not spec.origin.endswith(".py"):
            raise PamKitError(f"module {module!r} has no source file to read ({spec.origin})")
        return [(module, Path(spec.origin))]
    files = []
    for folder in map(Path, spec.submodule_search_locations):
        for path in sorted(folder.rglob("*.py")):
            parts = path.relative_to(folder).with_suffix("").parts
            parts = parts[:-1] if parts[-1] == "__init__" else parts
            if all(part.isidentifier() for part in parts):
                files.append((".".join((module, *parts)), path))
    return files


def parsed(path: Path, module: str) -> "ParsedModule":
    """The parsed file; parsed again only when it has changed."""
    return _parsed(path, module, path.stat().st_mtime_ns)


@cache
def _parsed(path: Path, module: str, modified: int) -> "ParsedModule":
    return ParsedModule(path, module)


class ParsedModule:
    """A parsed file: its top-level classes, and what its top-level names stand for."""

    def __init__(self, path: Path, module: str):
        self.path, self.module = path, module
        try:
            body = ast.parse(path.read_bytes(), str(path)).body
        except (SyntaxError, ValueError) as error:
            line = getattr(error, "lineno", None) or 1
            raise PamKitError(f"{path}:{line}: not valid Python: {getattr(error, 'msg', error)}") from error
        self.classes = {node.name: node for node in body if isinstance(node, ast.ClassDef)}
        self.aliases = {name: value for name, value in map(_alias, body) if name}
        self.imported: dict[str, str] = {}
        for node in body:
            if isinstance(node, ast.Import):
                for alias in node.names:
                    target = alias.name if alias.asname else alias.name.partition(".")[0]
                    self.imported[alias.asname or target] = target
            elif isinstance(node, ast.ImportFrom):
                origin = self._origin(node)
                self.imported |= {alias.asname or alias.name: f"{origin}.{alias.name}" for alias in node.names}

    def _origin(self, node: ast.ImportFrom) -> str:
        if not node.level:
            return node.module or ""
        package = self.module if self.path.stem == "__init__" else self.module.rpartition(".")[0]
        return resolve_name("." * node.level + (node.module or ""), package)

    def qualified(self, expression: ast.expr) -> str:
        """The full dotted name that an expression stands for."""
        head, dot, rest = ast.unparse(expression).partition(".")
        if head in self.classes or head in self.aliases:
            head = f"{self.module}.{head}"
        return self.imported.get(head, head) + dot + rest

    def defining(self, dotted: str, depth: int = 8) -> tuple["ParsedModule", str] | None:
        """The file that defines a name, and the name there; None outside the kit and this file's own top-level package.

        ``depth`` ends the chase of names that packages import from each other in a circle.
        """
        module, _, name = dotted.rpartition(".")
        source: ParsedModule = self
        if module != self.module:
            if depth == 0 or module.partition(".")[0] not in ("pam_kit", self.module.partition(".")[0]):
                return None
            spec = locate(module)
            if spec is None or not spec.origin or not spec.origin.endswith(".py"):
                return None
            source = parsed(Path(spec.origin), module)
        if name in source.imported:
            return source.defining(source.imported[name], depth - 1)
        return (source, name) if name in source.classes or name in source.aliases else None

    def base_classes(self, node: ast.ClassDef) -> Iterator[tuple["ParsedModule", ast.ClassDef]]:
        for base in node.bases:
            found = self.defining(self.qualified(base))
            if found is not None and found[1] in found[0].classes:
                yield found[0], found[0].classes[found[1]]

    def spelled_out(self, annotation: ast.expr) -> ast.expr:
        """An annotation in which names such as ``Split = Literal["a", "b"]`` are replaced by what they stand for."""
        if isinstance(annotation, ast.Name | ast.Attribute):
            found = self.defining(self.qualified(annotation))
            if found is not None and found[1] in found[0].aliases:
                return found[0].spelled_out(found[0].aliases[found[1]])
        elif isinstance(annotation, ast.BinOp):
            return ast.BinOp(self.spelled_out(annotation.left), annotation.op, self.spelled_out(annotation.right))
        elif isinstance(annotation, ast.Subscript) and not ast.unparse(annotation.value).endswith("Literal"):
            inside = annotation.slice
            items = [self.spelled_out(item) for item in (inside.elts if isinstance(inside, ast.Tuple) else [inside])]
            return ast.Subscript(annotation.value, ast.Tuple(items) if isinstance(inside, ast.Tuple) else items[0])
        return annotation


def _alias(node: ast.stmt) -> tuple[str, ast.expr]:
    """Name and value of a type alias: ``X = Literal[...]``, ``X = A | B``, ``X: TypeAlias = ...``; else no name."""
    target: ast.expr | None = None
    value: ast.expr | None = None
    if isinstance(node, ast.Assign) and len(node.targets) == 1:
        target, value = node.targets[0], node.value
    elif isinstance(node, ast.AnnAssign) and ast.unparse(node.annotation).endswith("TypeAlias"):
        target, value = node.target, node.value
    if isinstance(target, ast.Name) and isinstance(value, ast.Subscript | ast.BinOp):
        return target.id, value
    return "", ast.Constant(None)
