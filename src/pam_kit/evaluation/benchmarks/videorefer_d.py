"""Describing an object of a video in detail, rated by a judge: VideoRefer-Bench-D. Torch-free at first."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from pam_kit.data.masks import rle_size
from pam_kit.errors import BrokenSample
from pam_kit.evaluation.benchmarks.clips import spread_around
from pam_kit.evaluation.benchmarks.contract import Benchmark, Headline, Reading, Variant
from pam_kit.evaluation.benchmarks.fields import load_list, need, need_number, need_text
from pam_kit.evaluation.benchmarks.media import find_media
from pam_kit.evaluation.benchmarks.prompting import mask_prompt
from pam_kit.evaluation.records import RegionRecord

_PAGE = "https://huggingface.co/datasets/DAMO-NLP-SG/VideoRefer-Bench"
_FILE = ("VideoRefer-Bench-D.json",)


class VideoReferD(Benchmark):
    """400 descriptions, four dimensions; the paper's Table 3."""

    name = "videorefer_d"
    title = "VideoRefer-Bench-D"
    variants = (
        Variant(
            "single", _FILE, "the mask of one frame is given; the whole video is shown", _PAGE, ("box", "mask"), 400
        ),
        Variant(
            "multi",
            _FILE,
            "the masks of all frames that are shown are given, out of the 32 that have one",
            _PAGE,
            ("box", "mask"),
            400,
        ),
    )
    media = ("Panda-70M-part", "videos", "")
    media_page = f"{_PAGE} (Panda-70M-part)"
    task = "caption"
    video = True
    protocols = ("videorefer_bench_d",)
    headlines = tuple(
        Headline(metric, "videorefer_bench_d", 3, f"VideoRefer-Bench-D {metric}", 1.0)
        for metric in ("SC", "AD", "TD", "HD", "Avg")
    )
    decisions = ("whether PAM was given one mask or all is not published; 'single' and 'multi' are not comparable",)

    def _regions(self, reading: Reading) -> Iterator[tuple[str, Callable[[], RegionRecord]]]:
        path = reading.files(reading.variant.files[0])[0]
        for index, entry in enumerate(load_list(path, "videos with caption, frame_idx and annotation"), 1):
            source = f"{path.name}: entry {index}"
            yield source, partial(self._entry, reading, source, entry)

    def _entry(self, reading: Reading, source: str, entry: Any) -> RegionRecord:
        annotations = need(entry, "annotation", list, source)
        if len(annotations) != 1 or not isinstance(annotations[0], dict):
            raise BrokenSample(source, f"expected the masks of one object, not of {len(annotations)}")
        masks, pointed = annotations[0], str(need_number(entry, "frame_idx", source))
        if pointed not in masks:
            raise BrokenSample(source, f"there is no mask of frame {pointed}; there are {', '.join(list(masks)[:8])}")
        frames: tuple[int, ...] = ()
        index = int(pointed)
        meta: dict[str, Any] = {"mode": reading.variant.name}
        if reading.variant.name == "multi":
            numbers = sorted(int(frame) for frame in masks if frame.isdigit())
            frames, index = spread_around(numbers, numbers.index(int(pointed)), reading.num_frames)
            meta["prompts"] = {
                str(place): _prompt(reading, masks[str(frame)], f"{source}, frame {frame}")
                for place, frame in enumerate(frames)
            }
        video = find_media(reading.root, self.media, need_text(entry, "video", source), source)
        return self._record(
            str(need_number(entry, "id", source)),
            [need_text(entry, "caption", source)],
            video=video,
            frames=frames,
            frame_index=index,
            prompt=_prompt(reading, masks[pointed], f"{source}, frame {pointed}"),
            group=video,
            meta=meta,
        )


def _prompt(reading: Reading, annotation: Any, source: str) -> dict[str, Any]:
    mask = need(annotation, "segmentation", dict, source)
    height, width = rle_size(mask)
    return mask_prompt(mask, (width, height), reading.prompt_type, source)
