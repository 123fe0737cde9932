"""Pictures and records of a benchmark's form, and a predictor of random weights."""

from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pam_kit.evaluation.records import RegionRecord
from pam_kit.tasks import question


@pytest.fixture
def pictures(tmp_path) -> Path:
    """A folder with three pictures of noise, a.png to c.png, of different sizes, and one that is none, bad.png."""
    rng = np.random.default_rng(0)
    for name, size in (("a", (48, 80)), ("b", (64, 64)), ("c", (100, 60))):
        Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).save(tmp_path / f"{name}.png")
    (tmp_path / "bad.png").write_text("no picture")
    return tmp_path


@pytest.fixture
def region():
    """``region("1", "a.png", [x1, y1, x2, y2], task="recognize", **facts)`` -> a record."""

    def build(id: str, image: str, box, task: str = "recognize", **facts) -> RegionRecord:
        return RegionRecord(
            id, "any", question(task, "en"), ("cup",), image=image, prompt={"box": box}, task=task, **facts
        )

    return build


@pytest.fixture
def predictor(tiny_model):
    from pam_kit.inference.predictor import RegionPredictor

    return RegionPredictor(tiny_model(), "cpu")


@pytest.fixture(scope="session")
def small_models():
    """The module that builds the model that follows regions, for tests of inference."""
    path = Path(__file__).parents[2] / "inference" / "conftest.py"
    spec = spec_from_file_location("small_models", path)
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def tracking(small_models):
    """A RegionPredictor whose random model follows regions."""
    from pam_kit.inference.predictor import RegionPredictor

    return RegionPredictor(small_models.build_video_model(), "cpu")


@pytest.fixture
def frames(small_models, tmp_path):
    """A folder ``video`` with 20 frames of 80x48 pixels, and what is in them."""
    drawn = small_models.square_frames(20)
    (tmp_path / "video").mkdir()
    for index, frame in enumerate(drawn):
        Image.fromarray(frame).save(tmp_path / "video" / f"{index:05d}.png")
    return drawn
