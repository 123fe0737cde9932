"""Answers about regions of clips, and about the events of streams.

A clip is tracked once for all its regions, through the frames that are read; the frame that is pointed at is read first
(PAM, section 5). The events of a stream follow each other: the last frame and the words of one open the next (section
3.1), and the subject is pointed at anew, as the released evaluation of streams does.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pam_kit.contracts import RegionPrompt
from pam_kit.data.clips import counted_video, sampled_frames
from pam_kit.data.masks import encode_rle
from pam_kit.data.pictures import read_picture
from pam_kit.data.video import FrameReader
from pam_kit.data.video.listed import folder_pictures
from pam_kit.errors import BrokenSample, PamKitError
from pam_kit.evaluation.predictions.ledger import PROMPTS, broken
from pam_kit.evaluation.predictions.pictures import looks, said
from pam_kit.evaluation.predictions.settings import PredictionSettings
from pam_kit.evaluation.records import RegionRecord
from pam_kit.inference.predictor import RegionPredictor
from pam_kit.inference.result import prompt_from_json
from pam_kit.inference.stream_records import StreamSettings
from pam_kit.inference.streamer import RegionStream
from pam_kit.inference.tracker import VideoPredictor
from pam_kit.inference.video_result import FramePrompt, VideoRegionPrediction


def answer_clip(
    predictor: RegionPredictor, root: Path, records: Sequence[RegionRecord], settings: PredictionSettings
) -> Iterator[RegionRecord]:
    """Regions that are pointed at in the same frame of the same clip, and asked about in the same words."""
    first = records[0]
    try:
        frames, prompted = read_clip(root, first, settings.num_frames)
    except PamKitError as error:
        yield from (broken(record, str(error)) for record in records)
        return
    size = frames[0].shape[:2]
    pointed: dict[str, tuple[dict[int, RegionPrompt], list[RegionRecord]]] = {}
    for record in records:
        try:
            prompts = _prompts(record, prompted, size)
        except PamKitError as error:
            yield broken(record, str(error))
            continue
        key = json.dumps([record.prompt, record.meta.get(PROMPTS)])
        pointed.setdefault(key, (prompts, []))[1].append(record)
    if not pointed:
        return
    sharing = list(pointed.values())
    typed = [
        FramePrompt(number, place, prompt)
        for number, (prompts, _) in enumerate(sharing, 1)
        for place, prompt in prompts.items()
    ]
    found = VideoPredictor(predictor.model, predictor.device).predict(
        frames,
        typed,
        [first.task],
        [first.language],
        frames=len(frames),
        sampler="all",
        max_new_tokens=settings.max_new_tokens,
        words=first.question,
    )
    for (_, own), region in zip(sharing, found.regions, strict=True):
        yield from (_of_clip(record, region, prompted) for record in own)


def answer_stream(
    predictor: RegionPredictor, root: Path, events: Sequence[RegionRecord], settings: PredictionSettings
) -> Iterator[RegionRecord]:
    """The events of one subject, in their order. Behind one that cannot be read the stream does not go on."""
    longest = max((len(event.frames) for event in events), default=0) or settings.num_frames
    stream = RegionStream(predictor.model, _stream_settings(events[0], longest, settings), predictor.device)
    failure = ""
    for number, event in enumerate(events):
        if failure:
            yield broken(event, f"the stream broke off before: {failure}")
            continue
        try:
            yield _event(stream, root, event, number == 0 or settings.stream_boxes == "gt_per_event")
        except PamKitError as error:
            failure = str(error)
            yield broken(event, failure)


def read_clip(root: Path, record: RegionRecord, wanted: int | None) -> tuple[list[np.ndarray], int]:
    """The frames of a record, (H, W, 3) uint8 each, at most ``wanted``, and the place of the one that is pointed at.

    That one is always taken; the others are spread evenly. Raises PamKitError where one cannot be read.
    """
    path = root / record.video
    if not path.exists():
        raise BrokenSample(record.id, f"there is no video {path}")
    if path.is_dir():
        pictures = [path / str(name) for name in record.frames] or folder_pictures(path)
        places, prompted = _chosen(len(pictures), record, wanted)
        frames = [read_picture(pictures[place], record.id) for place in places]
    else:
        video = counted_video(path, record.id)
        numbers = [int(frame) for frame in record.frames] or list(range(video.num_frames))
        places, prompted = _chosen(len(numbers), record, wanted)
        reader = FrameReader(video)
        frames = [reader.read(numbers[place]).image for place in places]
        reader.close()
    if len({frame.shape for frame in frames}) > 1:
        raise BrokenSample(record.id, f"the frames of {path} are not of one size")
    return frames, prompted


def _chosen(count: int, record: RegionRecord, wanted: int | None) -> tuple[list[int], int]:
    """Places of the frames that are read, in order, and where among them the prompted one stands."""
    if not 0 <= record.frame_index < count:
        raise BrokenSample(record.id, f"frame {record.frame_index} is pointed at, but the clip has {count} frames")
    others = [place for place in range(count) if place != record.frame_index]
    spread = sampled_frames(count, wanted or count)
    places = sorted([record.frame_index, *(others[position - 1] for position in spread if position)])
    return places, places.index(record.frame_index)


def _prompts(record: RegionRecord, prompted: int, size: tuple[int, int]) -> dict[int, RegionPrompt]:
    """Place among the frames that are read -> prompt: one, or where a benchmark points into each frame, all of them."""
    facts = record.meta.get(PROMPTS) or {str(prompted): record.prompt}
    prompts = {int(place): prompt_from_json(one) for place, one in facts.items()}
    for prompt in prompts.values():
        prompt.check(width=size[1], height=size[0])
    return prompts


def _of_clip(record: RegionRecord, region: VideoRegionPrediction, prompted: int) -> RegionRecord:
    frame = region.frames[prompted]
    seen = looks(frame.segmentation, frame.iou, frame.object_score)
    return said(record, region.texts.get(record.task, {}).get(record.language), seen)


def _event(stream: RegionStream, root: Path, event: RegionRecord, pointed: bool) -> RegionRecord:
    """Push the frames of one event; what was said at its end, and the mask of its first frame."""
    frames, prompted = read_clip(root, event, None)
    seen: dict[str, Any] = {}
    for place, frame in enumerate(frames):
        if pointed and place == prompted:
            stream.prompt(prompt_from_json(event.prompt), 1)
        region = stream.push(frame).regions.get(1)
        if region is not None and place == prompted:
            seen = looks(encode_rle(region.mask()), region.iou, region.object_score)
    (description,) = stream.describe([1])
    return said(event, description.texts.get(event.task, {}).get(event.language), seen)


def _stream_settings(event: RegionRecord, longest: int, settings: PredictionSettings) -> StreamSettings:
    return StreamSettings(
        tasks=(event.task,),
        languages=(event.language,),
        clip_frames=longest + 1,  # all of an event, and the carried one
        read_every=0.0,
        memory=False,
        max_new_tokens=settings.max_new_tokens,
    )


def pointed_at(root: Path, record: RegionRecord) -> tuple[np.ndarray, RegionPrompt]:
    """The picture or frame in which a region is pointed at, (H, W, 3) uint8, and how. Raises PamKitError."""
    prompt = prompt_from_json(record.prompt)
    if record.image:
        return read_picture(root / record.image, record.id), prompt
    frames, prompted = read_clip(root, record, 1)
    return frames[prompted], prompt
