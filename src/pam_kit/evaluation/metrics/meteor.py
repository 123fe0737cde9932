"""METEOR 1.5 by its authors' program, in one process that is kept, and its formula. Torch-free.

Source: Denkowski and Lavie, "Meteor Universal: Language Specific Translation Evaluation for Any Target Language",
WMT 2014; parameters of English, with normalisation, all four stages (exact, stem, synonym, paraphrase).
"""

import atexit
import math
import os
import queue
import subprocess
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import dataclass

from tqdm import tqdm

from pam_kit.errors import PamKitError
from pam_kit.evaluation.metrics.java import coco_caption_file, java, line_bytes, one_line

NOTE = "METEOR 1.5 of English (exact, stem, synonym, paraphrase), over summed statistics; best reference per region"
NUM_STATISTICS = 23
_ALPHA, _BETA, _GAMMA, _DELTA = 0.85, 0.2, 0.6, 0.75
_STAGE_WEIGHTS = (1.0, 0.6, 0.8, 0.6)
# The first answer waits for the table of paraphrases: half a minute, several on a busy machine.
_PATIENCE_SECONDS = 600.0

Statistics = tuple[float, ...]


@dataclass(frozen=True)
class MeteorScores:
    """``corpus``: the formula on the sum of ``statistics``; ``segments``: on those of each item."""

    corpus: float
    segments: tuple[float, ...]
    statistics: tuple[Statistics, ...]


def meteor(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> MeteorScores:
    """METEOR 1.5 of tokenised texts. Raises PamKitError where Java, or its answer, is missing."""
    process = _Process.shared()
    pairs = list(zip(predictions, references, strict=True))
    # The bar shows after five seconds, on a terminal only.
    shown = tqdm(pairs, desc="METEOR", unit="text", disable=None, leave=False, delay=5)
    statistics = tuple(process.statistics(prediction, several) for prediction, several in shown)
    return MeteorScores(corpus_score(statistics), tuple(map(segment_score, statistics)), statistics)


def segment_score(statistics: Statistics) -> float:
    """METEOR of one item, in [0, 1].

    Args:
        statistics: words of hypothesis and reference, function words of both; of each stage the matched content words
            of both and function words of both; chunks, matched words of both.
    """
    return _score(statistics, _chunks(statistics))


def corpus_score(statistics: Sequence[Statistics]) -> float:
    """METEOR of a corpus: the formula on sums, in which one chunk that covers both sides in full counts as none."""
    if not statistics:
        raise PamKitError("METEOR of no text at all")
    sums = tuple(math.fsum(column) for column in zip(*statistics, strict=True))
    return _score(sums, math.fsum(_chunks(one) for one in statistics))


def _chunks(one: Statistics) -> float:
    words, reference_words, chunks, matched, matched_reference = one[0], one[1], *one[20:]
    return 0.0 if chunks == 1 and matched == words and matched_reference == reference_words else chunks


def _score(sums: Statistics, chunks: float) -> float:
    words, reference_words, function, reference_function = sums[:4]
    weighted = [0.0, 0.0]
    for stage, weight in enumerate(_STAGE_WEIGHTS):
        content, reference_content, functional, reference_functional = sums[4 + 4 * stage : 8 + 4 * stage]
        weighted[0] += weight * (_DELTA * content + (1 - _DELTA) * functional)
        weighted[1] += weight * (_DELTA * reference_content + (1 - _DELTA) * reference_functional)
    lengths = (
        _DELTA * (words - function) + (1 - _DELTA) * function,
        _DELTA * (reference_words - reference_function) + (1 - _DELTA) * reference_function,
    )
    if not all(weighted) or not all(lengths):
        return 0.0
    precision, recall = weighted[0] / lengths[0], weighted[1] / lengths[1]
    f_mean = 1 / ((1 - _ALPHA) / precision + _ALPHA / recall)
    return f_mean * (1 - _GAMMA * (chunks / ((sums[21] + sums[22]) / 2)) ** _BETA)


class _Process:
    """The program on its pipes: a line in, a line out. A thread reads, so that no answer is waited for forever."""

    _shared: "_Process | None" = None
    _sharing = threading.Lock()

    def __init__(self) -> None:
        jar = coco_caption_file("meteor/meteor-1.5.jar", "METEOR")
        coco_caption_file("meteor/data/paraphrase-en.gz", "METEOR")
        command = [java("METEOR"), "-Xmx2G", "-XX:+UseSerialGC", "-Dfile.encoding=UTF-8", "-jar", str(jar)]
        self.owner = os.getpid()
        self.complaints = tempfile.TemporaryFile()
        self.program = subprocess.Popen(
            [*command, "-", "-", "-stdio", "-l", "en", "-norm"],
            cwd=jar.parent,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.complaints,
        )
        self.answers: queue.Queue[bytes] = queue.Queue()
        self.asking = threading.Lock()
        threading.Thread(target=self._read, daemon=True).start()
        atexit.register(self.close)

    @classmethod
    def shared(cls) -> "_Process":
        """The one process of this program; a new one after a failure, and after a fork."""
        with cls._sharing:
            if cls._shared is None or cls._shared.owner != os.getpid() or cls._shared.program.poll() is not None:
                cls._shared = cls()
            return cls._shared

    def statistics(self, prediction: str, references: Sequence[str]) -> Statistics:
        """Those against the reference that scores best."""
        texts = [_one_field(text) for text in (*references, prediction)]
        line = " ||| ".join(["SCORE", *texts])
        with self.asking:
            try:
                assert self.program.stdin is not None
                self.program.stdin.write(line_bytes(line) + b"\n")
                self.program.stdin.flush()
                answer = self.answers.get(timeout=_PATIENCE_SECONDS)
            except queue.Empty:
                raise self._failed(f"said nothing for {_PATIENCE_SECONDS:.0f} s") from None
            except OSError:
                answer = b""
            if not answer:
                raise self._failed("has ended")
            try:
                numbers = tuple(float(word) for word in answer.split())
            except ValueError:
                numbers = ()
            if len(numbers) != NUM_STATISTICS:
                raise self._failed(f"answered {answer[:200]!r} where {NUM_STATISTICS} numbers were expected")
        return numbers

    def close(self) -> None:
        """End the program."""
        if self.owner == os.getpid():
            self.program.kill()
            self.program.wait()

    def _read(self) -> None:
        assert self.program.stdout is not None
        for line in self.program.stdout:
            self.answers.put(line)
        self.answers.put(b"")

    def _failed(self, what: str) -> PamKitError:
        # Whatever it still says would be taken for the next answer: the next caller gets a new process.
        self.close()
        self.complaints.seek(0)
        last = self.complaints.read().decode("utf-8", "replace").strip()[-500:]
        return PamKitError(
            f"the METEOR program {what}"
            + (f"; its last words: {last}" if last else "")
            + ". It needs about 1.2 GB of memory; nothing is scored"
        )


def _one_field(text: str) -> str:
    """The text without what separates lines and fields, which would shift all that follows."""
    text = one_line(text)
    while "|||" in text:
        text = text.replace("|||", "")
    return text.replace("  ", " ")
