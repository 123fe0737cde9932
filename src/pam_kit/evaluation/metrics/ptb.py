"""Penn Treebank tokens of captions, as the COCO caption evaluation makes them. Torch-free.

Source: Chen et al., "Microsoft COCO Captions: Data Collection and Evaluation Server", arXiv 1504.00325, section 3.1;
the Stanford PTBTokenizer of CoreNLP 3.4.1 with its list of punctuation that is left out.
"""

import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from pam_kit.errors import PamKitError
from pam_kit.evaluation.metrics.java import coco_caption_file, java, line_bytes, one_line

_JAR = "tokenizer/stanford-corenlp-3.4.1.jar"
# After lower-casing, brackets read -lrb- and stay: the published list names them in capitals.
_LEFT_OUT = frozenset("'' ' `` ` -LRB- -RRB- -LCB- -RCB- . ? ! , : - -- ... ;".split())
# 5,000 captions take two seconds; a minute for the start, then a hundred times as long as that.
_START_SECONDS, _SECONDS_A_LINE = 60, 0.04
# Line -> tokens: several protocols score the same captions, and every start of Java takes a second.
_known: dict[str, str] = {}
_MOST_KNOWN = 200_000


def ptb_tokens(texts: Sequence[str]) -> list[str]:
    """Each text's tokens, lower-cased, without punctuation, one space between them.

    Raises:
        PamKitError: Java or pycocoevalcap is missing, the tokenizer fails or takes too long, or the lines that it
            gives back are not as many as the texts.
    """
    lines = [one_line(text) for text in texts]
    unknown = [line for line in dict.fromkeys(lines) if line not in _known]
    if unknown:
        if len(_known) > _MOST_KNOWN:
            _known.clear()
            unknown = list(dict.fromkeys(lines))
        _known.update(zip(unknown, _tokenised(unknown), strict=True))
    return [_known[line] for line in lines]


def _tokenised(lines: Sequence[str]) -> list[str]:
    command = [java("the PTB tokenizer"), "-XX:+UseSerialGC", "-Dfile.encoding=UTF-8"]
    command += ["-cp", str(coco_caption_file(_JAR, "the PTB tokenizer"))]
    command += ["edu.stanford.nlp.process.PTBTokenizer", "-preserveLines", "-lowerCase", "-encoding", "UTF-8"]
    with tempfile.TemporaryDirectory(prefix="pam-kit-ptb-") as folder:
        captions = Path(folder) / "captions.txt"
        captions.write_bytes(b"".join(line_bytes(line) + b"\n" for line in lines))
        try:
            done = subprocess.run(
                [*command, str(captions)],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=_START_SECONDS + _SECONDS_A_LINE * len(lines),
            )
        except subprocess.TimeoutExpired as error:
            raise PamKitError(
                f"the PTB tokenizer did not finish {len(lines)} captions in {error.timeout:.0f} s"
            ) from None
    if done.returncode:
        last = done.stderr.decode("utf-8", "replace").strip()[-500:]
        raise PamKitError(f"the PTB tokenizer failed with exit status {done.returncode}: {last}")
    found = done.stdout.decode("utf-8", "replace").removesuffix("\n").split("\n")
    if len(found) != len(lines):
        raise PamKitError(
            f"the PTB tokenizer gave back {len(found)} lines for {len(lines)} captions; one of them holds a character "
            "that it takes for the end of a line. Nothing is scored, since the captions could not be told apart"
        )
    return [" ".join(word for word in line.rstrip().split(" ") if word not in _LEFT_OUT) for line in found]
