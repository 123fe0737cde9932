"""The judged protocols: what the judge is told, and what its scores add up to."""

import base64
import io
import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from pam_kit.errors import PamKitError
from pam_kit.evaluation.judging import items, judge, parsers
from pam_kit.evaluation.judging.asking import Judge
from pam_kit.evaluation.judging.judge import PROTOCOLS
from pam_kit.evaluation.records import RegionRecord

FACTS = "1. Subject Correspondence: {}\nExplanation: .\n2. Appearance Description: {}\n3. Temporal Description: {}\n"
FACTS += "4. Hallucination Detection: {}"
GROUPS = ("natural", "ocr", "screen", "multipanel")


def ferret(name: str, answer: str | None = "a red cup", **meta) -> RegionRecord:
    meta = {"context": f"Objects: cup {name}", **meta}
    return RegionRecord(name, "ferret", "What is this subject?", ("a cup",), answer, image="a.jpg", meta=meta)


def mdvp(name: str, file: str, domain: str, **facts) -> RegionRecord:
    meta = {"file": file, "domain": domain, **facts.pop("meta", {})}
    facts = {"image": "a.png", "prompt": {"box": [8, 8, 40, 30]}, "prediction": f"said {name}"} | facts
    return RegionRecord(name, "mdvp", "Describe it.", ("a cup",), meta=meta, **facts)


def video(name: str, answer: str | None = "it runs", group: str = "", **meta) -> RegionRecord:
    return RegionRecord(name, "videos", "Caption?", (" a dog runs",), answer, video="v.mp4", group=group, meta=meta)


def told(request) -> str:
    content = request["messages"][-1]["content"]
    return content if isinstance(content, str) else content[0]["text"]


def by(scripted, tmp_path, **changes) -> Judge:
    return Judge(scripted.settings(**changes), tmp_path / "transcript.jsonl", wait=lambda seconds: None)


@pytest.fixture
def pictures(tmp_path):
    Image.new("RGB", (64, 48), (200, 100, 50)).save(tmp_path / "a.png")
    return tmp_path


def test_perfect_replies_give_perfect_scores(scripted, pictures):
    scripted.say("10 10\nSame.")
    scores = judge.judge([ferret("a"), ferret("b")], "pairwise_ferret", by(scripted, pictures))
    assert scores.corpus == {"relative_score": 100, "relative_score_reference_compat": 100}
    domains = ("natural", "ocr_doc", "web", "multipanel")
    records = [mdvp(name, f"{name}_QA_box", name) for name in domains]
    scores = judge.judge(records, "pairwise_mdvp", by(scripted, pictures), root=pictures)
    assert set(scores.corpus.values()) == {100}
    metrics = {"relative_score", *GROUPS, *(f"{name}_QA_box" for name in domains)}
    assert scores.corpus.keys() == metrics | {f"{name}_reference_compat" for name in metrics}
    scripted.say(FACTS.format(5, 5, 5, 5))
    scores = judge.judge([video("a"), video("b")], "videorefer_bench_d", by(scripted, pictures))
    assert set(scores.corpus.values()) == {5} and {"SC", "AD", "TD", "HD", "Avg"} < scores.corpus.keys()
    scripted.say("Continuity Score: 5\nExplanation: .")
    scores = judge.judge([video("a", group="v")], "g_stdc", by(scripted, pictures))
    assert scores.corpus == {"G-STDC": 5, "G-STDC_reference_compat": 5} and scores.items == {"v": {"G-STDC": 5}}


def test_failures_are_told_and_left_out_never_zero(scripted, tmp_path):
    replies = {"one": "Continuity Score: 4", "two": "**Continuity Score:** 2", "three": "no idea", "four": (400, b"no")}
    scripted.script = lambda request: next(reply for name, reply in replies.items() if f"said {name}" in told(request))
    records = [video(name, f"said {name}", group=name) for name in replies]
    scores = judge.judge(records, "g_stdc", by(scripted, tmp_path))
    assert scores.corpus == {"G-STDC": 3, "G-STDC_reference_compat": 1}
    assert [item["G-STDC"] for item in scores.items.values()] == [4, 2, None, None]
    notes = "\n".join(scores.notes)
    assert "n 4, n_parsed 2, coverage 50.0 %" in notes and "2 of 4 questions failed" in notes
    assert "three: no scores could be read in 3 replies" in notes and "four: HTTP 400: no" in notes
    assert "judge judge-of-tests (answered as judge-of-tests-0601), temperature 0.0" in notes
    assert "6 calls, 35 tokens" in notes


