"""Names of components and datasets, with the arguments they take; a component's module is imported when it is used.

A component is a class under ``@register(slot, name)``; its arguments are its constructor's typed keywords. Built-in
ones are found in their folders, those of other distributions through the entry-point group ``pam_kit.components``,
and one of a live session as soon as its decorator has run. Torch-free.
"""

import difflib
import sys
import warnings
from collections.abc import Callable, Iterable
from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import lru_cache
from importlib import import_module
from typing import Any, TypeVar

from pam_kit.declarations import Declaration, Parameter, declare_live, read_declarations
from pam_kit.errors import MissingPackageError, PamKitError
from pam_kit.sections import DATASET_SLOT, SLOTS
from pam_kit.source_files import python_files

__all__ = ["SUPPLIED", "ComponentSpec", "Parameter", "find", "register", "specs", "suggest"]

# Constructor keywords that the assembled model fills in, since they follow from the other slots.
SUPPLIED: dict[str, tuple[str, ...]] = {"perceiver": ("embed_dim",), "projector": ("embed_dim", "output_dim")}
BUILT_IN_PACKAGES = (*(f"pam_kit.components.{slot}s" for slot in SLOTS), "pam_kit.data")
PLUGIN_GROUP = "pam_kit.components"


@dataclass(frozen=True)
class ComponentSpec:
    """A registered name: which class it stands for and which arguments that takes.

    Args:
        preset_of: the component whose class this name shares, for a preset; None for the component itself.
        preset: the arguments that a preset sets; ``parameters`` shows them as defaults.
        place: where it is declared, for error messages.
    """

    slot: str
    name: str
    module: str
    class_name: str
    parameters: tuple[Parameter, ...]
    doc: str = ""
    preset_of: str | None = None
    preset: dict[str, Any] = field(default_factory=dict)
    place: str = ""

    @property
    def recipe_parameters(self) -> tuple[Parameter, ...]:
        """The arguments that a recipe may set: all but those which the model supplies."""
        return tuple(p for p in self.parameters if p.name not in SUPPLIED.get(self.slot, ()))

    def load(self) -> type:
        """Import the component's module and return its class.

        Raises:
            MissingPackageError: the module needs a package that is not installed.
        """
        try:
            if (self.module, self.class_name) not in _live_classes:
                return getattr(import_module(self.module), self.class_name)
        except ModuleNotFoundError as error:
            missing = error.name or ""
            if missing.partition(".")[0] in ("", "pam_kit", self.module.partition(".")[0]):
                raise
            raise MissingPackageError(
                f"{self.slot} {self.name!r} ({self.place}) needs the Python module {missing!r}, which is not "
                f"installed; install the package it comes in, often: pip install {missing.partition('.')[0]}"
            ) from error
        return _live_classes[self.module, self.class_name]

    def build(self, **arguments: Any) -> Any:
        """Construct the component; a preset's arguments hold wherever ``arguments`` says nothing."""
        return self.load()(**{**deepcopy(self.preset), **arguments})


# What decorators that have run declare, and the classes under them by module and name.
_live: dict[tuple[str, str], list[ComponentSpec]] = {}
_live_classes: dict[tuple[str, str], type] = {}
_Class = TypeVar("_Class", bound=type)


def register(slot: str, name: str, presets: dict[str, dict[str, Any]] | None = None) -> Callable[[_Class], _Class]:
    """Class decorator that gives a component its name.

    In a file, slot, name and presets must be literals: the file is read, not run, to list what it holds. Keywords
    behind ``**kwargs``, and a constructor inherited from another distribution, are no arguments of a recipe.

    Args:
        slot: backbone, perceiver, projector, decoder or dataset.
        presets: further names of the same class, each with the arguments it sets.

    Raises:
        PamKitError: the slot is unknown, the name is taken, or a preset sets what the constructor does not take.
    """

    def decorate(cls: _Class) -> _Class:
        own = _expand(declare_live(cls, slot, name, presets or {}))
        others = [spec for key in _live for spec in _live[key]]
        if not cls.__module__.startswith("pam_kit."):
            others += _indexed()
        for spec in own:
            _refuse_twins(spec, others)
        _live[slot, name] = own
        _live_classes[cls.__module__, cls.__qualname__] = cls
        return cls

    return decorate


def specs(slot: str) -> dict[str, ComponentSpec]:
    """All components of a slot by name, sorted, presets included. Imports none of them.

    Raises:
        PamKitError: the slot is unknown, or a name stands for two classes.
    """
    _check_slot(slot)
    indexed = _indexed()
    known = {(spec.module, spec.class_name, spec.preset_of or spec.name) for spec in indexed}
    live = [spec for own in _live.values() for spec in own]
    live = [spec for spec in live if (spec.module, spec.class_name, spec.preset_of or spec.name) not in known]
    found: dict[str, ComponentSpec] = {}
    for spec in (spec for spec in [*indexed, *live] if spec.slot == slot):
        if spec.name in found:
            raise _twins(spec, found[spec.name])
        found[spec.name] = spec
    return dict(sorted(found.items()))


