"""Labels of a list for all regions of a picture: read once for labels and texts, and in halves where memory ends."""

import numpy as np
import pytest
import torch

from pam_kit.inference.closed_set import ClosedSet
from pam_kit.inference.deduplication import Overlap
from pam_kit.inference.everything import Everything, EverythingSettings
from pam_kit.inference.predictor import RegionPredictor
from pam_kit.inference.proposals import GridSettings
from pam_kit.inference.session_settings import SessionSettings

LABELS = ClosedSet(["cup", "ball", "key"])
SETTINGS = EverythingSettings(
    GridSettings(points=2),
    Overlap(0.99),
    min_iou=0.0,
    min_stability=0.0,
    max_regions=6,
    tasks=("caption",),
    max_new_tokens=2,
)
PICTURE = np.random.default_rng(0).integers(0, 256, (48, 80, 3), dtype=np.uint8)


@pytest.fixture
def opened(video_model, monkeypatch):
    """A predictor, and the sessions that are opened with it."""
    predictor, sessions = RegionPredictor(video_model, "cpu", SessionSettings(region_batch=4)), []
    opening = predictor.open
    monkeypatch.setattr(predictor, "open", lambda *images: sessions.append(opening(*images)) or sessions[-1])
    return predictor, sessions


def test_a_region_is_segmented_and_read_once_for_labels_and_texts(opened):
    predictor, sessions = opened
    found = Everything(predictor, SETTINGS, LABELS).find(PICTURE)
    plain = Everything(predictor, SETTINGS).find(PICTURE)
    labelled, described = (session.work for session in sessions)
    assert len(found.regions) == 6 and all(len(one.labels) == 3 and one.texts for one in found.regions)
    counts = [(work.pictures, work.regions, work.views, work.prefix_positions) for work in (labelled, described)]
    assert counts[0] == counts[1], "labels take no region more through the decoders"
    assert labelled.regions == 4 + 6 and labelled.views == 6
    assert [one.texts["caption"]["en"].text for one in found.regions] == [
        one.texts["caption"]["en"].text for one in plain.regions
    ]


def test_labels_are_found_where_memory_is_short(opened):
    predictor, sessions = opened
    expected = Everything(predictor, SETTINGS, LABELS).find(PICTURE)

    def short(_module, inputs):
        if len(inputs[0]) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    hook = predictor.model.decoder.layers()[-1].register_forward_pre_hook(short)
    found = Everything(predictor, SETTINGS, LABELS).find(PICTURE)
    hook.remove()
    assert any("answers at once" in note for note in found.notes) and not expected.notes
    for one, other in zip(found.regions, expected.regions, strict=True):
        own, others = ({label.name: label.confidence for label in region.labels} for region in (one, other))
        assert own == pytest.approx(others, abs=1e-3) and one.error is None and one.texts