def test_a_metric_that_nothing_was_read_for_is_absent(scripted, tmp_path):
    scripted.say(FACTS.format(5, 4, "N/A", 9))
    scores = judge.judge([video("a")], "videorefer_bench_d", by(scripted, tmp_path))
    assert {"SC": 5, "AD": 4}.items() <= scores.corpus.items() and not {"TD", "HD", "Avg"} & scores.corpus.keys()
    assert scores.corpus["HD_reference_compat"] == 9 and "TD_reference_compat" not in scores.corpus
    assert scores.items == {"a": {"SC": 5, "AD": 4, "TD": None, "HD": None}}
    assert "n 1, n_parsed 0" in "\n".join(scores.notes) and "parsed: SC 1, AD 1, TD 0, HD 0" in scores.notes


def test_a_judge_that_never_answers_is_an_error(scripted, tmp_path):
    scripted.say((403, b""))
    with pytest.raises(PamKitError, match="does not answer: HTTP 403"):
        judge.judge([video("a", group="v")], "g_stdc", by(scripted, tmp_path))


def test_a_video_is_told_in_the_order_of_its_events(scripted, tmp_path):
    scripted.say("Continuity Score: 3")
    records = [video("b", "second", "v", event=2), video("c", None, "w", event=1), video("a", "first", "v", event=1)]
    scores = judge.judge(records, "g_stdc", by(scripted, tmp_path, concurrency=1))
    assert list(scores.items) == ["v", "w"] and len(scripted.requests) == 2
    (message,) = scripted.requests[0]["messages"]
    assert message["role"] == "user"
    assert message["content"].endswith("Segment 1: a dog runs\nSegment 2: a dog runs\n\nPredicted segments:\n"
                                       "Segment 1: first\nSegment 2: second")  # fmt: skip
    assert "1 of 3 predictions are missing or empty" in "\n".join(scores.notes)


def test_facts_are_compared_in_words(scripted, tmp_path):
    scripted.say(FACTS.format(1, 2, 3, 4))
    scores = judge.judge([video("a", mode="single")], "videorefer_bench_d", by(scripted, tmp_path))
    system, user = scripted.requests[0]["messages"]
    assert system["role"] == "system" and user == {
        "role": "user",
        "content": "##Correct answer: a dog runs\n##Predicted answer: it runs\n",
    }
    assert scores.corpus["Avg"] == 2.5 and "mode single" in scores.notes


def test_the_reply_that_is_asked_for_is_one_that_can_be_read():
    """The form in the instructions, filled in, is read by both readers."""
    from pam_kit.evaluation.judging import video_texts

    form = video_texts._FACTS_ROLE[video_texts._FACTS_ROLE.index("1. Subject Correspondence: N") :]
    assert set(parsers.dimensions(form.replace("N", "3", 1).replace(": N", ": 3")).values()) == {3}
    assert parsers.published_videorefer(form.replace(": N", ": 3")) == dict.fromkeys(parsers.DIMENSIONS, 3)
    form = video_texts._CONTINUITY_ROLE[video_texts._CONTINUITY_ROLE.index("Continuity Score: N") :]
    assert parsers.continuity(form.replace("N", "2")) == 2 == parsers.published_continuity(form.replace("N", "2"))[0]


def test_two_boxes_of_a_question_are_one_pair(scripted, tmp_path):
    scripted.say("8 6\nFirst is better.")
    records = [
        ferret("b", "a ball [0.1, 0.2, 0.3, 0.4].", mark=2),
        ferret("a", "a cup", mark=1, judge_question="What are <1> and <2>?", reference_answer="a cup and a ball"),
    ]
    scores = judge.judge([replace(r, group="q7") for r in records], "pairwise_ferret", by(scripted, tmp_path))
    assert scores.items == {"q7": {"reference": 8, "answer": 6}} and scores.corpus["relative_score"] == 75
    text = told(scripted.requests[0])
    blocks = ["[Context]\nObjects: cup a", "[Question]\nWhat are <1> and <2>?", "[Assistant 1]\na cup and a ball\n["]
    blocks += ["[Assistant 2]\n<Region 1>: a cup\n<Region 2>: a ball.\n[", "[System]\n"]
    places = [text.index(block) for block in blocks]
    assert places == sorted(places)
    assert scripted.requests[0]["messages"][0]["role"] == "system"


