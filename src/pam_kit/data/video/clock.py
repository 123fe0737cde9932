"""Times of pictures that are given one behind the other."""

from pam_kit.data.video.frames import PICTURE_RATE


class Clock:
    """Turns what a source says about time into seconds since its first frame, which never fall.

    A picture that says nothing comes a frame behind the one before. Where the source's clock jumps back, as where two
    files were joined or a camera begins anew, time goes on a frame behind the last picture.

    Args:
        first: the time of the source's first picture in ticks, None where its pictures say nothing about time.
        tick: seconds.
        frame_rate: frames a second, None where unknown.
    """

    def __init__(self, first: int | None, tick: float, frame_rate: float | None):
        self._first, self._tick, self._rate = first, tick, frame_rate or PICTURE_RATE
        self._told: float | None = None
        self._shift = self._latest = 0.0
        # The picture whose time was told last: what says nothing is counted from there.
        self._known = (0, 0.0)

    def time(self, index: int, ticks: int | None, otherwise: float | None = None) -> float:
        """When picture ``index`` is shown.

        Args:
            ticks: as the picture says, None where it says nothing.
            otherwise: seconds since the first picture by another clock, for a picture that says nothing.
        """
        told = otherwise if ticks is None or self._first is None else (ticks - self._first) * self._tick
        if told is None:
            before, seconds = self._known
            self._latest = max(seconds + (index - before) / self._rate, self._latest)
            return self._latest
        if self._told is not None and told < self._told:
            self._shift = self._latest + 1 / self._rate - told
        self._told = told
        # Behind a picture that was counted, a lower time is no jump.
        self._latest = max(told + self._shift, self._latest)
        self._known = (index, self._latest)
        return self._latest
