"""The stages of a schedule, run one after the other, each from the model in which the one before ended."""

import gc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from pam_kit.atomic_files import write_json
from pam_kit.checkpoints import STAGES, ended_stages
from pam_kit.errors import CheckpointError
from pam_kit.recipe import Schedule
from pam_kit.sections import Recipe
from pam_kit.training.fit import fit
from pam_kit.training.processes import decided_by_first, is_first_process, said_once
from pam_kit.training.resume import newest_whole_checkpoint, read_resume_point, refuse_another_recipe
from pam_kit.training.run_folder import last_checkpoint_time, new_run_folder, runs_of


def fit_schedule(schedule: Schedule, root: Path, resume: bool = False, say: Callable[[str], None] = print) -> Path:
    """Train every stage and return the folder of the last one, which holds the result.

    A schedule has a folder of its own, ``root/<name>``, with a run folder for each stage below it and a list of the
    stages that have ended. A plain recipe is an ordinary run.

    Args:
        resume: leave out the stages that have ended, and go on with the next one from its last checkpoint.
    """
    if schedule.single:
        return fit(schedule.stages[0], root, resume, say)
    say = said_once(say)
    folder = Path(decided_by_first(lambda: str((_newest if resume else new_run_folder)(root, schedule.name))))
    ended = ended_stages(folder)
    previous: Path | None = None
    for number, stage in enumerate(schedule.stages, 1):
        title = f"stage {number} of {len(schedule.stages)}, {stage.name}"
        if stage.name in ended:
            previous = folder / ended[stage.name]
            if last_checkpoint_time(previous):
                refuse_another_recipe(read_resume_point(newest_whole_checkpoint(previous)), stage)
            say(f"{title}: ended before, in {previous}")
            continue
        say(f"{title}:")
        begun = resume and any(map(last_checkpoint_time, runs_of(folder, stage.name)))
        previous = fit(_from(stage, previous), folder, begun, say)
        ended[stage.name] = previous.name
        # A trainer and its model hold each other; two stages of a large model would not fit side by side.
        gc.collect()
        if is_first_process():
            write_json(folder / STAGES, {"ended": ended})
    if previous is None:
        raise CheckpointError(f"the schedule {schedule.name} has no stages")
    return previous


def _from(stage: Recipe, previous: Path | None) -> Recipe:
    return stage if previous is None else replace(stage, init_from=str(previous))


def _newest(root: Path, name: str) -> Path:
    found = runs_of(root, name)
    if not found:
        raise CheckpointError(f"nothing to resume: there is no run of the schedule {name} under {root}")
    return max(found, key=_last_progress)


def _last_progress(folder: Path) -> int:
    """When a stage last wrote a checkpoint or ended, in nanoseconds; 0 where none has."""
    listed = folder / STAGES
    times = [last_checkpoint_time(run) for run in folder.iterdir()]
    return max([*times, listed.stat().st_mtime_ns if listed.is_file() else 0])
