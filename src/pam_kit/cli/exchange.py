"""The verbs that take checkpoints in and hand them out: import-pam, export-pam, export. Torch-free."""

import argparse

from pam_kit.cli.arguments import add_verb
from pam_kit.cli.runs import RUN

_IMPORT = """FOLDER is as it is published: config.json of type llava_qwen, weights, tokenizer. The releases leave SAM 2
out, so give it by --sam2. The run folder that results is whole; predict, evaluate and init_from take it."""
_EXPORT_PAM = """The folder that results has the layout of the release: config.json of type llava_qwen, weights under
the released names, tokenizer. The run must have the parts called pam and a Qwen2 decoder; what else it has is named."""
_EXPORT = """The folder that results holds all weights, the recipe, the tokenizer and a model card, and nothing it would
need from elsewhere: RegionVLM.from_pretrained reads it from there, or from the hub after it was uploaded."""


def add_verbs(verbs) -> None:
    parser = add_verb(verbs, "import-pam", import_pam, "make a run folder of a released PAM", _IMPORT)
    parser.add_argument("folder", metavar="FOLDER", help="the folder of a released PAM, for example PAM-1.5B")
    parser.add_argument(
        "overrides", nargs="*", metavar="KEY=VALUE", help="changes to the recipe, for example backbone.size=tiny"
    )
    parser.add_argument("--out", required=True, metavar="RUN", help="the run folder to make, for example runs/pam_1_5b")
    parser.add_argument(
        "--sam2", metavar="FILE", help="SAM 2.1's own weights, .pt or .safetensors; they win over those in FOLDER"
    )
    parser.add_argument("--tokenizer", metavar="DIR", help="tokenizer files, where FOLDER has none")
    parser.add_argument(
        "--whole-vocabulary",
        action="store_true",
        help="keep word embeddings that no token stands for; the released loader drops them, and so does this one",
    )
    parser = add_verb(
        verbs, "export-pam", export_pam, "make a folder for the released PAM's code of a run", _EXPORT_PAM
    )
    parser.add_argument("run_folder", metavar="RUN", help=RUN)
    parser.add_argument("--out", required=True, metavar="DIR", help="the folder to make")
    parser = add_verb(verbs, "export", export, "make one folder of a run that needs no other file", _EXPORT)
    parser.add_argument("run_folder", metavar="RUN", help=RUN)
    parser.add_argument("--out", required=True, metavar="DIR", help="the folder to make")


def import_pam(options: argparse.Namespace) -> None:
    """Make a run folder of a released PAM."""
    from pam_kit.released.importing import import_pam as run_import

    report = run_import(
        options.folder,
        options.out,
        sam2=options.sam2,
        tokenizer=options.tokenizer,
        overrides=options.overrides,
        whole_vocabulary=options.whole_vocabulary,
    )
    print("\n".join(report.lines()))
    print(f"next        pam-kit predict photo.jpg --checkpoint {options.out} --box X1,Y1,X2,Y2")


def export_pam(options: argparse.Namespace) -> None:
    """Make a folder for the released PAM's code of a run."""
    from pam_kit.released.exporting import export_pam as run_export

    print("\n".join(run_export(options.run_folder, options.out).lines()))
    print(f"next        pam-kit import-pam {options.out} --out RUN reads it back")


def export(options: argparse.Namespace) -> None:
    """Make one folder of a run that needs no other file."""
    from pam_kit.released.publishing import publish

    print("\n".join(publish(options.run_folder, options.out).lines()))
    print(f"next        look through {options.out}/README.md, then: hf upload NAME/MODEL {options.out}")
