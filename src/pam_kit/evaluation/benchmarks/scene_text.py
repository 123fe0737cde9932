"""Reading words in pictures: COCO-Text and Total-Text. Torch-free."""

import ast
import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from pam_kit.errors import BrokenSample, MissingPackageError, PamKitError
from pam_kit.evaluation.benchmarks.contract import Benchmark, Headline, Reading, Variant
from pam_kit.evaluation.benchmarks.fields import load_json, need, need_size, need_text, part_of
from pam_kit.evaluation.benchmarks.marked import PAGE as MARKED_PAGE
from pam_kit.evaluation.benchmarks.marked import MarkedRegion, marked_regions
from pam_kit.evaluation.benchmarks.media import PICTURES, find_media, picture_size
from pam_kit.evaluation.benchmarks.prompting import box_prompt, mask_prompt, polygon_box
from pam_kit.evaluation.records import RegionRecord

# "The text is: STOP" leads in to what is read; "TEL: 555" and "10:30" are read themselves.
_LEAD_IN = re.compile(
    r"""
    (?: (?:the\ )? (?:(?:written|printed|visible|recognized|recognised|marked)\ )?
        (?:text|words?|letters?|characters?|label|sign|transcription|category|answer|ocr)
        (?:\ (?:in|on|of|inside|within)\ (?:the|this)\ \w+(?:\ \w+)?)?
        (?:\ (?:is|are|reads?|says?))?
      | (?:it|this|that|the\ (?:region|subject|object|image|picture))\ (?:is|reads|says)
    )
    \s*:\s+(?=\S)""",
    re.IGNORECASE | re.VERBOSE,
)
_PROMPT = "no question is published for reading text; the words for naming are asked, as labels are what PAM trained on"
_LED_IN = "a lead-in such as 'The text is:' is dropped from an answer, unless the answer is right as it stands"


class _Reading(Benchmark):
    """What COCO-Text and Total-Text have in common."""

    task = "recognize"
    protocols = ("ocr",)

    def prepare_answer(self, text: str, references: Sequence[str] = ()) -> str:
        """Stripped, and without words that lead in to what is read, unless it is right with them."""
        text, right = text.strip(), {reference.lower().strip() for reference in references}
        while text.lower() not in right and (lead_in := _LEAD_IN.match(text)):
            text = text[lead_in.end() :]
        return text


class CocoText(_Reading):
    """Words in COCO pictures; the paper's Table 1."""

    name = "coco_text"
    title = "COCO-Text"
    variants = (
        Variant(
            "draw_and_understand",
            ("COCOText_box.json",),
            "a question a picture, with a box a word; the earlier file of PAM's first author",
            MARKED_PAGE,
        ),
        Variant(
            "val",
            ("cocotext.v2.json",),
            "COCO-Text 2.0, validation pictures: legible words that are not empty",
            "https://vision.cornell.edu/se3/coco-text-2/",
            ("box", "mask"),
        ),
        Variant(
            "test",
            ("cocotext.v2.json",),
            "COCO-Text 2.0, test pictures, where the file has their words",
            "https://vision.cornell.edu/se3/coco-text-2/",
            ("box", "mask"),
        ),
    )
    media = ("train2014", "images/train2014", "train2017", "val2017", "images", "")
    media_page = "https://cocodataset.org/#download (train2014)"
    headlines = (Headline("exact_lower_strip", "ocr", 1, "COCO-Text accuracy"),)
    decisions = (
        "PAM says 'test set', but the words of COCO-Text 2.0's test pictures are not public; which file it used is not "
        "published",
        _PROMPT,
        _LED_IN,
    )

    def _regions(self, reading: Reading) -> Iterator[tuple[str, Callable[[], RegionRecord | None]]]:
        path = reading.files(reading.variant.files[0])[0]
        if reading.variant.name == "draw_and_understand":
            for region in marked_regions(path):
                yield region.source, partial(self._marked, reading, region)
            return
        content = part_of(load_json(path), dict, path, "an object with imgs and anns")
        pictures = part_of(content.get("imgs"), dict, path, "an object imgs")
        for key, annotation in part_of(content.get("anns"), dict, path, "an object anns").items():
            source = f"{path.name}: annotation {key}"
            yield source, partial(self._annotated, reading, source, key, annotation, pictures)

    def _annotated(self, reading: Reading, source: str, key: str, annotation: Any, pictures: dict[str, Any]):
        picture = need(pictures, str(annotation.get("image_id")), dict, source) if annotation else None
        if need(picture, "set", str, source) != reading.variant.name:
            return None
        if need(annotation, "legibility", str, source) != "legible":
            reading.counts["illegible words left out"] += 1
            return None
        text = annotation.get("utf8_string", "")
        if not isinstance(text, str) or not text.strip():
            reading.counts["words without a transcription left out"] += 1
            return None
        size = need_size(picture, source)
        if reading.prompt_type == "mask":
            prompt = mask_prompt([need(annotation, "mask", list, source)], size, "mask", source)
        else:
            prompt = box_prompt(annotation.get("bbox"), "xywh", size, source)
        image = find_media(reading.root, self.media, need_text(picture, "file_name", source), source)
        return self._record(f"{key}", [text.strip()], image=image, prompt=prompt, group=image)

    def _marked(self, reading: Reading, region: MarkedRegion) -> RegionRecord:
        image, prompt = region.place(reading.root, self.media)
        id = f"{Path(image).stem}:{region.question_id}:{region.number}"
        return self._record(id, [region.own_answer()], image=image, prompt=prompt, group=image)


