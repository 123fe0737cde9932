"""The verb that measures speed and memory: bench. Torch-free."""

import argparse
import json

from pam_kit.cli.arguments import OVERRIDES, add_verb, choices, positive, tell
from pam_kit.cli.prompting import STEPS, add_speed
from pam_kit.cli.runs import RUN
from pam_kit.errors import PamKitError
from pam_kit.tasks import LANGUAGES, TASKS

_TOKENS = 4


def add_verbs(verbs) -> None:
    details = (
        "Without sizes: 8 regions with a question each, a region with 8 questions, 16 regions with 8 questions and, "
        "where no model is named, a training step; each of them by the kit and, with --against plain, by plain code "
        "that encodes the picture for every region, reads the region for every question and makes the logits of every "
        "position, in turn, with the same weights."
    )
    parser = add_verb(verbs, "bench", bench, "how fast a model answers, and how much memory it takes", details)
    parser.add_argument("what", choices=("inference",), help="what is measured")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help=OVERRIDES)
    parser.add_argument("--against", choices=("plain",), help="measure the plain path too, and compare what comes out")
    model = parser.add_mutually_exclusive_group()
    model.add_argument("--recipe", metavar="RECIPE", help="the model of a recipe, with random weights")
    model.add_argument("--checkpoint", metavar="RUN", help=RUN)
    sizes = "measure one work of this size in the place of the table"
    parser.add_argument("--images", type=positive, metavar="N", help=f"pictures; {sizes}")
    parser.add_argument("--regions", type=positive, metavar="N", help=f"regions of each picture or clip; {sizes}")
    parser.add_argument("--questions", type=positive, metavar="N", help=f"questions about each region; {sizes}")
    tasks = f"comma-separated: {','.join(TASKS)}; {sizes}"
    parser.add_argument("--tasks", type=choices(TASKS), help=tasks)
    parser.add_argument("--lang", type=choices(LANGUAGES), help=f"comma-separated: en,zh; {sizes}")
    parser.add_argument("--frames", type=positive, metavar="N", help=f"frames of a clip, no pictures; {sizes}")
    parser.add_argument(
        "--max-new-tokens", type=positive, default=_TOKENS, metavar="N", help=f"longest answer (default {_TOKENS})"
    )
    parser.add_argument("--repeats", type=positive, default=1, metavar="N", help="how often each is timed (default 1)")
    add_speed(parser)
    parser.add_argument("--device", help="torch device; the first GPU by default, else the CPU")
    parser.add_argument("--json", action="store_true", help="print one JSON object a line for each work")
    parser.add_argument("--csv", metavar="FILE", help="also write the table as CSV")
    parser.add_argument("--plot", metavar="FILE", help="also draw the seconds as bars, a PNG file")


def bench(options: argparse.Namespace) -> int:
    """Measure; 1 where the two paths came to different outputs."""
    from pam_kit.bench.inference_benchmark import Result, measure_training, measure_works
    from pam_kit.bench.inference_report import draw, markdown, write_csv
    from pam_kit.bench.works import ModelChoice

    if options.overrides and not options.recipe:
        raise PamKitError(f"{options.overrides[0]} changes a recipe: name it with --recipe")
    works, with_training = _works(options)
    if options.frames and options.steps != STEPS[0]:
        raise PamKitError(f"--steps {options.steps}: a clip is answered with keys and values that grow; leave it out")
    decoder = {"precision": options.precision, "steps": options.steps}
    choice = ModelChoice(options.checkpoint, options.recipe, tuple(options.overrides), **decoder)
    result: Result = measure_works(
        choice, works, options.against == "plain", options.repeats, options.device, say=_tell
    )
    if with_training and result.facts["device"] == "CPU":
        from pam_kit.bench.step_benchmark import StepSizes

        _tell("timing a training step")
        result.rows.append(measure_training(StepSizes(), options.repeats))
    for row in result.rows if options.json else ():
        print(json.dumps(row))
    if not options.json:
        print("\n".join(markdown(result)))
    if options.csv:
        write_csv(result, options.csv)
    if options.plot:
        draw(result, options.plot)
    return 0 if result.same else 1


def _works(options: argparse.Namespace) -> tuple[list, bool]:
    """What is measured, and whether a training step is, too, which is one of the built-in model on a CPU."""
    from dataclasses import replace

    from pam_kit.bench.works import TABLE, Work

    if options.questions and (options.tasks or options.lang):
        raise PamKitError("--questions says how many, --tasks and --lang say which: give one or the other")
    sizes = {name: getattr(options, name) for name in ("images", "regions", "questions", "frames", "tasks")}
    given = {name: size for name, size in (sizes | {"languages": options.lang}).items() if size is not None}
    if given:
        return [Work(**given, max_new_tokens=options.max_new_tokens)], False
    works = [replace(work, max_new_tokens=options.max_new_tokens) for work in TABLE]
    return works, bool(options.against) and not (options.recipe or options.checkpoint or options.precision)


def _tell(line: str) -> None:
    tell("bench", line)
