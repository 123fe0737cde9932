"""Which frames of a published clip a record names. Torch-free until a clip is cut."""

from collections.abc import Sequence
from typing import TypeVar

Frame = TypeVar("Frame")


def spread(frames: Sequence[Frame], wanted: int) -> tuple[Frame, ...]:
    """``wanted`` frames of a clip, the first, which is pointed at, among them; all where there are fewer."""
    from pam_kit.data.clips import sampled_frames

    return tuple(frames[place] for place in sampled_frames(len(frames), wanted))


def spread_around(frames: Sequence[Frame], place: int, wanted: int) -> tuple[tuple[Frame, ...], int]:
    """``wanted`` frames, that at ``place`` among them and in order, and where it stands among these."""
    others = [number for number in range(len(frames)) if number != place]
    kept = sorted(spread([place, *others], wanted))
    return tuple(frames[number] for number in kept), kept.index(place)
