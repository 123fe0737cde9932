"""Long runs that go on where they were killed: lines on the disk as they are made, and what they were made with.

Torch-free.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pam_kit.atomic_files import locked, whole_file, write_json
from pam_kit.errors import PamKitError


class GrowingLines:
    """A file of lines that grows while a run makes them. A context manager; one process at a time may write it.

    Raises PamKitError where another process writes it.
    """

    def __init__(self, path: Path):
        self.path = path

    def __enter__(self) -> Self:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        lock = locked(self.path.with_suffix(".lock"))
        if lock is None:
            raise PamKitError(
                f"another process is writing {self.path}; wait for it, give another --out, or, of what can be divided, "
                "give each process a part of its own (--shard 1/2 and 2/2)"
            )
        self._lock = lock
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._lock.close()

    def append(self, lines: Iterable[str]) -> None:
        """Write lines, without their ends, behind the others, and hand them to the system."""
        text = "".join(f"{line}\n" for line in lines)
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(text)

    def rewrite(self, lines: Iterable[str]) -> None:
        """Have these lines in the place of all that were there."""
        with whole_file(self.path) as file:
            file.writelines(f"{line}\n".encode() for line in lines)


def whole_lines(path: Path) -> tuple[list[tuple[str, str]], str]:
    """The lines of a file to which a process may still write, or was killed writing, and what is wrong with its end.

    Each line comes with its place, such as ``part_1_of_1.jsonl:17``. Raises PamKitError for a line that is not UTF-8.
    """
    *lines, end = path.read_bytes().split(b"\n")
    found = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            found.append((f"{path}:{number}", line.decode("utf-8")))
        except UnicodeDecodeError as error:
            raise PamKitError(f"{path}:{number}: not UTF-8: {error}") from None
    return found, f"its last line was cut off after {len(end)} bytes and is made anew" if end else ""


def check_same_run(path: Path, now: Mapping[str, Any]) -> None:
    """Keep in the JSON file ``path`` all that the results of a run depend on; another run's are never gone on with.

    Raises PamKitError that names what differs, where the file holds something else.
    """
    if path.exists():
        before = json.loads(path.read_text(encoding="utf-8"))
        if differing := [key for key in sorted({*before, *now}) if before.get(key) != now.get(key)]:
            key = differing[0]
            raise PamKitError(
                f"{path.parent} holds predictions of another run: its {key} is {before.get(key)}, now it would be "
                f"{now.get(key)}; give another --out, or remove that folder"
            )
        return
    write_json(path, now, unique=True)
