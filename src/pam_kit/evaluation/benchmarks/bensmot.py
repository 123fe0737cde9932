"""What the people of a video do, one caption a trajectory: BenSMOT's test set. Torch-free at first."""

import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from pam_kit.errors import BrokenSample
from pam_kit.evaluation.benchmarks.clips import spread
from pam_kit.evaluation.benchmarks.contract import Benchmark, Headline, Reading, Variant
from pam_kit.evaluation.benchmarks.fields import load_json, part_of
from pam_kit.evaluation.benchmarks.media import frame_names, picture_size
from pam_kit.evaluation.benchmarks.prompting import box_prompt
from pam_kit.evaluation.records import RegionRecord

_PAGE = "https://github.com/HengLan/SMOT"
# "woman0: ..." and the like.
_NAME = re.compile(r"^\s*[A-Za-z]+\d+\s*:\s*")
Boxes = dict[int, list[float]]  # frame number -> x, y, width, height


class BenSmot(Benchmark):
    """Captions of trajectories; the paper's Table 3."""

    name = "bensmot"
    title = "BenSMOT, instance captions of the test set"
    variants = (
        Variant(
            "folders",
            ("test/*/*/gt/gt.txt", "test/*/*/instance_captions.txt"),
            "test/CLASS/SEQUENCE/ with imgs/, gt/gt.txt and instance_captions.txt",
            _PAGE,
        ),
        Variant(
            "merged",
            ("test/*/*/gt/gt.txt", "instance_caption.json"),
            "test/CLASS/SEQUENCE/ with imgs/ and gt/gt.txt; the captions of all in one file, by sequence and track",
            _PAGE,
        ),
    )
    media = ("test/CLASS/SEQUENCE/imgs",)
    media_page = _PAGE
    task = "caption"
    video = True
    protocols = ("captions_ptb", "meteor_nltk_smot")
    headlines = (Headline("METEOR", "captions_ptb", 3, "BenSMOT METEOR"),)
    decisions = (
        "which METEOR the paper used is not published; meteor_nltk_smot is the benchmark's own scorer, whose values "
        "are higher",
        "a clip goes from a trajectory's first frame to its last, and its first box is the prompt",
    )

    def _regions(self, reading: Reading) -> Iterator[tuple[str, Callable[[], RegionRecord | None]]]:
        merged: dict[str, object] | None = None
        if reading.variant.name == "merged":
            path = reading.files("instance_caption.json")[0]
            merged = part_of(load_json(path), dict, path, "an object of sequences")
        for path in reading.files("test/*/*/gt/gt.txt"):
            folder = path.parent.parent
            sequence = folder.relative_to(reading.root / "test").as_posix()
            try:
                tracks = mot_tracks(path, sequence)
                captions = track_captions(folder, sequence, tracks, merged)
                frames = {_number(name, sequence): name for name in frame_names(folder / "imgs", sequence)}
            except BrokenSample as error:
                reading.broken.append(error)
                continue
            for track, boxes in tracks.items():
                source = f"{sequence}: track {track}"
                yield source, partial(self._track, reading, source, folder, frames, boxes, captions.get(track, ""))

    def _track(
        self, reading: Reading, source: str, folder: Path, frames: dict[int, str], boxes: Boxes, caption: str
    ) -> RegionRecord | None:
        if not caption:
            reading.counts["trajectories without a caption left out"] += 1
            return None
        first, last = min(boxes), max(boxes)
        if first not in frames:
            raise BrokenSample(source, f"there is no picture of its first frame {first}")
        video = (folder / "imgs").relative_to(reading.root).as_posix()
        prompt = box_prompt(boxes[first], "xywh", picture_size(folder / "imgs" / frames[first]), source)
        shown = [name for number, name in sorted(frames.items()) if first <= number <= last]
        return self._record(
            source.replace(": track ", ":"),
            [caption],
            video=video,
            frames=spread(shown, reading.num_frames),
            prompt=prompt,
            group=video,
        )


def mot_tracks(path: Path, source: str) -> dict[int, Boxes]:
    """Track -> frame -> box, of lines ``frame,track,x,y,width,height,...``, tracks in the order of their numbers."""
    tracks: dict[int, Boxes] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").splitlines(), 1):
        if not line.strip():
            continue
        try:
            frame, track, *box = (float(v) for v in line.split(",")[:6])
        except ValueError:
            raise BrokenSample(f"{source}: gt.txt:{number}", f"not a line of numbers: {line!r}") from None
        if len(box) != 4:
            raise BrokenSample(f"{source}: gt.txt:{number}", f"expected frame,track,x,y,width,height, not {line!r}")
        tracks.setdefault(int(track), {})[int(frame)] = box
    return dict(sorted(tracks.items()))


def track_captions(
    folder: Path, sequence: str, tracks: dict[int, Boxes], merged: dict[str, object] | None
) -> dict[int, str]:
    """Track -> caption without the name before it.

    In a sequence's own file the captions stand in the order of the tracks; in the merged one by the track's number.
    """
    if merged is not None:
        captions = merged.get(sequence)
        if not isinstance(captions, dict):
            raise BrokenSample(sequence, "instance_caption.json has no captions of it by track")
        return {int(track): _NAME.sub("", str(text)).strip() for track, text in captions.items() if track.isdigit()}
    path = folder / "instance_captions.txt"
    if not path.is_file():
        raise BrokenSample(sequence, "it has no instance_captions.txt")
    lines = [line for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    if len(lines) != len(tracks):
        raise BrokenSample(sequence, f"{len(lines)} captions, but {len(tracks)} trajectories")
    return {track: _NAME.sub("", line).strip() for track, line in zip(tracks, lines, strict=True)}


def _number(name: str, source: str) -> int:
    stem = Path(name).stem
    if not stem.isdigit():
        raise BrokenSample(source, f"the picture {name} is not named by its number")
    return int(stem)
