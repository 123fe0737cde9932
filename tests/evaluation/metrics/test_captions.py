"""CIDEr-D, ROUGE-L and BLEU by hand, and captions in Chinese."""

import math
import sys

import pytest

from pam_kit.errors import MissingPackageError, PamKitError
from pam_kit.evaluation.metrics import chinese
from pam_kit.evaluation.metrics.captions import CaptionScore, bleu, cider, rouge_l
from pam_kit.evaluation.metrics.chinese import character_tokens, jieba_tokens

pytest.importorskip("pycocoevalcap.cider.cider_scorer")


def test_cider_of_two_items_by_hand():
    """ "red" against "red cup": equal single words but for "cup", which both items have, so that it weighs nothing;
    no pairs; one pair of words shorter. "blue cup" against itself: two of the four lengths of n-grams."""
    corpus, items = cider(["red", "blue cup"], [["red cup"], ["blue cup"]])
    by_hand = [10 / 4 * math.exp(-1 / (2 * 36)), 5.0]
    assert [item["CIDEr"] for item in items] == pytest.approx(by_hand, abs=1e-12)
    assert corpus["CIDEr"] == pytest.approx(sum(by_hand) / 2, abs=1e-12)


def test_cider_averages_references_and_clips_counts():
    _, items = cider(["red red", "cup"], [["red", "dog"], ["cup"]])
    # One of two references is met, in one of four lengths; its count is 1 beside 2: cosine 1 x 1 / (2 x 1).
    assert items[0]["CIDEr"] == pytest.approx(10 * math.exp(-1 / 72) * 0.5 / 4 / 2, abs=1e-12)


def test_cider_of_one_item_and_of_empty_references_is_0():
    assert cider(["a red cup"], [["a red cup"]])[0] == {"CIDEr": 0.0}
    assert cider(["a", "b"], [["", " "], [""]]) == ({"CIDEr": 0.0}, [{"CIDEr": 0.0}] * 2)


def test_rouge_l_by_hand():
    """Common subsequences of 2 words of 4, and of 2 of 3; the second reference has the better recall, 1 of 1."""
    one = 2.44 * 0.5 * (2 / 3) / (2 / 3 + 1.44 * 0.5)
    several = 2.44 * 0.5 * 1.0 / (1.0 + 1.44 * 0.5)
    corpus, items = rouge_l(["a b c d", "a b c d", "x"], [["a c e"], ["a c e", "d"], ["y"]])
    assert [item["ROUGE_L"] for item in items] == pytest.approx([one, several, 0.0], abs=1e-12)
    assert corpus["ROUGE_L"] == pytest.approx((one + several) / 3, abs=1e-12)


def test_bleu_by_hand():
    """Three of four words and one of three pairs; the corpus adds counts, and the short text its brevity."""
    corpus, items = bleu(["a b x d", "a"], [["a b c d"], ["a b"]])
    assert items[0]["Bleu_1"] == pytest.approx(3 / 4, abs=1e-6)
    assert items[0]["Bleu_2"] == pytest.approx(math.sqrt(3 / 4 * 1 / 3), abs=1e-6)
    assert items[1]["Bleu_1"] == pytest.approx(math.exp(1 - 2), abs=1e-6)
    assert corpus["Bleu_1"] == pytest.approx(4 / 5 * math.exp(1 - 6 / 5), abs=1e-6)


def test_nothing_is_printed(capfd):
    bleu(["a"], [["a"]]), cider(["a"], [["a"]]), rouge_l(["a"], [["a"]])
    assert capfd.readouterr() == ("", "")


def test_characters_of_chinese():
    assert character_tokens(["一只２号 Cup，在左边。", "Red T-shirt (3.5)", "😀杯", ""]) == [
        "一 只 2 号 cup 在 左 边",
        "red t shirt 3 5",
        "😀 杯",
        "",
    ]


def test_chinese_is_scored_by_its_tokens_and_named(java):
    metric = CaptionScore("zh_characters")
    metric.update(["一只橘色的猫睡在窗台上", "红杯子"], [["一只橘色的猫趴在窗台上。"], ["蓝杯子"]])
    values = {name: float(value) for name, value in metric.compute().items()}
    assert "METEOR" not in values and 0 < values["METEOR_characters"] < 1
    assert values["Bleu_1"] == pytest.approx(12 / 14, abs=1e-6)  # 10 of 11 characters and 2 of 3
    assert metric.notes[0].startswith("Chinese characters") and "no Chinese" in metric.notes[1]
    assert values["ROUGE_L"] == pytest.approx((10 / 11 + 2 / 3) / 2, abs=1e-12)


def test_words_of_jieba():
    pytest.importorskip("jieba")
    found = jieba_tokens(["一只橘色的猫睡在窗台上。", "A Cup，红色"])
    assert found[0].replace(" ", "") == "一只橘色的猫睡在窗台上" and found[0].split()[:2] == ["一只", "橘色"]
    assert found[1].split()[:2] == ["a", "cup"]


def test_without_jieba(monkeypatch):
    monkeypatch.setitem(sys.modules, "jieba", None)
    with pytest.raises(MissingPackageError, match="pip install 'pam-kit\\[eval\\]'"):
        chinese._jieba.__wrapped__()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("words",), "no tokenizer 'words'; there are ptb, none, zh_characters, zh_jieba"),
        (("ptb", ("SPICE",)), "no metric 'SPICE' of captions; there are METEOR, CIDEr, ROUGE_L, Bleu"),
        (("zh_jieba",), "score it with zh_characters"),
    ],
)
def test_wrong_choices_are_named(arguments, message):
    with pytest.raises(PamKitError, match=message):
        CaptionScore(*arguments)
