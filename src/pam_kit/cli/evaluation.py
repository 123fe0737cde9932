"""The verb that scores: on held-out sets of a recipe, on published benchmarks, or predictions of others. Torch-free."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pam_kit.cli.arguments import OVERRIDES, add_verb, choices, chosen_schedule, flag, given_flags, positive, tell
from pam_kit.cli.parts import add_parts, own_device, own_part, run_parts
from pam_kit.cli.runs import RUN, evaluate_recipe
from pam_kit.errors import PamKitError
from pam_kit.tasks import LANGUAGES

if TYPE_CHECKING:
    from pam_kit.evaluation.reports.table import Table

# As in evaluation.benchmarks.contract and evaluation.predictions.settings, which load more than help needs.
PROMPT_TYPES = ("box", "mask", "points")
STREAM_BOXES = ("propagate", "gt_per_event")
# What would be passed over without a word, by what it is for.
_OF_MODELS = ("max_new_tokens", "stream_boxes", "pictures", "device", "processes", "shard", "no_score")
_OF_REGIONS = ("data", "variant", "languages", "limit", "frames")
_OF_BENCHMARKS = (*_OF_MODELS, *_OF_REGIONS, "protocol", "judge_url", "judge_model")
_EXAMPLES = """\
held-out sets of a recipe:
  pam-kit evaluate pam_tiny --checkpoint runs/pam_tiny

published benchmarks; DATA holds a folder for each, and an unknown name lists them:
  pam-kit evaluate runs/pam_3b --benchmark lvis,paco,refcocog --data DATA
  pam-kit evaluate runs/pam_3b --benchmark lvis --data DATA --prompt-type mask --processes 8
  torchrun --nproc-per-node 8 -m pam_kit.cli evaluate runs/pam_3b --benchmark vg --data DATA
  pam-kit evaluate runs/pam_3b --benchmark ferret --data DATA --judge-url http://localhost:8000/v1 --judge-model NAME

predictions of somebody else, one {"id": ..., "prediction": ..., "references": [...]} a line:
  pam-kit evaluate --predictions theirs.jsonl --protocol osprey
  pam-kit evaluate --predictions theirs.jsonl --benchmark lvis --data DATA

