"""What one person of a film scene does: HC-STVG. Torch-free at first."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from pam_kit.data.masks import rle_size
from pam_kit.errors import BrokenSample, PamKitError
from pam_kit.evaluation.benchmarks.clips import spread
from pam_kit.evaluation.benchmarks.contract import Benchmark, Headline, Reading, Variant
from pam_kit.evaluation.benchmarks.fields import load_json, load_list, need, need_number, need_size, need_text, part_of
from pam_kit.evaluation.benchmarks.media import find_media, frame_names
from pam_kit.evaluation.benchmarks.prompting import box_prompt, mask_prompt
from pam_kit.evaluation.benchmarks.region_captions import VIDEOREFER_PAGE
from pam_kit.evaluation.records import RegionRecord

_PAGE = "https://github.com/tzhhhh123/HC-STVG"
# Newer files beside the original caption.
_ENGLISH = ("English", "english")


class HcStvg(Benchmark):
    """A sentence a clip of 20 seconds; the paper's Table 3."""

    name = "hc_stvg"
    title = "HC-STVG, validation set"
    variants = (
        Variant("val_v2", ("val_v2.json",), "an object by video, with the boxes of one person", _PAGE, expected=3482),
        Variant("val_v1", ("val_v1.json",), "the same of version 1", _PAGE),
        Variant(
            "videorefer",
            ("hc_stvg_*.json",),
            "a list of videos, each with one mask in one frame; the whole clip is shown",
            VIDEOREFER_PAGE,
            ("box", "mask"),
        ),
    )
    media = ("video", "videos", "video/*", "videos/*", "video_parts", "video_parts/*", "")
    media_page = f"{_PAGE} (ten packages of videos; folders of frames named as the videos do as well)"
    task = "caption"
    video = True
    protocols = ("captions_ptb",)
    headlines = (
        Headline("METEOR", "captions_ptb", 3, "HC-STVG METEOR"),
        Headline("CIDEr", "captions_ptb", 3, "HC-STVG CIDEr"),
    )
    decisions = ("the clip is the event's: the frames that have boxes, the first of which is the prompt",)

    def _regions(self, reading: Reading) -> Iterator[tuple[str, Callable[[], RegionRecord]]]:
        for path in reading.files(reading.variant.files[0]):
            if reading.variant.name == "videorefer":
                for index, entry in enumerate(load_list(path, "videos with frame_idx, mask and caption"), 1):
                    source = f"{path.name}: video {index}"
                    yield source, partial(self._masked, reading, source, index, entry)
            else:
                for video, entry in part_of(load_json(path), dict, path, "an object by video").items():
                    yield f"{path.name}: {video}", partial(self._boxed, reading, f"{path.name}: {video}", video, entry)

    def _boxed(self, reading: Reading, source: str, name: str, entry: Any) -> RegionRecord:
        boxes = need(entry, "bbox", list, source)
        if not boxes:
            raise BrokenSample(source, "it has no box")
        first = need_number(entry, "st_frame", source) - 1
        last = first + len(boxes) - 1
        total = need_number(entry, "img_num", source)
        if first < 0 or last >= total:
            raise BrokenSample(source, f"its boxes stand for frames {first + 1} to {last + 1} of {total}")
        prompt = box_prompt(boxes[0], "xywh", need_size(entry, source), source)
        english = next((key for key in _ENGLISH if isinstance(entry.get(key), str) and entry[key].strip()), "caption")
        reading.counts[f"captions read from the field {english!r}"] += 1
        video = _video(reading, self.media, name, source)
        shown: tuple[int | str, ...]
        if (reading.root / video).is_dir():
            names = frame_names(reading.root / video, source)
            if len(names) <= last:
                raise BrokenSample(source, f"{video} has {len(names)} frames; the boxes need {last + 1}")
            shown = spread(names[first : last + 1], reading.num_frames)
        else:
            shown = spread(range(first, last + 1), reading.num_frames)
        return self._record(
            name, [need_text(entry, english, source)], video=video, frames=shown, prompt=prompt, group=video
        )

    def _masked(self, reading: Reading, source: str, index: int, entry: Any) -> RegionRecord:
        name = need_text(entry, "video", source)
        mask = need(entry, "mask", dict, source)
        height, width = rle_size(mask)
        return self._record(
            f"{index}:{name}",
            [need_text(entry, "caption", source)],
            video=_video(reading, self.media, name, source),
            frame_index=need_number(entry, "frame_idx", source),
            prompt=mask_prompt(mask, (width, height), reading.prompt_type, source),
            group=name,
        )


def _video(reading: Reading, places: tuple[str, ...], name: str, source: str) -> str:
    """The video, or a folder of its frames that has its name without the ending."""
    try:
        return find_media(reading.root, places, name, source)
    except PamKitError:
        if "." not in name:
            raise
        try:
            return find_media(reading.root, places, name.rsplit(".", 1)[0], source)
        except PamKitError:
            raise BrokenSample(source, f"neither {name} nor a folder of its frames is in {reading.root}") from None
