"""One pass over the video stream of an opened container: packets in, pictures out, and what went wrong on the way."""

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

import av
import numpy as np

from pam_kit.data.video.frames import VideoError, check_pixels


class Pass:
    """The pictures of a container, in the order of showing.

    Args:
        container: opened for reading; closed with ``close``.
        name: for error messages.
        tolerant: leave out packets that cannot be decoded, as of a live stream, instead of ending there.

    Attributes:
        stored_times: packets say when they are stored, not when they are shown, and the two orders differ.
        damage: why the pictures ended early, None while they have not.
        sound_before: the time, in ticks, before which the damage leaves no gap, None where that is unknown. With
            B-frames, pictures are stored before others that are shown before them.

    Raises VideoError where there is no video stream, or none that can be decoded.
    """

    def __init__(self, container: "av.container.InputContainer", name: str, tolerant: bool = False):
        self.container, self.stream, self._tolerant = container, _video_stream(container, name), tolerant
        self.damage: str | None = None
        self.sound_before: int | None = None
        codec = self.stream.codec_context
        self.stored_times = container.format.name in ("avi", "asf") and bool(codec.has_b_frames)
        check_pixels(name, codec.width or 1, codec.height or 1)

    @property
    def frame_rate(self) -> float | None:
        rate = self.stream.average_rate or self.stream.guessed_rate
        return float(rate) if rate else None

    def ticks(self, picture: av.VideoFrame) -> int | None:
        """When a picture is shown, None where nothing says so."""
        return picture.dts if self.stored_times else picture.pts

    def pictures(self) -> Iterator[av.VideoFrame]:
        """All pictures from here on; those before any damage, then ``damage`` is set."""
        for packet in self.packets():
            try:
                yield from self._sound(packet.decode())
            except av.FFmpegError as error:
                if not self._tolerant:
                    self._end(f"a packet cannot be decoded ({error.strerror})", packet.dts)
            if self.damage:
                break
        yield from self._held_back()

    def packets(self) -> Iterator["av.Packet"]:
        """The packets that hold pictures, in the order of the file; those before any damage, then ``damage`` is set."""
        packets, seen = self.container.demux(self.stream), _Seen()
        while True:
            try:
                packet = next(packets, None)
            except av.FFmpegError as error:
                return self._end(f"the file cannot be read on ({error.strerror})", seen.next_dts)
            if packet is None:
                return None
            if self._is_cut_off(packet) and not self._tolerant:
                return self._end("a packet is cut off or damaged", packet.dts)
            if packet.size:
                seen.add(packet)
                yield packet
            elif not self._tolerant and (missing := self._missing_end(seen)):
                return self._end(missing, seen.next_dts)

    def seek(self, pts: int) -> None:
        """Go to the key frame at or before ``pts``."""
        self.container.seek(pts, stream=self.stream, backward=True)

    def close(self) -> None:
        self.container.close()

    def _end(self, reason: str, dts: int | None) -> None:
        """Note the damage of a packet that was due to be decoded at ``dts``."""
        self.damage, self.sound_before = reason, dts

    def _sound(self, pictures: list[av.VideoFrame]) -> Iterator[av.VideoFrame]:
        for picture in pictures:
            if picture.is_corrupt and not self._tolerant:
                return self._end("a picture is damaged", picture.pts)
            yield picture

    def _is_cut_off(self, packet: "av.Packet") -> bool:
        """In a transport stream the mark only says that a counter jumped, as where two files were joined."""
        return packet.is_corrupt and self.container.format.name != "mpegts"

    def _held_back(self) -> Iterator[av.VideoFrame]:
        """What the decoder still holds to put it in order: all of it, or what is before the damage for certain."""
        sound_before = self.sound_before
        try:
            for picture in self._sound(self.stream.decode(None)):
                if sound_before is None or picture.pts is None or picture.pts < sound_before:
                    yield picture
        except av.FFmpegError as error:
            if self.damage is None and not self._tolerant:
                self._end(f"the last pictures cannot be decoded ({error.strerror})", None)

    def _missing_end(self, seen: "_Seen") -> str | None:
        """What is said where the file's head promises at least two more frames and the data hold none."""
        promised = _promised_end(self.container, self.stream)
        if promised is None or seen.last is None or seen.count < 2:
            return None
        tick = float(self.stream.time_base)
        start, shown = (self.stream.start_time or 0) * tick, seen.end * tick
        usual = (seen.last - seen.first) * tick / (seen.count - 1)
        if promised - shown < 2 * usual:
            return None
        return f"{promised - start:.2f} seconds were promised, {shown - start:.2f} are there"


@dataclass
class _Seen:
    """The packets so far: how many, the first and the last time of showing, and when the last one ends, in ticks.

    What comes next is decoded at ``next_dts`` at the earliest, so it is shown no earlier.
    """

    count: int = 0
    first: int = 0
    last: int | None = None
    end: int = 0
    next_dts: int | None = None

    def add(self, packet: "av.Packet") -> None:
        self.count += 1
        if packet.dts is not None:
            self.next_dts = packet.dts + 1
        if packet.pts is None:
            return
        self.first = packet.pts if self.last is None else min(self.first, packet.pts)
        if self.last is None or packet.pts > self.last:
            self.last, self.end = packet.pts, packet.pts + (packet.duration or 0)


def upright(picture: av.VideoFrame) -> np.ndarray:
    """(H, W, 3) uint8 RGB, turned by the rotation that the stream asks for."""
    image = picture.to_ndarray(format="rgb24")
    turns = round(picture.rotation / 90) % 4  # counter-clockwise, as numpy's
    return np.ascontiguousarray(np.rot90(image, turns)) if turns else image


def upright_size(picture: av.VideoFrame) -> tuple[int, int]:
    """(width, height) of ``upright``."""
    turned = round(picture.rotation / 90) % 2
    return (picture.height, picture.width) if turned else (picture.width, picture.height)


def _video_stream(container, name: str):
    found = [s for s in container.streams.video if not s.disposition & av.stream.Disposition.attached_pic]
    if not found:
        kinds = " and ".join(sorted({stream.type for stream in container.streams}))
        raise VideoError(f"{name} has no video stream, {f'only {kinds}' if kinds else 'nor any other'}")
    if found[0].codec_context is None:
        raise VideoError(
            f"{name}: the codec of its video stream is unknown to this build of FFmpeg ({av.ffmpeg_version_info}); "
            "convert it, for example: ffmpeg -i IN -c:v libx264 OUT.mp4"
        )
    return found[0]


def _promised_end(container, stream) -> float | None:
    """When the last picture should end by the file's head, in seconds, where that speaks of the video alone.

    MP4 tells the time from the first picture on, others mostly the end itself.
    """
    if container.format.name == "mpegts":  # computed from the packets, so it promises nothing
        return None
    if "DURATION" in stream.metadata:
        hours, minutes, seconds = stream.metadata["DURATION"].split(":")
        return int(hours) * 3600 + int(minutes) * 60 + float(seconds)
    if stream.duration:
        return float((stream.duration + (stream.start_time or 0)) * stream.time_base)
    if container.duration and len(container.streams) == 1:
        return float(Fraction(container.duration, av.time_base))
    return None
