"""The region annotations released with PAM ("PAM-data"): one region a line, as a conversation about a picture.

A line is ``{"image": path, "conversations": [{"from": "human", "value": "<image>\\n..."}, {"from": "gpt", "value":
"..."}], "bbox": [x, y, width, height], "points": [[x, y], ...], "labels": [1, 1, 0]}``, with ``segmentation`` (RLE
or polygons) where there is a mask. ``bbox``, ``points`` and ``labels`` may be wrapped in one more list, as in the
clips, where they go by frame (``pam_kit.data.pam_clips``).

Paths are relative to a common root with one folder a source. Where a source is a table (Rexverse-2M is a TSV file),
its row n is the picture ``images/n.png``, counted from 0.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args

from pam_kit.contracts import RegionSample
from pam_kit.data.lines import LineFile
from pam_kit.data.samples import load_sample, picture_folder, readable_texts
from pam_kit.data.schema import SampleRecord, parse_entry, parse_json
from pam_kit.errors import BrokenSample, PamKitError
from pam_kit.registry import register
from pam_kit.tasks import QUESTIONS, TASKS

Prompts = Literal["box", "points", "both"]
# Annotated boxes overshoot the edge by rounding; by more than this they are in another convention.
BOX_TOLERANCE = 2.0
_IMAGE_PLACEHOLDER = "<image>"


@register("dataset", "pam_data")
class PamDataset:
    """Regions of the PAM-data release: pictures with boxes, points and texts in English or Chinese.

    Args:
        path: a JSONL file of the release.
        image_root: the folder that the pictures' paths are relative to; by default the file's own.
        prompts: box, points or both: which of a region's prompts is used where it has several.
        default_task: the task of a text whose question is not one of the kit's.
    """

    def __init__(
        self, path: str, image_root: str | None = None, prompts: Prompts = "box", default_task: str = "caption"
    ):
        if prompts not in get_args(Prompts):
            raise PamKitError(f"unknown prompts {prompts!r}; choose {', '.join(get_args(Prompts))}")
        check_default_task(default_task)
        self._lines = LineFile(path)
        self._image_root: Path = picture_folder(self._lines.path.parent if image_root is None else image_root)
        self._prompts, self._default_task = prompts, default_task

    def __len__(self) -> int:
        return len(self._lines)

    def record(self, index: int) -> SampleRecord:
        """Line ``index`` without its picture. Raises BrokenSample."""
        line, source = self._lines.read(index), self._lines.source(index)
        return parse_picture_line(line, source, self._prompts, self._default_task)

    def __getitem__(self, index: int) -> RegionSample:
        return load_sample(self.record(index), self._image_root, BOX_TOLERANCE)

    def texts(self) -> Iterator[str]:
        """All answers of all readable lines; a broken line is reported where it is read as a sample."""
        return readable_texts(self.record, len(self))


def check_default_task(task: str) -> None:
    """PamKitError where ``task`` is none of the kit's."""
    if task not in TASKS:
        raise PamKitError(f"unknown default_task {task!r}; choose {', '.join(TASKS)}")


def parse_picture_line(line: str, source: str, prompts: Prompts = "box", default_task: str = "caption") -> SampleRecord:
    """A picture's line of PAM-data -> SampleRecord with one region. Raises BrokenSample, for clips too."""
    entry = parse_json(line, source)
    if "frames" in entry or "annotations" in entry or entry.get("type") == "video":
        raise BrokenSample(source, "a clip; this dataset reads pictures, the dataset pam_clips reads clips")
    region: dict[str, Any] = {
        "id": str(entry.get("obj_id") or "0"),
        "texts": conversation_texts(entry.get("conversations"), source, default_task),
    }
    if entry.get("segmentation"):
        region["mask"] = entry["segmentation"]
    has_box, has_points = bool(entry.get("bbox")), bool(entry.get("points"))
    if has_box and (prompts != "points" or not has_points):
        region["box"] = corners(unwrapped(entry["bbox"], 1), source)
    if has_points and (prompts != "box" or not has_box):
        region["points"] = unwrapped(entry["points"], 2)
        region["labels"] = unwrapped(entry.get("labels"), 1)
    return parse_entry({"image": entry.get("image"), "regions": [region]}, source)


def conversation_texts(conversations: Any, source: str, default_task: str) -> dict[str, dict[str, str]]:
    """Turns of "human" and "gpt" -> task -> language -> text. Raises BrokenSample where they are not in pairs."""
    if not isinstance(conversations, list) or not conversations or len(conversations) % 2:
        raise BrokenSample(source, "conversations must be pairs of a question and an answer")
    texts: dict[str, dict[str, str]] = {}
    for question, answer in zip(conversations[0::2], conversations[1::2], strict=True):
        words = _words(question, "human", source)
        task, language = task_of(words, default_task), language_of(words)
        if language in texts.setdefault(task, {}):
            raise BrokenSample(source, f"two answers for the task {task} in {language}")
        texts[task][language] = _words(answer, "gpt", source).strip()
    return texts


def task_of(question: str, default: str) -> str:
    """The task that a question's words ask for, or ``default`` where they are none of the kit's questions."""
    words = _bare(question)
    for task, by_language in QUESTIONS.items():
        if words in (_bare(known) for known in by_language.values()):
            return task
    return default


def language_of(text: str) -> str:
    """zh where the text has a Chinese character, else en."""
    return "zh" if any("\u3400" <= character <= "\u9fff" for character in text) else "en"


def corners(box: Any, source: str) -> list[float]:
    """[x, y, width, height] -> [x1, y1, x2, y2]. Raises BrokenSample for anything else."""
    if not isinstance(box, list) or len(box) != 4 or not all(type(v) in (int, float) for v in box):
        raise BrokenSample(source, f"bbox must be one box [x, y, width, height], not {box!r}")
    x, y, width, height = box
    if not (width > 0 and height > 0):
        raise BrokenSample(source, f"bbox {box} must be [x, y, width, height] with a width and a height above 0")
    return [x, y, x + width, y + height]


def unwrapped(value: Any, depth: int) -> Any:
    """``value`` without an outermost list of one element, where it is nested deeper than ``depth`` lists."""
    nested, levels = value, 0
    while isinstance(nested, list) and nested:
        nested, levels = nested[0], levels + 1
    return value[0] if levels > depth and len(value) == 1 else value


def _words(turn: Any, speaker: str, source: str) -> str:
    if not isinstance(turn, dict) or turn.get("from") != speaker or not isinstance(turn.get("value"), str):
        raise BrokenSample(source, f'a turn must be {{"from": "{speaker}", "value": text}}, not {turn!r}')
    return turn["value"]


def _bare(question: str) -> str:
    return question.replace(_IMAGE_PLACEHOLDER, "").strip().rstrip(".。").casefold()
