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

from pam_kit.errors import CheckpointError
from pam_kit.recipe import resolved_yaml
from pam_kit.sections import Recipe
from pam_kit.training.stage import PartReport

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
    first = root / name
    numbered = re.compile(rf"{re.escape(first.name)}(-\d+)?")
    runs = [path.parent for path in first.parent.glob("*/checkpoints") if numbered.fullmatch(path.parent.name)]
    if not runs:
        raise CheckpointError(f"nothing to resume: no run of {name} under {root} has a checkpoint")
    return max(runs, key=lambda path: path.stat().st_mtime)


def log_name(folder: Path) -> str:
    """``logs``, or ``logs-2`` and so on in a resumed run, whose former logs stay."""
    number = 1 + sum(1 for path in folder.glob("logs*") if path.is_dir())
    return "logs" if number == 1 else f"logs-{number}"


def write_provenance(folder: Path, recipe: Recipe) -> None:
    """The resolved recipe, package versions, git commit, seed, command and machine."""
    (folder / "recipe.yaml").write_text(resolved_yaml(recipe), encoding="utf-8")
    record = {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": sys.argv,
        "recipe": recipe.source,
        "overrides": recipe.overrides,
        "seed": recipe.seed,
        "git_commit": _git_commit(),
        "python": platform.python_version(),
        "machine": f"{platform.platform()}, {torch.get_num_threads()} threads",
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "packages": {name: _version(name) for name in PACKAGES},
    }
    (folder / "provenance.json").write_text(json.dumps(record, indent=1, ensure_ascii=False), encoding="utf-8")


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