def test_published_scripts_average_failures_in(scripted, tmp_path):
    replies = {"a": "8 4", "b": "8, 4", "c": "none"}
    scripted.script = lambda request: next(r for name, r in replies.items() if f"cup {name}" in told(request))
    scores = judge.judge([ferret(name) for name in replies], "pairwise_ferret", by(scripted, tmp_path))
    # (8, 4) and twice (-1, -1): means 2 and 0.667.
    assert scores.corpus == {"relative_score": 50, "relative_score_reference_compat": 33.4}
    assert scores.items["c"] == {"reference": None, "answer": None}


def test_swapped_answers_are_averaged(scripted, tmp_path):
    # A judge that gives 9 to what comes first and 6 to what comes second is no judge of their difference.
    scripted.say("9 6")
    plain = judge.judge([ferret("a")], "pairwise_ferret", by(scripted, tmp_path))
    assert plain.corpus["relative_score"] == pytest.approx(100 * 6 / 9)
    both = judge.judge([ferret("a")], "pairwise_ferret", by(scripted, tmp_path), swap_average=True)
    assert both.corpus["relative_score"] == 100 and both.items == {"a": {"reference": 7.5, "answer": 7.5}}
    assert both.corpus["relative_score_reference_compat"] == plain.corpus["relative_score_reference_compat"]
    assert len(scripted.requests) == 2 and "[Assistant 1]\na red cup\n" in told(scripted.requests[1])
    scripted.script = lambda request: "9 6" if "[Assistant 1]\na cup\n" in told(request) else "neither"
    half = judge.judge([ferret("b")], "pairwise_ferret", by(scripted, tmp_path), swap_average=True)
    assert half.items == {"b": {"reference": None, "answer": None}} and "relative_score" not in half.corpus


def test_a_file_a_group_and_the_mean_of_four_groups(scripted, pictures):
    grades = {"a": 5, "b": 10, "c": 8, "d": 6, "e": 4, "f": 2}
    files = {"a": "natural", "b": "natural", "c": "ocr_doc", "d": "android", "e": "web", "f": "multipanel"}
    records = [mdvp(name, f"{domain}_{name}_box", domain) for name, domain in files.items()]
    scripted.script = lambda request: f"10 {next(g for name, g in grades.items() if f'said {name}' in told(request))}"
    corpus = judge.judge(records, "pairwise_mdvp", by(scripted, pictures), root=pictures).corpus
    assert {name: corpus[name] for name in GROUPS} == {"natural": 75, "ocr": 80, "screen": 50, "multipanel": 20}
    assert corpus["natural_b_box"] == 100 and corpus["relative_score"] == pytest.approx(225 / 4)
    part = judge.judge(records[:3], "pairwise_mdvp", by(scripted, pictures), root=pictures)
    assert "relative_score" not in part.corpus and part.corpus["ocr"] == 80
    assert "not known: relative_score, relative_score_reference_compat" in part.notes


def test_a_mark_keeps_its_number_where_another_is_missing(scripted, pictures):
    scripted.say("5 5")
    records = [replace(mdvp(str(i), "f", "web", meta={"mark": i}), group="q") for i in (3, 1)]
    judge.judge(records, "pairwise_mdvp", by(scripted, pictures), root=pictures)
    assert "<Region 1>: said 1\n<Region 3>: said 3\n" in told(scripted.requests[0])


@pytest.mark.parametrize(("prompt", "share"), [({"box": [8, 8, 40, 30]}, 0.8), ({"points": [[30, 30]]}, 0.7)])
def test_the_judge_sees_the_marks(scripted, pictures, prompt, share):
    scripted.say("5 5")
    Image.new("RGB", (640, 480), (200, 100, 50)).save(pictures / "large.png")
    large = {name: np.multiply(value, 10).tolist() for name, value in prompt.items()}
    record = mdvp("a", "natural_QA_x", "natural", prompt=large, image="large.png")
    judge.judge([record], "pairwise_mdvp", by(scripted, pictures), root=pictures)
    text, picture = scripted.requests[0]["messages"][1]["content"]
    assert "<Region 1>: said a" in text["text"] and "<Region 1>: a cup" in text["text"]
    assert picture["type"] == "image_url" and picture["image_url"]["detail"] == "high"
    head, data = picture["image_url"]["url"].split(",")
    assert head == "data:image/jpeg;base64"
    shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))).astype(int)
    assert shown.shape == (480, 640, 3)
    assert np.abs(shown[470, 630] - np.array([200, 100, 50]) * share).max() < 6
    green = (shown[..., 1] > 180) & (shown[..., 0] < 90) & (shown[..., 2] < 90)
    assert (green[300 - 1, 200] and not green[290, 200] and not green[310, 200]) if "box" in prompt else green[300, 300]
    x, y = (80, 80) if "box" in prompt else (305, 305)
    tag = shown[y : y + 18, x : x + 18]
    assert (tag.max(-1) < 60).sum() > 40 and (tag.min(-1) > 180).sum() > 10  # black, and the number


