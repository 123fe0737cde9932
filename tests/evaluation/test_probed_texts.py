"""A probe that was stopped goes on with what is still true of its model, its questions and its pictures."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from pam_kit.contracts import RegionPrompt
from pam_kit.errors import PamKitError
from pam_kit.evaluation import probing
from pam_kit.evaluation.faithfulness import ProbeSettings, TextFall
from pam_kit.evaluation.probed_texts import ProbedTexts
from pam_kit.evaluation.probing import probe_held_out, probe_records
from pam_kit.evaluation.records import RegionRecord
from pam_kit.inference.result import prompt_json
from pam_kit.sections import ComponentChoice, EvaluateSection, SplitChoice

BOX = "held_out / box"


def model(name: str | None = "a"):
    """A predictor of which is known which model it has; its likelihoods are its own."""
    return SimpleNamespace(sha256=name and 64 * name, level=-1.0 if name != "b" else -2.0)


@pytest.fixture
def probed(monkeypatch) -> list[str]:
    """The pictures that were really probed, in order."""
    seen: list[str] = []

    def probe_picture(predictor, picture, settings):
        seen.append(picture.source)
        falls = []
        for region in picture.regions:
            for one in region.questions:
                said = [("reference", text) for text in one.references] + [("answer", one.answer or "said")]
                falls += [
                    TextFall(region.id, one.task, one.language, source, one.question, text, 1, predictor.level)
                    for source, text in said
                ]
        return falls, []

    monkeypatch.setattr(probing, "probe_picture", probe_picture)
    return seen


@pytest.fixture
def held_out(tmp_path, probed):
    """``held_out(model(), tasks=[...], resume=False)`` -> the table, what was said, the pictures that were probed."""

    def call(predictor, resume: bool = True, settings=None, limit=None, samples: int = 3, **changes):
        micro = ComponentChoice("micro", {"num_samples": samples, "image_size": 64, "seed": 3})
        asked = {"dataset": micro, "tasks": ["recognize"], "languages": ["en"], "limit": limit} | changes
        section = EvaluateSection(splits={"held_out": SplitChoice(**asked)}, pictures=0)
        said: list[str] = []
        probed.clear()
        about = (predictor, section, settings or ProbeSettings(), tmp_path)
        table = probe_held_out(*about, resume=resume, say=said.append)
        return table[BOX], said, list(probed)

    return call


@pytest.fixture
def file(tmp_path):
    return tmp_path / "texts" / "held_out-box.jsonl"


def test_a_probe_goes_on_behind_its_last_whole_picture(held_out, file):
    whole, said, pictures = held_out(model(), resume=False)
    text = file.read_text()
    assert pictures == [f"micro standard seed 3:{i}" for i in range(3)] and not said
    lines = text.splitlines(keepends=True)
    assert json.loads(lines[0])["model"] == 64 * "a" and len(lines) == 1 + 3
    file.write_text("".join(lines[:3]) + lines[3][:20])
    again, said, pictures = held_out(model())
    assert again == whole and file.read_text() == text and pictures == ["micro standard seed 3:2"]
    assert said == ["held_out-box.jsonl: its last line was cut off after 20 bytes and is made anew"]
    again, said, pictures = held_out(model())
    assert again == whole and not said and not pictures
    # Without --resume all is anew.
    assert len(held_out(model(), resume=False)[2]) == 3 and file.read_text() == text


def test_likelihoods_of_another_model_are_never_taken_for_this_ones(held_out, file):
    held_out(model("a"), resume=False)
    text = file.read_text()
    with pytest.raises(
        PamKitError, match=f"another probe: its model is {64 * 'a'}, now {64 * 'b'}; leave out --resume"
    ):
        held_out(model("b"))
    with pytest.raises(PamKitError, match="its model is .*, now None"):
        held_out(model(None))
    assert file.read_text() == text
    table, _, pictures = held_out(model("b"), resume=False)
    assert len(pictures) == 3 and table["recognize en answer"]["nll"]["mean"] == 2
    # Two models that nobody can tell apart are not taken for one either.
    held_out(model(None), resume=False)
    with pytest.raises(PamKitError, match="not loaded from a run"):
        held_out(model(None))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"tasks": ["recognize", "caption"]}, r"its tasks is \['recognize'\], now \['recognize', 'caption'\]"),
        ({"languages": ["zh"]}, r"its languages is \['en'\], now \['zh'\]"),
        ({"samples": 2}, "its dataset is .*'num_samples': 3.*, now .*'num_samples': 2"),
        ({"settings": ProbeSettings("blur", "mask")}, "its fill is mean, now blur; its shape is box, now mask"),
    ],
)
def test_other_questions_settings_and_datasets_are_told(held_out, file, changes, told):
    held_out(model(), resume=False)
    text = file.read_text()
    with pytest.raises(PamKitError, match=told):
        held_out(model(), **changes)
    assert file.read_text() == text


def test_files_of_before_models_were_kept_and_of_something_else_are_refused(held_out, file):
    file.parent.mkdir(parents=True)
    file.write_text('{"settings": {"fill": "mean"}}\n{"picture": "micro standard seed 3:0", "texts": []}\n')
    with pytest.raises(PamKitError, match="its model is None, now a"):
        held_out(model())
    held_out(model(), resume=False)
    head, *lines = file.read_text().splitlines()
    file.write_text("\n".join([head, '{"picture": "x"}', *lines, ""]))
    with pytest.raises(PamKitError, match="jsonl:2: no line of a probe"):
        held_out(model())


def test_a_limited_probe_keeps_the_pictures_behind(held_out, file):
    held_out(model(), resume=False)
    text = file.read_text()
    table, said, pictures = held_out(model(), limit=1)
    assert not said and not pictures and file.read_text() == text
    assert table["recognize en answer"]["nll"]["n"] == len(json.loads(text.splitlines()[1])["texts"]) / 2
    assert held_out(model())[2] == []


def test_a_probe_that_is_killed_loses_no_whole_picture(held_out, file, probed, monkeypatch):
    held_out(model(), resume=False)
    text = file.read_text()

    def killed(*_):
        raise KeyboardInterrupt

    # As it puts the head in the place of a former file,
    monkeypatch.setattr("pam_kit.atomic_files.os.replace", killed)
    with pytest.raises(KeyboardInterrupt):
        held_out(model(), resume=False)
    assert file.read_text() == text
    monkeypatch.undo()
    # and in the middle of the second picture.
    probing_once = iter([([], [])])
    monkeypatch.setattr(probing, "probe_picture", lambda *_: next(probing_once, None) or killed())
    with pytest.raises(KeyboardInterrupt):
        held_out(model(), resume=False)
    assert len(file.read_text().splitlines()) == 1 + 1


def test_one_process_at_a_time_writes(tmp_path):
    with (
        ProbedTexts(tmp_path / "a.jsonl", {"model": "a"}, False),
        pytest.raises(PamKitError, match="another process"),
        ProbedTexts(tmp_path / "a.jsonl", {"model": "a"}, True),
    ):
        pass


@pytest.fixture
def records(tmp_path, probed):
    """``records({"a.png": "a cup"})`` -> what was said, and which pictures were probed."""
    for name, grey in (("a.png", 90), ("b.png", 120)):
        Image.fromarray(np.full((16, 16, 3), grey, dtype=np.uint8)).save(tmp_path / name)

    def call(predictions: dict[str, str | None], question: str = "?", resume: bool = True):
        prompt = prompt_json(RegionPrompt(box=(1.0, 2.0, 9.0, 8.0)))
        made = [
            RegionRecord(name, "cups", question, ("a cup", "a mug"), prediction, image=name, prompt=prompt)
            for name, prediction in predictions.items()
        ]
        said: list[str] = []
        probed.clear()
        about = (model(), made, tmp_path, ProbeSettings(), tmp_path / "out")
        probe_records(*about, resume=resume, examples=0, say=said.append)
        return said, list(probed)

    return call


def answers(tmp_path) -> dict[str, list[str]]:
    lines = (tmp_path / "out" / "texts" / "cups.jsonl").read_text().splitlines()[1:]
    assert len(lines) == 2
    return {
        line["picture"]: [fall["text"] for fall in line["texts"] if fall["source"] == "answer"]
        for line in map(json.loads, lines)
    }


def test_what_another_model_predicted_is_probed_anew_and_that_is_said(records, tmp_path):
    records({"a.png": "one", "b.png": "two"}, resume=False)
    assert records({"a.png": "one", "b.png": "two"}) == ([], [])
    said, pictures = records({"a.png": "one", "b.png": "another"})
    assert pictures == ["b.png"] and answers(tmp_path) == {"a.png": ["one"], "b.png": ["another"]}
    assert len(said) == 1 and said[0].startswith("cups.jsonl: 1 of its pictures are another picture now, or asked")
    said, pictures = records({"a.png": "1", "b.png": "2"})
    assert pictures == ["a.png", "b.png"] and "2 of its pictures" in said[0]
    assert answers(tmp_path) == {"a.png": ["1"], "b.png": ["2"]}


def test_other_questions_and_pixels_are_probed_anew(records, tmp_path):
    said = {"a.png": "one", "b.png": "two"}
    records(said, resume=False)
    assert records(said, question="Which?")[1] == ["a.png", "b.png"]
    Image.fromarray(np.full((16, 16, 3), 7, dtype=np.uint8)).save(tmp_path / "a.png")
    assert records(said, question="Which?")[1] == ["a.png"]
    # In the order of the records, as if it had been probed in one go.
    assert list(answers(tmp_path)) == ["a.png", "b.png"]


def test_all_references_are_on_the_disk_and_count_once(records, tmp_path):
    records({"a.png": None}, resume=False)
    line = (tmp_path / "out" / "texts" / "cups.jsonl").read_text().splitlines()[1]
    assert [fall["text"] for fall in json.loads(line)["texts"]] == ["a cup", "a mug", "said"]
    table = json.loads((tmp_path / "out" / "probe.json").read_text())["tables"]["cups"]
    assert table["caption en reference"]["nll"]["n"] == table["caption en answer"]["nll"]["n"] == 1
    assert "all references of a region count as one text" in (tmp_path / "out" / "probe.md").read_text()
