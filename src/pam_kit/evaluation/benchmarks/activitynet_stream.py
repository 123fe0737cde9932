"""Captions of events that follow each other: PAM's own streaming set on ActivityNet. Torch-free at first."""

from collections.abc import Callable, Iterator
from functools import partial

from pam_kit.evaluation.benchmarks.contract import Benchmark, Headline, Reading, Variant
from pam_kit.evaluation.benchmarks.media import find_media, picture_size
from pam_kit.evaluation.records import RegionRecord

_PAGE = "https://github.com/Perceive-Anything/PAM (eval/example_data)"


class ActivityNetStream(Benchmark):
    """334 videos with 945 events; the paper's Table 4."""

    name = "activitynet_stream"
    title = "ActivityNet, streamed captions of a region"
    variants = (
        Variant(
            "released", ("input_full.jsonl",), "a line a video, with frames, text and box an event", _PAGE, expected=945
        ),
        Variant("sample", ("*.jsonl",), "the same form under another name; one file", _PAGE),
    )
    media = ("frames", "")
    media_page = f"{_PAGE}; a folder of frames a video"
    task = "caption"
    video = streamed = True
    protocols = ("captions_no_tokenizer", "captions_ptb", "g_stdc")
    headlines = (
        Headline("CIDEr", "captions_no_tokenizer", 4, "ActivityNet CIDEr"),
        Headline("METEOR", "captions_no_tokenizer", 4, "ActivityNet METEOR"),
        Headline("G-STDC", "g_stdc", 4, "ActivityNet G-STDC", 1.0),
    )
    decisions = (
        "the paper speaks of 400 samples; 334 videos are released",
        "events are matched by video and number; the published scorer takes the texts as they are (no tokenizer)",
    )

    def _regions(self, reading: Reading) -> Iterator[tuple[str, Callable[[], RegionRecord]]]:
        from pam_kit.data.lines import LineFile
        from pam_kit.data.pam_clips import count_streaming_events

        for path in reading.files(reading.variant.files[0]):
            lines = LineFile(str(path))
            for index in range(len(lines)):
                line, source = lines.read(index), lines.source(index)
                for number in range(count_streaming_events(line)):
                    yield f"{source} event {number + 1}", partial(self._event, reading, source, line, number)

    def _event(self, reading: Reading, source: str, line: str, number: int) -> RegionRecord:
        from pam_kit.data.pam_clips import parse_streaming_event

        place = f"{source} event {number + 1}"

        def frame_size(frame: str) -> tuple[int, int]:
            return picture_size(reading.root / find_media(reading.root, self.media, frame, place))

        event = parse_streaming_event(line, source, number, frame_size)
        (region,) = event.regions
        first = find_media(reading.root, self.media, event.frames[0], place)
        convention = region.attributes["box_convention"]
        reading.counts[f"boxes read as {_READ_AS[convention]}"] += 1
        video = region.attributes["video"]
        meta = {
            "video_id": video,
            "event": number,
            "event_id": region.attributes["event"],
            "box_convention": convention,
        }
        assert region.box is not None
        return self._record(
            region.id,
            [region.texts["caption"]["en"]],
            video=first.rsplit("/", 1)[0],
            frames=tuple(frame.rsplit("/", 1)[-1] for frame in event.frames),
            prompt={"box": list(region.box)},
            group=video,
            meta=meta,
        )


_READ_AS = {
    "xywh": "x, y, width, height",
    "xyxy": "x1, y1, x2, y2, which as x, y, width, height leave the frame",
    "cut": "x, y, width, height and cut to the frame, which they leave either way",
}
