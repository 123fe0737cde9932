"""Options that several verbs take, and the recipe behind them. Torch-free."""

import argparse
import sys
from collections.abc import Callable, Iterable, Sequence

from pam_kit.recipe import Schedule
from pam_kit.sections import Recipe

OVERRIDES = "changes to the recipe, for example decoder.num_layers=2, perceiver=none or train.max_steps=50"


def add_verb(verbs, name: str, run: Callable, summary: str, details: str = "") -> argparse.ArgumentParser:
    """A parser whose options are handed to ``run``; ``summary`` also stands in the list of verbs."""
    description = f"{summary[0].upper()}{summary[1:]}. {details}".strip()
    parser = verbs.add_parser(name, help=summary, description=description)
    parser.set_defaults(run=run)
    return parser


def add_recipe(parser: argparse.ArgumentParser) -> None:
    """RECIPE and the KEY=VALUE words that change it."""
    parser.add_argument("recipe", metavar="RECIPE", help="a YAML file or the name of a shipped recipe")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help=OVERRIDES)


def chosen_recipe(options: argparse.Namespace) -> Recipe:
    """The recipe that ``add_recipe``'s options name."""
    from pam_kit.recipe import load_recipe

    return load_recipe(options.recipe, options.overrides)


def chosen_schedule(options: argparse.Namespace) -> Schedule:
    """The stages that ``add_recipe``'s options name; a plain recipe is one."""
    from pam_kit.recipe import load_schedule

    return load_schedule(options.recipe, options.overrides)


def tell(verb: str, text: str) -> None:
    """A line on standard error, which is nobody's data."""
    print(f"pam-kit {verb}: {text}", file=sys.stderr, flush=True)


def flag(name: str) -> str:
    """An option as it is typed: ``max_new_tokens`` is --max-new-tokens."""
    return f"--{name.replace('_', '-')}"


def given_flags(options: argparse.Namespace, names: Iterable[str]) -> list[str]:
    """Those of some options that were given, as they are typed; left out they are None, False or an empty list."""
    return [flag(name) for name in names if getattr(options, name) not in (None, False, [])]


def positive(text: str) -> int:
    """A type for whole numbers above 0."""
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def choices(allowed: Sequence[str]) -> Callable[[str], tuple[str, ...]]:
    """A type for comma-separated words out of ``allowed``."""

    def parse(text: str) -> tuple[str, ...]:
        chosen = tuple(part.strip() for part in text.split(","))
        wrong = [part for part in chosen if part not in allowed]
        if wrong:
            raise argparse.ArgumentTypeError(f"unknown {', '.join(wrong)}; choose from {', '.join(allowed)}")
        return chosen

    return parse
