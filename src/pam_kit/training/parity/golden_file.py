"""One golden file: its tensors, what it says about them, and which of them have been looked at."""

import json
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from pam_kit.errors import PamKitError


class GoldenFileError(PamKitError):
    """A golden file that cannot be read or lacks something its kind is made of."""


@dataclass
class GoldenFile:
    """A .safetensors or .json file below a folder of golden files.

    Args:
        folder: the root of the golden files.
        name: the path below it, with slashes.
    """

    folder: Path
    name: str
    _read: set[str] = field(default_factory=set)

    @property
    def path(self) -> Path:
        return self.folder / self.name

    @cached_property
    def json(self) -> Any:
        """The content of a .json file."""
        try:
            return json.loads(self.path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise GoldenFileError(f"it cannot be read as JSON: {error}") from error

    @cached_property
    def about(self) -> dict[str, str]:
        """The metadata of a .safetensors file."""
        return self._content[1]

    @property
    def names(self) -> list[str]:
        """The names of the tensors."""
        return sorted(self._content[0])

    def said(self, key: str, *default: Any) -> Any:
        """A structured entry of the metadata. Without a default it has to be there."""
        if key in self.about:
            return json.loads(self.about[key])
        if not default:
            raise GoldenFileError(f"its metadata lack {key!r}")
        return default[0]

    @property
    def seed(self) -> int:
        return int(self.said("seed"))

    def has(self, name: str) -> bool:
        return name in self._content[0]

    def tensor(self, name: str) -> Tensor:
        """A tensor, which thereby counts as looked at."""
        if not self.has(name):
            raise GoldenFileError(f"it lacks the tensor {name!r}")
        self._read.add(name)
        return self._content[0][name]

    def unread(self) -> list[str]:
        """Tensors that nothing has asked for; a .json file has none."""
        if self.path.suffix == ".json":
            return []
        return [name for name in self.names if name not in self._read]

    @cached_property
    def _content(self) -> tuple[dict[str, Tensor], dict[str, str]]:
        try:
            with safe_open(self.path, "pt") as file:
                return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}
        except (OSError, SafetensorError) as error:
            raise GoldenFileError(f"it cannot be read as safetensors: {error}") from error
