"""A run folder with a small random model that follows regions, a small video, a judge, calls of the command line."""

import contextlib
import json
import os
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import numpy as np
import pytest

from pam_kit.cli import main
from pam_kit.data.video import VideoWriter

WIDTH, HEIGHT = 96, 64
RECIPE = """\
# A SAM 2 of a few blocks and a decoder of one layer, for tests of the command line.
model:
BACKBONE
  perceiver: {name: semantic_perceiver, num_semantic_tokens: 2, depth: 1, num_heads: 2, mlp_dim: 32}
  projector: {name: pixel_shuffle_mlp, ratio: 2, later_ratio: 4}
  decoder:
    {name: causal_lm, hidden_size: 32, num_layers: 1, num_heads: 2, vocab_size: 300, max_length: 2048, template: chatml}
data:
  train: {name: micro, num_samples: 4, image_size: 64}
"""


@pytest.fixture(autouse=True)
def any_font(monkeypatch):
    """What a random model says has characters of all kinds; that no font has them is no matter here."""
    monkeypatch.setattr("pam_kit.inference.lettering._warn_once", lambda chinese: None)


@pytest.fixture(scope="session")
def run(tmp_path_factory, small_sam2) -> Path:
    """A run folder with a random model that follows regions."""
    import torch

    from pam_kit.checkpoints import save_model
    from pam_kit.model import RegionVLM
    from pam_kit.recipe import load_recipe

    folder = tmp_path_factory.mktemp("video_run")
    (folder / "small.yaml").write_text(RECIPE.replace("BACKBONE\n", small_sam2))
    recipe = load_recipe(folder / "small.yaml")
    torch.manual_seed(0)
    model = RegionVLM.from_recipe(recipe)
    model.decoder.learn_vocabulary(["a red square moves to the right", "红色的方块向右移动"])
    with torch.no_grad():
        for parameter in model.backbone.model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=parameter[0].numel() ** -0.5 if len(parameter) > 1 else 1)
        for name, parameter in model.decoder.named_parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.6 if "embed" in name else 1.8 * parameter.shape[1] ** -0.5)
    save_model(folder, model, recipe, whole=True)
    return folder


def pictures(count: int) -> list[np.ndarray]:
    """A red square that wanders over a grey ramp."""
    ramp = np.broadcast_to(np.linspace(20, 120, WIDTH, dtype=np.uint8)[None, :, None], (HEIGHT, WIDTH, 3))
    drawn = []
    for index in range(count):
        frame = ramp.copy()
        left = 8 + 2 * index % (WIDTH - 40)
        frame[12:44, left : left + 32] = (220, 30, 30)
        drawn.append(frame)
    return drawn


def written(path: Path, count: int, times: list[float] | None = None) -> Path:
    with VideoWriter(path, 10, (WIDTH, HEIGHT)) as writer:
        for index, frame in enumerate(pictures(count)):
            writer.write(frame, None if times is None else times[index])
    return path


@pytest.fixture(scope="session")
def video(tmp_path_factory) -> Path:
    """An mp4 of 20 frames, 10 a second."""
    return written(tmp_path_factory.mktemp("videos") / "square.mp4", 20)


@pytest.fixture
def call(run, capsys):
    """``call("stream", source, ...)`` -> exit code, the JSON lines of standard output, and standard error."""

    def called(verb: str, source, *options) -> tuple[int, list[dict], str]:
        small = ["--device", "cpu", "--max-new-tokens", "3"]
        code = main([verb, str(source), "--checkpoint", str(run), *map(str, options), *small])
        told = capsys.readouterr()
        lines = [json.loads(line) for line in told.out.splitlines()] if verb == "stream" else told.out
        assert "Traceback" not in told.err and "Warning" not in told.err
        return code, lines, told.err

    return called


@contextlib.contextmanager
def on_standard_input():
    """A pipe in the place of descriptor 0: -> its writing end, and a function that closes that."""
    read, write = os.pipe()
    kept = os.dup(0)
    os.dup2(read, 0)
    open_ends = {read, write}

    def close():
        if write in open_ends:
            open_ends.remove(write)
            os.close(write)

    try:
        yield write, close
    finally:
        close()
        os.close(read)
        os.dup2(kept, 0)
        os.close(kept)


@pytest.fixture(scope="session")
def drawn():
    """``drawn(count)`` -> frames (64, 96, 3) uint8: see ``pictures``."""
    return pictures


@pytest.fixture(scope="session")
def write_video():
    """``write_video(path, count, times=None)`` -> the path of an mp4, 10 frames a second by default."""
    return written


@pytest.fixture
def standard_input():
    """``with standard_input() as (descriptor, close)``: a pipe in the place of standard input."""
    return on_standard_input


@pytest.fixture(scope="session")
def judges():
    """The module of the judges that tests of judging ask."""
    path = Path(__file__).parents[1] / "evaluation" / "judging" / "conftest.py"
    spec = spec_from_file_location("judges", path)
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def judge(judges, monkeypatch):
    """A judge that compares words, until its ``script`` is another; ``options`` name it on the command line."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("PAM_KIT_JUDGE_KEY", raising=False)
    with judges.serving() as serving:
        serving.script = judges.compare
        serving.options = ["--judge-url", serving.url, "--judge-model", judges.MODEL]
        yield serving
