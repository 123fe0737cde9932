"""Single lines of a large text file, read where they lie: the index holds byte offsets, never the lines."""

from pathlib import Path

import numpy as np

from pam_kit.errors import BrokenSample, PamKitError

_BLOCK_BYTES = 1 << 24


class LineFile:
    """The non-empty lines of ``path``. Indexed on first use; pickled with its index, without an open file.

    Raises PamKitError where there is no such file.
    """

    def __init__(self, path: str):
        self.path = Path(path)
        if not self.path.is_file():
            raise PamKitError(f"no file {self.path}; expected a JSONL file, one JSON object a line")
        self._found: tuple[np.ndarray, np.ndarray] | None = None

    def __len__(self) -> int:
        return len(self._index()[0])

    def source(self, index: int) -> str:
        """``train.jsonl:17``: the file's name and the line's number, counted from 1, empty lines included."""
        return f"{self.path.name}:{self._index()[1][index]}"

    def read(self, index: int) -> str:
        """The line without its end. Raises IndexError behind the last line, BrokenSample where it is not UTF-8."""
        start, end = self._index()[0][index]
        # Opened anew for each line: an open file shared by forked workers would share its position.
        with open(self.path, "rb") as file:
            file.seek(start)
            line = file.read(end - start)
        try:
            return line.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise BrokenSample(self.source(index), f"not UTF-8: {error}") from error

    def _index(self) -> tuple[np.ndarray, np.ndarray]:
        """Each line's first byte and the byte behind its last (lines, 2), and its number, from 1 (lines,)."""
        if self._found is not None:
            return self._found
        ends = _newlines(self.path)
        size = self.path.stat().st_size
        if size and (not len(ends) or ends[-1] != size - 1):
            ends = np.append(ends, size)
        starts = np.concatenate([[0], ends[:-1] + 1]).astype(np.int64)[: len(ends)]
        filled = np.flatnonzero(ends > starts)
        self._found = np.stack([starts[filled], ends[filled]], axis=1), filled + 1
        return self._found


def _newlines(path: Path) -> np.ndarray:
    """Byte offsets of all line ends."""
    found: list[np.ndarray] = []
    offset = 0
    with open(path, "rb") as file:
        while block := file.read(_BLOCK_BYTES):
            found.append(np.flatnonzero(np.frombuffer(block, dtype=np.uint8) == ord("\n")) + offset)
            offset += len(block)
    return np.concatenate(found) if found else np.zeros(0, dtype=np.int64)
