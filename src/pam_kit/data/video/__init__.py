"""Videos: whatever gives frames, opened and read ahead, and mp4 files written.

``open_video`` is the way in, ``BackgroundFrames`` decodes ahead, ``VideoWriter`` writes.
"""

from pam_kit.data.video.background import BackgroundFrames
from pam_kit.data.video.files import FileVideo, MemoryVideo
from pam_kit.data.video.frames import Frame, StoredVideo, VideoError, VideoSource
from pam_kit.data.video.listed import PictureVideo
from pam_kit.data.video.opening import open_video
from pam_kit.data.video.reader import FrameReader
from pam_kit.data.video.writing import VideoWriter

__all__ = [
    "BackgroundFrames",
    "FileVideo",
    "Frame",
    "FrameReader",
    "MemoryVideo",
    "PictureVideo",
    "StoredVideo",
    "VideoError",
    "VideoSource",
    "VideoWriter",
    "open_video",
]
