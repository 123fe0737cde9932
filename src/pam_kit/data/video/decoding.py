"""One pass over the video stream of an opened container: packets in, pictures out, and what went wrong on the way."""

from collections.abc import Iterator
from fractions import Fraction

import av
import numpy as np

from pam_kit.data.video.frames import VideoError, check_pixels

CUT_OFF = "a packet is cut off or damaged"


class Pass:
    """The pictures of a container, in the order of showing.

    Args:
        container: opened for reading; closed with ``close``.
        name: for error messages.
        tolerant: leave out packets that cannot be decoded, as of a live stream, instead of ending there.

    Attributes:
        damage: why the pictures ended early, None while they have not.

    Raises VideoError where there is no video stream, or none that can be decoded.
    """

    def __init__(self, container: "av.container.InputContainer", name: str, tolerant: bool = False):
        self.container, self.stream, self._tolerant = container, _video_stream(container, name), tolerant
        self.damage: str | None = None
        check_pixels(name, self.stream.codec_context.width or 1, self.stream.codec_context.height or 1)

    @property
    def frame_rate(self) -> float | None:
        rate = self.stream.average_rate or self.stream.guessed_rate
        return float(rate) if rate else None

    def pictures(self) -> Iterator[av.VideoFrame]:
        """All pictures from here on; those before any damage, then ``damage`` is set."""
        last, count = None, 0
        for last in self._decoded():  # noqa: B007 - also looked at behind the loop
            count += 1
            yield last
        if self.damage is None and last is not None and not self._tolerant:
            self.damage = self._missing_end(last, count)

    def packets(self) -> Iterator["av.Packet"]:
        """The packets that hold pictures, in the order of the file; those before any damage, then ``damage`` is set."""
        last, count = None, 0
        try:
            for packet in self.container.demux(self.stream):
                if self._is_cut_off(packet):
                    self.damage = CUT_OFF
                    return
                if packet.size:
                    last = packet if last is None or (packet.pts or 0) > (last.pts or 0) else last
                    count += 1
                    yield packet
        except av.FFmpegError as error:
            self.damage = f"the file cannot be read on ({error.strerror})"
            return
        self.damage = None if last is None else self._missing_end(last, count)

    def seek(self, pts: int) -> None:
        """Go to the key frame at or before ``pts``."""
        self.container.seek(pts, stream=self.stream, backward=True)

    def close(self) -> None:
        self.container.close()

    def _decoded(self) -> Iterator[av.VideoFrame]:
        packets = self.container.demux(self.stream)
        while True:
            try:
                packet = next(packets, None)
            except av.FFmpegError as error:
                self.damage = f"the file cannot be read on ({error.strerror})"
                break
            if packet is None:
                return
            try:
                yield from self._of_packet(packet)
            except av.FFmpegError as error:
                if not self._tolerant:
                    self.damage = f"a packet cannot be decoded ({error.strerror})"
            if self.damage:
                break
        yield from self._held_back()

    def _of_packet(self, packet: "av.Packet") -> Iterator[av.VideoFrame]:
        if self._is_cut_off(packet) and not self._tolerant:
            self.damage = CUT_OFF
            return
        for picture in packet.decode():
            if picture.is_corrupt and not self._tolerant:
                self.damage = "a picture is damaged"
                return
            yield picture

    def _is_cut_off(self, packet: "av.Packet") -> bool:
        """In a transport stream the mark only says that a counter jumped, as where two files were joined."""
        return packet.is_corrupt and self.container.format.name != "mpegts"

    def _held_back(self) -> Iterator[av.VideoFrame]:
        """The pictures before the damage that the decoder still holds to put them in order."""
        try:
            for picture in self.stream.decode(None):
                if not picture.is_corrupt:
                    yield picture
        except av.FFmpegError:
            return

    def _missing_end(self, last: "av.VideoFrame | av.Packet", count: int) -> str | None:
        """What is said where the file's head promises at least two more frames and the data hold none.

        ``count`` frames or packets were there, ``last`` was the last of them.
        """
        promised = _promised_seconds(self.container, self.stream)
        if promised is None or last.pts is None:
            return None
        before = float((last.pts - (self.stream.start_time or 0)) * self.stream.time_base)
        shown = before + float((last.duration or 0) * self.stream.time_base)
        usual = before / (count - 1) if count > 1 else promised
        if promised - shown < 2 * usual:
            return None
        return f"{promised:.2f} seconds were promised, {shown:.2f} are there"


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


def _promised_seconds(container, stream) -> float | None:
    """How long the video should be by the file's head, where that speaks of the video alone."""
    if container.format.name == "mpegts":  # computed from the packets, so it promises nothing
        return None
    if "DURATION" in stream.metadata:
        hours, minutes, seconds = stream.metadata["DURATION"].split(":")
        return int(hours) * 3600 + int(minutes) * 60 + float(seconds)
    if stream.duration:
        return float(stream.duration * stream.time_base)
    if container.duration and len(container.streams) == 1:
        return float(Fraction(container.duration, av.time_base))
    return None
