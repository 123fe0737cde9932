"""What a run leaves on disk so that it can be understood and repeated: runs/<name>/."""

import json
import platform
import re
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from torch import nn

from pam_kit.atomic_files import write_json
from pam_kit.contracts import Decoder
from pam_kit.errors import CheckpointError
from pam_kit.recipe import resolved_yaml
from pam_kit.sections import Recipe
from pam_kit.training.stage import PartReport

_PROVENANCE = "provenance.json"
PACKAGES = (
    "pam-kit",
    "torch",
    "torchvision",
    "lightning",
    "transformers",
    "timm",
    "sam2",
    "omegaconf",
    "litdata",
    "numpy",
)


def new_run_folder(root: Path, name: str) -> Path:
    """``root/name``, or ``root/name-2`` and so on where that one is taken: no run overwrites another."""
    number = 1
    while True:
        folder = root / (name if number == 1 else f"{name}-{number}")
        try:
            folder.mkdir(parents=True)
            return folder
        except FileExistsError:
            number += 1


def newest_run_folder(root: Path, name: str) -> Path:
    """The latest run of that name that has something to resume."""
    runs = {run: last_checkpoint_time(run) for run in runs_of(root, name)}
    newest = max(runs, key=runs.__getitem__, default=None)
    if newest is None or not runs[newest]:
        raise CheckpointError(f"nothing to resume: no run of {name} under {root} has a checkpoint")
    return newest


def runs_of(root: Path, name: str) -> list[Path]:
    """The folders that ``new_run_folder`` has made for just that name, in no order."""
    first = root / name
    numbered = re.compile(rf"{re.escape(first.name)}(-\d+)?")
    if not first.parent.is_dir():
        return []
    return [path for path in first.parent.iterdir() if path.is_dir() and numbered.fullmatch(path.name)]


def last_checkpoint_time(run: Path) -> int:
    """When the newest checkpoint of a run was written, in nanoseconds; 0 where it has none.

    A folder's own time says less: an evaluation, too, leaves its results there.
    """
    return max((file.stat().st_mtime_ns for file in (run / "checkpoints").glob("*.ckpt")), default=0)


def log_name(folder: Path) -> str:
    """``logs``, or ``logs-2`` and so on in a resumed run, whose former logs stay."""
    number = 1 + sum(1 for path in folder.glob("logs*") if path.is_dir())
    return "logs" if number == 1 else f"logs-{number}"


def write_provenance(folder: Path, recipe: Recipe) -> None:
    """The resolved recipe, and provenance.json: package versions, git commit, seed, command and machine."""
    (folder / "recipe.yaml").write_text(resolved_yaml(recipe), encoding="utf-8")
    record = {"recipe": recipe.source, "seed": recipe.seed, **_start(recipe), "resumed": []}
    write_json(folder / _PROVENANCE, record)


def add_resumption(folder: Path, recipe: Recipe, checkpoint: Path) -> None:
    """Append to the ``resumed`` of provenance.json: from which checkpoint, when, by which command, where."""
    file = folder / _PROVENANCE
    record = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    record.setdefault("resumed", []).append({"checkpoint": checkpoint.name, **_start(recipe)})
    write_json(file, record)


def tokenizer_folder(folder: Path) -> Path:
    """Where ``save_tokenizer`` puts it, for a run that goes on."""
    return folder / "checkpoints" / "tokenizer"


def save_tokenizer(folder: Path, decoder: Decoder) -> None:
    """Keep a vocabulary learned from the training set, so that a run that goes on need not learn it again, perhaps
    from other texts. A decoder with weight files has brought its own."""
    if not decoder.weight_files:
        target = tokenizer_folder(folder)
        target.mkdir(parents=True)
        decoder.save_tokenizer(str(target))


def _start(recipe: Recipe) -> dict:
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": sys.argv,
        "overrides": recipe.overrides,
        "git_commit": _git_commit(),
        "python": platform.python_version(),
        "machine": f"{platform.platform()}, {torch.get_num_threads()} threads",
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "packages": {name: _version(name) for name in PACKAGES},
    }


def parts_table(parts: list[PartReport]) -> list[str]:
    """Lines that say what is trained and what is frozen."""
    lines = [f"{'part':<12}{'component':<22}{'trained':>14}{'total':>16}"]
    for report in parts:
        state = f"{report.trained:,}" if report.trained else "frozen"
        lines.append(f"{report.part:<12}{report.kind:<22}{state:>14}{report.total:>16,}")
    lines.append(f"{'':<34}{sum(r.trained for r in parts):>14,}{sum(r.total for r in parts):>16,}")
    return lines


def parameter_lines(model: nn.Module) -> list[str]:
    """Every parameter by name: trained or frozen, and its shape."""
    return [
        f"{'trained' if parameter.requires_grad else 'frozen':<9}{name} {tuple(parameter.shape)}"
        for name, parameter in model.named_parameters()
    ]


def _git_commit() -> str | None:
    try:
        found = subprocess.run(
            ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=40"],
            capture_output=True,
            text=True,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return found.stdout.strip() or None


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
