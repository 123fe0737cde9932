"""What a verb that streams begins with: source, stream (new or brought back), prompts and triggers. Torch-free."""

import argparse
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from pam_kit.cli.prompting import opened_video, settle_questions, tell_unused
from pam_kit.errors import PamKitError, PromptError

if TYPE_CHECKING:
    from pam_kit.data.video import BackgroundFrames, Frame
    from pam_kit.inference.annotated_video import AnnotatedStream
    from pam_kit.inference.stream_records import StreamSettings
    from pam_kit.inference.streamer import RegionStream
    from pam_kit.inference.triggers import AnyTrigger
    from pam_kit.inference.video_result import FramePrompt

# Between two frames that are read, where nothing says how long a clip will be.
_USUAL_READING = 0.5


@dataclass
class Begun:
    """A stream that is ready: frames decoded ahead, prompts by frame, and what writes the annotated video, if any."""

    frames: "BackgroundFrames"
    stream: "RegionStream"
    prompts: list["FramePrompt"]
    annotated: "AnnotatedStream | None"

    def coming(self) -> Iterator["Frame"]:
        """The frames that the stream has not seen yet.

        A stored video begins anew and is gone through up to there; a live source and standard input go on.
        """
        source, seen, start = self.frames.source, self.stream.frames, max(self.stream.time, 0.0)
        gap = 1 / (source.frame_rate or self.stream.settings.frame_rate) if seen else 0.0
        goes_on = _goes_on(source)
        for frame in self.frames:
            if goes_on:
                yield replace(frame, index=frame.index + seen, time=frame.time + start + gap)
            elif frame.index >= seen:
                yield frame
        if not self.stream.frames:
            raise PamKitError(f"{source.name} gave no frame; {source.damage or 'is it what was meant?'}")


def begin(
    options: argparse.Namespace,
    period: float | None,
    out: Path | None,
    closing: ExitStack,
    trigger: "AnyTrigger | None" = None,
) -> Begun:
    """Open the source, load the model and make the stream.

    Args:
        period: seconds between two times at which it speaks, None where that is open.
        out: where the annotated video goes, None for nowhere.
        closing: closes what is opened.
        trigger: is brought back with the stream.
    """
    from pam_kit.data.video import BackgroundFrames
    from pam_kit.inference.annotated_video import AnnotatedStream
    from pam_kit.inference.video_result import prompts_by_frame

    source = closing.enter_context(opened_video(options.source, options.size, options.rate))
    # What is wrong with a prompt is said before the model is loaded.
    prompts_by_frame(_prompts(options, 0), source.width, source.height)
    stream = _stream(options, period, trigger)
    prompts = _prompts(options, stream.frames)
    frames = closing.enter_context(BackgroundFrames(source, drop=source.live))
    annotated = None
    if out is not None:
        count, asked = len({*stream.regions, *(one.region for one in prompts)}), stream.settings
        states = {one.number: one.presence.status or "" for one in stream.followed}
        annotated = AnnotatedStream(out, source.frame_rate, count, asked.languages, len(asked.tasks), states)
        closing.enter_context(annotated)
    return Begun(frames, stream, prompts, annotated)


def chosen_trigger(options: argparse.Namespace) -> tuple["AnyTrigger", float | None]:
    """When the stream speaks, and the longest time between two such moments, None where that is open."""
    from pam_kit.inference.change_triggers import MaskChangeTrigger, SceneChangeTrigger
    from pam_kit.inference.triggers import (
        AnyTrigger,
        AtTrigger,
        EveryTrigger,
        parse_seconds,
    )

    triggers: list = []
    period = None
    if options.every:
        period = parse_seconds(options.every)
        triggers.append(EveryTrigger(period))
    if options.at:
        times = [parse_seconds(part) for part in options.at.split(",")]
        triggers.append(AtTrigger(times))
        gaps = [later - earlier for earlier, later in zip([0.0, *times], times, strict=False)]
        period = max(gaps) if period is None else period
    kinds = {"mask-change": MaskChangeTrigger, "scene-change": SceneChangeTrigger}
    triggers += [kinds[name]() for name in dict.fromkeys(options.on)]
    if not triggers:
        raise PamKitError("when should it speak? give --every 2s, --at 3.5,7,12, or --on mask-change")
    return AnyTrigger(triggers), period or None


def _goes_on(source) -> bool:
    """Whether a source that is opened again goes on where it is, rather than from its beginning."""
    from pam_kit.data.video.forward import RawVideo

    return source.live or isinstance(source, RawVideo)


def _prompts(options: argparse.Namespace, seen: int) -> list["FramePrompt"]:
    """The prompts of a stream that has seen so many frames; without a frame they point into the next one."""
    from pam_kit.inference.prompt_options import video_prompts_from_options

    typed = (options.box, options.point, options.mask)
    if options.load and not any(typed):
        return []
    prompts = video_prompts_from_options(*typed, seen if options.frame is None else options.frame, options.combine)
    for one in prompts:
        if one.frame < seen:
            raise PromptError(
                f"region {one.region} is to be pointed at in frame {one.frame}, but the saved stream has seen the "
                f"frames before {seen}; leave out the prompts that it knows already"
            )
    return prompts


def _stream(options: argparse.Namespace, period: float | None, trigger: "AnyTrigger | None") -> "RegionStream":
    from pam_kit.inference.stream_state import load_stream
    from pam_kit.inference.streamer import RegionStream
    from pam_kit.model import RegionVLM

    if options.load:
        stream = load_stream(RegionVLM.from_pretrained(options.checkpoint), options.load, options.device, trigger)
        tell_unused("stream", _overruled(options, stream.settings), "the saved stream goes on with its own settings")
        return stream
    settings = _settings(options, period)
    return RegionStream(RegionVLM.from_pretrained(options.checkpoint), settings, options.device)


def _settings(options: argparse.Namespace, period: float | None) -> "StreamSettings":
    from pam_kit.inference.stream_records import StreamSettings
    from pam_kit.inference.triggers import parse_seconds

    settle_questions(options, "caption")
    frames = options.frames or 16
    reading = _USUAL_READING if period is None else period / max(1, frames - 1)
    return StreamSettings(
        tasks=options.task,
        languages=options.lang,
        clip_frames=frames,
        read_every=parse_seconds(options.read_every) if options.read_every else reading,
        carry=not options.no_carry,
        history=not options.no_history,
        memory=not options.no_memory,
        max_new_tokens=options.max_new_tokens,
    )


def _overruled(options: argparse.Namespace, saved: "StreamSettings") -> list[str]:
    """The options that were given and say something else than the settings of a saved stream."""
    from pam_kit.inference.triggers import parse_seconds

    given = {
        "--task": (options.task, saved.tasks),
        "--lang": (options.lang, saved.languages),
        "--frames": (options.frames, saved.clip_frames),
        "--read-every": (options.read_every and parse_seconds(options.read_every), saved.read_every),
        "--max-new-tokens": (options.max_new_tokens, saved.max_new_tokens),
    }
    differing = [name for name, (wanted, own) in given.items() if wanted is not None and wanted != own]
    switches = ("carry", "history", "memory")
    return differing + [f"--no-{name}" for name in switches if getattr(options, f"no_{name}") and getattr(saved, name)]
