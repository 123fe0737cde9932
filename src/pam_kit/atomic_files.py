"""Files and folders that appear whole or not at all, also where a process is killed or the power fails. Torch-free."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, BinaryIO
from uuid import uuid4

# What a writer that was killed may leave behind ends so.
DRAFT = ".part"
_READ_AND_WRITE = 0o666


@contextmanager
def whole_file(path: Path, unique: bool = False, sync: bool = True) -> Iterator[BinaryIO]:
    """A file to write to, which gets the name ``path`` when all went well, in the place of any former one.

    Until then it is ``path`` with ``DRAFT`` behind it, and it is removed when something goes wrong. Missing folders are
    made.

    Args:
        unique: the draft has a name that no other has, so that several processes may write the same file at once.
        sync: wait until the disk has the bytes before the file gets its name, and then until it has the name.
    """
    draft = _unique_draft(path) if unique else path.with_name(path.name + DRAFT)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with open(draft, "wb") as file:
            yield file
            if sync:
                file.flush()
                os.fsync(file.fileno())
        os.replace(draft, path)
        if sync:
            _sync(path.parent)
    except BaseException:
        with suppress(OSError):  # the first error is the one to tell
            draft.unlink()
        raise


@contextmanager
def whole_folder(path: Path, replace: bool = False) -> Iterator[Path]:
    """A new folder to fill, which gets the name ``path`` when all went well and is removed when not.

    The files in it get the permissions of any new file; safetensors keeps what it writes from other users. Missing
    folders above it are made.

    Args:
        replace: a former folder ``path`` gives way. The draft is then ``path`` with ``DRAFT`` behind it, and whatever
            has that name, or ends in ``.old`` instead, is taken for what a killed writer left and removed. Otherwise
            the draft has a name that nothing else has, and OSError is raised where ``path`` is there and not empty.
    """
    draft = path.with_name(path.name + DRAFT) if replace else _unique_draft(path)
    if replace:
        shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    try:
        yield draft
        _give_usual_permissions(draft)
        # Else a power cut could leave the folder with empty files.
        for inner in draft.rglob("*"):
            _sync(inner)
        _sync(draft)
        if replace:
            _replace_folder(draft, path)
        else:
            os.rename(draft, path)
        _sync(path.parent)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def locked(path: Path, wait: bool = False) -> IO[str] | None:
    """The file ``path``, which only this process holds until it is closed or the process ends; None where another does.

    ``wait`` until it can be had. Made where it is missing. Windows has no such locks: there it is just opened.
    """
    file = open(path, "w")
    try:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except ImportError:
        return file
    except OSError:
        file.close()
        if wait:
            raise
        return None
    return file


def write_text(path: Path, text: str, unique: bool = False) -> None:
    """The text in UTF-8, whole or not at all; ``unique``: also where several processes write it at once."""
    with whole_file(path, unique) as file:
        file.write(text.encode())


def write_json(path: Path, value: Any, unique: bool = False) -> None:
    """The value as indented JSON, as ``write_text``."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n", unique)


def _unique_draft(path: Path) -> Path:
    return path.with_name(f".{path.name}-{uuid4().hex}{DRAFT}")


def _replace_folder(draft: Path, path: Path) -> None:
    """Deleting takes long; a process that is killed meanwhile must not leave half of the former folder."""
    former = path.with_name(f"{path.name}.old")
    shutil.rmtree(former, ignore_errors=True)
    if path.exists():
        os.rename(path, former)
    os.rename(draft, path)
    shutil.rmtree(former, ignore_errors=True)


def _give_usual_permissions(folder: Path) -> None:
    """Those that the process's umask gives: the new folder itself has them."""
    usual = folder.stat().st_mode & _READ_AND_WRITE
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            path.chmod(usual)


def _sync(path: Path) -> None:
    """Have the disk take a file's bytes, or a folder's names."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
