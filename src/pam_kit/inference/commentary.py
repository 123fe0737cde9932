"""A running commentary: frames go into a stream, and whatever there is to say comes out as it happens."""

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

from pam_kit.contracts import RegionPrompt
from pam_kit.data.video import Frame
from pam_kit.errors import PromptError
from pam_kit.inference.stream_records import Description, FrameReport, StateChange, StreamEvent
from pam_kit.inference.streamer import RegionStream
from pam_kit.inference.triggers import Trigger, TriggerFrame
from pam_kit.inference.video_result import FramePrompt, prompts_by_frame

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

    The stream speaks when ``trigger`` says so, of a region when its clip is full, and when the frames end. A region
    that is first pointed at in the very frame waits for the next time, where there are others to speak of.

    Args:
        frames: in the order of time.
        stream: is pushed every frame.
        trigger: when it speaks. Where it leaves off, ``stream`` and ``trigger`` are those of the same frame.
        prompts: where and when to point; the numbers of the regions are the stream's own. A frame that is not there,
            since a live source lost it, gives way to the next one.
        on_frame: is called with every frame once it was pushed, for example to draw it; the events of a frame are
            yielded behind the call.

    Raises:
        PromptError: a prompt does not fit the frames, or they ended before the one that it points into.
    """
    waiting: list[tuple[int, dict[int, RegionPrompt]]] | None = None
    last = stream.frames - 1
    for frame in frames:
        if waiting is None:
            height, width = frame.image.shape[:2]
            waiting = list(prompts_by_frame(prompts, width, height).items())
        while waiting and waiting[0][0] <= frame.index:
            for region, prompt in waiting.pop(0)[1].items():
                stream.prompt(prompt, region)
        followed, last = stream.regions, frame.index
        report = stream.push(frame.image, frame.time)
        with stream.latency.work("trigger"):
            view = _view(frame, report, stream.follower.geometry.mask_size)
            reason = trigger.should_speak(view)
        if on_frame is not None:
            on_frame(frame, report)
        for region, changes in report.transitions.items():
            yield from (StateChange(region, change) for change in changes)
        yield from _said(stream, trigger, view, reason, followed)
    if stream.unspoken:
        yield from stream.describe(reason=END)
    if waiting is None:  # no frame came
        waiting = [(one.frame, {one.region: one.prompt}) for one in sorted(prompts, key=lambda p: (p.frame, p.region))]
    if waiting:
        frame_number, (region, *_) = waiting[0]
        ended = f"the last frame is {last}" if last >= 0 else "there is no frame"
        raise PromptError(f"region {region} is to be pointed at in frame {frame_number}, but {ended}")


def _said(
    stream: RegionStream, trigger: Trigger, view: TriggerFrame, reason: str | None, followed: Sequence[int]
) -> list[Description]:
    """What is said at a frame, of which the trigger then knows; ``followed``: the regions before it."""
    if reason is None:
        told = stream.full_clips()
    else:
        told = [region for region in stream.regions if region in followed] or stream.regions
    said = stream.describe(told, reason or FULL) if told else []
    if said:
        trigger.spoken(view.of(told))
    elif reason is not None:
        trigger.passed(view)
    return said


def _view(frame: Frame, report: FrameReport, size: tuple[int, int]) -> TriggerFrame:
    """By the numbers of the regions, since the order of the stream's may change; nothing of those out of sight."""
    regions = sorted(report.regions)
    masks: np.ndarray = np.zeros((len(regions), *size), dtype=bool)
    for mask, region in zip(masks, regions, strict=True):
        seen = report.regions[region]
        mask[:] = seen.coarse & seen.in_sight
    return TriggerFrame(frame.time, frame.index, frame.image, masks, tuple(regions))
