"""The verb about samples: data check. Torch-free."""

import argparse

from pam_kit.cli.arguments import add_verb


def add_verbs(verbs) -> None:
    parser = add_verb(verbs, "data", data_check, "look for broken samples")
    parser.add_argument("action", choices=("check",))
    parser.add_argument("dataset", metavar="DATASET", help="a .jsonl file, a registered dataset, or a recipe")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="the dataset's arguments, or recipe changes")


def data_check(options: argparse.Namespace) -> int:
    """Read datasets once and report what is broken in them; 1 where something is."""
    from tqdm import tqdm

    from pam_kit.data.check import check_dataset
    from pam_kit.data.choose import chosen_datasets

    broken = 0
    for name, dataset in chosen_datasets(options.dataset, options.overrides).items():
        report = check_dataset(dataset, lambda items, name=name, **shown: tqdm(items, **shown | {"desc": name}))
        print("\n".join([f"{name}:", *report.lines()]))
        broken += len(report.broken)
    return 1 if broken else 0
