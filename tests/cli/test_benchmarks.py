"""`pam-kit evaluate` on samples of published benchmarks: stopped, divided, judged, and on predictions of others."""

import json
import shutil
from pathlib import Path

import pytest

from pam_kit.cli import main
from pam_kit.errors import PamKitError
from pam_kit.evaluation.benchmark_run import RunChoices
from pam_kit.evaluation.benchmarks.registry import find_benchmark
from pam_kit.evaluation.benchmarks.samples.write import write_samples
from pam_kit.evaluation.campaign import Campaign
from pam_kit.evaluation.predictions.ledger import PredictionFile
from pam_kit.evaluation.records import read_records

SMALL = ["--device", "cpu", "--max-new-tokens", "3", "--frames", "2", "--pictures", "1"]
# Of a stream the first one.
FEW = ["--limit", "3"]
COUNTS = {"lvis": 3, "videorefer_d": 2, "activitynet_stream": 3}
# Pictures, clips and streams; none of their texts is scored by METEOR, whose Java takes long to start.
KINDS = {"lvis": "lvis-osprey-box", "videorefer_d": "videorefer_d-single-box"}
KINDS |= {"activitynet_stream": "activitynet_stream-released-box"}


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Samples of some benchmarks, a folder each."""
    root = tmp_path_factory.mktemp("benchmarks")
    write_samples(root, [*KINDS, "coco_text"])
    return root


@pytest.fixture
def score(run, data, capsys):
    """``score("lvis", *options)`` -> exit code, standard output and standard error."""

    def called(names: str, *options, out: Path) -> tuple[int, str, str]:
        code = main(
            ["evaluate", str(run), "--benchmark", names, "--data", str(data), "--out", str(out), *SMALL, *options]
        )
        told = capsys.readouterr()
        assert "Traceback" not in told.err
        return code, told.out, told.err

    return called


@pytest.fixture(scope="module")
def undisturbed(run, data, tmp_path_factory) -> Path:
    """The folder of a run that nothing happened to, with predictions of a few regions of each benchmark."""
    out = tmp_path_factory.mktemp("undisturbed")
    call = ["--benchmark", ",".join(KINDS), "--data", str(data), "--out", str(out), *SMALL, *FEW, "--no-score"]
    assert main(["evaluate", str(run), *call]) == 0
    return out


@pytest.fixture
def predicted(undisturbed, tmp_path) -> Path:
    """A copy of that folder, to go on with."""
    return Path(shutil.copytree(undisturbed, tmp_path / "predicted"))


def predictions(out: Path) -> dict[str, list]:
    """All predictions of a folder that nothing scored, sorted by id."""
    found = {}
    for name, folder in KINDS.items():
        records = [record for path in (out / folder).glob("part_*.jsonl") for record in read_records(path)]
        found[name] = sorted(records, key=lambda record: record.id)
        assert len({record.id for record in records}) == len(records)
    return found


def test_every_region_is_predicted(undisturbed):
    found = predictions(undisturbed)
    assert {name: len(records) for name, records in found.items()} == COUNTS
    assert all(record.prediction is not None for records in found.values() for record in records)


def test_a_run_that_was_killed_goes_on_and_ends_the_same(score, undisturbed, tmp_path, monkeypatch):
    add, left = PredictionFile.add, iter(range(2))

    def killed(self, records):
        add(self, records)
        if next(left, None) is None:
            raise KeyboardInterrupt

    monkeypatch.setattr(PredictionFile, "add", killed)
    assert score(",".join(KINDS), *FEW, "--no-score", out=tmp_path)[0] == 130
    monkeypatch.undo()
    written = [path for path in tmp_path.rglob("part_*.jsonl") if path.stat().st_size]
    written[-1].write_bytes(written[-1].read_bytes()[:-30])
    code, _, err = score(",".join(KINDS), *FEW, "--no-score", out=tmp_path)
    assert code == 0 and "its last line was cut off" in err
    assert predictions(tmp_path) == predictions(undisturbed)


def test_nothing_is_loaded_where_nothing_is_missing(score, predicted, monkeypatch):
    monkeypatch.setattr("pam_kit.checkpoints.load_model", None)
    assert score("lvis", *FEW, "--no-score", out=predicted)[0] == 0


def test_parts_are_the_same_as_one_run_and_the_last_one_scores(score, undisturbed, data, tmp_path):
    code, output, err = score("lvis", "--shard", "1/2", out=tmp_path)
    assert code == 0 and output == "" and "other parts are not done yet" in err
    assert not (tmp_path / "scores.md").exists()
    code, output, err = score("lvis", "--shard", "2/2", out=tmp_path)
    assert code == 0 and "| PAM-3B |" in output and "other parts" not in err
    merged = list(read_records(tmp_path / KINDS["lvis"] / "predictions.jsonl"))
    assert merged[:3] == predictions(undisturbed)["lvis"]
    # In the order of the benchmark, whoever predicted what.
    expected = find_benchmark("lvis").records(data / "lvis")
    assert [(one.id, one.references) for one in merged] == [(one.id, one.references) for one in expected]


def test_launchers_divide_a_run(score, undisturbed, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in "01":
        monkeypatch.setenv("RANK", rank)
        assert score("videorefer_d", "--no-score", out=tmp_path)[0] == 0
    assert predictions(tmp_path)["videorefer_d"] == predictions(undisturbed)["videorefer_d"]
    assert len(list(tmp_path.rglob("part_*_of_2.jsonl"))) == 2


@pytest.mark.slow  # three interpreters
def test_processes_of_one_machine(score, undisturbed, tmp_path):
    assert score("videorefer_d", "--processes", "2", "--no-score", out=tmp_path)[0] == 0
    assert predictions(tmp_path)["videorefer_d"] == predictions(undisturbed)["videorefer_d"]
    assert len(list(tmp_path.rglob("part_*_of_2.jsonl"))) == 2


def test_the_reports_have_our_row_and_those_of_the_paper(score, predicted):
    code, output, _ = score("lvis,videorefer_d", *FEW, out=predicted)
    assert code == 0 and "only 3 of 9 regions: not a number to compare" in output
    facts = json.loads((predicted / "scores.json").read_text())
    assert list(facts) == [KINDS["lvis"], KINDS["videorefer_d"]]
    lvis, judged = facts.values()
    assert set(lvis["scores"]) == {"osprey", "videorefer", "draw_and_understand"} and lvis["regions"] == 3
    assert judged["scores"] == {} and judged["not_judged"] == ["videorefer_bench_d"]
    about = lvis["about"]
    assert about["model"] == "small" and len(about["sha256"]) == 64 and about["prompt_type"] == "box"
    assert about["generation"] == {"decoding": "greedy", "max_new_tokens": 3} and about["variant"] == "osprey"
    assert any("all-MiniLM-L6-v2" in note for note in lvis["notes"])
    text = (predicted / "scores.md").read_text()
    assert text.splitlines()[0] in output and "not judged: give --judge-url" in text
    similarity = 100 * lvis["scores"]["osprey"]["semantic_similarity"]
    assert f"| small | here, osprey | {similarity:.1f} |" in text and "| PAM-3B |" in text and "| 88.6 | 78.3 |" in text
    page = (predicted / "report.html").read_text()
    assert page.count("<figure>") == 3 and page.count("data:image/jpeg;base64,") == 3
    items = [json.loads(line) for line in (predicted / KINDS["lvis"] / "items.jsonl").read_text().splitlines()]
    assert len(items) == 3 * 3 and {"semantic_similarity", "semantic_iou"} < items[0].keys()


def test_a_broken_picture_is_counted_told_and_scored_as_nothing(score, data, tmp_path):
    copy = tmp_path / "data"
    shutil.copytree(data / "lvis", copy / "lvis")
    picture = sorted(copy.rglob("*.jpg"))[0]
    picture.write_bytes(b"no picture")
    code, output, _ = score("lvis", "--data", str(copy), out=tmp_path / "out")
    assert code == 0 and "regions could not be read and count as empty texts" in output
    (facts,) = json.loads((tmp_path / "out" / "scores.json").read_text()).values()
    predictions = tmp_path / "out" / KINDS["lvis"] / "predictions.jsonl"
    told = [record for record in read_records(predictions) if "broken" in record.meta]
    assert 0 < facts["broken"] == len(told) < facts["regions"] == 9
    assert all(record.prediction is None and "is not a picture" in record.meta["broken"] for record in told)
    assert "is not a picture" in (tmp_path / "out" / "report.html").read_text()
    # The picture is mended: only its regions are predicted anew.
    shutil.copy(data / picture.relative_to(copy), picture)
    code, _, err = score("lvis", "--no-score", "--data", str(copy), out=tmp_path / "out")
    assert code == 0 and f"{len(told)} regions that could not be read are tried again" in err
    (part,) = predictions.parent.glob("part_*.jsonl")
    assert not any("broken" in record.meta for record in read_records(part))


def test_entries_that_cannot_be_used_are_told_too(score, data, tmp_path):
    copy = tmp_path / "data"
    shutil.copytree(data / "coco_text", copy / "coco_text")
    sorted(copy.rglob("*.jpg"))[0].write_bytes(b"no picture")
    code, output, _ = score("coco_text", "--data", str(copy), out=tmp_path / "out")
    assert code == 0 and "entries of the benchmark's files could not be used and are not in the numbers**" in output


def test_where_nothing_can_be_read_there_is_no_score(score, data, tmp_path):
    copy = tmp_path / "data"
    shutil.copytree(data / "lvis", copy / "lvis")
    for path in copy.rglob("*.jpg"):
        path.write_bytes(b"no picture")
    code, _, err = score("lvis", "--data", str(copy), out=tmp_path / "out")
    assert code == 2 and "not one of 9 regions could be read; the first one:" in err
    assert not (tmp_path / "out" / "scores.md").exists()


def rescored(path: Path, data: Path, out: Path, *options: str) -> dict:
    """The facts of ``scores.json`` after a file of predictions was scored on the benchmark that it is of."""
    name = path.parent.name.split("-")[0]
    call = ["--predictions", str(path), "--benchmark", name, "--data", str(data), "--out", str(out), *options]
    assert main(["evaluate", *call]) == 0
    (facts,) = json.loads((out / "scores.json").read_text()).values()
    return facts


def test_our_own_predictions_score_again_as_they_did(score, predicted, data, tmp_path):
    assert score("lvis", *FEW, out=predicted)[0] == 0
    ours = json.loads((predicted / "scores.json").read_text())[KINDS["lvis"]]
    file = predicted / KINDS["lvis"] / "predictions.jsonl"
    again = rescored(file, data, tmp_path / "again", *FEW)
    assert again["scores"] == ours["scores"] and again["notes"] == ours["notes"] and again["regions"] == 3
    # The mask that was predicted is on the page again.
    assert all("predicted" in one.meta for one in read_records(tmp_path / "again" / "predictions" / file.name))
    # Of fewer regions the file says too much, of more too little: both are told.
    fewer = rescored(file, data, tmp_path / "fewer", "--limit", "2")
    assert fewer["regions"] == 2 and "1 predictions in predictions.jsonl are of regions that are not" in str(fewer)
    assert "only 2 of 9 regions: not a number to compare" in fewer["notes"]
    whole = rescored(file, data, tmp_path / "whole")
    assert whole["regions"] == 9 and "6 of 9 regions of the benchmark are not in predictions.jsonl" in str(whole)


def test_a_limit_takes_whole_streams_of_predictions_too(data, tmp_path):
    records = find_benchmark("activitynet_stream").records(data / "activitynet_stream")
    path = tmp_path / "activitynet_stream-theirs" / "theirs.jsonl"
    path.parent.mkdir()
    path.write_text("\n".join(json.dumps({"id": one.id, "prediction": one.references[0]}) for one in records))
    facts = rescored(path, data, tmp_path / "out", "--limit", "1", "--protocol", "osprey")
    assert facts["regions"] == 3 and facts["scores"]["osprey"]["semantic_iou"] == 1


def test_what_a_run_left_out_and_could_not_read_is_told_of_its_predictions_too(score, data, tmp_path):
    copy = tmp_path / "data"
    for name in ("coco_text", "lvis"):
        shutil.copytree(data / name, copy / name)
        sorted((copy / name).rglob("*.jpg"))[0].write_bytes(b"no picture")
    assert score("coco_text,lvis", "--data", str(copy), out=tmp_path / "out")[0] == 0
    for run, ours in json.loads((tmp_path / "out" / "scores.json").read_text()).items():
        again = rescored(tmp_path / "out" / run / "predictions.jsonl", copy, tmp_path / run)
        assert ours["left_out"] + ours["broken"] > 0
        for what in ("left_out", "broken", "regions", "scores"):
            assert again[what] == ours[what]


def test_a_run_is_scored_by_the_protocol_that_is_named(score, predicted):
    code, output, _ = score("lvis", *FEW, "--protocol", "videorefer,ocr", out=predicted)
    assert code == 0 and "| small | here, videorefer |" in output and "here, osprey" not in output
    (facts,) = json.loads((predicted / "scores.json").read_text()).values()
    assert list(facts["scores"]) == ["videorefer", "ocr"]


def test_a_protocol_that_there_is_not_is_refused_before_a_model_is_loaded(score, tmp_path, monkeypatch):
    monkeypatch.setattr("pam_kit.checkpoints.load_model", None)
    code, _, err = score("lvis", "--protocol", "ospry", out=tmp_path)
    assert code == 2 and "no protocol 'ospry'; did you mean 'osprey'?" in err and not list(tmp_path.iterdir())


def test_predictions_of_somebody_else_in_the_short_form(tmp_path, capsys):
    path = tmp_path / "theirs.jsonl"
    pairs = [("Stop", "STOP"), ("open", "opem"), ("Café", " café"), ("", "exit")]
    path.write_text(
        "\n".join(json.dumps({"id": i, "prediction": p, "references": [r]}) for i, (p, r) in enumerate(pairs))
    )
    assert main(["evaluate", "--predictions", str(path), "--protocol", "ocr", "--out", str(tmp_path / "out")]) == 0
    assert "1 predictions are empty texts" in capsys.readouterr().out
    (facts,) = json.loads((tmp_path / "out" / "scores.json").read_text()).values()
    assert facts["scores"]["ocr"]["exact_lower_strip"] == 0.5


def test_a_protocol_that_fails_does_not_keep_the_others_from_their_numbers(tmp_path, capsys, monkeypatch):
    from pam_kit.evaluation.metrics import protocols

    score = protocols.score

    def without_java(records, protocol):
        if protocol == "captions_ptb":
            raise PamKitError("java is not installed")
        return score(records, protocol)

    monkeypatch.setattr(protocols, "score", without_java)
    path = tmp_path / "theirs.jsonl"
    path.write_text(json.dumps({"id": 1, "prediction": "exit", "references": ["EXIT"]}))
    call = ["evaluate", "--predictions", str(path), "--out", str(tmp_path / "out")]
    assert main([*call, "--protocol", "captions_ptb,ocr"]) == 2
    assert "captions_ptb could not be scored: java is not installed" in capsys.readouterr().err
    (facts,) = json.loads((tmp_path / "out" / "scores.json").read_text()).values()
    assert facts["scores"]["ocr"]["exact_lower"] == 1 and list(facts["failed"]) == ["captions_ptb"]
    assert "captions_ptb could not be scored" in (tmp_path / "out" / "scores.md").read_text()


def test_a_judge_gives_the_scores(score, predicted, judge):
    names = ("Subject Correspondence", "Appearance Description", "Temporal Description", "Hallucination Detection")
    judge.say("\n".join(f"{i}. {name}: {5 - i}; so" for i, name in enumerate(names, 1)))
    code, output, _ = score("videorefer_d", *judge.options, out=predicted)
    assert code == 0 and "| small | here, videorefer_bench_d | 4.00 | 3.00 | 2.00 | 1.00 | 2.50 |" in output
    assert (predicted / "judge.jsonl").is_file() and len(judge.requests) == 2
    # What the judge said is kept: the same call needs none.
    code, output, _ = score("videorefer_d", *judge.options, out=predicted)
    assert code == 0 and "| 2.50 |" in output and len(judge.requests) == 2


BENCHMARK = ["--benchmark", "lvis", "--data", "DATA", "--out", "OUT"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "what is to be scored? give RECIPE --checkpoint RUN"),
        (["pam_tiny"], "what is to be scored?"),
        (["RUN", "--benchmark", "lvis"], "needs --data DIR"),
        (["--benchmark", "lvis", "--data", "DATA"], "needs a run, as in evaluate RUN"),
        (
            ["RUN", "--benchmark", "lvs", "--data", "DATA", "--out", "OUT"],
            "unknown benchmark 'lvs'; did you mean 'lvis'?",
        ),
        (["RUN", "--benchmark", "lvis", "--data", "OUT/no", "--out", "OUT"], "no such folder; it should hold lvis/"),
        (["RUN", "--benchmark", "paco", "--data", "DATA", "--out", "OUT"], "the data of paco are not in"),
        (["RUN", *BENCHMARK, "--variant", "mine"], "lvis has no variant 'mine'"),
        (["RUN", *BENCHMARK, "--languages", "zh"], "lvis has no region in zh; its languages are en"),
        (["RUN", *BENCHMARK, "--judge-url", "http://127.0.0.1:1/v1"], "give both --judge-url and --judge-model"),
        (["OUT", *BENCHMARK], "is not a finished run"),
        (["RUN", "--predictions", "OUT/a.jsonl"], "leave the run out, or leave --predictions out"),
        (["--predictions", "OUT/a.jsonl", "--protocol", "ocr"], "no file"),
        (["--predictions", "OUT/b.jsonl"], "does not say what it is of: give --protocol, or --benchmark"),
        (["--predictions", "OUT/b.jsonl", "--protocol", "spice"], "no protocol 'spice'"),
        (
            ["--predictions", "OUT/b.jsonl", "--protocol", "ocr", "--limit", "1", "--languages", "en"],
            "--languages, --limit: these are for the regions of a benchmark: give --predictions FILE with --benchmark",
        ),
        (["--predictions", "OUT/b.jsonl", "--protocol", "ocr", "--data", "DATA"], "--data: this is for the regions"),
        (["--predictions", "OUT/b.jsonl", *BENCHMARK, "--languages", "zh"], "lvis has no region in zh"),
        (["--predictions", "OUT/b.jsonl", *BENCHMARK, "--no-score"], "--no-score: this is for a model that is asked"),
        (["pam_tiny", "--checkpoint", "RUN", "--limit", "3"], "--limit: this is for benchmarks and predictions, not"),
        (["RUN", *BENCHMARK, "--processes", "2", "--shard", "1/2"], "--shard is one process"),
    ],
)
def test_calls_that_are_no_good(run, data, tmp_path, capsys, arguments, message):
    (tmp_path / "b.jsonl").write_text(json.dumps({"id": 1, "prediction": "a", "references": ["b"]}))
    places = {"RUN": str(run), "DATA": str(data), "OUT": str(tmp_path)}
    words = [word.replace("OUT", places["OUT"]) if "OUT" in word else places.get(word, word) for word in arguments]
    assert main(["evaluate", *words]) == 2
    told = capsys.readouterr()
    assert message in told.err and told.err.startswith("pam-kit evaluate: ") and "Traceback" not in told.err


def test_predictions_of_another_run_are_not_gone_on_with(run, data, score, predicted):
    code, _, err = score("lvis", *FEW, "--max-new-tokens", "4", out=predicted)
    assert code == 2 and "holds predictions of another run: its generation is" in err and "give another --out" in err
    # Masks are another run, with a folder of its own.
    (masks,) = Campaign(str(run), ["lvis"], RunChoices(data, predicted, "mask")).runs
    assert masks.folder == predicted / "lvis-osprey-mask"
