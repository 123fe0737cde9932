"""The verbs that list what there is: components, recipes. Torch-free."""

import argparse

from pam_kit.cli.arguments import add_verb
from pam_kit.sections import DATASET_SLOT, SLOTS


def add_verbs(verbs) -> None:
    parser = add_verb(verbs, "components", components, "every registered component with its arguments")
    parser.add_argument("slot", nargs="?", choices=(*SLOTS, DATASET_SLOT))
    parser = add_verb(verbs, "recipes", recipes, "the recipes that ship with the kit")
    parser.add_argument("--keys", action="store_true", help="list every key a recipe may have, instead")


def components(options: argparse.Namespace) -> None:
    """List the registered components with their arguments."""
    from pam_kit.registry import specs

    for slot in [options.slot] if options.slot else [*SLOTS, DATASET_SLOT]:
        print(slot)
        for spec in specs(slot).values():
            if spec.preset_of:
                print(f"  {spec.name}: {spec.preset_of} with {', '.join(f'{k}={v}' for k, v in spec.preset.items())}")
                continue
            print(f"  {spec.name}: {spec.doc}")
            for parameter in spec.recipe_parameters:
                default = "required" if parameter.required else f"= {parameter.default!r}"
                print(f"      {parameter.name}: {parameter.annotation} {default}")
                if parameter.doc:
                    print(f"          {parameter.doc}")


def recipes(options: argparse.Namespace) -> None:
    """List the shipped recipes, or every key a recipe may have."""
    from pam_kit.recipe import FILE_KEYS, shipped_recipes, valid_keys

    if options.keys:
        for key in (*FILE_KEYS, *valid_keys()):
            default = "required" if key.default is None else f"= {key.default}"
            print(f"{key.key}: {key.type} {default}" + (f"\n    {key.doc}" if key.doc else ""))
        return
    for name, (path, description) in shipped_recipes().items():
        print(f"{name:<24}{description}\n{'':<24}{path}")
