"""Which frames of a published clip a record names. Torch-free until a clip is cut."""

from collections.abc import Sequence
from typing import TypeVar

Frame = TypeVar("Frame", int, str)


def spread(frames: Sequence[Frame], wanted: int) -> tuple[Frame, ...]:
    """``wanted`` frames of a clip, the first, which is pointed at, among them; all where there are fewer."""
    from pam_kit.data.clips import sampled_frames

    return tuple(frames[place] for place in sampled_frames(len(frames), wanted))


def spread_around(frames: Sequence[Frame], place: int, wanted: int) -> tuple[tuple[Frame, ...], int]:
    """``wanted`` frames, that at ``place`` among them and in order, and where it stands among these."""
    others = [frame for number, frame in enumerate(frames) if number != place]
    kept = spread([frames[place], *others], wanted)
    order = {frame: number for number, frame in enumerate(frames)}
    ordered = sorted(kept, key=order.__getitem__)
    return tuple(ordered), ordered.index(frames[place])
