"""The verbs that choose the labels of regions out of a list: recognize, evaluate-labels. Torch-free."""

import argparse
import json
from pathlib import Path

from pam_kit.cli.arguments import add_recipe, add_verb, chosen_schedule, positive
from pam_kit.cli.prompting import add_checkpoint, add_prompts, is_picture, source_behind_points
from pam_kit.cli.runs import RUN
from pam_kit.errors import PamKitError
from pam_kit.tasks import LANGUAGES

# As in inference.closed_set, whose module would load torch.
PRIORS = ("none", "no_region", "regions")
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
    add_recipe(parser)
    parser.add_argument("--checkpoint", required=True, metavar="RUN", help=RUN)
    parser.add_argument("--labels", metavar="LIST", help=f"{LABELS} (default the labels of the held-out sets)")
    _add_choices(parser)
    parser.add_argument("--out", help="folder of scores and calibrations (default RUN/labels/<recipe>)")


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
    """Score the choice of labels on a recipe's held-out pictures, and fit what makes confidences honest."""
    recipe = chosen_schedule(options).stages[-1]
    from pam_kit.data.label_lists import read_labels

    labels = read_labels(options.labels, options.lang, options.synonyms) if options.labels else None
    from tqdm import tqdm

    from pam_kit.evaluation.closed_set import LabelSettings, labels_markdown
    from pam_kit.evaluation.closed_set import evaluate_labels as run_evaluation
    from pam_kit.inference.predictor import RegionPredictor

    folder = Path(options.out) if options.out else Path(options.checkpoint) / "labels" / recipe.name
    settings = LabelSettings(labels, options.lang, options.per_token, options.prior)
    predictor = RegionPredictor.from_run(options.checkpoint)
    table = run_evaluation(predictor, recipe.evaluate, settings, folder, tqdm)
    print("\n".join(labels_markdown(table)))
    print(f"scores: {folder / 'labels.md'}; calibrations: {folder / 'calibration'}")
