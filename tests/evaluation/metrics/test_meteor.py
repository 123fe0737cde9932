"""METEOR 1.5: its formula by hand, its program on odd texts, and what happens where the program is broken."""

import json

import pytest

from pam_kit.errors import MissingPackageError, PamKitError
from pam_kit.evaluation.metrics import java as java_programs
from pam_kit.evaluation.metrics import meteor as program
from pam_kit.evaluation.metrics.meteor import corpus_score, meteor, segment_score


def statistics(words, function, stages, chunks, matched):
    """Those of a hypothesis and a reference that are alike in length and matches."""
    rows = [stages.get(stage, (0, 0)) for stage in range(4)]
    counts = [number for content, functional in rows for number in (content, content, functional, functional)]
    return tuple(map(float, (words, words, function, function, *counts, chunks, matched, matched)))


PERFECT = statistics(2, 0, {0: (2, 0)}, 1, 2)
HALF = statistics(2, 0, {0: (1, 0)}, 1, 1)


@pytest.mark.parametrize(
    ("one", "expected"),
    [
        (PERFECT, 1.0),  # no fragmentation where one chunk covers both sides
        (HALF, 0.5 * (1 - 0.6)),
        (statistics(2, 0, {1: (1, 0)}, 1, 1), 0.6 * 0.5 * 0.4),  # a stem is worth 0.6
        (statistics(2, 1, {0: (1, 0)}, 1, 1), 0.75 * 0.4),  # of one content and one function word, 0.75 and 0.25
        (statistics(4, 0, {0: (2, 0), 2: (1, 0)}, 2, 3), (2.8 / 4) * (1 - 0.6 * (2 / 3) ** 0.2)),
        (statistics(3, 1, {}, 0, 0), 0.0),
        (statistics(0, 0, {}, 0, 0), 0.0),
    ],
)
def test_score_of_a_segment_by_hand(one, expected):
    assert segment_score(one) == pytest.approx(expected, abs=1e-15)


def test_precision_and_recall_are_weighed():
    one = list(HALF)
    one[1] = 4.0  # reference words: precision 1/2, recall 1/4
    assert segment_score(tuple(one)) == pytest.approx(1 / (0.15 / 0.5 + 0.85 / 0.25) * 0.4, abs=1e-15)


def test_corpus_is_the_formula_on_sums_and_no_mean():
    by_hand = 0.75 * (1 - 0.6 * (1 / 3) ** 0.2)  # 3 of 4 words, one chunk: that of the perfect pair does not count
    assert corpus_score([PERFECT, HALF]) == pytest.approx(by_hand, abs=1e-15)
    assert abs(by_hand - (1.0 + 0.2) / 2) > 0.1


def test_golden_statistics_give_golden_scores(golden):
    tables = json.loads((golden.folder / "eval" / "golden_public.json").read_text(encoding="utf-8"))
    for mode in (tables["captions"]["ptb"], tables["streaming"]["no_tokenizer"]):
        rows = [(tuple(item["METEOR_stats"]), item["METEOR"]) for item in mode["items"].values()]
        for one, expected in rows:
            assert segment_score(one) == pytest.approx(expected, abs=1e-12)
        assert corpus_score([one for one, _ in rows]) == pytest.approx(mode["corpus"]["METEOR"], abs=1e-12)


def test_texts_that_would_shift_the_protocol_score_alone(java):
    plain = ["a red cup on the table", "a dog runs"]
    odd = ["a red\ncup on\r\nthe table", "a dog|||| runs ||| ||"]
    references = [["the cup on a table"], ["a dog \u2028runs\nfast", "EVAL ||| 1 2 3"]]
    both = meteor([*odd, *plain], [*references, *references])
    assert both.segments[0] == both.segments[2] > 0
    alone = meteor([odd[1]], [references[1]])
    assert both.segments[1] == alone.segments[0] > 0
    # Fields are counted, not only lines: the marks are gone, and what stood between them stays.
    assert meteor(["a dog"], [["a ||| dog"]]).segments[0] == 1.0


def test_empty_and_chinese_texts(java):
    scores = meteor(["", "cup", "杯子", "一只杯子", "\ud83d"], [["cup"], [""], ["杯子"], ["一个杯子"], ["cup"]])
    assert scores.segments[:3] == (0.0, 0.0, 1.0) and 0 < scores.segments[3] < 1
    assert scores.statistics[3][:2] == (4.0, 4.0)  # characters


def test_stems_synonyms_and_paraphrases_by_hand(java):
    """Beside an equal word, as content words: half of 1 + 0.6 and of 1 + 0.8; "the" weighs 0.25 beside 0.75 x 0.6."""
    predictions, references = ["red cups", "car park", "the road"], [["red cup"], ["automobile park"], ["the street"]]
    assert meteor(predictions, references).segments == pytest.approx((0.8, 0.9, 0.7), abs=1e-12)
    assert meteor(["red car"], [["a cup"]]).segments == (0.0,)


def test_the_best_reference_counts(java):
    best, single = meteor(["a red cup"] * 2, [["a dog", "a red cup", "cup"], ["a dog"]]).segments
    assert best == 1.0 > single


def test_one_process_serves_until_it_dies_and_then_another(fake_java):
    pytest.importorskip("pycocoevalcap.bleu.bleu_scorer")
    numbers = " ".join(str(number) for number in PERFECT)
    fake_java(f"read line; echo {numbers}; read line; echo {numbers}; read line; echo out of memory >&2")
    assert meteor(["a b"] * 2, [["a b"]] * 2).corpus == 1.0
    first = program._Process._shared
    with pytest.raises(PamKitError, match="the METEOR program has ended; its last words: out of memory"):
        meteor(["a b"], [["a b"]])
    assert meteor(["a b"], [["a b"]]).segments == (1.0,)
    assert program._Process._shared is not first and first.program.poll() is not None


def test_without_java(fake_java):
    fake_java(None)
    with pytest.raises(PamKitError, match="METEOR needs Java.*default-jre-headless"):
        meteor(["a"], [["a"]])


def test_without_the_package(monkeypatch):
    monkeypatch.setattr(program._Process, "_shared", None)
    monkeypatch.setattr(java_programs.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingPackageError, match="pip install 'pam-kit\\[eval\\]'"):
        meteor(["a"], [["a"]])


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("echo no heap >&2; exit 3", "has ended; its last words: no heap"),
        ("while read line; do echo 1.0 2.0; done", "answered b'1.0 2.0.n' where 23 numbers were expected"),
        ("while read line; do echo Error: odd; done", "answered b'Error: odd"),
        ("exec sleep 100", "said nothing for 0 s"),
    ],
)
def test_a_program_that_fails_is_no_score_and_no_wait(fake_java, monkeypatch, script, message):
    pytest.importorskip("pycocoevalcap.bleu.bleu_scorer")
    fake_java(script)
    monkeypatch.setattr(program, "_PATIENCE_SECONDS", 100.0 if "sleep" not in script else 0.2)
    with pytest.raises(PamKitError, match=message):
        meteor(["a"], [["a"]])
    assert program._Process._shared.program.poll() is not None
