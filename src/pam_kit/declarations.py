"""What a component's class says about itself: its name, its arguments and their documentation.

Files are parsed, never imported: a list of all components must not wait for torch. A class of a live session has no
file to parse; ``declare_live`` reads the same facts from the class itself.
"""

import ast
import dataclasses
import inspect
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from pam_kit.errors import PamKitError
from pam_kit.source_files import ParsedModule, parsed

_REGISTER = {"pam_kit.register", "pam_kit.registry.register"}
_EMPTY = {"list": [], "dict": {}, "tuple": (), "str": "", "int": 0, "float": 0.0}


@dataclass(frozen=True)
class Parameter:
    """One keyword of a component's constructor.

    Args:
        annotation: its type as source text, empty where the constructor gives none.
        default: the default's value, or its source text where ``default_is_source`` (it is not a literal).
    """

    name: str
    annotation: str = ""
    default: Any = None
    required: bool = False
    doc: str = ""
    default_is_source: bool = False


@dataclass(frozen=True)
class Declaration:
    """One ``@register(...)`` on one class. ``place`` is where it stands, for error messages."""

    slot: str
    name: str
    presets: dict[str, dict[str, Any]]
    module: str
    class_name: str
    parameters: tuple[Parameter, ...]
    doc: str
    place: str


def read_declarations(path: Path, module: str) -> tuple[Declaration, ...]:
    """The components that a file declares at its top level; parsed again only when the file has changed.

    Raises:
        PamKitError: the file is not Python, or what it registers cannot be read off its text.
    """
    return _read(path, module, path.stat().st_mtime_ns)


@cache
def _read(path: Path, module: str, modified: int) -> tuple[Declaration, ...]:
    if not re.search(rb"\bregister\b", path.read_bytes()):  # most files: not worth parsing
        return ()
    source = parsed(path, module)
    return tuple(
        _declare(source, node, decorator)
        for node in source.classes.values()
        for decorator in node.decorator_list
        if isinstance(decorator, ast.Call) and source.qualified(decorator.func) in _REGISTER
    )


def _declare(source: ParsedModule, node: ast.ClassDef, call: ast.Call) -> Declaration:
    place = f"{source.path}:{node.lineno}"
    given = dict(zip(("slot", "name", "presets"), call.args, strict=False))
    given |= {keyword.arg: keyword.value for keyword in call.keywords if keyword.arg}
    try:
        values = {key: ast.literal_eval(value) for key, value in given.items()}
    except ValueError as error:
        raise PamKitError(
            f"{place}: {ast.unparse(call)}: slot, name and presets must be literals; the file is read, not run"
        ) from error
    if "slot" not in values or "name" not in values:
        raise PamKitError(f"{place}: {ast.unparse(call)}: register needs a slot and a name")
    parameters = tuple((_constructor(source, node) or {}).values())
    documented = _documented(source, node)
    parameters = tuple(dataclasses.replace(p, doc=documented.get(p.name, "")) for p in parameters)
    doc = _first_line(ast.get_docstring(node))
    return Declaration(
        values["slot"],
        values["name"],
        values.get("presets") or {},
        source.module,
        node.name,
        parameters,
        doc,
        place,
    )


def _constructor(source: ParsedModule, node: ast.ClassDef) -> dict[str, Parameter] | None:
    """Parameters by name; None where neither the class nor a base whose source is read has a constructor."""
    initialiser = _initialiser(node)
    if initialiser is not None:
        return {p.name: p for p in _signature(source, initialiser)}
    inherited = [found for base in source.base_classes(node) if (found := _constructor(*base)) is not None]
    decorators = (d.func if isinstance(d, ast.Call) else d for d in node.decorator_list)
    if not any(source.qualified(d) == "dataclasses.dataclass" for d in decorators):
        return inherited[0] if inherited else None
    parameters: dict[str, Parameter] = {}
    for base in reversed(inherited):
        parameters |= base
    return parameters | {p.name: p for p in _fields(source, node)}


