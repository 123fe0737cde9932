"""A folder that appears whole or not at all. Torch-free."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pam_kit.errors import CheckpointError


def check_vacant(out: Path) -> None:
    """CheckpointError where something is at ``out`` already, an empty folder aside."""
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        raise CheckpointError(f"{out} is there already; choose another --out, or remove it first")


@contextmanager
def draft_of(out: Path) -> Iterator[Path]:
    """A new folder beside ``out``, which gets its name when all went well and is removed when not."""
    check_vacant(out)
    draft = out.with_name(f"{out.name}.part")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    try:
        yield draft
        if out.is_dir():
            out.rmdir()  # it is empty
        draft.rename(out)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
