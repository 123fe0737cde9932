"""What a benchmark says of itself, and what it says where it is asked for what it does not have."""

from pathlib import Path

import pytest

from pam_kit.errors import PamKitError
from pam_kit.evaluation.benchmarks.contract import PROMPT_TYPES
from pam_kit.evaluation.benchmarks.paper import paper_notes, paper_rows
from pam_kit.evaluation.benchmarks.registry import BENCHMARKS, find_benchmark
from pam_kit.evaluation.benchmarks.samples.__main__ import main
from pam_kit.evaluation.benchmarks.samples.write import WRITERS
from pam_kit.evaluation.reports.report import write_reports
from pam_kit.evaluation.reports.results import BenchmarkResult
from pam_kit.evaluation.reports.table import markdown
from pam_kit.evaluation.scoring import PROTOCOLS
from pam_kit.tasks import LANGUAGES, TASKS, question

NAMES = list(BENCHMARKS)


def test_the_fourteen_benchmarks_are_there():
    assert len(BENCHMARKS) == 14 and set(WRITERS) == set(BENCHMARKS)
    assert find_benchmark("hc_stvg") is BENCHMARKS["hc_stvg"]


def test_an_unknown_name_proposes_the_nearest():
    with pytest.raises(PamKitError, match="unknown benchmark 'refcoco_g'; did you mean 'refcocog'"):
        find_benchmark("refcoco_g")


@pytest.mark.parametrize("name", NAMES)
def test_a_benchmark_is_described_in_full(name):
    benchmark = BENCHMARKS[name]
    assert benchmark.task in TASKS and set(benchmark.languages) <= set(LANGUAGES)
    assert benchmark.page.startswith("https://") and "https://" in benchmark.media_page
    assert set(benchmark.prompt_types) <= set(PROMPT_TYPES) and "box" in benchmark.prompt_types
    assert {headline.protocol for headline in benchmark.headlines} <= set(benchmark.protocols)
    assert benchmark.headlines[0].protocol == benchmark.protocols[0]
    assert {headline.table for headline in benchmark.headlines} <= {1, 2, 3, 4}
    names = [variant.name for variant in benchmark.variants]
    assert len(set(names)) == len(names)
    if benchmark.video:
        assert "Previous caption: None" in benchmark.question
    else:
        assert benchmark.question == question(benchmark.task, "en")


def test_protocols_are_ones_that_can_be_scored():
    from pam_kit.evaluation.judging.judge import PROTOCOLS as JUDGED
    from pam_kit.evaluation.metrics.protocols import PROTOCOLS

    assert {protocol for benchmark in BENCHMARKS.values() for protocol in benchmark.protocols} <= {*PROTOCOLS, *JUDGED}


@pytest.mark.parametrize("name", NAMES)
def test_missing_data_are_told_with_their_page_and_place(name, tmp_path):
    benchmark = BENCHMARKS[name]
    with pytest.raises(PamKitError) as error:
        benchmark.records(tmp_path)
    told = str(error.value)
    for variant in benchmark.variants:
        if "box" in variant.prompt_types:
            assert variant.page in told and all(f"{tmp_path / file}  (missing)" in told for file in variant.files)
    assert benchmark.media_page in told


def test_a_folder_that_is_not_there_is_told(tmp_path):
    with pytest.raises(PamKitError, match="which is no folder"):
        BENCHMARKS["vg"].records(tmp_path / "nothing")


def test_what_a_variant_does_not_have_is_refused(samples):
    lvis = BENCHMARKS["lvis"]
    with pytest.raises(PamKitError, match="lvis has no variant 'ospreys'; did you mean 'osprey'"):
        lvis.records(samples["lvis"], variant="ospreys")
    with pytest.raises(PamKitError, match="variant osprey of lvis has no points prompts; choose of box, mask"):
        lvis.records(samples["lvis"], "points", "osprey")
    with pytest.raises(PamKitError, match="vg has no mask prompts; choose of box"):
        BENCHMARKS["vg"].records(samples["vg"], "mask")
    with pytest.raises(PamKitError, match="prompt type 'boxes' is unknown; did you mean 'box'"):
        lvis.records(samples["lvis"], "boxes")
    with pytest.raises(PamKitError, match="num_frames is 0"):
        BENCHMARKS["elysium"].records(samples["elysium"], num_frames=0)


def test_the_first_variant_whose_files_are_there_is_read(copy_of):
    root = copy_of("lvis")
    assert BENCHMARKS["lvis"].records(root, "points").variant == "draw_and_understand_points"
    (root / "lvis_val_1k_category.json").unlink()
    assert BENCHMARKS["lvis"].records(root).variant == "draw_and_understand"


def test_another_number_of_regions_than_published_is_told(samples):
    assert "it is published with 4004" in BENCHMARKS["lvis"].records(samples["lvis"]).notes[0]


@pytest.mark.parametrize("name", NAMES)
def test_published_rows_stand_under_the_headlines(name):
    rows = paper_rows(name)
    columns = {headline.column for headline in BENCHMARKS[name].headlines}
    assert all(set(row.values) <= columns and row.source for row in rows)
    if name == "activitynet_stream":
        assert not rows and ["Table 4" in note for note in paper_notes(name)] == [True]
    else:
        assert [row.model for row in rows[:2]] == ["PAM-1.5B", "PAM-3B"]
        assert all(set(row.values) == columns for row in rows[:2])


def test_the_printed_table_says_which_published_rows_are_missing(tmp_path):
    for name, told in (("activitynet_stream", "PAM's Table 4 could not be read"), ("mdvp", "only PAM's own")):
        folder = tmp_path / name / "run"
        folder.mkdir(parents=True)
        BenchmarkResult("run", name, name, 1, 0, {"model": "m"}, {"osprey": {"semantic_iou": 1.0}}).save(folder, [])
        assert told in markdown(write_reports(tmp_path / name))
    assert paper_notes("lvis") == () and paper_notes()


def test_the_guide_names_every_benchmark_and_protocol():
    guide = (Path(__file__).parents[3] / "docs" / "evaluation.md").read_text(encoding="utf-8")
    assert [name for name in (*NAMES, *PROTOCOLS) if f"`{name}`" not in guide] == []


def test_published_averages_are_the_means_of_their_columns():
    for row in paper_rows("videorefer_d"):
        *parts, average = (row.values[f"VideoRefer-Bench-D {name}"] for name in ("SC", "AD", "TD", "HD", "Avg"))
        assert sum(parts) / 4 == pytest.approx(average, abs=0.0101), row


def test_no_published_row_is_lost():
    """A column that no headline names would never be shown."""
    import json
    from importlib.resources import files

    content = json.loads(files("pam_kit.evaluation.benchmarks").joinpath("paper_rows.json").read_text(encoding="utf-8"))
    columns = {headline.column: headline.table for b in BENCHMARKS.values() for headline in b.headlines}
    for row in content["rows"]:
        assert row["source"] in content["sources"]
        assert {columns[column] for column in row["values"]} == {row["table"]}


def test_samples_are_written_from_the_command_line(tmp_path, capsys):
    assert main([str(tmp_path), "vg"]) == 0
    assert capsys.readouterr().out == f"vg: {tmp_path / 'vg'}\n"
    assert len(BENCHMARKS["vg"].records(tmp_path / "vg")) == 9
    assert main([str(tmp_path), "vgg"]) == 2
    assert "did you mean 'vg'" in capsys.readouterr().err
