"""The verbs that choose the labels of regions out of a list: recognize, evaluate-labels. Torch-free."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from pam_kit.cli.arguments import OVERRIDES, add_verb, chosen_schedule, given_flags, positive, tell
from pam_kit.cli.evaluation import PROMPT_TYPES
from pam_kit.cli.prompting import add_checkpoint, add_prompts, is_picture, source_behind_points
from pam_kit.cli.runs import RUN
from pam_kit.errors import PamKitError
from pam_kit.tasks import LANGUAGES

if TYPE_CHECKING:
    from pam_kit.evaluation.closed_set import LabelSettings, Row

# As in inference.closed_set, whose module would load torch.
PRIORS = ("none", "no_region", "regions")
# Those that have a list of categories; evaluation.closed_set_benchmarks knows where it is.
BENCHMARKS = ("lvis", "paco")
LABELS = "coco, an annotation file with categories (.json: COCO, LVIS, PACO) or a text file with a label a line"


def add_verbs(verbs) -> None:
    details = "Every label of a list is scored; nothing is said freely. The best come with their share among the list."
    parser = add_verb(verbs, "recognize", recognize, "the most likely labels of regions, out of a list", details)
    parser.add_argument("image", nargs="?", metavar="IMAGE", help="a picture")
    add_checkpoint(parser)
    add_prompts(parser)
    parser.add_argument("--labels", required=True, metavar="LIST", help=LABELS)
    parser.add_argument("--top", type=positive, default=5, metavar="K", help="labels a region (default 5)")
    _add_choices(parser)
    parser.add_argument("--question", metavar="TEXT", help="other words than those of the task recognize")
    parser.add_argument("--calibration", metavar="JSON", help="what evaluate-labels fitted for this list and model")
    parser.add_argument("--json", action="store_true", help="print JSON")
    details = "Half of the pictures fit a temperature, the other half is measured; free text stands beside it."
    parser = add_verb(verbs, "evaluate-labels", evaluate_labels, "score the choice of labels out of a list", details)
    parser.add_argument("recipe", nargs="?", metavar="RECIPE", help="a recipe, for its held-out pictures")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help=OVERRIDES)
    parser.add_argument("--checkpoint", required=True, metavar="RUN", help=RUN)
    parser.add_argument(
        "--labels",
        metavar="LIST",
        help=f"{LABELS} (default the labels of the held-out sets, or all categories of the benchmark)",
    )
    _add_choices(parser)
    parser.add_argument("--device", help="torch device; the first GPU by default, else the CPU")
    parser.add_argument("--out", help="folder of scores and calibrations (default RUN/labels/<recipe or benchmark>)")
    group = parser.add_argument_group("benchmarks, in the place of a recipe")
    group.add_argument("--benchmark", choices=BENCHMARKS, help="published set that the choice is scored on")
    group.add_argument("--data", metavar="DIR", help="holds the benchmark's folder, DIR/<name>, or is it")
    group.add_argument("--prompt-type", choices=PROMPT_TYPES, help="how regions are shown (default box)")
    group.add_argument("--variant", metavar="NAME", help="which published form of the files")
    group.add_argument("--limit", type=positive, metavar="N", help="only the first N regions: a trial, no number")
    group.add_argument("--pictures", type=positive, metavar="N", help="pictures at once (default 8)")
    group.add_argument("--max-new-tokens", type=positive, metavar="N", help="longest free answer (default 48)")


def _add_choices(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--lang", choices=LANGUAGES, default="en", help="language of the question (default en)")
    parser.add_argument("--synonyms", action="store_true", help="of an LVIS file: also say the synonyms of a category")
    parser.add_argument("--per-token", action="store_true", help="rank by the mean over a label's tokens, not the sum")
    parser.add_argument(
        "--prior",
        choices=PRIORS,
        default="none",
        help="divide out how likely labels are without a region, or on average over held-out regions (default none)",
    )


def recognize(options: argparse.Namespace) -> None:
    """Print the most likely labels of regions of a picture."""
    image_name = options.image or source_behind_points(options.point, "recognize photo.jpg")
    if not is_picture(image_name):
        raise PamKitError(f"{image_name}: recognize looks at one picture; pam-kit predict goes through videos")
    from pam_kit.data.label_lists import read_labels

    labels = read_labels(options.labels, options.lang, options.synonyms)
    from pam_kit.inference.closed_set import Calibration, ClosedSet, recognise
    from pam_kit.inference.predictor import RegionPredictor, as_array
    from pam_kit.inference.prompt_options import prompts_from_options
    from pam_kit.inference.result import prompt_json

    calibration = Calibration.load(options.calibration) if options.calibration else None
    chosen = ClosedSet(labels, options.lang, options.question, options.per_token, options.prior, calibration)
    chosen.check_usable()
    image = as_array(image_name)
    prompts = prompts_from_options(options.box, options.point, options.mask, options.combine)
    predictor = RegionPredictor.from_run(options.checkpoint, options.device)
    found = recognise(predictor, image, prompts, chosen, options.top)
    if options.json:
        lines = [
            {"prompt": prompt_json(prompt), "labels": [vars(label) for label in ranked]}
            for prompt, ranked in zip(prompts, found, strict=True)
        ]
        print(json.dumps(lines, ensure_ascii=False, indent=1))
        return
    for number, ranked in enumerate(found, 1):
        print(f"region {number}:")
        for label in ranked:
            print(f"  {100 * label.confidence:5.1f} %  {label.name}  (log p {label.log_probability:.2f})")


def evaluate_labels(options: argparse.Namespace) -> None:
    """Score the choice of labels on held-out pictures or a benchmark, and fit what makes confidences honest."""
    if bool(options.benchmark) == bool(options.recipe):
        raise PamKitError(
            "whose regions? give either RECIPE, for its held-out pictures, or --benchmark NAME --data DIR"
        )
    from pam_kit.data.label_lists import read_labels

    labels = read_labels(options.labels, options.lang, options.synonyms) if options.labels else None
    from pam_kit.evaluation.closed_set import LabelSettings, labels_markdown

    settings = LabelSettings(labels, options.lang, options.per_token, options.prior)
    table, folder = (_of_benchmark if options.benchmark else _of_recipe)(options, settings)
    print("\n".join(labels_markdown(table)))
    print(f"scores: {folder / 'labels.md'}; calibrations: {folder / 'calibration'}")


def _of_recipe(options: argparse.Namespace, settings: "LabelSettings") -> "tuple[dict[str, Row], Path]":
    of_benchmarks = ("data", "prompt_type", "variant", "limit", "pictures", "max_new_tokens")
    if given := given_flags(options, of_benchmarks):
        raise PamKitError(f"{given[0]} is of --benchmark; a recipe says such things itself, under evaluate")
    recipe = chosen_schedule(options).stages[-1]
    from tqdm import tqdm

    from pam_kit.evaluation.closed_set import evaluate_labels as run_evaluation
    from pam_kit.inference.predictor import RegionPredictor

    folder = Path(options.out) if options.out else Path(options.checkpoint) / "labels" / recipe.name
    predictor = RegionPredictor.from_run(options.checkpoint, options.device)
    return run_evaluation(predictor, recipe.evaluate, settings, folder, tqdm), folder


def _of_benchmark(options: argparse.Namespace, settings: "LabelSettings") -> "tuple[dict[str, Row], Path]":
    if not options.data or options.overrides:
        why = "needs --data DIR, which holds its folder" if not options.data else "has no recipe to change"
        raise PamKitError(f"--benchmark {options.benchmark} {why}")
    from tqdm import tqdm

    from pam_kit.evaluation.benchmark_run import RunChoices
    from pam_kit.evaluation.closed_set_benchmarks import BenchmarkLabels
    from pam_kit.evaluation.predictions.settings import PredictionSettings
    from pam_kit.inference.predictor import RegionPredictor

    kind = options.prompt_type or "box"
    default = Path(options.checkpoint) / "labels" / f"{options.benchmark}-{kind}"
    folder = Path(options.out) if options.out else default
    asked = PredictionSettings(max_new_tokens=options.max_new_tokens or 48, pictures=options.pictures or 8)
    choices = RunChoices(Path(options.data), folder, kind, options.variant or "", limit=options.limit, asked=asked)
    regions = BenchmarkLabels(options.benchmark, choices, settings, options.synonyms)
    table = regions.evaluate(RegionPredictor.from_run(options.checkpoint, options.device), tqdm)
    for note in regions.notes:
        tell("evaluate-labels", f"{regions.row}: {note}")
    return table, folder
