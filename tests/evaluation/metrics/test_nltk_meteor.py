"""NLTK's METEOR by hand, and where its WordNet comes from."""

import sys
from pathlib import Path

import pytest

from pam_kit.errors import MissingPackageError, PamKitError
from pam_kit.evaluation.metrics import nltk_meteor
from pam_kit.evaluation.metrics.nltk_meteor import NltkMeteor, wordnet_folder


def scored(prediction, *references):
    metric = NltkMeteor()
    metric.update([prediction], [references])
    return float(metric.compute()["METEOR_nltk"])


def by_hand(matches, words, reference_words, chunks):
    precision, recall = matches / words, matches / reference_words
    return precision * recall / (0.9 * precision + 0.1 * recall) * (1 - 0.5 * (chunks / matches) ** 3)


def test_formula_by_hand(wordnet):
    assert scored("A red, CUP.", "a red cup") == pytest.approx(by_hand(3, 3, 3, 1))
    assert scored("a red cup", "cup a red thing") == pytest.approx(by_hand(3, 3, 4, 2))
    assert scored("cups", "cup") == pytest.approx(by_hand(1, 1, 1, 1))  # a stem counts in full
    assert scored("a dog", "a hound") == pytest.approx(by_hand(2, 2, 2, 1))  # and a synonym
    assert scored("a car", "a automobile") == pytest.approx(by_hand(1, 2, 2, 1))  # but not one whose stem is no word
    assert scored("dog", "cup") == scored("", "cup") == 0
    assert scored("a cup", "x", "a cup") == pytest.approx(by_hand(2, 2, 2, 1))
    # Split at single spaces, as the script has it: two of them hold an empty word, and a line end is one.
    assert scored("red  cup", "red cup") == pytest.approx(by_hand(2, 3, 2, 2))
    assert scored("red\r\ncup", "red cup") == pytest.approx(by_hand(2, 2, 2, 1))


def test_it_says_that_it_is_another_meteor(wordnet):
    first, second = NltkMeteor("ptb").notes
    assert "not METEOR 1.5" in first and "PTB" in first and "WordNet" in second


def test_a_folder_that_is_named_has_to_hold_it(tmp_path, monkeypatch):
    with pytest.raises(PamKitError, match=f"{tmp_path} is none of WordNet: it lacks index.adj"):
        wordnet_folder(str(tmp_path))
    monkeypatch.setenv("PAM_KIT_WORDNET", str(tmp_path))
    with pytest.raises(PamKitError, match="of the variable PAM_KIT_WORDNET is none of WordNet"):
        wordnet_folder()
    for name in nltk_meteor._NEEDED:
        (tmp_path / name).touch()
    assert wordnet_folder() == tmp_path


def test_without_wordnet(monkeypatch):
    monkeypatch.delenv("PAM_KIT_WORDNET", raising=False)
    monkeypatch.setattr(nltk_meteor, "_usual_folders", lambda: [Path("/nowhere")])
    with pytest.raises(MissingPackageError, match="wn 0.0.23.*wordnet-base.*nltk.downloader.*PAM_KIT_WORDNET"):
        scored("a", "a")


def test_without_nltk(monkeypatch):
    monkeypatch.setitem(sys.modules, "nltk", None)
    with pytest.raises(MissingPackageError, match="needs the package nltk: pip install 'pam-kit\\[eval\\]'"):
        nltk_meteor._nltk_score("a folder that was not read before")


def test_unknown_tokenizer():
    with pytest.raises(PamKitError, match="no tokenizer 'none'"):
        NltkMeteor("none")
