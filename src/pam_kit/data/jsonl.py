"""The kit's own dataset file: a JSONL of pictures and their regions; ``pam_kit.data.schema`` has the format."""

from collections.abc import Iterator

from pam_kit.contracts import RegionSample
from pam_kit.data.lines import LineFile
from pam_kit.data.samples import load_sample, picture_folder, readable_texts
from pam_kit.data.schema import SampleRecord, parse_line
from pam_kit.registry import register


@register("dataset", "jsonl")
class JsonlDataset:
    """Pictures and their regions from a JSONL file.

    Args:
        path: the JSONL file, one picture a line.
        image_root: the folder that the pictures' paths are relative to; by default the file's own.
    """

    def __init__(self, path: str, image_root: str | None = None):
        self._lines = LineFile(path)
        self._image_root = picture_folder(self._lines.path.parent if image_root is None else image_root)

    def __len__(self) -> int:
        return len(self._lines)

    def record(self, index: int) -> SampleRecord:
        """Line ``index`` without its picture. Raises BrokenSample."""
        return parse_line(self._lines.read(index), self._lines.source(index))

    def __getitem__(self, index: int) -> RegionSample:
        return load_sample(self.record(index), self._image_root)

    def texts(self) -> Iterator[str]:
        """All texts of all readable lines; a broken line is reported where it is read as a sample."""
        return readable_texts(self.record, len(self))