The same command goes on where a run was stopped. docs/evaluation.md says how to get the data and read the numbers.
"""


def add_verbs(verbs) -> None:
    summary = "score a trained model on a recipe's held-out sets or on benchmarks, or predictions of somebody else"
    parser = add_verb(verbs, "evaluate", evaluate, summary)
    parser.formatter_class, parser.epilog = argparse.RawDescriptionHelpFormatter, _EXAMPLES
    parser.add_argument(
        "recipe",
        nargs="?",
        metavar="RECIPE|RUN",
        help="a recipe, for its held-out sets; with --benchmark a run",
    )
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help=OVERRIDES)
    parser.add_argument("--checkpoint", metavar="RUN", help=RUN)
    parser.add_argument(
        "--out", metavar="DIR", help="folder of scores and pictures (default RUN/evaluation/<recipe> or .../benchmarks)"
    )
    _add_benchmark_options(parser.add_argument_group("benchmarks"))
    _add_scoring_options(parser.add_argument_group("scoring"))


def _add_benchmark_options(group) -> None:
    group.add_argument("--benchmark", metavar="NAME,...", help="published sets that the model is measured on")
    group.add_argument("--data", metavar="DIR", help="holds a folder for each benchmark, DIR/<name>, or is that of one")
    group.add_argument("--prompt-type", choices=PROMPT_TYPES, default="box", help="how regions are shown (default box)")
    group.add_argument("--variant", metavar="NAME", help="which published form of the files")
    group.add_argument(
        "--languages",
        type=choices(LANGUAGES),
        metavar="en,zh",
        help="only regions whose texts are in these (default all)",
    )
    group.add_argument("--limit", type=positive, metavar="N", help="only the first N regions: a trial, no number")
    group.add_argument("--max-new-tokens", type=positive, metavar="N", help="longest answer (default 512)")
    group.add_argument("--frames", type=positive, metavar="N", help="frames of a clip that are read (default 16)")
    group.add_argument(
        "--stream-boxes",
        choices=STREAM_BOXES,
        help="where a stream's later events are pointed at: the last mask's box (default), or the annotated one",
    )
    group.add_argument("--pictures", type=positive, metavar="N", help="pictures at once (default 8)")
    group.add_argument("--device", help="torch device; the first GPU by default, else the CPU")
    add_parts(group)
    group.add_argument("--no-score", action="store_true", help="make predictions only; the same call without it scores")


def _add_scoring_options(group) -> None:
    group.add_argument("--predictions", metavar="FILE", help="score this file of JSON lines in the place of a model")
    group.add_argument("--protocol", metavar="NAME,...", help="by which protocols is scored (default the benchmark's)")
    group.add_argument("--judge-url", metavar="URL", help="OpenAI-compatible endpoint of the judge, up to /v1")
    group.add_argument("--judge-model", metavar="NAME", help="its model; the key is read from PAM_KIT_JUDGE_KEY")


def evaluate(options: argparse.Namespace) -> None:
    """Score what the options name."""
    if options.recipe and "=" in options.recipe and not Path(options.recipe).exists():
        options.recipe, options.overrides = None, [options.recipe, *options.overrides]
    if options.predictions:
        _foreign(options)
    elif options.benchmark:
        _benchmarks(options)
    elif not options.recipe or not options.checkpoint:
        raise PamKitError(
            "what is to be scored? give RECIPE --checkpoint RUN for the held-out sets of a recipe, "
            "RUN --benchmark NAME --data DIR for benchmarks, or --predictions FILE"
        )
    else:
        _refuse(options, _OF_BENCHMARKS, "for benchmarks and predictions, not for the held-out sets of a recipe")
        recipe = chosen_schedule(options).stages[-1]
        folder = Path(options.out) if options.out else Path(options.checkpoint) / "evaluation" / recipe.name
        evaluate_recipe(recipe, options.checkpoint, folder)


def _benchmarks(options: argparse.Namespace) -> None:
    checkpoint = options.checkpoint or options.recipe
    if not checkpoint or not options.data:
        lacking = "--data DIR, which holds a folder for each benchmark" if checkpoint else "a run, as in evaluate RUN"
        raise PamKitError(f"--benchmark {options.benchmark} needs {lacking}")
    from tqdm import tqdm

    from pam_kit.evaluation.campaign import Campaign

    if options.shard and options.processes:
        raise PamKitError(
            "--shard is one process of several that are started elsewhere; --processes starts them itself"
        )
    out = Path(options.out) if options.out else Path(checkpoint) / "evaluation" / "benchmarks"
    judge = _judge(options, out)
    shard = own_part(options)
    campaign = Campaign(
        checkpoint,
        _names(options.benchmark),
        _choices(options, out),
        options.overrides,
        own_device(options, shard),
        _names(options.protocol or ""),
    )
    if options.processes and options.processes > 1:
        run_parts(_call(options, checkpoint, out), options.processes)
    else:
        campaign.predict(shard, tqdm, _say)
    if not options.no_score:
        _print(campaign.score(judge, shard.count, tqdm, _say), out)


def _call(options: argparse.Namespace, checkpoint: str, out: Path) -> list[str]:
    """The same call, to predict only."""
    call = ["evaluate", checkpoint, *options.overrides, "--benchmark", options.benchmark, "--data", options.data]
    call += ["--out", str(out), "--no-score", "--prompt-type", options.prompt_type]
    for name in ("variant", "limit", "max_new_tokens", "frames", "stream_boxes", "pictures", "device"):
        if value := getattr(options, name):
            call += [flag(name), str(value)]
    return call + (["--languages", ",".join(options.languages)] if options.languages else [])


def _foreign(options: argparse.Namespace) -> None:
    if options.recipe or options.checkpoint:
        raise PamKitError("--predictions are scored as they are; leave the run out, or leave --predictions out")
    if options.benchmark and len(_names(options.benchmark)) > 1:
        raise PamKitError(f"--predictions are of one benchmark, not of {options.benchmark}; score them one by one")
    _refuse(options, _OF_MODELS, "for a model that is asked, not for --predictions, which are there")
    if not (options.benchmark and options.data):
        _refuse(
            options, _OF_REGIONS, "for the regions of a benchmark: give --predictions FILE with --benchmark and --data"
        )
    from tqdm import tqdm

    from pam_kit.evaluation.campaign import ForeignChoices, score_foreign

    path = Path(options.predictions)
    out = Path(options.out) if options.out else path.with_name(f"{path.stem}_scores")
    regions = _choices(options, out) if options.data else None
    chosen = ForeignChoices(tuple(_names(options.protocol or "")), options.benchmark or "", regions)
    _print(score_foreign(path, chosen, out, _judge(options, out), tqdm), out)


def _refuse(options: argparse.Namespace, names: Sequence[str], why: str) -> None:
    """Options that would change nothing are errors: what was meant by them would not be done."""
    if given := given_flags(options, names):
        raise PamKitError(f"{', '.join(given)}: {'this is' if len(given) == 1 else 'these are'} {why}")


def _choices(options: argparse.Namespace, out: Path) -> Any:
    from pam_kit.evaluation.benchmark_run import RunChoices
    from pam_kit.evaluation.predictions.settings import PredictionSettings

    given = {
        "max_new_tokens": options.max_new_tokens,
        "num_frames": options.frames,
        "stream_boxes": options.stream_boxes,
        "pictures": options.pictures,
    }
    asked = PredictionSettings(**{name: value for name, value in given.items() if value is not None})
    return RunChoices(
        data=Path(options.data),
        out=out,
        prompt_type=options.prompt_type,
        variant=options.variant or "",
        languages=options.languages or (),
        limit=options.limit,
        asked=asked,
    )


def _judge(options: argparse.Namespace, out: Path) -> Any:
    """The judge, or None where none is named."""
    if bool(options.judge_url) != bool(options.judge_model):
        raise PamKitError("a judge has an address and a name: give both --judge-url and --judge-model")
    if not options.judge_url:
        return None
    from pam_kit.evaluation.judging.asking import Judge
    from pam_kit.evaluation.judging.endpoint import JudgeSettings

    return Judge(JudgeSettings(options.judge_url, options.judge_model), out / "judge.jsonl")


def _print(tables: "list[Table]", out: Path) -> None:
    if not tables:
        return
    from pam_kit.evaluation.reports.table import markdown

    print(markdown(tables))
    print(f"scores: {out / 'scores.md'}; page: {out / 'report.html'}")


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _say(text: str) -> None:
    tell("evaluate", text)
