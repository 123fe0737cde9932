"""The verb that tests whether texts come from their regions: probe. Torch-free."""

import argparse
from pathlib import Path

from pam_kit.cli.arguments import add_recipe, add_verb, choices, chosen_schedule, positive, tell
from pam_kit.cli.runs import RUN
from pam_kit.errors import PamKitError

# As in evaluation.altered_pictures and evaluation.faithfulness, whose modules would load torch.
FILLS, SHAPES, SOURCES = ("mean", "blur"), ("box", "mask"), ("reference", "answer")


def add_verbs(verbs) -> None:
    details = (
        "A region is taken out of its picture, then all but the region, then the largest other region; the probe says "
        "how much less likely the same text gets, in nats per token."
    )
    parser = add_verb(verbs, "probe", probe, "whether texts come from the regions they are about", details)
    add_recipe(parser)
    parser.add_argument("--checkpoint", required=True, metavar="RUN", help=RUN)
    parser.add_argument(
        "--records", metavar="JSONL", help="regions of a benchmark, in the place of the recipe's held-out pictures"
    )
    parser.add_argument("--data", metavar="FOLDER", help="where the pictures of --records are named from")
    parser.add_argument(
        "--fill", choices=FILLS, default="mean", help="what stands for what is taken out (default mean)"
    )
    parser.add_argument(
        "--shape",
        choices=SHAPES,
        default="box",
        help="take out a region's box (default), or its mask, of which the outline stays to be seen",
    )
    parser.add_argument("--texts", type=choices(SOURCES), default=SOURCES, help="comma-separated: reference,answer")
    parser.add_argument("--limit", type=positive, metavar="N", help="at most so many pictures of each held-out set")
    parser.add_argument("--resume", action="store_true", help="go on where a probe of the same model was stopped")
    parser.add_argument("--device", help="torch device; the first GPU by default, else the CPU")
    parser.add_argument("--out", help="folder of scores and pictures (default RUN/probe/<recipe>)")


def probe(options: argparse.Namespace) -> None:
    """Test a trained model's texts on a recipe's held-out pictures, or on the regions of a benchmark."""
    recipe = chosen_schedule(options).stages[-1]
    if (options.records is None) != (options.data is None):
        raise PamKitError("--records names pictures below a folder: give both --records and --data, or neither")
    from tqdm import tqdm

    from pam_kit.evaluation.faithfulness import ProbeSettings
    from pam_kit.evaluation.faithfulness_scores import faithfulness_markdown
    from pam_kit.evaluation.probing import probe_held_out, probe_records
    from pam_kit.evaluation.records import read_records
    from pam_kit.inference.predictor import RegionPredictor

    section = recipe.evaluate
    for split in section.splits.values():
        split.limit = min(split.limit or options.limit, options.limit) if options.limit else split.limit
    settings = ProbeSettings(
        options.fill, options.shape, tuple(options.texts), section.max_new_tokens, section.batch_size
    )
    records = list(read_records(options.records)) if options.records else None
    folder = Path(options.out) if options.out else Path(options.checkpoint) / "probe" / recipe.name
    predictor = RegionPredictor.from_run(options.checkpoint, options.device)
    if records is None:
        tables = probe_held_out(predictor, section, settings, folder, tqdm, options.resume, _say)
    else:
        about = (predictor, records, Path(options.data), settings, folder)
        tables = probe_records(*about, tqdm, options.resume, section.pictures, _say)
    print("\n".join(faithfulness_markdown(tables)))
    print(f"probe: {folder / 'probe.md'}; pictures: {folder / 'pictures'}")


def _say(text: str) -> None:
    tell("probe", text)
