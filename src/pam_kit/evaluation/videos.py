"""Streams through held-out videos, and answers about held-out clips: events are scored as they are described."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch

from pam_kit.contracts import ClipSample, GeneratedText, Region, RegionPrompt, VideoRegion, VideoSample
from pam_kit.data.prepare import Asked, Geometry, collate_clips, prepare_clip, tracked_frames
from pam_kit.data.prompting import exact_prompt
from pam_kit.errors import PamKitError, PromptError
from pam_kit.evaluation.event_scores import EventScores
from pam_kit.evaluation.masklets import MaskletScore
from pam_kit.inference.result import texts_json
from pam_kit.inference.stream_records import Description, StreamSettings
from pam_kit.inference.streamer import RegionStream
from pam_kit.model import RegionVLM
from pam_kit.sections import STREAM_SWITCHES, SplitChoice
from pam_kit.tasks import clip_question

Scores = dict[str, dict[str, float]]
Answers = dict[str, dict[str, GeneratedText]]
Write = Callable[[dict[str, Any]], None]


def stream_settings(split: SplitChoice, max_new_tokens: int, switches: str) -> StreamSettings:
    """Settings of the streams of a split; ``switches`` names those that are on, joined by +, or is ``none``.

    Raises PamKitError for a word that is no switch.
    """
    on = [] if switches == "none" else switches.split("+")
    if unknown := [word for word in on if word not in STREAM_SWITCHES]:
        raise PamKitError(f"{unknown[0]!r} is no switch of a stream; join {', '.join(STREAM_SWITCHES)} by +, or none")
    return StreamSettings(
        tasks=tuple(split.tasks),
        languages=tuple(split.languages),
        clip_frames=split.clip_frames,
        read_every=0.0,
        max_new_tokens=max_new_tokens,
        **{name: name in on for name in STREAM_SWITCHES},
    )


def evaluate_videos(
    model: RegionVLM, dataset, kind: str, settings: StreamSettings, samples: Iterable[VideoSample], write: Write
) -> Scores:
    """Every region of every video in a stream of its video; it is asked at the end of each of its events.

    Texts are scored by ``EventScores``, masks by J, F, J&F and presence accuracy over all frames from the prompt on.
    """
    stream = RegionStream(model, settings)
    events, masks = EventScores(getattr(dataset, "read_attribute", None)), MaskletScore()
    for sample in samples:
        stream.reset()
        said, seen = _streamed(stream, sample, kind)
        for number, region in enumerate(sample.regions, 1):
            for event in region.events:
                one = said[number][event.last]
                events.add(_asked(event.texts, settings), event.attributes, one.texts)
                write({"source": sample.source, "id": region.id, "references": event.texts, **one.to_json()})
            if len(region.masks):
                masks.update(seen[number], region.masks[region.frame :])
    table = events.table()
    if masks.objects:
        count = int(masks.objects)
        scored = masks.compute().items()
        table |= {name: {"mean": float(value), "se": math.nan, "n": count} for name, value in scored}
    return table


@torch.inference_mode()
def evaluate_clips(
    model: RegionVLM,
    dataset,
    kind: str,
    split: SplitChoice,
    max_new_tokens: int,
    samples: Iterable[ClipSample],
    write: Write,
) -> Scores:
    """Every region of every clip, asked with the clip's own history."""
    geometry, events = Geometry.of(model.backbone), EventScores(getattr(dataset, "read_attribute", None))
    device = next(model.parameters()).device
    for sample in samples:
        frames, read = tracked_frames(sample, split.clip_frames)
        prompts = [_prompt(sample, region, kind) for region in sample.regions]
        asked = [
            Asked(i, task, language, clip_question(task, language, sample.history.get(language)))
            for i in range(len(sample.regions))
            for task in split.tasks
            for language in split.languages
        ]
        batch = collate_clips([prepare_clip(frames, read, prompts, asked, geometry)], geometry).to(device)
        answers = model.decoder.generate(model.read_clips(batch)[1], batch.questions, max_new_tokens)
        said: list[Answers] = [{} for _ in sample.regions]
        for one, answer in zip(asked, answers, strict=True):
            said[one.region].setdefault(one.task, {})[one.language] = answer
        for region, texts in zip(sample.regions, said, strict=True):
            events.add(_asked(region.texts, split), region.attributes, texts)
            line = {"references": region.texts, "texts": texts_json(texts)}
            write({"source": sample.source, "id": region.id, **line})
    return events.table()


def _streamed(
    stream: RegionStream, sample: VideoSample, kind: str
) -> tuple[dict[int, dict[int, Description]], dict[int, list[np.ndarray]]]:
    """What was said of each region, by the frame in which events of it end, and its masks from its prompt on.

    Regions are numbered from 1 up, in the order of the sample. Raises PamKitError for an event that ends before the
    region is pointed at.
    """
    for region in sample.regions:
        if any(event.last < region.frame for event in region.events):
            raise PamKitError(
                f"{sample.source}: an event of region {region.id} ends before its prompt's frame {region.frame}"
            )
    numbers = range(1, len(sample.regions) + 1)
    said: dict[int, dict[int, Description]] = {number: {} for number in numbers}
    seen: dict[int, list[np.ndarray]] = {number: [] for number in numbers}
    for index, frame in enumerate(sample.frames):
        for number, region in enumerate(sample.regions, 1):
            if region.frame == index:
                stream.prompt(_prompt(sample, region, kind), number)
        report = stream.push(frame, index / sample.frame_rate)
        for number, one in report.regions.items():
            seen[number].append(one.mask())
        ending = [
            number
            for number, region in enumerate(sample.regions, 1)
            if any(event.last == index for event in region.events)
        ]
        for description in stream.describe(ending) if ending else ():
            said[description.region][index] = description
    return said, seen


def _prompt(sample: VideoSample | ClipSample, region: VideoRegion | Region, kind: str) -> RegionPrompt:
    frame, mask = (region.frame, None) if isinstance(region, VideoRegion) else (0, region.mask)
    if isinstance(region, VideoRegion) and len(region.masks):
        mask = region.masks[frame]
    height, width = sample.frames[frame].shape[:2]
    try:
        return exact_prompt(Region(region.id, region.prompt, mask), kind, width, height)
    except PromptError as error:
        raise PromptError(f"{sample.source}: {error}") from error


def _asked(texts: dict[str, dict[str, str]], asked: SplitChoice | StreamSettings) -> dict[str, dict[str, str]]:
    """Those of the true texts that the model was asked for."""
    return {
        task: {language: text for language, text in by_language.items() if language in asked.languages}
        for task, by_language in texts.items()
        if task in asked.tasks
    }
