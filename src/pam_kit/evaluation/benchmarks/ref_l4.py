"""Long captions of regions: Ref-L4. Torch-free."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from pam_kit.errors import BrokenSample, MissingPackageError, PamKitError
from pam_kit.evaluation.benchmarks.contract import Benchmark, Headline, Reading, Variant
from pam_kit.evaluation.benchmarks.fields import json_lines, need, need_number, need_size, need_text
from pam_kit.evaluation.benchmarks.media import find_media
from pam_kit.evaluation.benchmarks.prompting import box_prompt
from pam_kit.evaluation.benchmarks.region_captions import VIDEOREFER_PAGE
from pam_kit.evaluation.records import RegionRecord

_PAGE = "https://huggingface.co/datasets/JierunChen/Ref-L4"
_COLUMNS = ("id", "caption", "bbox", "bbox_id", "image_id", "height", "width", "file_name")
_OBJECTS365 = "objects365"


def _parquet(name: str, split: str, what: str) -> Variant:
    return Variant(name, (f"ref-l4-{split}.parquet",), f"{what}, split {split}; needs pyarrow", _PAGE)


class RefL4(Benchmark):
    """Expressions of 24 words on average; the paper's Table 2."""

    name = "ref_l4"
    title = "Ref-L4"
    variants = (
        _parquet("single", "val", "an item an annotation, with one reference"),
        _parquet("grouped", "val", "an item a box, with all its captions as references"),
        _parquet("single_test", "test", "an item an annotation, with one reference"),
        _parquet("grouped_test", "test", "an item a box, with all its captions as references"),
        Variant(
            "videorefer",
            ("ref-l4-val.json",),
            "an item an annotation of split val, pictures of Objects365 alone, as VideoRefer does; JSON lines",
            VIDEOREFER_PAGE,
        ),
    )
    media = ("images", "")
    media_page = f"{_PAGE} (images.tar.gz)"
    task = "describe"
    protocols = ("captions_ptb",)
    headlines = (
        Headline("ROUGE_L", "captions_ptb", 2, "Ref-L4 ROUGE-L"),
        Headline("METEOR", "captions_ptb", 2, "Ref-L4 METEOR"),
        Headline("CIDEr", "captions_ptb", 2, "Ref-L4 CIDEr"),
    )
    decisions = (
        "split, grouping of the references and question of PAM are not published; here split val, one item an "
        "annotation, and the question for a detailed description. 'single' and 'grouped' are not comparable",
        "VideoRefer's later scripts, which say that they follow DAM, have GPT-4o shorten answers and references before "
        "they are scored; here nothing is shortened",
    )

    def _regions(self, reading: Reading) -> Iterator[tuple[str, Callable[[], RegionRecord | None]]]:
        path = reading.files(reading.variant.files[0])[0]
        rows = json_lines(path) if path.suffix == ".json" else parquet_rows(path)
        if not reading.variant.name.startswith("grouped"):
            for source, row in rows:
                yield source, partial(self._single, reading, source, row)
            return
        groups: dict[Any, list[tuple[str, Any]]] = {}
        for source, row in rows:
            key = (row.get("image_id"), row.get("bbox_id")) if isinstance(row, dict) else source
            groups.setdefault(key, []).append((source, row))
        for members in groups.values():
            yield members[0][0], partial(self._grouped, reading, members)

    def _single(self, reading: Reading, source: str, row: Any) -> RegionRecord | None:
        if isinstance(row, BrokenSample):
            raise row
        if reading.variant.name == "videorefer" and _OBJECTS365 not in need_text(row, "file_name", source):
            reading.counts["annotations on other pictures than Objects365's left out"] += 1
            return None
        return self._region(reading, source, row, str(need_number(row, "id", source)), [_caption(row, source)])

    def _grouped(self, reading: Reading, members: list[tuple[str, Any]]) -> RegionRecord:
        source, row = members[0]
        captions = [_caption(other, where) for where, other in members]
        return self._region(reading, source, row, f"box {need(row, 'bbox_id', object, source)}", captions)

    def _region(self, reading: Reading, source: str, row: Any, id: str, captions: list[str]) -> RegionRecord:
        prompt = box_prompt(row.get("bbox"), "xywh", need_size(row, source), source)
        image = find_media(reading.root, self.media, need_text(row, "file_name", source), source)
        return self._record(id, captions, image=image, prompt=prompt, group=image)


def parquet_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each row's place and its columns. Raises MissingPackageError without pyarrow, PamKitError for another file."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ModuleNotFoundError:
        raise MissingPackageError(
            f"{path.name} is a Parquet file, which needs pyarrow: pip install 'pam-kit[benchmarks]'"
        ) from None
    try:
        file = pyarrow.parquet.ParquetFile(path)
        if absent := [name for name in _COLUMNS if name not in file.schema_arrow.names]:
            raise PamKitError(f"{path} has no column {absent[0]!r}; there are {', '.join(file.schema_arrow.names)}")
        rows = file.read(list(_COLUMNS)).to_pylist()
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise PamKitError(f"{path} is not a complete Parquet file: {error}; download it again") from None
    for index, row in enumerate(rows, 1):
        yield f"{path.name}: row {index}", row


def _caption(row: Any, source: str) -> str:
    if isinstance(row, BrokenSample):
        raise row
    return need_text(row, "caption", source)