def _initialiser(node: ast.ClassDef) -> ast.FunctionDef | None:
    return next((n for n in node.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"), None)


def _signature(source: ParsedModule, initialiser: ast.FunctionDef) -> Iterator[Parameter]:
    arguments = initialiser.args
    if arguments.posonlyargs:
        raise PamKitError(
            f"{source.path}:{initialiser.lineno}: a component's arguments are keywords; drop the '/' from its signature"
        )
    unset = [None] * (len(arguments.args) - len(arguments.defaults))
    positional = list(zip(arguments.args, [*unset, *arguments.defaults], strict=True))[1:]
    for argument, default in [*positional, *zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)]:
        yield _parameter(source, argument.arg, argument.annotation, default)


def _fields(source: ParsedModule, node: ast.ClassDef) -> Iterator[Parameter]:
    """The constructor keywords that ``@dataclass`` makes of a class's fields."""
    for statement in node.body:
        if not isinstance(statement, ast.AnnAssign) or not isinstance(statement.target, ast.Name):
            continue
        value = statement.value
        if "ClassVar" in ast.unparse(statement.annotation):
            continue
        if isinstance(value, ast.Call) and source.qualified(value.func) == "dataclasses.field":
            given = {keyword.arg: keyword.value for keyword in value.keywords}
            if "init" in given and ast.unparse(given["init"]) == "False":
                continue
            value = given.get("default")
            if "default_factory" in given:
                factory = ast.unparse(given["default_factory"])
                value = ast.parse(repr(_EMPTY[factory]) if factory in _EMPTY else f"({factory})()", mode="eval").body
        yield _parameter(source, statement.target.id, statement.annotation, value)


def _parameter(source: ParsedModule, name: str, annotation: ast.expr | None, default: ast.expr | None) -> Parameter:
    if isinstance(annotation, ast.Constant) and isinstance(annotation.value, str):
        annotation = ast.parse(annotation.value, mode="eval").body
    text = "" if annotation is None else ast.unparse(source.spelled_out(annotation))
    if default is None:
        return Parameter(name, text, required=True)
    try:
        return Parameter(name, text, ast.literal_eval(default))
    except ValueError:
        return Parameter(name, text, ast.unparse(default), default_is_source=True)


def _documented(source: ParsedModule, node: ast.ClassDef) -> dict[str, str]:
    texts: dict[str, str] = {}
    for base in source.base_classes(node):
        texts = _documented(*base) | texts
    initialiser = _initialiser(node)
    own = argument_docs(ast.get_docstring(node))
    return texts | own | argument_docs(ast.get_docstring(initialiser) if initialiser else None)


def argument_docs(docstring: str | None) -> dict[str, str]:
    """What the ``Args:`` section of a docstring says about each argument."""
    lines = iter(inspect.cleandoc(docstring or "").splitlines())
    if not any(line.strip() == "Args:" for line in lines):
        return {}
    texts: dict[str, str] = {}
    names: list[str] = []
    indent: int | None = None
    for line in filter(str.strip, lines):
        depth = len(line) - len(line.lstrip())
        indent = depth if indent is None else indent
        if depth < indent or re.fullmatch(r"\s*[A-Z]\w*:", line):
            break
        head, colon, text = line.strip().partition(":")
        if depth == indent and colon:
            names = [name.partition("(")[0].strip(" `*") for name in head.split(",")]
            texts |= dict.fromkeys(names, text.strip())
        else:
            texts |= {name: f"{texts[name]} {line.strip()}".strip() for name in names}
    return texts


def _first_line(docstring: str | None) -> str:
    return inspect.cleandoc(docstring or "").partition("\n")[0].strip()


def declare_live(cls: type, slot: str, name: str, presets: dict[str, dict[str, Any]]) -> Declaration:
    """The declaration of a class that exists: a notebook's, a test's, or one whose file is not a known plugin's."""
    documented: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        documented |= argument_docs(base.__dict__.get("__doc__"))
        documented |= argument_docs(getattr(base.__dict__.get("__init__"), "__doc__", None))
    factories = {}
    if dataclasses.is_dataclass(cls):
        factories = {f.name: f.default_factory for f in dataclasses.fields(cls)}
    parameters = []
    for parameter in inspect.signature(cls).parameters.values():
        if parameter.kind is parameter.POSITIONAL_ONLY:
            raise PamKitError(
                f"{cls.__qualname__}: a component's arguments are keywords; drop the '/' from its signature"
            )
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            factory = factories.get(parameter.name, dataclasses.MISSING)
            value = parameter.default if factory is dataclasses.MISSING else factory()
            parameters.append(_live_parameter(parameter, value, documented.get(parameter.name, "")))
    doc = _first_line(cls.__doc__)
    if dataclasses.is_dataclass(cls) and doc.startswith(f"{cls.__name__}("):  # written by @dataclass, not by a person
        doc = ""
    file = getattr(sys.modules.get(cls.__module__), "__file__", None)
    place = f"{cls.__module__}.{cls.__qualname__}" + (f" ({file})" if file else "")
    return Declaration(slot, name, presets, cls.__module__, cls.__qualname__, tuple(parameters), doc, place)


def _live_parameter(parameter: inspect.Parameter, default: Any, doc: str) -> Parameter:
    annotation = parameter.annotation
    if annotation is parameter.empty:
        text = ""
    else:
        text = annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
    if default is parameter.empty:
        return Parameter(parameter.name, text, required=True, doc=doc)
    try:
        literal = ast.literal_eval(repr(default)) == default
    except (ValueError, SyntaxError):
        literal = False
    return Parameter(
        parameter.name, text, default if literal else repr(default), doc=doc, default_is_source=not literal
    )
