"""A session whose steps are compiled."""

import numpy as np
import pytest

from pam_kit.contracts import RegionPrompt
from pam_kit.inference.predictor import RegionPredictor
from pam_kit.inference.session_settings import SessionSettings


@pytest.mark.slow
def test_a_session_with_compiled_steps_answers_as_one_without(video_model):
    """Slow: a compiler runs."""
    image = np.random.default_rng(0).integers(0, 256, (48, 80, 3), dtype=np.uint8)
    regions = [RegionPrompt(box=(4.0, 6.0, 50.0, 40.0)), RegionPrompt(box=(30.0, 2.0, 79.0, 30.0))]
    said, shown = [], []
    for steps in ("growing", "compiled"):
        session = RegionPredictor(video_model, "cpu", SessionSettings(steps=steps)).open(image)
        found = session.ask(regions, ("recognize", "caption"), ("en", "zh"), 5)
        assert [one.error for one in found] == [None, None]
        said.append([text.text for one in found for by in one.texts.values() for text in by.values()])
        shown.append([one.mask for one in found])
    assert said[0] == said[1] and len(said[0]) == 8 and any(said[0]) and np.array_equal(*shown)
