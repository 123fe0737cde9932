"""The choice between Triton and torch, what is said about it, and what importing the kernels needs."""

import logging
import subprocess
import sys

import pytest
import torch

from pam_kit.kernels import dispatch, times
from pam_kit.kernels.entries import OPERATORS

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


@pytest.fixture(autouse=True)
def forgetful(monkeypatch):
    """Each test says everything anew, and has no interpreter unless it asks for it."""
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    dispatch.say_once.cache_clear()
    yield
    dispatch.say_once.cache_clear()


def test_a_cpu_runs_torch(caplog):
    with caplog.at_level(logging.INFO, "pam_kit.kernels"):
        assert {dispatch.backend(kernels, CPU, "op") for kernels in ("auto", "torch", "auto")} == {"torch"}
    assert caplog.messages == ["op on cpu: plain torch"]
    with pytest.raises(RuntimeError, match="op cannot run there.*TRITON_INTERPRET=1.*kernels=auto or torch"):
        dispatch.backend("triton", CPU, "op")


def test_the_interpreter_runs_only_when_asked_for(monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert dispatch.backend("triton", CPU, "op") == "triton" and dispatch.backend("auto", CPU, "op") == "torch"


@pytest.mark.parametrize(("capability", "chosen"), [((7, 5), "torch"), ((8, 0), "triton"), ((10, 0), "triton")])
def test_auto_goes_by_compute_capability_and_says_so_once(monkeypatch, caplog, capability, chosen):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: capability)
    with caplog.at_level(logging.WARNING, "pam_kit.kernels"):
        assert [dispatch.backend("auto", GPU, "op") for _ in range(3)] == [chosen] * 3
    said = "Triton kernels" if chosen == "triton" else "compute capability 7.5 is below 8.0"
    assert len(caplog.messages) == 1 and "op on cuda:0" in caplog.text and said in caplog.text
    assert dispatch.backend("torch", GPU, "op") == "torch"


def test_the_choice_is_a_constant_to_a_compiled_function(monkeypatch):
    def capability(index: int) -> tuple[int, int]:
        return tuple(int(digit) for digit in str(torch.full((), 90).item()))  # what cannot be traced into one graph

    def function(x):
        return x + 1 if dispatch.backend("auto", GPU, "op") == "triton" else x - 1

    monkeypatch.setattr(torch.cuda, "get_device_capability", capability)
    compiled = torch.compile(function, backend="eager", fullgraph=True)
    assert compiled(torch.zeros(1)).item() == 1


def test_without_triton_auto_is_torch(monkeypatch, caplog):
    monkeypatch.setattr(dispatch, "find_spec", lambda name: None)
    assert dispatch.backend("auto", GPU, "op") == "torch" and "Triton is not installed" in caplog.text
    with pytest.raises(RuntimeError, match="pip install triton"):
        dispatch.backend("triton", GPU, "op")


def test_auto_leaves_alone_kernels_that_torch_outruns(monkeypatch, caplog):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: (9, 0))
    with caplog.at_level(logging.INFO, "pam_kit.kernels"):
        assert dispatch.backend("auto", GPU, "shuffle_project") == "torch"
        assert dispatch.backend("triton", GPU, "shuffle_project") == "triton"
    assert caplog.messages[0] == "shuffle_project on cuda:0: plain torch"


def test_the_operators_that_torch_outruns_are_those_of_the_measured_times():
    """By the mean ratio of the plain path's times to the kernels', over cases, passes and cards."""
    assert {name for name in OPERATORS if times.mean_ratio(name) < 1} == dispatch.SLOWER_THAN_TORCH


def test_other_devices_run_torch():
    assert dispatch.backend("auto", torch.device("meta"), "op") == "torch"


def test_importing_needs_no_triton_and_names_stay_operators():
    code = """
import sys
sys.modules["triton"] = None
import pam_kit.kernels
assert "torch" not in sys.modules
from pam_kit.kernels.shuffle_project import merge_neighbours
from pam_kit.kernels import mask_tail, parallel_heads, shuffle_project
import pam_kit.kernels.mask_tail
for operator in (mask_tail, parallel_heads, shuffle_project):
    assert callable(operator) and getattr(pam_kit.kernels, operator.__name__) is operator
    folder = sys.modules[f"pam_kit.kernels.{operator.__name__}"]
    assert folder.entries() and folder.cases()
try:
    pam_kit.kernels.pixel_shuffle
except AttributeError as error:
    assert "pixel_shuffle" in str(error)
else:
    raise AssertionError
"""
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
