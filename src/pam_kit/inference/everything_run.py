"""All regions of all pictures of a folder: picture by picture on the disk, stopped, gone on with and divided.

A run's folder holds ``settings.json``, ``part_*.jsonl`` while it goes on, and ``regions.json`` when all parts are done.
Torch-free until a picture is missing.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pam_kit.atomic_files import whole_file, write_text
from pam_kit.errors import PamKitError
from pam_kit.inference.everything_lines import PictureLines, as_coco, latest, read_pictures
from pam_kit.inference.resuming import GrowingLines, check_same_run
from pam_kit.inference.shard import PART_FILES, Shard

if TYPE_CHECKING:
    import numpy as np

    from pam_kit.inference.everything import Everything
    from pam_kit.inference.proposal_files import ProposalFile
    from pam_kit.inference.proposals import Proposal

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
        languages: whose texts are drawn.

    Raises:
        PamKitError: there is no picture, the folder is of another run, or the proposals are of other pictures, or of
            several pictures under one name.
    """

    def __init__(
        self,
        root: Path,
        names: Sequence[str],
        folder: Path,
        made_with: Mapping[str, Any],
        proposals: "ProposalFile | None" = None,
        draw: bool = False,
        languages: Sequence[str] = ("en",),
    ):
        if not names:
            raise PamKitError(f"{root} holds no picture")
        self._called = {} if proposals is None else proposals.called(names, root)
        if proposals is not None and not self._called and not proposals.nameless:
            told = ", ".join(proposals.names[:5]) or "pictures without a name"
            raise PamKitError(f"{proposals.path} proposes nothing for any picture of {root}; it is about {told}")
        self.root, self.names, self.folder, self.proposals = root, list(names), folder, proposals
        self.draw, self.languages = draw, languages
        self.made_with = json.loads(json.dumps(made_with))
        check_same_run(folder / SETTINGS, self.made_with)

    def find(
        self, load: "Callable[[], Everything]", shard: Shard, progress: Progress = lambda items, **_: items
    ) -> list[str]:
        """Find what is missing of one part; notes on what was there. ``load`` is called where something is missing.

        A picture that cannot be read, or at which the model fails, is told as ``broken``; the others are gone on with,
        and it is tried again the next time. Pictures whose drawing is missing are drawn from what is known of them.

        Raises PamKitError where the model cannot be loaded.
        """
        with GrowingLines(self.folder / shard.file_name) as lines:
            notes, own = self._take_up(lines), shard.of(self.names)
            done = {name: picture for name, picture in self.known().items() if not picture.broken}
            everything = cache(load)
            for name in progress([name for name in own if name not in done], desc=f"{self.root.name} {shard}"):
                lines.append(self._look(everything, name).lines())
            undrawn = [done[name] for name in own if name in done and self._wants_drawing(done[name])]
            for picture in progress(undrawn, desc="drawings") if undrawn else ():
                notes += self._draw_known(picture)
        return notes

    def known(self) -> dict[str, PictureLines]:
        """What all parts say by now, by the picture's name; parts of another number of processes count too."""
        found = [picture for path in sorted(self.folder.glob(PART_FILES)) for picture in read_pictures(path)[0]]
        return {name: picture for name, picture in latest(found).items() if name in set(self.names)}

    def merge(self, categories: Mapping[str, int] | None) -> tuple[Path, list[PictureLines]] | None:
        """Write all as one COCO file, in the order of the pictures; None where pictures are missing yet.

        Raises PamKitError where not one of the pictures could be looked through.
        """
        known = self.known()
        if len(known) < len(self.names):
            return None
        pictures = [known[name] for name in self.names]
        if all(picture.broken for picture in pictures):
            raise PamKitError(
                f"not one of {len(pictures)} pictures could be looked through; the first: {pictures[0].broken}"
            )
        write_coco(self.folder / REGIONS, as_coco(pictures, categories, {"made_with": self.made_with}))
        return self.folder / REGIONS, pictures

    def _take_up(self, lines: GrowingLines) -> list[str]:
        """Drop what was cut off, and what is tried again."""
        if not lines.path.exists():
            return []
        found, notes = read_pictures(lines.path)
        good = [picture for picture in found if not picture.broken]
        if len(good) < len(found):
            notes.append(f"{len(found) - len(good)} pictures that failed are tried again")
        if notes:
            lines.rewrite(line for picture in good for line in picture.lines())
        return notes

    def _look(self, everything: "Callable[[], Everything]", name: str) -> PictureLines:
        from pam_kit.data.pictures import read_picture

        try:
            image = read_picture(self.root / name, name)
            proposals, notes = self._proposed(name, image.shape[1], image.shape[0])
        except PamKitError as error:
            return PictureLines(name, {"broken": str(error)})
        except MemoryError:
            return PictureLines(name, {"broken": f"{name}: there is not enough memory to read it"})
        finder = everything()  # what is wrong with the model is wrong with all pictures
        from pam_kit.inference.out_of_memory import is_out_of_memory

        try:
            found = picture_lines(name, finder.find(image, proposals), notes)
            if self._wants_drawing(found):
                self._write_drawing(image, found)
        except PamKitError as error:
            return PictureLines(name, {"broken": f"{name}: {error}"})
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            told = str(error).partition("\n")[0] or type(error).__name__
            reason = f"{name}: there is not enough memory for a picture of this size, so make it smaller: {told}"
            return PictureLines(name, {"broken": reason})
        return found

    def _proposed(self, name: str, width: int, height: int) -> "tuple[list[Proposal] | None, list[str]]":
        """Where to look in a picture, None for the grid; and notes on it."""
        if self.proposals is None:
            return None, []
        if name not in self._called and not self.proposals.nameless:
            return [], ["nothing is proposed for it"]
        return self.proposals.of(name, width, height, alone=len(self.names) == 1, called=self._called.get(name))

    def _drawing(self, name: str) -> Path:
        return self.folder / DRAWN / f"{name}.png"

    def _wants_drawing(self, picture: PictureLines) -> bool:
        return self.draw and bool(picture.regions) and not self._drawing(picture.name).exists()

    def _draw_known(self, picture: PictureLines) -> list[str]:
        """Draw what an earlier call found; -> notes on why not."""
        from pam_kit.data.pictures import read_picture

        try:
            image = read_picture(self.root / picture.name, picture.name)
            self._write_drawing(image, picture)
        except PamKitError as error:
            return [f"{picture.name} is not drawn: {error}"]
        return []

    def _write_drawing(self, image: "np.ndarray", picture: PictureLines) -> None:
        from pam_kit.inference.everything_picture import draw_lines

        drawn = draw_lines(image, picture, self.languages)
        with whole_file(self._drawing(picture.name)) as file:
            drawn.save(file, format="PNG")


def picture_lines(name: str, found, notes: Sequence[str] = ()) -> PictureLines:
    """A ``PictureRegions`` as lines."""
    told = [*notes, *found.notes]
    facts = {"width": found.width, "height": found.height, "proposals": found.proposals}
    return PictureLines(name, facts | ({"notes": told} if told else {}), tuple(one.to_json() for one in found.regions))


def write_coco(path: Path, content: dict[str, Any]) -> None:
    """Whole or not at all, also where several processes write it at once."""
    write_text(path, json.dumps(content, ensure_ascii=False) + "\n", unique=True)
