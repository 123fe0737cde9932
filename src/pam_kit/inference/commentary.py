"""A running commentary: frames go into a stream, and whatever there is to say comes out as it happens."""

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

from pam_kit.contracts import RegionPrompt
from pam_kit.data.video import Frame
from pam_kit.errors import PromptError
from pam_kit.inference.stream_records import FrameReport, StateChange, StreamEvent
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

    The stream speaks when ``trigger`` says so, when a clip is full and when the frames end.

    Args:
        frames: in the order of time.
        stream: is pushed every frame.
        trigger: when it speaks.
        prompts: where and when to point; the numbers of the regions are the stream's own. A frame that is not there,
            since a live source lost it, gives way to the next one.
        on_frame: is called with every frame once it was pushed, for example to draw it; the events of a frame are
            yielded behind the call.

    Raises:
        PromptError: a prompt does not fit the frames, or they ended before the one that it points into.
    """
    waiting: list[tuple[int, dict[int, RegionPrompt]]] | None = None
    for frame in frames:
        if waiting is None:
            height, width = frame.image.shape[:2]
            waiting = list(prompts_by_frame(prompts, width, height).items())
        while waiting and waiting[0][0] <= frame.index:
            for region, prompt in waiting.pop(0)[1].items():
                stream.prompt(prompt, region)
        report = stream.push(frame.image, frame.time)
        if on_frame is not None:
            on_frame(frame, report)
        for region, changes in report.transitions.items():
            yield from (StateChange(region, change) for change in changes)
        view = _view(frame, report, stream.follower.geometry.mask_size)
        reason = trigger.should_speak(view) or (FULL if stream.clip_is_full() else None)
        if reason and stream.regions:
            yield from stream.describe(reason=reason)
            trigger.spoken(view)
    if stream.unspoken:
        yield from stream.describe(reason=END)
    if waiting:
        frame_number, (region, *_) = waiting[0]
        raise PromptError(
            f"region {region} is to be pointed at in frame {frame_number}, but the last frame is {frame.index}"
        )


def _view(frame: Frame, report: FrameReport, size: tuple[int, int]) -> TriggerFrame:
    # By number: the order of the stream's regions may change.
    masks = [seen.coarse for _, seen in sorted(report.regions.items())]
    stacked = np.stack(masks) if masks else np.zeros((0, *size), dtype=bool)
    return TriggerFrame(frame.time, frame.index, frame.image, stacked)
