"""Each published benchmark from its files to its row of the table: what a model says of it, and perfect answers."""

import json
import re
from pathlib import Path

import pytest

from pam_kit.cli import main
from pam_kit.evaluation.benchmarks.registry import BENCHMARKS
from pam_kit.evaluation.benchmarks.samples.write import write_samples
from pam_kit.evaluation.records import read_records
from pam_kit.inference.result import prompt_from_json

SMALL = ["--device", "cpu", "--max-new-tokens", "3", "--frames", "2", "--limit", "2"]
# Of a stream all events.
COUNTS = {"activitynet_stream": 3}
# How a failure ends for want of what is not installed everywhere; any other one is ours.
LACKING = re.compile(r"could not be scored: .*(?:needs Java|pip install 'pam-kit\[eval\]').*")


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """The samples of all benchmarks, a folder each."""
    pytest.importorskip("pyarrow", reason="pyarrow writes the file of Ref-L4: pip install 'pam-kit[benchmarks]'")
    pytest.importorskip("scipy", reason="SciPy writes files of Total-Text: pip install 'pam-kit[benchmarks]'")
    root = tmp_path_factory.mktemp("all_benchmarks")
    write_samples(root)
    return root


@pytest.fixture
def evaluate(judge, data, tmp_path, capsys):
    """``evaluate("lvis", ...)`` -> the facts of ``scores.json``, and our rows of the table, protocol -> cells."""

    def called(name: str, *options: str) -> tuple[dict, dict[str, list[str]]]:
        out = tmp_path / "out"
        call = [*options, "--benchmark", name, "--data", str(data), "--out", str(out), *judge.options]
        code = main(["evaluate", *call])
        told = capsys.readouterr()
        assert "Traceback" not in told.err
        if code and (lacking := LACKING.search(told.err)):
            pytest.skip(lacking[0])
        assert code == 0, told.err
        (facts,) = json.loads((out / "scores.json").read_text()).values()
        lines = [[cell.strip() for cell in line.split("|")[2:-1]] for line in told.out.splitlines() if line[:1] == "|"]
        ours = [cells for cells in lines if cells[0].startswith("here, ")]
        return facts, {protocol.removeprefix("here, "): cells for protocol, *cells in ours}

    return called


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_model_answers_and_is_scored(evaluate, run, data, tmp_path, name):
    benchmark = BENCHMARKS[name]
    facts, rows = evaluate(name, str(run), *SMALL)
    count = COUNTS.get(name, 2)
    assert facts["regions"] == count and facts["broken"] == facts["left_out"] == 0
    assert not facts["not_judged"] and not facts["failed"]
    # A row a protocol, with a number under each headline of it; MDVP's mean needs pictures of all four groups.
    assert list(facts["scores"]) == list(rows) == list(benchmark.protocols)
    for place, headline in enumerate(benchmark.headlines):
        value = facts["scores"][headline.protocol].get(headline.metric)
        assert (value is None) == (name == "mdvp")
        assert rows[headline.protocol][place] == ("–" if value is None else shown(headline.scale * value))
    assert name != "mdvp" or "natural" in facts["scores"]["pairwise_mdvp"]
    (folder,) = (path for path in (tmp_path / "out").iterdir() if path.is_dir())
    predicted = list(read_records(folder / "predictions.jsonl"))
    expected = benchmark.records(data / name, num_frames=2)[:count]
    assert [(one.id, one.references, one.question) for one in predicted] == [
        (one.id, one.references, one.question) for one in expected
    ]
    for one in predicted:
        assert one.prediction is not None and one.meta["predicted"]["mask"] and prompt_from_json(one.prompt)


@pytest.mark.parametrize("name", BENCHMARKS)
def test_perfect_answers_make_a_perfect_row(evaluate, data, tmp_path, name):
    """Parts of PACO are said without the colon, which its protocol does not forgive: see docs/evaluation.md."""
    benchmark, path = BENCHMARKS[name], tmp_path / f"{name}.jsonl"
    colon = " " if name == "paco" else ":"
    said = {one.id: one.references[0].replace(":", colon) for one in benchmark.records(data / name)}
    path.write_text("\n".join(json.dumps({"id": id, "prediction": text}) for id, text in said.items()))
    facts, rows = evaluate(name, "--predictions", str(path))
    assert facts["regions"] == len(said) and not facts["not_judged"] and not facts["failed"]
    highest = {"CIDEr": "1000.0", "relative_score": "100.0"}
    for place, headline in enumerate(benchmark.headlines):
        perfect = highest.get(headline.metric, "100.0" if headline.scale == 100 else "5.00")
        assert rows[headline.protocol][place] == perfect, headline
    assert "<figure>" in (tmp_path / "out" / "report.html").read_text()


def shown(value: float) -> str:
    return f"{value:.2f}" if abs(value) < 10 else f"{value:.1f}"
