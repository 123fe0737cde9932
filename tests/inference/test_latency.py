"""Times by stage: sums, quantiles over a bounded past, and the study of the time to the first word."""

import numpy as np
import pytest
from PIL import Image

from pam_kit.inference import latency as latency_module
from pam_kit.inference import latency_study
from pam_kit.inference.latency import WINDOW, Latency, quantile
from pam_kit.inference.latency_study import Point, draw, main, study, table


@pytest.mark.parametrize("count", [1, 2, 3, 10, 101])
@pytest.mark.parametrize("share", [0.0, 0.5, 0.95, 1.0])
def test_quantiles_are_numpys(count, share):
    values = sorted(np.random.default_rng(count).random(count).tolist())
    assert quantile(values, share) == pytest.approx(np.quantile(values, share))


def test_stages_add_up(monkeypatch):
    clock = iter(range(100))
    monkeypatch.setattr(latency_module.time, "perf_counter", lambda: next(clock))
    times = Latency()
    with times.work():  # 0 to 3
        with times.stage("encode"):  # 1 to 2
            pass
    times.add("decode", 0.5)
    times.add("decode", 1.5)
    assert times.busy() == 3
    assert times.taken(("encode", "track", "decode")) == {"encode": 1000, "decode": 2000}
    assert times.taken(("encode", "decode")) == {}
    assert times.summary() == {
        "encode": {"count": 1, "mean": 1000, "p50": 1000, "p95": 1000},
        "decode": {"count": 2, "mean": 1000, "p50": 1000, "p95": 1450},
    }


def test_work_may_be_a_stage_by_itself(monkeypatch):
    clock = iter(range(100))
    monkeypatch.setattr(latency_module.time, "perf_counter", lambda: next(clock))
    times = Latency()
    with times.work("draw"):  # 0 to 3, the stage 1 to 2
        pass
    assert times.busy() == 3 and times.summary()["draw"]["mean"] == 1000
    with pytest.raises(ValueError, match="no"), times.work("draw"):
        raise ValueError("no")
    assert times.summary()["draw"]["count"] == 1 and times.busy() > 3


def test_quantiles_are_of_the_recent_past_and_counts_of_all():
    times = Latency()
    for value in [9.0] * 50 + [1.0] * WINDOW:
        times.add("encode", value)
    row = times.summary()["encode"]
    assert row["count"] == WINDOW + 50 and row["p95"] == 1000 and row["mean"] > 1000


def test_a_stage_that_fails_is_not_counted():
    times = Latency()
    with pytest.raises(ValueError, match="no"), times.stage("encode"):
        raise ValueError("no")
    assert times.summary() == {}


def test_the_study_measures_both_ways(video_model, tmp_path):
    """Work, not time, which a busy machine stretches: the plain way reads the clip, a stream the newest frame alone."""
    points = study(video_model, (2, 4, 8), repeats=1)
    assert [point.frames for point in points] == [2, 4, 8]
    assert len({point.streamed_positions for point in points}) == 1
    # A later frame is one visual, three semantic and three separating tokens.
    plain = [point.plain_positions for point in points]
    assert plain[1] - plain[0] == 2 * 7 and plain[2] - plain[1] == 4 * 7
    assert all(point.streamed > 0 and point.plain > 0 for point in points)
    assert table(points).splitlines()[2].split("|")[1].strip() == "2"


def test_the_plot_shows_both_lines(video_model, tmp_path, monkeypatch, capsys):
    points = [Point(4, 10.0, 20.0, 30, 100), Point(64, 11.0, 160.0, 30, 1000)]
    draw(points, tmp_path / "plot.png", "a model")
    with Image.open(tmp_path / "plot.png") as picture:
        colours = {colour for count, colour in picture.convert("RGB").getcolors(1 << 20) if count > 30}
    assert len(colours) >= 3
    monkeypatch.setattr(latency_study, "small_model", lambda: video_model)
    assert main(["--frames", "2,4", "--repeats", "1", "--out", str(tmp_path / "own.png")]) == 0
    assert (tmp_path / "own.png").is_file() and capsys.readouterr().out.startswith("| frames of the clip | stream, ms")
    assert main(["--checkpoint", str(tmp_path)]) == 2
