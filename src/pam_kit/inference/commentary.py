"""A running commentary: frames go into a stream, and whatever there is to say comes out as it happens."""

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

from pam_kit.data.video import Frame
from pam_kit.errors import PromptError
from pam_kit.inference.stream_records import FrameReport, StateChange, StreamEvent
from pam_kit.inference.streamer import RegionStream
from pam_kit.inference.triggers import Trigger, TriggerFrame
from pam_kit.inference.video_result import FramePrompt

END, FULL = "end", "clip full"
OnFrame = Callable[[Frame, FrameReport], None]


def comment(
    frames: Iterable[Frame],
    stream: RegionStream,
    trigger: Trigger,
    prompts: Sequence[FramePrompt],
    on_frame: OnFrame | None = None,
) -> Iterator[StreamEvent]:
    """Push frames and yield what happens, as it happens: changes of presence, and descriptions.

    The stream speaks when ``trigger`` says so, when a clip is full and when the frames end.

    Args:
        frames: in the order of time.
        stream: is pushed every frame.
        trigger: when it speaks.
        prompts: where and when to point; the numbers of the regions are the stream's own.
        on_frame: is called with every frame once it was pushed, for example to draw it; the events of a frame are
            yielded behind the call.

    Raises:
        PromptError: the frames ended before one in which a region is to be pointed at.
    """
    waiting, unspoken = sorted(prompts, key=lambda one: (one.frame, one.region)), False
    for frame in frames:
        while waiting and waiting[0].frame <= frame.index:
            one = waiting.pop(0)
            stream.prompt(one.prompt, one.region)
        report = stream.push(frame.image, frame.time)
        if on_frame is not None:
            on_frame(frame, report)
        for region, changes in report.transitions.items():
            yield from (StateChange(region, change) for change in changes)
        unspoken |= bool(report.read)
        view = _view(frame, report)
        reason = trigger.should_speak(view) or (FULL if stream.clip_is_full() else None)
        if reason and stream.regions:
            yield from stream.describe(reason=reason)
            trigger.spoken(view)
            unspoken = False
    if waiting:
        raise PromptError(
            f"region {waiting[0].region} is to be pointed at in frame {waiting[0].frame}, "
            f"but the frames end with number {stream.frames - 1}"
        )
    if unspoken:
        yield from stream.describe(reason=END)


def _view(frame: Frame, report: FrameReport) -> TriggerFrame:
    masks = [seen.coarse for seen in report.regions.values()]
    return TriggerFrame(frame.time, frame.index, frame.image, np.stack(masks) if masks else np.zeros((0, 1, 1), bool))
