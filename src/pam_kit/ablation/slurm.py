"""A study as a SLURM array: one task a run. Torch-free."""

import shlex
from collections.abc import Sequence
from pathlib import Path

from pam_kit.ablation.chains import Chains, study_folder
from pam_kit.atomic_files import write_text

SCRIPT, SUBMIT = "run.sbatch", "submit.sh"


def write_scripts(chains: Chains, out: Path, arguments: Sequence[str]) -> tuple[Path, Path]:
    """``run.sbatch``, of which each array task is one run, and ``submit.sh``, which hands it in.

    Runs that others start from are an array of their own; the next array begins when all of them have ended. A run
    whose start has failed says so at once, and the others go on. The last job takes the times and writes the table.

    Args:
        arguments: of ``pam-kit ablate``, which make the same list of runs again.
    """
    folder = study_folder(out, chains.study)
    command = shlex.join(["pam-kit", "ablate", *arguments])
    script, submit = folder / SCRIPT, folder / SUBMIT
    write_text(script, _script(chains, folder, command))
    write_text(submit, _submit(chains, script, command))
    submit.chmod(0o755)
    return script, submit


def _script(chains: Chains, folder: Path, command: str) -> str:
    lines = [
        "#!/bin/bash",
        f"#SBATCH --job-name=pam-kit-{chains.study.name}",
        f"#SBATCH --output={folder.resolve()}/slurm-%A_%a.log",
        "#SBATCH --nodes=1",
        "#SBATCH --ntasks=1",
        "#SBATCH --cpus-per-task=4",
        "# Add what your cluster asks for: --partition, --account, --time, --gpus=1; and load your environment here.",
        "# Run of each array task:",
    ]
    lines += [f"#   {index}: {run.title}" for index, run in enumerate(chains.runs)]
    return "\n".join([*lines, "set -euo pipefail", f'{command} --run "$SLURM_ARRAY_TASK_ID"', ""])


def _submit(chains: Chains, script: Path, command: str) -> str:
    lines, before = ["#!/bin/bash", "set -euo pipefail", f"cd {shlex.quote(str(Path.cwd()))}"], ""
    levels = [run.level for run in chains.runs]
    for level in range(max(levels) + 1):
        first, last = levels.index(level), len(levels) - 1 - levels[::-1].index(level)
        after = f"--dependency=afterany:${before} " if before else ""
        before = f"level{level}"
        array = f"sbatch --parsable --array={first}-{last} {after}{shlex.quote(str(script.resolve()))}"
        lines.append(f"{before}=$({array})")
    table = f"sbatch --job-name=pam-kit-{chains.study.name}-table --dependency=afterany:${before}"
    lines.append(f"{table} --wrap {shlex.quote(f'{command} --times --table')}")
    return "\n".join([*lines, ""])
