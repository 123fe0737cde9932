"""The verbs that comment on what they see while it happens: stream, describe-long. Torch-free."""

import argparse
import json
from contextlib import ExitStack
from pathlib import Path

from pam_kit.cli.arguments import add_verb, positive
from pam_kit.cli.prompting import (
    VIDEO_FORMATS,
    add_checkpoint,
    add_frame_source,
    add_prompts,
    add_questions,
    opened_video,
    out_path,
)
from pam_kit.errors import PamKitError

SOURCE = "a video file, a folder of pictures, a camera (0, camera:0), an address (rtsp, http, ...), - for raw frames"
_USUAL_READING = 0.5


def add_verbs(verbs) -> None:
    details = (
        "One JSON line an event on standard output: captions with start, end, text and state, and the moments when a "
        "region goes out of sight, is lost and is found. The last line sums up frames, time and latency."
    )
    parser = add_verb(verbs, "stream", stream, "follow regions through a live stream and say what they do", details)
    _add_stream_options(parser)
    parser.add_argument("--every", metavar="TIME", help="speak every so often, for example 2s or 500ms")
    parser.add_argument("--at", metavar="TIME,...", help="speak at these times, for example 3.5,7,12")
    parser.add_argument(
        "--on",
        action="append",
        default=[],
        choices=("mask-change", "scene-change"),
        help="speak when a mask or the scene has changed; repeatable",
    )
    parser.add_argument(
        "--save", metavar="FILE", help="write the stream's state there at the end, or when it is stopped"
    )
    parser.add_argument("--load", metavar="FILE", help="go on from a saved state, with its settings")
    details = "Clip by clip, each with what was said before it, merged into one text with time stamps."
    parser = add_verb(verbs, "describe-long", long_description, "describe a long video in one text", details)
    _add_stream_options(parser)
    parser.add_argument("--clip", default="8s", metavar="TIME", help="length of a clip (default 8s)")
    parser.add_argument("--json", action="store_true", help="print JSON: passages with start, end and text")


def _add_stream_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="SOURCE", help=SOURCE)
    add_checkpoint(parser)
    add_prompts(parser, videos=True, only=True)
    add_questions(parser, task="caption")
    add_frame_source(parser)
    parser.add_argument(
        "--frames", type=positive, default=16, metavar="N", help="most frames of a clip that are read (default 16)"
    )
    parser.add_argument("--read-every", metavar="TIME", help="between frames that are read (default: N fill a clip)")
    parser.add_argument("--no-carry", action="store_true", help="the last frame of a clip does not open the next one")
    parser.add_argument("--no-history", action="store_true", help="the next question does not quote the last answer")
    parser.add_argument("--no-memory", action="store_true", help="point anew at the last mask's box in every clip")
    parser.add_argument("--out", metavar="MP4", help="write the annotated video as it goes")


def stream(options: argparse.Namespace) -> None:
    """Print events of a stream as JSON lines while its frames come in."""
    out = out_path(options.out, "", VIDEO_FORMATS, "the annotated video is an mp4") if options.out else None
    from pam_kit.inference.commentary import comment
    from pam_kit.inference.stream_state import save_stream

    trigger, period = _trigger(options)
    with ExitStack() as closing:
        frames, running, prompts, annotated = _begin(options, period, out, closing)
        try:
            coming = _continued(frames, running, frames.source.live)
            for event in comment(coming, running, trigger, prompts, annotated and annotated.on_frame):
                if annotated:
                    annotated.on_event(event)
                print(json.dumps(event.to_json(), ensure_ascii=False), flush=True)
        finally:
            if options.save:
                save_stream(running, options.save)
            summary = {"event": "end", **running.summary(), "dropped_frames": frames.dropped}
            print(json.dumps(summary), flush=True)


def long_description(options: argparse.Namespace) -> None:
    """Print one text of a whole video."""
    out = out_path(options.out, "", VIDEO_FORMATS, "the annotated video is an mp4") if options.out else None
    from pam_kit.inference.long_description import describe_long
    from pam_kit.inference.triggers import parse_seconds

    period = parse_seconds(options.clip)
    options.load = None
    with ExitStack() as closing:
        frames, running, prompts, annotated = _begin(options, period, out, closing)
        said = describe_long(frames, running, period, prompts, annotated and annotated.on_frame)
    if options.json:
        print(json.dumps([one.to_json() for one in said], ensure_ascii=False, indent=1))
        return
    for one in said:
        print(f"region {one.region}, {one.language}:\n{one.text()}")


def _begin(options: argparse.Namespace, period: float | None, out: Path | None, closing: ExitStack):
    """-> frames decoded ahead, the stream, its prompts by frame, and what writes the annotated video."""
    from pam_kit.data.video import BackgroundFrames
    from pam_kit.inference.annotated_video import AnnotatedStream

    source = closing.enter_context(opened_video(options.source, options.size, options.rate))
    running, prompts = _stream(options, period)
    frames = closing.enter_context(BackgroundFrames(source, drop=source.live))
    annotated = None
    if out is not None:
        count = len({*running.regions, *(one.region for one in prompts)})
        written = AnnotatedStream(out, source.frame_rate, count, options.lang, len(options.task))
        annotated = closing.enter_context(written)
    return frames, running, prompts, annotated


def _stream(options: argparse.Namespace, period: float | None):
    """The stream, new or brought back, and the prompts that wait for their frames."""
    from pam_kit.inference.prompt_options import video_prompts_from_options
    from pam_kit.inference.stream_records import StreamSettings
    from pam_kit.inference.stream_state import load_stream
    from pam_kit.inference.streamer import RegionStream
    from pam_kit.inference.triggers import parse_seconds
    from pam_kit.model import RegionVLM

    typed = (options.box, options.point, options.mask)
    prompts = (
        video_prompts_from_options(*typed, options.frame, options.combine) if any(typed) or not options.load else []
    )
    reading = _USUAL_READING if period is None else period / max(1, options.frames - 1)
    settings = StreamSettings(
        tasks=options.task,
        languages=options.lang,
        clip_frames=options.frames,
        read_every=parse_seconds(options.read_every) if options.read_every else reading,
        carry=not options.no_carry,
        history=not options.no_history,
        memory=not options.no_memory,
        max_new_tokens=options.max_new_tokens,
    )
    model = RegionVLM.from_pretrained(options.checkpoint)
    if options.load:
        return load_stream(model, options.load, options.device), prompts
    return RegionStream(model, settings, options.device), prompts


def _continued(frames, running, live: bool):
    """The frames behind those that a stream which was brought back has seen: a stored video begins anew, and a live
    source counts and clocks from 0."""
    from dataclasses import replace

    seen, time = running.frames, max(running.time, 0.0)
    for frame in frames:
        if live and seen:
            yield replace(frame, index=frame.index + seen, time=frame.time + time)
        elif frame.index >= seen:
            yield frame


def _trigger(options: argparse.Namespace):
    """When the stream speaks, and the time between two clips' ends, None where that is open."""
    from pam_kit.inference.triggers import (
        AnyTrigger,
        AtTrigger,
        EveryTrigger,
        MaskChangeTrigger,
        SceneChangeTrigger,
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
        shortest = min(later - earlier for earlier, later in zip([0.0, *times], times, strict=False))
        period = shortest if period is None else min(period, shortest)
    kinds = {"mask-change": MaskChangeTrigger, "scene-change": SceneChangeTrigger}
    triggers += [kinds[name]() for name in dict.fromkeys(options.on)]
    if not triggers:
        raise PamKitError("when should it speak? give --every 2s, --at 3.5,7,12, or --on mask-change")
    return AnyTrigger(triggers), period
