"""Tables of known numbers: what they say, and that a picture shows what it should."""

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from pam_kit.ablation.bar_chart import Bar, Group, draw_bars
from pam_kit.ablation.results import Cell, Results, Row
from pam_kit.ablation.statistics import paired
from pam_kit.ablation.study_file import read_study
from pam_kit.ablation.tables import markdown, write_tables

REFERENCE, OTHER = {0: 50.0, 1: 52.0, 2: 54.0}, {0: 40.0, 1: 43.0, 2: 43.0}


@pytest.fixture
def results(tmp_path, write_study) -> Results:
    study = read_study(write_study(tmp_path))
    compared = paired(list(OTHER.values()), list(REFERENCE.values()))
    close = paired([50.0, 53.0, 54.0], list(REFERENCE.values()))
    one = {"label": Cell(OTHER, compared), "masks": Cell({0: 50.0, 1: 53.0, 2: 54.0}, close)}
    two = {"label": Cell(REFERENCE, None), "masks": Cell(REFERENCE, None)}
    return Results(
        study,
        (
            Row("one", one, {"speaks": paired([9.0, 7.0, 8.0], [4.0, 1.0, 3.0])}, {}, (), 1234, 5, 7.6, (972.0,)),
            Row("two", two, {}, {1: "a\nbad thing"}, (4,), 2345, 6, 8.0, ()),
        ),
        "median of 12 steps",
    )


def test_the_table_says_what_differs(results):
    lines = markdown(replace(results, study=replace(results.study, verdicts=())))
    assert lines[0] == "| variant | label | masks | positions a region | learned parameters | ms a step | paper: ms |"
    # t = 10 / (1 / sqrt(3)) = 17.3 with 2 degrees of freedom: p = 0.0033; and t = 1: p = 0.42.
    assert lines[2] == (
        "| one | 42.0 ± 1.7 (-10.0; p = 0.003) | 52.3 ± 2.1 (+0.3; not significant, p = 0.42) | 5 | 1,234 | 8 | 972 |"
    )
    assert lines[3] == "| **two** | 52.0 ± 2.0 | 52.0 ± 2.0 | 6 | 2,345 | 8 |  |"
    text = "\n".join(lines)
    assert "over 3 seeds" in text and "a book" in text and "median of 12 steps" in text
    assert "- two, seed 1: FAILED: a bad thing" in text and "- two: not yet run with seed 4" in text


def test_the_table_answers(results):
    """A floor, here the masks, is compared with nothing but the score above it."""
    lines = markdown(results)
    assert lines[0].startswith("| variant | label | masks | speaks | positions a region |")
    # t = 16 / 3 / (1 / 3) = 16 with 2 degrees of freedom: p = 0.0039.
    assert lines[2].startswith("| one | 42.0 ± 1.7 (-10.0; p = 0.003) | 52.3 ± 2.1 | yes (+5.3; p = 0.004) | 5 |")
    assert lines[3].startswith("| **two** | 52.0 ± 2.0 | 52.0 ± 2.0 |  | 6 |")
    assert "*speaks*: whether label lies above masks" in "\n".join(lines)


def test_files(results, tmp_path):
    write_tables(results, tmp_path / "new")
    lines = list(csv.DictReader((tmp_path / "new" / "table.csv").open()))
    assert [line["variant"] for line in lines] == ["one", "one", "two", "two"]
    assert float(lines[0]["p"]) == pytest.approx(0.003316, abs=1e-5) and lines[0]["significant"] == "true"
    assert lines[0]["by_seed"] == "0:40.0000 1:43.0000 2:43.0000" and lines[2]["difference"] == ""
    kept = json.loads((tmp_path / "new" / "results.json").read_text())
    assert kept["rows"][0]["scores"]["label"]["difference"] == -10 and kept["rows"][1]["errors"] == {
        "1": "a\nbad thing"
    }
    assert kept["rows"][0]["verdicts"]["speaks"]["answer"] == "yes" and not kept["rows"][1]["verdicts"]
    assert Image.open(tmp_path / "new" / "chart.png").size[1] > 300


def test_bars_are_as_high_as_their_values(tmp_path):
    """Pixels of the first colour: a bar twice as high has twice as many."""

    def coloured(height: float) -> int:
        draw_bars(tmp_path / "a.png", "t", ["x"], [Group("a", [Bar(height, 0)]), Group("b", [Bar(100, 0)])], "y")
        pixels = np.asarray(Image.open(tmp_path / "a.png").convert("RGB")).astype(int)
        blue = np.abs(pixels - [0, 114, 178]).sum(-1) < 8
        return int(blue[100:].sum())

    full = coloured(100.0)
    assert coloured(50.0) == pytest.approx(0.75 * full, rel=0.02) and coloured(0.0) == pytest.approx(full / 2, rel=0.02)


def test_a_missing_bar_leaves_its_place_empty(tmp_path):
    draw_bars(tmp_path / "a.png", "t", ["x", "y"], [Group("a long name", [None, Bar(3.0, 1.0)])], "y")
    assert Image.open(tmp_path / "a.png").size[0] > 400
