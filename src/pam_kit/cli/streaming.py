"""The verbs that comment on what they see while it happens: stream, describe-long. Torch-free."""

import argparse
import json
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pam_kit.cli.arguments import add_verb, positive, tell
from pam_kit.cli.interruption import Interruption, until_reader_goes
from pam_kit.cli.prompting import (
    VIDEO_FORMATS,
    add_checkpoint,
    add_frame_source,
    add_prompts,
    add_questions,
    out_path,
    source_behind_points,
    tell_damage,
)
from pam_kit.cli.stream_setup import Begun, begin, chosen_trigger
from pam_kit.errors import PamKitError

if TYPE_CHECKING:
    from pam_kit.inference.long_description import LongDescription

SOURCE = "a video file, a folder of pictures, a camera (0, camera:0), an address (rtsp, http, ...), - for raw frames"


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
        "--save", metavar="FILE", help="write the stream's state there at its end or when it is stopped"
    )
    parser.add_argument(
        "--load",
        metavar="FILE",
        help="go on from a saved state, with its settings and regions; give the same --every, --at and --on",
    )
    parser.add_argument("--each-frame", action="store_true", help="also a line a frame: boxes, scores, latency")
    details = "Clip by clip, each with what was said before it, merged into one text with time stamps."
    parser = add_verb(verbs, "describe-long", long_description, "describe a long video in one text", details)
    _add_stream_options(parser)
    parser.add_argument("--clip", default="8s", metavar="TIME", help="length of a clip (default 8s)")
    parser.add_argument("--json", action="store_true", help="print JSON: passages with start, end and text")


def _add_stream_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", nargs="?", metavar="SOURCE", help=SOURCE)
    add_checkpoint(parser)
    add_prompts(parser, videos=True, only=True)
    add_questions(parser)
    add_frame_source(parser)
    parser.add_argument("--frames", type=positive, metavar="N", help="most frames of a clip that are read (default 16)")
    parser.add_argument(
        "--read-every", metavar="TIME", help="from one frame that is read to the next (default: so that N fill a clip)"
    )
    parser.add_argument("--no-carry", action="store_true", help="the last frame of a clip does not open the next one")
    parser.add_argument("--no-history", action="store_true", help="the next question does not quote the last answer")
    parser.add_argument("--no-memory", action="store_true", help="point anew at the last mask's box in every clip")
    parser.add_argument("--out", metavar="MP4", help="write the annotated video as it goes")


def stream(options: argparse.Namespace) -> None:
    """Print events of a stream as JSON lines while its frames come in."""
    options.source = options.source or source_behind_points(options.point, "stream video.mp4")
    out = _annotated_path(options)
    if options.save and Path(options.save).is_dir():
        raise PamKitError(f"--save {options.save} is a folder; give the name of a file")
    trigger, period = chosen_trigger(options)
    with ExitStack() as closing:
        begun = begin(options, period, out, closing, trigger)
        stopping = closing.enter_context(Interruption())
        with until_reader_goes():
            try:
                _comment(options, begun, trigger, stopping)
            finally:
                if options.save:
                    _save(begun, options.save, trigger)
                _sum_up(begun, trigger)


def _comment(options: argparse.Namespace, begun: Begun, trigger, stopping: Interruption) -> None:
    from pam_kit.inference.commentary import comment

    annotated, times = begun.annotated, begun.stream.latency

    def on_frame(frame, report) -> None:
        if annotated:
            with times.work("draw"):
                annotated.on_frame(frame, report)
        if options.each_frame:
            with times.work("tell"):
                _print_line(report.to_json())

    for event in comment(stopping.items(begun.coming()), begun.stream, trigger, begun.prompts, on_frame):
        if annotated:
            annotated.on_event(event)
        with times.work("tell"):
            _print_line(event.to_json())


def _save(begun: Begun, path: str, trigger) -> None:
    """Write the stream, unless it was stopped in the middle of its work: a frame would count twice when it goes on."""
    from pam_kit.inference.stream_state import save_stream

    if begun.stream.broken:
        left = f"{path} is left as it was" if Path(path).exists() else "nothing is saved"
        tell("stream", f"stopped in the middle of its work; {left}")
    else:
        save_stream(begun.stream, path, trigger)


def _sum_up(begun: Begun, trigger) -> None:
    """The last line, and on standard error what did not go as it was wanted."""
    from pam_kit.inference.triggers import AtTrigger

    damage = begun.frames.source.damage
    given = [one for one in trigger.triggers if isinstance(one, AtTrigger)]
    _tell_unsaid([time for one in given for time in one.missed], "no region was followed then")
    _tell_unsaid([time for one in given for time in one.remaining], "the frames ended before")
    if begun.stream.frames:  # else that is the error
        tell_damage("stream", damage)
    end = {"event": "end", **begun.stream.summary(), "dropped_frames": begun.frames.dropped, "damage": damage}
    _print_line(end)


def _tell_unsaid(times: list[float], why: str) -> None:
    if times:
        told = ", ".join(f"{time:g}" for time in times)
        tell("stream", f"nothing was said at {told} s, since {why}")


def _print_line(values: dict[str, Any]) -> None:
    print(json.dumps(values, ensure_ascii=False), flush=True)


def long_description(options: argparse.Namespace) -> None:
    """Print one text of a whole video; stopped by hand, of what was seen by then."""
    options.source = options.source or source_behind_points(options.point, "describe-long video.mp4")
    out = _annotated_path(options)
    from pam_kit.inference.long_description import describe_long, merged_descriptions
    from pam_kit.inference.stream_records import Description
    from pam_kit.inference.triggers import EveryTrigger, parse_seconds

    period = parse_seconds(options.clip)
    EveryTrigger(period)  # refuses a clip of no length before anything is loaded
    options.load = None
    said: list[Description] = []

    def on_event(event) -> None:
        if begun.annotated:
            begun.annotated.on_event(event)
        if isinstance(event, Description):
            said.append(event)

    with ExitStack() as closing:
        begun = begin(options, period, out, closing)
        stopping = closing.enter_context(Interruption())
        drawing = begun.annotated.on_frame if begun.annotated else None
        with until_reader_goes():
            try:
                frames = stopping.items(begun.coming())
                texts = describe_long(frames, begun.stream, period, begun.prompts, drawing, on_event)
            except KeyboardInterrupt:
                _print_long(merged_descriptions(said, begun.stream.settings), options)
                raise
            _print_long(texts, options)
        tell_damage("describe-long", begun.frames.source.damage)


def _print_long(said: "list[LongDescription]", options: argparse.Namespace) -> None:
    if options.json:
        print(json.dumps([one.to_json() for one in said], ensure_ascii=False, indent=1), flush=True)
        return
    for one in said:
        print(f"region {one.region}, {one.language}:\n{one.text()}", flush=True)


def _annotated_path(options: argparse.Namespace) -> Path | None:
    return out_path(options.out, "", VIDEO_FORMATS, "the annotated video is an mp4") if options.out else None
