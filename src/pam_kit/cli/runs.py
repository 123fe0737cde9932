"""The verbs that run a recipe or count what it would cost: fit, plan. Torch-free."""

import argparse
from pathlib import Path

from pam_kit.cli.arguments import add_recipe, add_verb, chosen_schedule, positive
from pam_kit.sections import Recipe

RUN = "a run folder, for example runs/pam_tiny"


def add_verbs(verbs) -> None:
    parser = add_verb(verbs, "fit", fit, "train what a recipe describes, then score it on its held-out sets")
    add_recipe(parser)
    parser.add_argument("--out", default="runs", help="folder of runs (default runs)")
    parser.add_argument("--resume", action="store_true", help="go on with the newest run of this name")
    parser.add_argument("--no-evaluate", action="store_true", help="stop after training")
    parser = add_verb(verbs, "plan", plan, "parameters, tokens and memory of a recipe, without running it")
    add_recipe(parser)
    parser.add_argument("--devices", type=positive, default=1, help="devices the run is planned for (default 1)")


def fit(options: argparse.Namespace) -> None:
    """Train a recipe or the stages of a schedule, then score the model on the held-out sets of the last one."""
    schedule = chosen_schedule(options)
    from pam_kit.training.processes import is_first_process
    from pam_kit.training.schedule import fit_schedule

    folder = fit_schedule(schedule, Path(options.out), resume=options.resume)
    if not is_first_process():
        return
    print(f"model: {folder / 'model'}")
    recipe = schedule.stages[-1]
    if recipe.evaluate.splits and not options.no_evaluate:
        evaluate_recipe(recipe, str(folder), folder)


def plan(options: argparse.Namespace) -> None:
    """Print what a recipe would cost, or each stage of a schedule."""
    schedule = chosen_schedule(options)
    from pam_kit.training.plan import plan as make_plan

    for number, stage in enumerate(schedule.stages):
        print("\n".join(["", *make_plan(stage, options.devices).lines][number == 0 :]), flush=True)


def evaluate_recipe(recipe: Recipe, checkpoint: str, folder: Path) -> None:
    """Score a trained model on a recipe's held-out sets, write it into ``folder`` and print the table."""
    from tqdm import tqdm

    from pam_kit.evaluation.evaluate import evaluate as run_evaluation
    from pam_kit.evaluation.evaluate import markdown
    from pam_kit.inference.predictor import RegionPredictor

    predictor = RegionPredictor.from_run(checkpoint)
    table = run_evaluation(predictor, recipe.evaluate, folder, tqdm)
    print("\n".join(markdown(table)))
    print(f"scores: {folder / 'scores.md'}; pictures: {folder / 'pictures'}")