# One word: "x: [[1 2 3]], y: [[4 5 6]], ornt: [u'c'], transcriptions: [u'WORD']", arrays perhaps over several lines.
_LITERAL = r"""\[\s*(u?(?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"))?\s*\]"""
_WORD = re.compile(
    rf"x:\s*\[\[([\d\s,.-]*)\]\]\s*,\s*y:\s*\[\[([\d\s,.-]*)\]\]\s*,\s*ornt:\s*{_LITERAL}\s*,"
    rf"\s*transcriptions:\s*{_LITERAL}\s*,?\s*",
    re.DOTALL,
)
_WORD_START = re.compile(r"^(?=x:)", re.MULTILINE)
_DO_NOT_CARE = "#"


class TotalText(_Reading):
    """Words in pictures, many of them curved; the paper's Table 1."""

    name = "total_text"
    title = "Total-Text, test set"
    variants = (
        Variant(
            "polygons",
            ("**/poly_gt_img*.txt",),
            "a text file a picture, one word a line",
            "https://github.com/cs-chan/Total-Text-Dataset",
        ),
        Variant(
            "matlab",
            ("**/poly_gt_img*.mat",),
            "a MATLAB file a picture, with the variable polygt; needs SciPy",
            "https://github.com/cs-chan/Total-Text-Dataset",
        ),
    )
    media = ("Images/Test", "images/test", "Images", "images", "Test", "test", "")
    media_page = "https://github.com/cs-chan/Total-Text-Dataset (300 test pictures)"
    headlines = (Headline("exact_lower_strip", "ocr", 1, "Total-Text accuracy"),)
    decisions = ("the box is the axis-aligned one around a word's polygon", _PROMPT, _LED_IN)

    def _regions(self, reading: Reading) -> Iterator[tuple[str, Callable[[], RegionRecord | None]]]:
        paths = reading.files(reading.variant.files[0])
        kept = [path for path in paths if "train" not in map(str.lower, path.relative_to(reading.root).parts[:-1])]
        reading.notes.append(f"{len(kept)} pictures; the test set has 300")
        if len(kept) < len(paths):
            reading.counts["pictures of the training set left out"] += len(paths) - len(kept)
        read = matlab_words if reading.variant.name == "matlab" else text_words
        for path in kept:
            words = read(path)
            for number, word in enumerate(words, 1):
                yield f"{path.name}: word {number}", partial(self._word, reading, path, number, word)

    def _word(self, reading: Reading, path: Path, number: int, word: Any) -> RegionRecord | None:
        source = f"{path.name}: word {number}"
        if isinstance(word, BrokenSample):
            raise word
        xs, ys, orientation, text = word
        if _DO_NOT_CARE in (orientation, text):
            reading.counts["words marked 'do not care' left out"] += 1
            return None
        if not text.strip():
            reading.counts["words without a transcription left out"] += 1
            return None
        image = _picture(reading.root, self.media, path.stem.removeprefix("poly_gt_"), source)
        prompt = polygon_box(xs, ys, picture_size(reading.root / image), source)
        meta = {"orientation": orientation}
        id = f"{Path(image).stem}:{number}"
        return self._record(id, [text.strip()], image=image, prompt=prompt, group=image, meta=meta)


Word = tuple[list[float], list[float], str, str]


def text_words(path: Path) -> list[Word | BrokenSample]:
    """(xs, ys, orientation, transcription) of each word of a Total-Text text file; what cannot be read is said."""
    found: list[Word | BrokenSample] = []
    parts = [part for part in _WORD_START.split(path.read_text(encoding="utf-8-sig")) if part.strip()]
    for number, part in enumerate(parts, 1):
        match = _WORD.fullmatch(part)
        if not match:
            found.append(
                BrokenSample(f"{path.name}: word {number}", f"not of the published form: {part.strip()[:80]!r}")
            )
            continue
        xs, ys = ([float(v) for v in match[i].replace(",", " ").split()] for i in (1, 2))
        orientation, text = (str(ast.literal_eval(match[i])) if match[i] else "" for i in (3, 4))
        found.append((xs, ys, orientation, text))
    return found


def matlab_words(path: Path) -> list[Word | BrokenSample]:
    """The same of a MATLAB file: rows of ``polygt`` are 'x:', xs, 'y:', ys, text, orientation."""
    try:
        from scipy.io import loadmat
    except ModuleNotFoundError:
        raise MissingPackageError(
            f"{path.name} is a MATLAB file, which needs SciPy: pip install 'pam-kit[benchmarks]'; or read the variant "
            "polygons"
        ) from None
    try:
        rows = loadmat(path)["polygt"]
    except (ValueError, KeyError, OSError, NotImplementedError) as error:
        raise PamKitError(f"{path}: not a MATLAB file with the variable polygt: {error}") from None
    return [_matlab_word(row, f"{path.name}: word {number}") for number, row in enumerate(rows, 1)]


def _matlab_word(row: Any, source: str) -> Word | BrokenSample:
    if len(row) < 6:
        return BrokenSample(source, f"a row of polygt has six columns, not {len(row)}")
    xs, ys = ([float(v) for v in row[column].ravel()] for column in (1, 3))
    text, orientation = (str(row[column].ravel()[0]) if row[column].size else "" for column in (4, 5))
    return xs, ys, orientation, text


def _picture(root: Path, places: tuple[str, ...], stem: str, source: str) -> str:
    for ending in PICTURES:
        try:
            return find_media(root, places, f"{stem}{ending}", source)
        except BrokenSample:
            continue
    raise BrokenSample(source, f"no picture {stem} in {root} below {' or '.join(places)}")
