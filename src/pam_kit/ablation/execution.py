"""One run carried out: trained, or gone on with, and scored; what becomes of it is left in its folder.

``trained.json`` says where the model is, ``scores-KEY.json`` what it is worth, ``failure.json`` why it is not there.
"""

import gc
import json
import shutil
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path

from pam_kit.ablation.chains import Run, evaluation_key, run_folder
from pam_kit.atomic_files import locked, write_json
from pam_kit.errors import PamKitError
from pam_kit.sections import EvaluateSection, Recipe

TRAINED, FAILURE, LOG = "trained.json", "failure.json", "log.txt"
Say = Callable[[str], None]


class RunFailed(PamKitError):
    """A run that ended in an error, which is in its folder."""


def is_finished(run: Run, out: Path) -> bool:
    """Whether it is trained and scored on all that it is to be scored on."""
    folder = run_folder(out, run)
    return (folder / TRAINED).is_file() and all(scores_file(folder, part).is_file() for part in run.scored_on)


def scores_file(folder: Path, section: EvaluateSection) -> Path:
    return folder / f"scores-{evaluation_key(section)}.json"


def failure_of(run: Run, out: Path) -> str | None:
    """The error in which the run ended, or else that of one before it."""
    if is_finished(run, out):
        return None
    file = run_folder(out, run) / FAILURE
    if file.is_file():
        return str(json.loads(file.read_text(encoding="utf-8"))["error"])
    before = None if run.parent is None else failure_of(run.parent, out)
    if run.parent is None or before is None:
        return None
    return f"{run.parent.recipe.name}, which it starts from, failed: {before}"


def note_failure(run: Run, out: Path, error: str, trace: str = "") -> None:
    write_json(run_folder(out, run) / FAILURE, {"error": error, "traceback": trace})


def model_of(run: Run, out: Path) -> Path:
    """The run folder that holds the model of a trained run. Raises RunFailed where it is not trained."""
    file = run_folder(out, run) / TRAINED
    if not file.is_file():
        raise RunFailed(f"{run.name} is not trained: {file} is missing; it has to be run first")
    return file.parent / json.loads(file.read_text(encoding="utf-8"))["folder"]


def execute(run: Run, out: Path, say: Say = print) -> None:
    """Train and score a run, or what of this is not yet done.

    A run that was killed goes on from its last checkpoint. Where another process is at the same run, it is waited for.

    Raises:
        RunFailed: whatever went wrong; it is also in the run's folder.
    """
    folder = run_folder(out, run)
    with _alone(folder, say):
        (folder / FAILURE).unlink(missing_ok=True)
        try:
            if not (folder / TRAINED).is_file():
                _train(run, out, folder, say)
            for section in run.scored_on:
                if not scores_file(folder, section).is_file():
                    _score(run, out, folder, section, say)
        except Exception as error:
            # Whatever it is, the other runs go on; the table shows it.
            text = str(error) if isinstance(error, PamKitError) else f"{type(error).__name__}: {error}"
            note_failure(run, out, text, traceback.format_exc())
            raise RunFailed(f"{run.name}: {text}") from error


def _train(run: Run, out: Path, folder: Path, say: Say) -> None:
    from pam_kit.training.fit import fit
    from pam_kit.training.run_folder import last_checkpoint_time, runs_of

    recipe = run.recipe
    if run.parent is not None:
        recipe = replace(recipe, init_from=str(model_of(run.parent, out)))
    begun = any(map(last_checkpoint_time, runs_of(folder, recipe.name)))
    for attempt in [] if begun else runs_of(folder, recipe.name):
        # It was killed before its first checkpoint.
        shutil.rmtree(attempt)
    started = time.perf_counter()
    trained = fit(_with_cache(recipe, out), folder, begun, say)
    seconds = time.perf_counter() - started
    write_json(folder / TRAINED, {"folder": trained.name, "seconds": round(seconds, 1), "resumed": begun})
    # A trainer and its model hold each other.
    gc.collect()


def _with_cache(recipe: Recipe, out: Path) -> Recipe:
    """Features that are kept lie beside the runs, for all of them."""
    if not recipe.data.cache_features or recipe.data.cache_folder:
        return recipe
    return replace(recipe, data=replace(recipe.data, cache_folder=str(out / "features")))


def _score(run: Run, out: Path, folder: Path, section: EvaluateSection, say: Say) -> None:
    import torch

    from pam_kit.evaluation.evaluate import evaluate
    from pam_kit.inference.predictor import RegionPredictor

    if run.recipe.train.num_threads:
        torch.set_num_threads(run.recipe.train.num_threads)
    started = time.perf_counter()
    key = evaluation_key(section)
    predictor = RegionPredictor.from_run(str(model_of(run, out)))
    evaluate(predictor, section, folder / f"evaluation-{key}")
    table = json.loads((folder / f"evaluation-{key}" / "scores.json").read_text(encoding="utf-8"))
    seconds = round(time.perf_counter() - started, 1)
    write_json(scores_file(folder, section), {"seconds": seconds, "table": table})
    say(f"scored in {seconds} s")


def seconds_of(run: Run, out: Path) -> float | None:
    """How long a run took, training and scoring; None where it is not finished, or went on from a checkpoint."""
    folder = run_folder(out, run)
    if not is_finished(run, out):
        return None
    trained = json.loads((folder / TRAINED).read_text(encoding="utf-8"))
    scored = [json.loads(scores_file(folder, part).read_text(encoding="utf-8")) for part in run.scored_on]
    return None if trained["resumed"] else float(trained["seconds"] + sum(part["seconds"] for part in scored))


@contextmanager
def _alone(folder: Path, say: Say) -> Iterator[None]:
    """Nobody else is at the run: studies that are run at once may share it. The lock ends with its process."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = locked(folder / ".lock")
    if lock is None:
        say(f"waiting for another process that is at {folder.name}")
        lock = locked(folder / ".lock", wait=True)
    with lock or nullcontext():
        yield
