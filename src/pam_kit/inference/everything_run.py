"""All regions of all pictures of a folder: picture by picture on the disk, stopped, gone on with and divided.

A run's folder holds ``settings.json``, ``part_*.jsonl`` while it goes on, and ``regions.json`` when all parts are done.
Torch-free until a picture is missing.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pam_kit.atomic_files import whole_file
from pam_kit.errors import PamKitError
from pam_kit.inference.everything_lines import PictureLines, as_coco, latest, read_pictures
from pam_kit.inference.resuming import GrowingLines, check_same_run
from pam_kit.inference.shard import PART_FILES, Shard

if TYPE_CHECKING:
    from pam_kit.inference.everything import Everything
    from pam_kit.inference.proposal_files import ProposalFile

SETTINGS, REGIONS, DRAWN = "settings.json", "regions.json", "pictures"
Progress = Callable[..., Iterable]


class EverythingRun:
    """The pictures of a folder, and all that was found in them by now.

    Args:
        root: of the pictures.
        names: of the pictures, relative to ``root``, in order.
        folder: of the run.
        made_with: all that results depend on; a folder that was made with something else is never gone on with.
        proposals: where to look; None: at the points of a grid.
        draw: also write each picture with its regions.

    Raises:
        PamKitError: there is no picture, the folder is of another run, or the proposals are of other pictures.
    """

    def __init__(
        self,
        root: Path,
        names: Sequence[str],
        folder: Path,
        made_with: Mapping[str, Any],
        proposals: "ProposalFile | None" = None,
        draw: bool = False,
    ):
        if not names:
            raise PamKitError(f"{root} holds no picture")
        if proposals is not None and not any(proposals.knows(name) for name in names):
            told = ", ".join(proposals.names[:5]) or "pictures without a name"
            raise PamKitError(f"{proposals.path} proposes nothing for any picture of {root}; it is about {told}")
        self.root, self.names, self.folder, self.proposals, self.draw = root, list(names), folder, proposals, draw
        self.made_with = json.loads(json.dumps(made_with))
        check_same_run(folder / SETTINGS, self.made_with)

    def find(
        self, load: "Callable[[], Everything]", shard: Shard, progress: Progress = lambda items, **_: items
    ) -> list[str]:
        """Find what is missing of one part; notes on what was there. ``load`` is called where something is missing.

        Pictures that could not be read are tried again.
        """
        with GrowingLines(self.folder / shard.file_name) as lines:
            notes = self._take_up(lines)
            done = {name for name, picture in self.known().items() if not picture.broken}
            left = [name for name in shard.of(self.names) if name not in done]
            everything = cache(load)
            for name in progress(left, desc=f"{self.root.name} {shard}"):
                lines.append(self._look(everything, name).lines())
        return notes

    def known(self) -> dict[str, PictureLines]:
        """What all parts say by now, by the picture's name; parts of another number of processes count too."""
        found = [picture for path in sorted(self.folder.glob(PART_FILES)) for picture in read_pictures(path)[0]]
        return {name: picture for name, picture in latest(found).items() if name in set(self.names)}

    def merge(self, categories: Mapping[str, int] | None) -> tuple[Path, list[PictureLines]] | None:
        """Write all as one COCO file, in the order of the pictures; None where pictures are missing yet.

        Raises PamKitError where not one of the pictures could be read.
        """
        known = self.known()
        if len(known) < len(self.names):
            return None
        pictures = [known[name] for name in self.names]
        if all(picture.broken for picture in pictures):
            raise PamKitError(f"not one of {len(pictures)} pictures could be read; the first: {pictures[0].broken}")
        write_coco(self.folder / REGIONS, as_coco(pictures, categories, {"made_with": self.made_with}))
        return self.folder / REGIONS, pictures

    def _take_up(self, lines: GrowingLines) -> list[str]:
        """Drop what was cut off, and what is tried again."""
        if not lines.path.exists():
            return []
        found, notes = read_pictures(lines.path)
        good = [picture for picture in found if not picture.broken]
        if len(good) < len(found):
            notes.append(f"{len(found) - len(good)} pictures that could not be read are tried again")
        if notes:
            lines.rewrite(line for picture in good for line in picture.lines())
        return notes

    def _look(self, everything: "Callable[[], Everything]", name: str) -> PictureLines:
        from pam_kit.data.pictures import read_picture

        try:
            image = read_picture(self.root / name, name)
            height, width = image.shape[:2]
            proposals, notes = None, list[str]()
            if self.proposals is not None and self.proposals.knows(name):
                proposals, notes = self.proposals.of(name, width, height, alone=len(self.names) == 1)
            elif self.proposals is not None:
                proposals, notes = [], ["nothing is proposed for it"]
        except PamKitError as error:
            return PictureLines(name, {"broken": str(error)})
        found = everything().find(image, proposals)
        if self.draw and found.regions:
            from pam_kit.inference.everything_picture import draw_everything

            path = self.folder / DRAWN / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            draw_everything(image, found.regions, everything().settings.languages).save(path)
        return picture_lines(name, found, notes)


def picture_lines(name: str, found, notes: Sequence[str] = ()) -> PictureLines:
    """A ``PictureRegions`` as lines."""
    told = [*notes, *found.notes]
    facts = {"width": found.width, "height": found.height, "proposals": found.proposals}
    return PictureLines(name, facts | ({"notes": told} if told else {}), tuple(one.to_json() for one in found.regions))


def write_coco(path: Path, content: dict[str, Any]) -> None:
    """Whole or not at all, also where several processes write it at once."""
    with whole_file(path, unique=True) as file:
        file.write((json.dumps(content, ensure_ascii=False) + "\n").encode())
