"""The stages of a schedule, run one after the other, each from the model in which the one before ended."""

import gc
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from pam_kit.errors import CheckpointError
from pam_kit.recipe import Schedule
from pam_kit.sections import Recipe
from pam_kit.training.fit import fit
from pam_kit.training.processes import decided_by_first, is_first_process
from pam_kit.training.run_folder import new_run_folder

STAGES = "schedule.json"


def fit_schedule(schedule: Schedule, root: Path, resume: bool = False, say: Callable[[str], None] = print) -> Path:
    """Train every stage and return the folder of the last one, which holds the result.

    A schedule has a folder of its own, ``root/<name>``, with a run folder for each stage below it and a list of the
    stages that have ended. A plain recipe is an ordinary run.

    Args:
        resume: leave out the stages that have ended, and go on with the next one from its last checkpoint.
    """
    if schedule.single:
        return fit(schedule.stages[0], root, resume, say)
    folder = Path(decided_by_first(lambda: str((_newest if resume else new_run_folder)(root, schedule.name))))
    ended = _ended(folder)
    previous: Path | None = None
    for number, stage in enumerate(schedule.stages, 1):
        title = f"stage {number} of {len(schedule.stages)}, {stage.name}"
        if stage.name in ended:
            previous = folder / ended[stage.name]
            _say(say, f"{title}: ended before, in {previous}")
            continue
        _say(say, f"{title}:")
        previous = fit(_from(stage, previous), folder, resume and _has_checkpoint(folder, stage.name), say)
        ended[stage.name] = previous.name
        # A trainer and its model hold each other; two stages of a large model would not fit side by side.
        gc.collect()
        if is_first_process():
            _write(folder, ended)
    if previous is None:
        raise CheckpointError(f"the schedule {schedule.name} has no stages")
    return previous


def _from(stage: Recipe, previous: Path | None) -> Recipe:
    return stage if previous is None else replace(stage, init_from=str(previous))


def _newest(root: Path, name: str) -> Path:
    found = [path for path in root.glob(f"{name}*") if path.is_dir() and _belongs(path.name, name)]
    if not found:
        raise CheckpointError(f"nothing to resume: there is no run of the schedule {name} under {root}")
    return max(found, key=lambda path: path.stat().st_mtime)


def _belongs(folder: str, name: str) -> bool:
    rest = folder.removeprefix(name)
    return not rest or (rest.startswith("-") and rest[1:].isdigit())


def _has_checkpoint(folder: Path, stage: str) -> bool:
    runs = [path for path in folder.glob(f"{stage}*") if _belongs(path.name, stage)]
    return any(any(run.glob("checkpoints/*.ckpt")) for run in runs)


def _ended(folder: Path) -> dict[str, str]:
    """Stage -> its run folder's name."""
    file = folder / STAGES
    return json.loads(file.read_text(encoding="utf-8"))["ended"] if file.is_file() else {}


def _write(folder: Path, ended: dict[str, str]) -> None:
    draft = folder / f"{STAGES}.part"
    draft.write_text(json.dumps({"ended": ended}, indent=1), encoding="utf-8")
    draft.replace(folder / STAGES)


def _say(say: Callable[[str], None], text: str) -> None:
    if is_first_process():
        say(text)
