"""Values of a recipe against the types that sections and constructors ask for. Torch-free.

Nothing is evaluated: an annotation is parsed, and one that is not understood lets every value pass.
"""

import ast
import inspect
import re
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from pam_kit.recipe.marked_yaml import BROKEN, Marked, Place, shown
from pam_kit.registry import suggest

# What converting a value that does not fit gives; the mistake is then in the list of errors.
INVALID = object()
Errors = list[tuple[Place, str, str]]

_NAMED = {"int": int, "float": float, "str": str, "bool": bool, "list": list, "tuple": tuple, "dict": dict}
_NAMED |= {"List": list, "Sequence": list, "Tuple": tuple, "Dict": dict, "Mapping": dict}
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")


def parse_annotation(text: str) -> Any:
    """The type an annotation's source text names; ``Any`` where it is not understood."""
    try:
        return _type_of(ast.parse(text, mode="eval").body)
    except (SyntaxError, ValueError):
        return Any


def _type_of(node: ast.expr) -> Any:
    if isinstance(node, ast.Constant):
        return NoneType if node.value is None else parse_annotation(str(node.value))
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        return _union([_type_of(node.left), _type_of(node.right)])
    if isinstance(node, ast.Name | ast.Attribute):
        return _NAMED.get(_last_name(node), Any)
    if isinstance(node, ast.Subscript):
        inside = list(node.slice.elts) if isinstance(node.slice, ast.Tuple) else [node.slice]
        return _generic(_last_name(node.value), inside)
    return Any


def _last_name(node: ast.expr) -> str:
    return ast.unparse(node).rpartition(".")[2]


def _generic(name: str, inside: list[ast.expr]) -> Any:
    if name == "Literal":
        return Literal.__getitem__(tuple(ast.literal_eval(item) for item in inside))
    if name == "Optional":
        return _union([_type_of(inside[0]), NoneType])
    if name == "Union":
        return _union([_type_of(item) for item in inside])
    base = _NAMED.get(name)
    if base is tuple:
        return tuple.__class_getitem__(tuple(... if ast.unparse(item) == "..." else _type_of(item) for item in inside))
    if (base is list and len(inside) == 1) or (base is dict and len(inside) == 2):
        return base[tuple(_type_of(item) for item in inside)]
    return Any


def _union(members: list[Any]) -> Any:
    return Any if Any in members else Union[tuple(members)]  # noqa: UP007 - built from a list


def convert(node: Marked, kind: Any, key: str, errors: Errors) -> Any:
    """The value of ``node`` as a ``kind``, or INVALID with what is wrong added to ``errors``.

    Whole numbers and texts such as "1e-5" become floats, lists become tuples, where those are asked for.
    """
    if node.value is BROKEN:
        return INVALID
    if node.value == "???":
        errors.append((node.place, key, "has to be given: ??? stands for a value that is still missing"))
        return INVALID
    origin = get_origin(kind) or kind
    if origin is Any:
        return _plain(node, key, errors)
    if origin in (Union, UnionType):
        return _one_of(node, kind, key, errors)
    if origin is dict and isinstance(node.value, dict):
        item_type = (get_args(kind) or (str, Any))[1]
        items = {k: convert(item, item_type, f"{key}.{k}", errors) for k, item in node.value.items()}
        return INVALID if INVALID in items.values() else items
    if origin in (list, tuple) and isinstance(node.value, list):
        return _sequence(node, kind, origin, key, errors)
    value = _scalar(node.value, kind, origin)
    if value is INVALID:
        errors.append((node.place, key, _mismatch(node, kind)))
    return value


def _plain(node: Marked, key: str, errors: Errors) -> Any:
    if isinstance(node.value, dict):
        return convert(node, dict[str, Any], key, errors)
    return convert(node, list[Any], key, errors) if isinstance(node.value, list) else node.value


def _one_of(node: Marked, kind: Any, key: str, errors: Errors) -> Any:
    """The first member that takes the value, those first that take it as it is."""
    accepted = [
        (value, member) for member in get_args(kind) if (value := convert(node, member, key, [])) is not INVALID
    ]
    for value, _ in accepted:
        if type(value) is type(node.value):
            return value
    if accepted:
        return accepted[0][0]
    errors.append((node.place, key, _mismatch(node, kind)))
    return INVALID


def _sequence(node: Marked, kind: Any, origin: type, key: str, errors: Errors) -> Any:
    types = get_args(kind) or (Any,)
    if origin is list or types[1:] == (...,) or not get_args(kind):
        types = (types[0],) * len(node.value)
    if len(types) != len(node.value):
        errors.append((node.place, key, _mismatch(node, kind)))
        return INVALID
    items = [convert(item, item_type, key, errors) for item, item_type in zip(node.value, types, strict=True)]
    return INVALID if INVALID in items else origin(items)


def _scalar(value: Any, kind: Any, origin: Any) -> Any:
    if origin is Literal:
        return value if any(type(value) is type(choice) and value == choice for choice in get_args(kind)) else INVALID
    if origin is float and type(value) is int:
        return float(value)
    if origin is float and isinstance(value, str) and _NUMBER.fullmatch(value.strip()):
        return float(value)
    return value if type(value) is origin else INVALID


def _mismatch(node: Marked, kind: Any) -> str:
    value = node.plain()
    text = f"expected {type_name(kind)}, got {shown(node)}" + ("" if value is None else f" ({type(value).__name__})")
    choices = [choice for choice in literals(kind) if isinstance(choice, str)]
    if isinstance(value, str):
        return text + suggest(value, choices)
    wants_text = str in (kind, *get_args(kind)) or choices
    return text + ("; put it in quotes" if wants_text and isinstance(value, int | float) else "")


def literals(kind: Any) -> tuple[Any, ...]:
    """The choices a type leaves, in a union too; empty where it is no ``Literal``."""
    if get_origin(kind) is Literal:
        return get_args(kind)
    members = get_args(kind) if get_origin(kind) in (Union, UnionType) else ()
    return tuple(choice for member in members for choice in literals(member))


def type_name(kind: Any) -> str:
    """A type as it is written in Python; the choices of a ``Literal`` by themselves."""
    if get_origin(kind) is Literal:
        return " | ".join(map(repr, get_args(kind)))
    if get_origin(kind) in (Union, UnionType):
        return " | ".join(type_name(member) for member in get_args(kind))
    return "None" if kind is NoneType else inspect.formatannotation(kind).replace("typing.", "")
