"""A folder that is handed on: a new one, or none. Torch-free."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pam_kit.atomic_files import whole_folder
from pam_kit.errors import CheckpointError


def check_vacant(out: Path) -> None:
    """CheckpointError where something is at ``out`` already, an empty folder aside."""
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        raise CheckpointError(f"{out} is there already; choose another --out, or remove it first")


@contextmanager
def draft_of(out: Path) -> Iterator[Path]:
    """A new folder beside ``out``, which gets its name when all went well and is removed when not."""
    check_vacant(out)
    with whole_folder(out) as draft:
        yield draft
