"""Which picture a name in a file of proposals means. Torch-free."""

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath

from pam_kit.errors import PamKitError

# What a file calls a picture: by a path, or by a number.
Called = str | int


class PictureNames:
    """The names that a file has for pictures.

    A name means a picture where one of their paths is the end of the other, part by part: ``val/1.jpg`` means
    ``coco/val/1.jpg`` and ``1.jpg``, but not ``train/1.jpg``. A number means a picture whose name is that number.

    Args:
        file: that has them, for messages.
        names: as they stand there.
    """

    def __init__(self, file: str, names: Iterable[Called]):
        self.file, self._numbers = file, set[int]()
        self._ending: dict[str, list[str]] = {}  # by the last part
        for name in names:
            if isinstance(name, int):
                self._numbers.add(name)
            else:
                self._ending.setdefault(PurePosixPath(name).name, []).append(name)

    def of(self, picture: str, root: Path | None = None) -> Called | None:
        """What the file calls one picture; None where it does not know it.

        Args:
            picture: its path, as far as it is known.
            root: in which folder that path begins.

        Raises:
            PamKitError: several names mean it equally well.
        """
        path = PurePosixPath(Path(picture).as_posix())
        whole = Path(os.path.abspath((root or Path()) / picture)).parts
        fitting = [
            name
            for name in self._ending.get(path.name, ())
            if _ends(whole, _parts(name)) or _ends(_parts(name), path.parts)
        ]
        if not fitting:
            number = int(path.stem) if path.stem.isdecimal() else None
            return number if number in self._numbers else None
        rank = {name: (name == str(path), _ends(whole, _parts(name)), _common(whole, _parts(name))) for name in fitting}
        best = [name for name in fitting if rank[name] == max(rank.values())]
        if len(best) > 1:
            raise PamKitError(
                f"{self.file} is about {best[0]} and {best[1]}, and {picture} may be either; give the folder that "
                "these paths begin in"
            )
        return best[0]

    def of_all(self, pictures: Sequence[str], root: Path) -> Mapping[str, Called]:
        """Picture -> what the file calls it, of the pictures of a folder that it knows.

        Where a name is one picture's whole path in the folder, it means no other.

        Raises:
            PamKitError: a name means several pictures, or several names mean one picture.
        """
        meant: dict[Called, list[str]] = {}
        for picture in pictures:
            if (name := self.of(picture, root)) is not None:
                meant.setdefault(name, []).append(picture)
        for name, own in meant.items():
            if exact := [picture for picture in own if isinstance(name, str) and _parts(name) == _parts(picture)]:
                meant[name] = exact
            elif len(own) > 1:
                raise PamKitError(
                    f"{self.file} says {name}, which may be {own[0]} or {own[1]} of {root}; write their paths into it, "
                    f"as in {own[0]!r}, or give the folder that it is about"
                )
        return {own[0]: name for name, own in meant.items()}


def _parts(name: str) -> tuple[str, ...]:
    return PurePosixPath(name).parts


def _ends(path: tuple[str, ...], end: tuple[str, ...]) -> bool:
    return len(end) <= len(path) and path[len(path) - len(end) :] == end


def _common(one: tuple[str, ...], other: tuple[str, ...]) -> int:
    """How many parts are the same, counted from the end."""
    count = 0
    for mine, theirs in zip(reversed(one), reversed(other), strict=False):
        if mine != theirs:
            break
        count += 1
    return count
