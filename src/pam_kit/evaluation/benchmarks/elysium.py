"""Naming what is followed through a video: Elysium's test set of ElysiumTrack-1M, Video-REG. Torch-free at first."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import PurePosixPath
from typing import Any

from pam_kit.errors import BrokenSample
from pam_kit.evaluation.benchmarks.clips import spread
from pam_kit.evaluation.benchmarks.contract import Benchmark, Headline, Reading, Variant
from pam_kit.evaluation.benchmarks.fields import json_lines, need, need_text
from pam_kit.evaluation.benchmarks.media import find_media, picture_size
from pam_kit.evaluation.benchmarks.prompting import box_prompt
from pam_kit.evaluation.records import RegionRecord

_PAGE = "https://huggingface.co/datasets/sty-yyj/ElysiumTrack-1M"


class Elysium(Benchmark):
    """A noun phrase a video; the paper's Table 3."""

    name = "elysium"
    title = "Elysium, Video-REG"
    variants = (Variant("released", ("*.jsonl",), "a line a video, with a box a frame, 0 to 1; one file", _PAGE),)
    media = ("frames", "")
    media_page = f"{_PAGE}; the lines name frames below it"
    task = "caption"
    video = True
    protocols = ("captions_ptb", "meteor_nltk_smot")
    headlines = (Headline("METEOR", "captions_ptb", 3, "Elysium METEOR"),)
    decisions = ("there is no published scorer of Video-REG; here METEOR 1.5 over the corpus, after PTB",)

    def _regions(self, reading: Reading) -> Iterator[tuple[str, Callable[[], RegionRecord]]]:
        for path in reading.files(reading.variant.files[0]):
            for source, line in json_lines(path):
                yield source, partial(self._line, reading, source, line)

    def _line(self, reading: Reading, source: str, line: Any) -> RegionRecord:
        if isinstance(line, BrokenSample):
            raise line
        paths = need(line, "frames", list, source)
        boxes = need(line, "box", list, source)
        if not paths or len(paths) != len(boxes):
            raise BrokenSample(source, f"expected a box for each of the {len(paths)} frames, not {len(boxes)}")
        if not all(isinstance(path, str) and path for path in paths):
            raise BrokenSample(source, "frames must be a list of paths")
        folders = {str(PurePosixPath(path).parent) for path in paths}
        if len(folders) > 1:
            raise BrokenSample(source, f"its frames lie in {len(folders)} folders; expected one")
        frames = [PurePosixPath(path).name for path in paths]
        video = str(PurePosixPath(find_media(reading.root, self.media, paths[0], source)).parent)
        size = picture_size(reading.root / video / frames[0])
        x1, y1, x2, y2 = _shares(boxes[0], source)
        prompt = box_prompt([x1 * size[0], y1 * size[1], x2 * size[0], y2 * size[1]], "xyxy", size, source)
        return self._record(
            f"{line.get('vid', '')}:{line.get('id', source)}",
            [need_text(line, "object_description", source)],
            video=video,
            frames=spread(frames, reading.num_frames),
            prompt=prompt,
            group=video,
            meta={"object_class": line.get("object_class", "")},
        )


def _shares(box: Any, source: str) -> list[float]:
    """A box in shares of the frame; a pixel over the edge is a rounding error, a hundred are another unit."""
    if not isinstance(box, list) or len(box) != 4 or not all(type(v) in (int, float) and -0.1 <= v <= 1.1 for v in box):
        raise BrokenSample(source, f"a box is x1, y1, x2, y2 between 0 and 1, not {box!r}")
    return box