def find(slot: str, name: str) -> ComponentSpec:
    """The component of that name; the error lists the nearest and all valid names."""
    known = specs(slot)
    if name not in known:
        raise PamKitError(f"unknown {slot} {name!r}{suggest(name, known, 'registered')}")
    return known[name]


def suggest(word: str, valid: Iterable[str], label: str = "") -> str:
    """The end of an error message: ``; did you mean 'x'?`` where a name is near, and all names after ``label``."""
    valid = list(valid)
    near = difflib.get_close_matches(word, valid, n=1, cutoff=0.6)
    text = f"; did you mean {near[0]!r}?" if near else ""
    if label:
        text += f" {label.capitalize()}: " if near else f"; {label}: "
        text += ", ".join(valid) or "none"
    return text


def _check_slot(slot: str) -> None:
    if slot not in (*SLOTS, DATASET_SLOT):
        raise PamKitError(f"unknown slot {slot!r}; the slots are {', '.join((*SLOTS, DATASET_SLOT))}")


def _indexed() -> list[ComponentSpec]:
    """What built-in and plugin files declare."""
    found = [spec for package in BUILT_IN_PACKAGES for spec in _declared_in(package)]
    for distribution, module in _plugins(tuple(sys.path)):
        try:
            declared = _declared_in(module)
            if not declared:
                raise PamKitError("it registers no component")
        except Exception as error:  # whatever a plugin does wrong, the others and the command line must go on
            warnings.warn(
                f"components of distribution {distribution!r} (entry point {module!r}) are left out: {error}; "
                f"mend or uninstall {distribution}",
                stacklevel=3,
            )
        else:
            found += [spec for spec in declared if spec not in found]
    return found


def _declared_in(package: str) -> list[ComponentSpec]:
    files = python_files(package)
    return [
        spec for module, path in files for declared in read_declarations(path, module) for spec in _expand(declared)
    ]


@lru_cache(maxsize=8)
def _plugins(search_path: tuple[str, ...]) -> list[tuple[str, str]]:
    """Distribution and module of every entry point; read once for a ``sys.path``, since it opens every distribution."""
    from importlib.metadata import entry_points

    points = entry_points(group=PLUGIN_GROUP)
    return [(p.dist.name if p.dist else p.name, p.value.partition(":")[0].strip()) for p in points]


def _expand(declaration: Declaration) -> list[ComponentSpec]:
    """The component and its presets, after checking what the declaration says."""
    d = declaration
    names = [p.name for p in d.parameters]
    try:
        _check_slot(d.slot)
        if "name" in names:
            raise PamKitError("an argument cannot be called 'name': in a recipe that chooses the component")
        found = [ComponentSpec(d.slot, d.name, d.module, d.class_name, d.parameters, d.doc, place=d.place)]
        for preset, arguments in d.presets.items():
            if preset == d.name:
                raise PamKitError(f"preset {preset!r} has the component's own name")
            unknown = [a for a in arguments if a not in names or a in SUPPLIED.get(d.slot, ())]
            if unknown:
                raise PamKitError(f"preset {preset!r} sets {unknown[0]!r}, which it cannot{suggest(unknown[0], names)}")
            parameters = tuple(_preset_default(p, arguments) for p in d.parameters)
            found.append(replace(found[0], name=preset, parameters=parameters, preset_of=d.name, preset=arguments))
    except PamKitError as error:
        raise PamKitError(f"{d.place}: {d.slot} {d.name!r}: {error}") from None
    return found


def _preset_default(parameter: Parameter, arguments: dict[str, Any]) -> Parameter:
    if parameter.name not in arguments:
        return parameter
    return replace(parameter, default=arguments[parameter.name], required=False, default_is_source=False)


def _refuse_twins(own: ComponentSpec, others: list[ComponentSpec]) -> None:
    """A class that is defined again (a notebook cell run twice, a module reloaded) replaces itself; others clash."""
    for other in others:
        if (own.slot, own.name) == (other.slot, other.name) and (own.module, own.class_name) != (
            other.module,
            other.class_name,
        ):
            raise _twins(own, other)


def _twins(one: ComponentSpec, other: ComponentSpec) -> PamKitError:
    return PamKitError(
        f"two components are called {one.slot} {one.name!r}: {other.place} and {one.place}; rename one of them"
    )
