"""Single frames of a video file by number, without starting anew where the next one wanted lies just ahead."""

from collections.abc import Iterator
from typing import Any

from pam_kit.data.video.files import FileVideo, Shown
from pam_kit.data.video.frames import Frame, VideoError


class FrameReader:
    """Reads frames by number; pickled without its decoder, which begins where the last frame was.

    Args:
        video: the file; several readers may share it.
    """

    def __init__(self, video: FileVideo):
        self.video = video
        self._going: Iterator[Shown] | None = None
        self._next = 0

    def read(self, index: int) -> Frame:
        """Frame ``index``; decoding goes on from the last one unless a key frame lies between.

        Raises VideoError where there is no such frame, also because the file is damaged before it.
        """
        if not 0 <= index < self.video.num_frames:
            raise VideoError(f"{self.video.name} has no frame {index}; its frames are 0 to {self.video.num_frames - 1}")
        if self._going is None or not self.video.key_frame(index) <= self._next <= index:
            self.close()
            self._going, self._next = self.video.pictures(index), index
        for shown in self._going:
            self._next = shown.index + 1
            if shown.index == index:
                return self.video.frame_of(shown)
        self.close()
        raise VideoError(self.video.damage or f"{self.video.name} has no frame {index}")

    def close(self) -> None:
        """Close the file; the next frame opens it again."""
        if self._going is not None:
            self._going.close()  # type: ignore[attr-defined]
            self._going = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_going": None}
