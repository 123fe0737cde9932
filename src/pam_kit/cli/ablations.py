"""The verb that runs ablation studies: ablate. Torch-free."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from pam_kit.cli.arguments import add_verb, positive
from pam_kit.errors import PamKitError

if TYPE_CHECKING:
    from pam_kit.ablation.chains import Chains, Run

_DEFAULT_OUT = "runs/ablations"


def add_verbs(verbs) -> None:
    details = "What is finished is not run again; what was stopped goes on. Without STUDY: the shipped studies."
    parser = add_verb(verbs, "ablate", ablate, "train and score the variants of a study, with several seeds", details)
    parser.add_argument("study", nargs="?", metavar="STUDY", help="a YAML file or the name of a shipped study")
    parser.add_argument("--out", default=_DEFAULT_OUT, help=f"folder of studies and runs (default {_DEFAULT_OUT})")
    parser.add_argument("--processes", type=positive, default=1, metavar="N", help="runs at once (default 1)")
    parser.add_argument("--seeds", type=_seeds, default=(), metavar="0,1,2", help="in the place of the study's own")
    parser.add_argument("--only", action="append", default=[], metavar="VARIANT", help="of a variant; may be repeated")
    doing = parser.add_mutually_exclusive_group()
    doing.add_argument("--plan", action="store_true", help="list the runs and what is done of them; run nothing")
    doing.add_argument(
        "--run", type=int, dest="index", metavar="INDEX", help="just this run of the list that --plan shows"
    )
    doing.add_argument("--slurm", action="store_true", help="write an sbatch script, one array task a run")
    doing.add_argument(
        "--docs", nargs="?", const="docs", metavar="FOLDER", help="write docs/ablations.md from all runs"
    )
    parser.add_argument("--table", action="store_true", help="run nothing; write the tables from what is there")
    parser.add_argument("--times", action="store_true", help="run nothing; take the times of a step, then --table")


def ablate(options: argparse.Namespace) -> int:
    """Run a study, or do with it what the options say; 1 where a run has failed or a score is unknown."""
    from pam_kit.ablation.study_file import read_study

    out = Path(options.out)
    if options.docs:
        return _write_page(options, out)
    if options.study is None:
        return _list_studies()
    from pam_kit.ablation.chains import make_chains

    study = read_study(options.study)
    chains = make_chains(study, options.seeds, options.only)
    if options.plan:
        return _show_plan(chains, out)
    if options.slurm:
        return _write_scripts(chains, options, out)
    if options.index is not None:
        return _one_run(chains, options.index, out)
    failed = [] if options.table or options.times else _all_runs(chains, options.processes, out)
    if not options.table or options.times:
        _take_times(chains, out)
    unknown = _write_tables(chains, out)
    return 1 if failed or unknown else 0


def _all_runs(chains: "Chains", processes: int, out: Path) -> list:
    from pam_kit.ablation.processes import carry_out
    from pam_kit.ablation.results import unknown_scores

    print(f"{chains.study.title}: {len(chains.runs)} runs, {processes} at once, in {out / 'runs'}", flush=True)

    def say(line: str) -> None:
        print(line, flush=True)

    # A mistyped score costs no run: it is mended in the study, and the runs stay.
    warned: set[str] = set()

    def ended(run: "Run") -> None:
        for problem in unknown_scores(chains.study, [chain for chain in chains.chains if chain.last is run], out):
            if problem not in warned:
                warned.add(problem)
                say(f"WARNING: {problem}")

    return carry_out(chains.runs, out, processes, say, ended=ended)


def _one_run(chains: "Chains", index: int, out: Path) -> int:
    from pam_kit.ablation.execution import execute

    if not 0 <= index < len(chains.runs):
        raise PamKitError(f"there is no run {index}; the study has the runs 0 to {len(chains.runs) - 1}")
    execute(chains.runs[index], out)
    return 0


def _take_times(chains: "Chains", out: Path) -> None:
    from pam_kit.ablation.chains import study_folder
    from pam_kit.ablation.results import TIMES, read_times, timed_chains, timed_runs
    from pam_kit.atomic_files import write_json

    timed = timed_chains(chains, out)
    if not timed or read_times(chains, out) is not None:
        return
    from pam_kit.ablation.step_times import measure

    print(f"timing the steps of {'; '.join(timed)}", flush=True)
    write_json(study_folder(out, chains.study) / TIMES, measure(timed, out) | {"runs": timed_runs(chains, out)})


def _write_tables(chains: "Chains", out: Path) -> tuple[str, ...]:
    """Scores of the study that there are none of."""
    from pam_kit.ablation.chains import study_folder
    from pam_kit.ablation.results import collect
    from pam_kit.ablation.tables import markdown, write_tables

    results, folder = collect(chains, out), study_folder(out, chains.study)
    write_tables(results, folder)
    print("\n".join(["", *markdown(results), "", f"tables: {folder}"]))
    return results.unknown


def _show_plan(chains: "Chains", out: Path) -> int:
    from pam_kit.ablation.execution import failure_of, is_finished

    for index, run in enumerate(chains.runs):
        error = failure_of(run, out)
        state = (
            "finished" if is_finished(run, out) else "to do" if error is None else f"failed: {error.splitlines()[0]}"
        )
        after = f", after {chains.runs.index(run.parent)}" if run.parent else ""
        print(f"{index:>4}  {run.title}{after}: {state}")
    return 0


def _write_scripts(chains: "Chains", options: argparse.Namespace, out: Path) -> int:
    from pam_kit.ablation.slurm import write_scripts

    arguments = [str(options.study), "--out", str(out)]
    arguments += ["--seeds", ",".join(map(str, options.seeds))] if options.seeds else []
    for name in options.only:
        arguments += ["--only", name]
    script, submit = write_scripts(chains, out, arguments)
    print(f"{script}: {len(chains.runs)} runs; add what your cluster asks for, then: {submit}")
    return 0


def _write_page(options: argparse.Namespace, out: Path) -> int:
    from pam_kit.ablation.report import PAGE, write_page

    names = write_page(out, Path(options.docs), [options.study] if options.study else ())
    print(f"{Path(options.docs) / PAGE}: {', '.join(names)}")
    return 0


def _list_studies() -> int:
    from pam_kit.ablation.study_file import read_study, shipped_studies

    for name, path in shipped_studies().items():
        study = read_study(path)
        print(f"{name:<20}{study.title}: {'; '.join(variant.name for variant in study.variants)}\n{'':<20}{path}")
    return 0


def _seeds(text: str) -> tuple[int, ...]:
    parts = text.split(",")
    if not all(part.strip().isdecimal() for part in parts):
        raise argparse.ArgumentTypeError(f"{text!r} is no list of whole numbers, such as 0,1,2")
    return tuple(int(part) for part in parts)