@pytest.mark.parametrize(
    ("protocol", "records", "message"),
    [
        ("g_stcd", [video("a")], "no judged protocol 'g_stcd'; did you mean 'g_stdc'"),
        ("g_stdc", [], "no records"),
        ("g_stdc", [video("a")], "videos, a: no group"),
        (
            "g_stdc",
            [video("a", group="v", event=1), video("b", group="v", event=1)],
            "different numbers.*'event'.* 1, 1",
        ),
        ("g_stdc", [video("a", group="v", event=1), video("b", group="v")], "different numbers.*'event'.* 1, None"),
        ("g_stdc", [video("a", group="v", event="first")], "must be a number, not 'first'"),
        ("videorefer_bench_d", [video("a"), video("a")], "two records have the id 'a'"),
        ("pairwise_ferret", [ferret("a", context=" ")], "ferret, a: .*meta.'context'."),
        ("pairwise_ferret", [replace(ferret(n), group="q") for n in "ab"], "different numbers.*'mark'"),
        ("pairwise_mdvp", [mdvp("a", "", "natural")], "meta.'file'."),
        ("pairwise_mdvp", [mdvp("a", "f", "desert")], "unknown domain 'desert'; choose of: natural"),
        ("pairwise_mdvp", [mdvp("a", "f", "web", image="b.png")], "no picture .*b.png"),
        ("pairwise_mdvp", [mdvp("a", "f", "web", prompt={"mask": {}})], "a mark for the judge is a box or points"),
        (
            "pairwise_mdvp",
            [mdvp("a", "f", "web"), mdvp("b", "f", "web", prompt={"points": [[1, 1]]})],
            "judge them apart",
        ),
    ],
)
def test_what_cannot_be_judged_is_refused_before_the_first_call(scripted, pictures, protocol, records, message):
    with pytest.raises(PamKitError, match=message):
        judge.judge(records, protocol, by(scripted, pictures), root=pictures)
    assert not scripted.requests


def test_options_that_do_not_apply_are_refused(scripted, pictures):
    with pytest.raises(PamKitError, match="root folder"):
        judge.judge([mdvp("a", "f", "web")], "pairwise_mdvp", by(scripted, pictures))
    with pytest.raises(PamKitError, match="swap_average does not apply"):
        judge.judge([video("a", group="v")], "g_stdc", by(scripted, pictures), swap_average=True)
    (pictures / "a.png").write_bytes(b"no picture")
    with pytest.raises(PamKitError, match="a.png cannot be shown to the judge"):
        judge.judge([mdvp("a", "f", "web")], "pairwise_mdvp", by(scripted, pictures), root=pictures)


def test_offline_scores_are_those_of_the_run(scripted, pictures):
    scripted.say("9 7")
    records = [mdvp(name, f"{name}_QA_box", name) for name in items.DOMAINS]
    first = judge.judge(records, "pairwise_mdvp", by(scripted, pictures), root=pictures)
    asked = len(scripted.requests)
    offline = Judge(scripted.settings(), pictures / "transcript.jsonl", offline=True)
    assert judge.judge(records, "pairwise_mdvp", offline, root=pictures) == first and len(scripted.requests) == asked
    assert "image" not in (pictures / "transcript.jsonl").read_text()


def test_every_protocol_has_a_row_in_the_table_of_what_it_reads():
    assert all(f"| ``{name}`` |" in (items.__doc__ or "") for name in PROTOCOLS)
    assert set(items.DOMAIN_GROUPS) == set(GROUPS)


def test_progress_counts_the_questions(scripted, tmp_path):
    scripted.say("Continuity Score: 3")
    seen = []

    def progress(verdicts, total, desc):
        seen.append((total, desc))
        return verdicts

    scores = judge.judge([video(n, group=n) for n in "abc"], "g_stdc", by(scripted, tmp_path), progress=progress)
    assert seen == [(3, "g_stdc")] and json.loads(json.dumps(scores.corpus)) == scores.corpus
