"""`pam-kit`: one thin function per verb, grouped by file. Torch-free, so that it answers at once."""

import argparse
import sys
from collections.abc import Sequence

from pam_kit import __version__
from pam_kit.cli import (
    ablations,
    bench,
    datasets,
    evaluation,
    everything,
    exchange,
    listings,
    prediction,
    probing,
    recognition,
    runs,
    streaming,
)
from pam_kit.errors import PamKitError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; 0 when all went well, 2 for a mistake the user can mend."""
    options = _parsed(arguments)
    try:
        return options.run(options) or 0
    except PamKitError as error:
        print(f"pam-kit {options.verb}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"pam-kit {options.verb}: stopped", file=sys.stderr)
        return 130


def _parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """argparse takes KEY=VALUE only right behind the recipe; here they may also follow an option."""
    parser = _parser()
    options, rest = parser.parse_known_args(arguments)
    if rest and getattr(options, "recipe", "") is None and "=" not in rest[0] and not rest[0].startswith("-"):
        options.recipe = rest.pop(0)  # a recipe that may be left out is looked for in front of the options only
    if rest and (not hasattr(options, "overrides") or any(word.startswith("-") or "=" not in word for word in rest)):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        options.overrides += rest
    return options


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="pam-kit",
        description="Train and use vision-language models that understand regions of pictures and videos.",
        epilog="Start with: pam-kit fit pam_tiny",
    )
    parser.add_argument("--version", action="version", version=f"pam-kit {__version__}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for group in (
        runs,
        evaluation,
        ablations,
        bench,
        prediction,
        everything,
        recognition,
        probing,
        streaming,
        listings,
        datasets,
        exchange,
    ):
        group.add_verbs(verbs)
    return parser
