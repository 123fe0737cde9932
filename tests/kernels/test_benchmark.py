"""Counting, the roofline's document, and the benchmark: its gate, its table without a GPU, its rows with a clock."""

import csv
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from pam_kit.kernels import benchmark, roofline, times
from pam_kit.kernels.cases import Case
from pam_kit.kernels.counting import Launch, Recorder, kept_bytes, launches, passes
from pam_kit.kernels.gate import WrongResults, gate
from pam_kit.kernels.shuffle_project.reference import Shuffle, project

MIB = 1 << 20


def meta(*shape: int) -> torch.Tensor:
    return torch.empty(shape, device="meta", dtype=torch.bfloat16)


def test_bytes_and_operations_of_a_product_and_an_activation():
    x, w, b = meta(64, 32), meta(16, 32), meta(16)
    product, activation = launches(lambda *given: F.gelu(F.linear(*given)), x, w, b)
    assert (product.bytes, product.flops) == (2 * (64 * 32 + 16 * 32 + 16 + 64 * 16), 2 * 64 * 32 * 16)
    assert (activation.bytes, activation.flops) == (2 * 2 * 64 * 16, 0)


def test_views_are_free_and_expanded_tensors_count_once():
    assert launches(lambda x: x.view(8, 4, 2).permute(1, 0, 2)[0].expand(3, 8, 2).detach(), meta(8, 8)) == []
    (copy,) = launches(lambda x: x.expand(4, 8).contiguous(), meta(1, 8))
    assert copy.bytes == 2 * (8 + 32)


def test_what_is_kept_and_what_the_backward_pass_launches():
    x, w = meta(64, 32), meta(16, 32)
    assert kept_bytes(lambda x, w: F.gelu(F.linear(x, w)), x, w) == 2 * 64 * 16
    forward, backward = passes(lambda x, w: F.linear(x, w), x, w)
    assert len(forward) == 1 and [launch.flops for launch in backward] == [2 * 64 * 32 * 16] * 2


def test_the_bound_adds_the_larger_of_both_times():
    card = roofline.Card(operations=100, bandwidth=10)
    assert roofline.bound([Launch("", 20, 100), Launch("", 5, 300)], card) == 2 + 3


def test_the_document_is_what_the_command_writes():
    written = roofline.DOCUMENT.read_text(encoding="utf-8")
    assert written == roofline.document(), "run python -P -m pam_kit.kernels.roofline"
    assert times.DOCUMENT.read_text(encoding="utf-8") == times.page(), "run python -P -m pam_kit.kernels.times"


def test_heads_of_keys_that_queries_share_are_multiplied_with_each_of_them():
    query, key = torch.empty(2, 8, 10, 16, device="meta"), torch.empty(2, 2, 30, 16, device="meta")
    with Recorder() as recorder:
        torch.ops.aten._scaled_dot_product_flash_attention(query, key, key)
    assert sum(launch.flops for launch in recorder.launches) == 2 * (2 * 2 * 8 * 10 * 30 * 16)


SHUFFLE = Shuffle((4, 4), 2, "column", True)


def small(fused=None) -> Case:
    """A case of a few tokens; ``fused`` in place of the kernel."""

    def inputs(device, dtype):
        torch.manual_seed(0)
        shapes = (2, 16, 8), (12, 32), (12,), (5, 12), (5,)
        return tuple(torch.randn(shape, device=device, dtype=dtype) for shape in shapes)

    def view(*given):
        return project(*given, None, SHUFFLE)

    work = [Launch("forward_kernel", MIB, 1000)]
    providers = {"eager": view, "view": view, "triton": fused or view}
    return Case("shuffle_project", "small", inputs, providers, work, work * 2)


def wrong_value(*given):
    return project(*given, None, SHUFFLE) * 1.001


def wrong_order(*given):
    return project(*given, None, SHUFFLE._replace(order="row"))


def wrong_derivative(*given):
    return project(given[0], given[1] * 0.99 + given[1].detach() * 0.01, *given[2:], None, SHUFFLE)


def nothing_at_all(*given):
    return project(*given, None, SHUFFLE) * float("nan")


@pytest.mark.parametrize("fused", [wrong_value, wrong_order, wrong_derivative, nothing_at_all])
def test_the_gate_is_red_for_wrong_results(fused):
    gate(small(), "cpu", torch.float32)
    with pytest.raises(WrongResults, match="shuffle_project, small: result \d is off by"):
        gate(small(fused), "cpu", torch.float32)


def test_an_operator_with_a_red_gate_is_not_timed(monkeypatch):
    monkeypatch.setattr(benchmark, "gate", lambda case, device, dtype: gate(case, "cpu", dtype))
    monkeypatch.setattr(benchmark, "timed", lambda case, *_: [case.name])
    good, bad = replace(small(), name="good"), replace(small(wrong_order), name="bad")
    rows, refused = benchmark.measured([bad, good], ["forward"], "float32")
    assert rows == ["good"] and len(refused) == 1 and "not timed: shuffle_project, bad" in refused[0]


def test_every_implementation_and_mode_is_timed(monkeypatch):
    ran = []

    def clock(run):
        ran.append(run())
        return 1.0, 2.0, 4.0

    monkeypatch.setattr(torch, "compile", lambda function: function)
    monkeypatch.setattr(benchmark, "_device_name", lambda: "NVIDIA H100 80GB HBM3")
    rows = list(benchmark.timed(small(), benchmark.MODES, "float32", "cpu", clock))
    assert [(row.mode, row.provider) for row in rows] == [
        (mode, name) for mode in benchmark.MODES for name in ("eager", "view", "compiled", "triton")
    ]
    assert all((row.low_us, row.median_us, row.high_us) == (1.0, 2.0, 4.0) for row in rows)
    assert [row.share for row in rows[::4]] == [pytest.approx(n * MIB / 3.35e12 * 1e6 / 2) for n in (1, 2, 3)]
    assert [type(out) for out in ran[::4]] == [torch.Tensor, tuple, tuple]
    assert len(list(benchmark.timed(replace(small(), backward=None), benchmark.MODES, "float32", "cpu", clock))) == 4


def test_without_a_gpu_it_says_so_and_writes_analytic_rows(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    file, plot = tmp_path / "rows.csv", tmp_path / "bars.png"
    assert benchmark.main(["shuffle_project", "--csv", str(file), "--plot", str(plot)]) == 0
    assert "nothing is measured" in capsys.readouterr().err
    with file.open(encoding="utf-8") as lines:
        rows = list(csv.DictReader(lines))
    assert {row["device"] for row in rows} == {"analytic A100", "analytic H100"}
    assert all(row["median_us"] == "" and float(row["bound_us"]) > 0 for row in rows)
    assert plot.read_bytes().startswith(b"\x89PNG")


@pytest.mark.gpu
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["bfloat16", "float32"])
def test_the_gates_are_green_on_this_gpu(kind):
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    for case in benchmark.cases():
        gate(case, "cuda", benchmark.TYPES[kind])
