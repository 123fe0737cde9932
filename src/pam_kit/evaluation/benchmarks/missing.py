"""What to say where the files of a benchmark are not there. Torch-free."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol


class _Expected(Protocol):
    @property
    def name(self) -> str: ...
    @property
    def files(self) -> tuple[str, ...]: ...
    @property
    def what(self) -> str: ...
    @property
    def page(self) -> str: ...


def missing_data(name: str, root: Path, variants: Sequence[_Expected], media: Sequence[str], media_page: str) -> str:
    """Which files are expected where, which of them are not there, and the pages that have them."""
    lines = [f"the data of {name} are not in {root}" + ("" if root.is_dir() else ", which is no folder")]
    lines.append("expected are the files of one of:" if len(variants) > 1 else "expected are the files of:")
    for variant in variants:
        lines.append(f"  {variant.name}: {variant.what}; from {variant.page}")
        for pattern in variant.files:
            there = any(root.glob(pattern))
            lines.append(f"    {root / pattern}{'' if there else '  (missing)'}")
    places = ", ".join(str(root / place) for place in media)
    lines.append(f"and the pictures, frames or videos in one of: {places}; from {media_page}")
    return "\n".join(lines)
