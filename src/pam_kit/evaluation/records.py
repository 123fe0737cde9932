"""One region of a benchmark: where it is, what is asked, what is expected and what was said. A line of JSON each."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from pam_kit.errors import PamKitError


@dataclass(frozen=True)
class RegionRecord:
    """A region in a picture, or in the frames of a video, and the texts about it.

    Args:
        id: unique within its benchmark.
        benchmark: its registered name.
        question: the words the model is asked in.
        references: what may be said, at least one; the scorers say how several are used.
        prediction: what was said; None where nothing was predicted yet, which every scorer counts as "".
        image: the picture's file, relative to the benchmark's root; "" for a video.
        video: the video's file or folder of frames, relative to the root; "" for a picture.
        frames: the frames that are read, in order: numbers in a video file, names in a folder; empty: all.
        frame_index: which of ``frames`` is pointed at.
        prompt: as ``pam_kit.inference.result.prompt_json`` writes it: box (x1, y1, x2, y2), points, labels, mask.
        task: one of ``pam_kit.tasks.TASKS``, for what is reported by task.
        language: of the answer.
        group: what is judged or streamed together: the picture, or the video whose events follow each other.
        meta: further facts of the benchmark that its scorer or judge reads.
    """

    id: str
    benchmark: str
    question: str
    references: tuple[str, ...]
    prediction: str | None = None
    image: str = ""
    video: str = ""
    frames: tuple[int | str, ...] = ()
    frame_index: int = 0
    prompt: dict[str, Any] = field(default_factory=dict)
    task: str = "caption"
    language: str = "en"
    group: str = ""
    meta: dict[str, Any] = field(default_factory=dict)

    @property
    def answer(self) -> str:
        """What was said; nothing at all counts as the empty text."""
        return self.prediction or ""

    def with_prediction(self, text: str) -> "RegionRecord":
        """The same region, with what was said about it."""
        return replace(self, prediction=text)

    def to_json(self) -> str:
        """One line."""
        return json.dumps(asdict(self), ensure_ascii=False)

    @classmethod
    def from_json(cls, line: str, source: str) -> "RegionRecord":
        """Raises PamKitError that starts with ``source``, such as ``predictions.jsonl:17``."""
        try:
            facts = json.loads(line)
        except json.JSONDecodeError as error:
            raise PamKitError(f"{source}: not JSON: {error}") from None
        if not isinstance(facts, dict):
            raise PamKitError(f"{source}: expected a JSON object, not {type(facts).__name__}")
        return cls.from_facts(facts, source)

    @classmethod
    def from_facts(cls, facts: dict[str, Any], source: str) -> "RegionRecord":
        """As ``from_json``, of what its line holds."""
        known, needed = set(cls.__dataclass_fields__), {"id", "benchmark", "question", "references"}
        if unknown := sorted(set(facts) - known):
            raise PamKitError(f"{source}: unknown key {unknown[0]!r}; the keys are {', '.join(sorted(known))}")
        if missing := sorted(needed - set(facts)):
            raise PamKitError(f"{source}: the key {missing[0]!r} is missing")
        references = facts["references"]
        if not isinstance(references, list) or not all(isinstance(text, str) for text in references) or not references:
            raise PamKitError(f"{source}: references must be a list of at least one text, not {references!r}")
        if not isinstance(facts.get("prediction"), str | None):
            raise PamKitError(f"{source}: prediction must be a text or null, not {facts['prediction']!r}")
        return cls(**facts | {"references": tuple(references), "frames": tuple(facts.get("frames", ()))})


def read_records(path: str | Path) -> Iterator[RegionRecord]:
    """The records of a JSONL file; a PamKitError names the file and line of what is none."""
    for source, line in numbered_lines(path, "JSON lines, one region each"):
        yield RegionRecord.from_json(line, source)


def numbered_lines(path: str | Path, expected: str) -> Iterator[tuple[str, str]]:
    """The lines of a text file that are not empty, each behind its place, such as ``predictions.jsonl:17``.

    Raises PamKitError, which says what was ``expected``, where there is no such file or it is not UTF-8.
    """
    path = Path(path)
    if not path.is_file():
        raise PamKitError(f"no file {path}; expected {expected}")
    try:
        with open(path, encoding="utf-8-sig") as lines:
            yield from ((f"{path.name}:{number}", line) for number, line in enumerate(lines, 1) if line.strip())
    except UnicodeDecodeError as error:
        raise PamKitError(f"{path} is not UTF-8: {error}; expected {expected}") from None
