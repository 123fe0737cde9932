"""A model that talks, regions to ask about, the plain path, and memory that is short."""

import numpy as np
import pytest
import torch

from pam_kit.contracts import RegionPrompt
from pam_kit.data.prepare import Asked, Geometry, collate, prepare
from pam_kit.inference.result import texts_json
from pam_kit.tasks import QUESTIONS

STEPS = 5
OWN = {"colour": {"en": "What colour is it?"}}


def _picture(seed: int = 0, size: tuple[int, int] = (48, 80)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


def _prompts() -> list[RegionPrompt]:
    """A box, two points, a mask, a box with a point outside of it."""
    mask = np.zeros((48, 80), dtype=bool)
    mask[10:30, 5:40] = True
    return [
        RegionPrompt(box=(4.0, 6.0, 50.0, 40.0)),
        RegionPrompt(points=((20.0, 12.0), (70.0, 40.0)), labels=(1, 0)),
        RegionPrompt(mask=mask),
        RegionPrompt(box=(30.0, 2.0, 79.0, 30.0), points=((35.0, 20.0),), labels=(0,)),
    ]


def _plain(model, image: np.ndarray, prompt: RegionPrompt, words: str):
    """The mask logits (4h, 4w) and the answer to one question, with nothing shared."""
    prepared = prepare(image, [prompt], [Asked(0, "recognize", "en", words)], Geometry.of(model.backbone))
    batch = collate([prepared], Geometry.of(model.backbone))
    regions, answers = model.answer(batch.images, batch.image_index, batch.prompts, batch.questions, STEPS)
    return regions, answers[0]


def _assert_same_texts(found, expected) -> None:
    for one, other in zip(found, expected, strict=True):
        own, others = texts_json(one.texts), texts_json(other.texts)
        assert list(own) == list(others), "texts are in the order of the questions"
        for task, by_language in own.items():
            for language, answer in by_language.items():
                assert answer["text"] == others[task][language]["text"]
                assert answer["score"] == pytest.approx(others[task][language]["score"], abs=1e-4)


def _assert_plain(model, image: np.ndarray, predictions) -> None:
    for found in predictions:
        assert found.error is None and found.notes == ()
        said = 0
        for task, by_language in found.texts.items():
            for language, answer in by_language.items():
                words = {**QUESTIONS, **OWN}[task][language]
                regions, expected = _plain(model, image, found.prompt, words)
                assert answer.text == expected.text and answer.score == pytest.approx(expected.score, abs=1e-4)
                said += 1
        full = torch.nn.functional.interpolate(regions.mask_logits, size=image.shape[:2], mode="bilinear")[0, 0]
        sure = full.abs() > 1e-4
        assert torch.equal(torch.from_numpy(found.mask)[sure], (full > 0)[sure]) and found.iou == pytest.approx(
            float(regions.iou), abs=1e-4
        )
        assert said


def _watched(model, monkeypatch) -> dict[str, list]:
    """What really runs: shapes of pictures encoded, prompts segmented, tokens read and vocabulary rows made."""
    seen: dict[str, list] = {"pictures": [], "regions": [], "positions": [], "rows": []}
    encode, segment = model.backbone.encode, model.backbone.segment
    monkeypatch.setattr(
        model.backbone, "encode", lambda images: (seen["pictures"].append(len(images)), encode(images))[1]
    )
    monkeypatch.setattr(
        model.backbone, "segment", lambda f, index, p: (seen["regions"].append(len(p)), segment(f, index, p))[1]
    )
    first, head = model.decoder.layers()[0], model.decoder.lm.get_output_embeddings()
    hooks = [
        first.register_forward_pre_hook(lambda _m, inputs: seen["positions"].append(inputs[0].shape[:2])),
        head.register_forward_hook(lambda _m, _inputs, logits: seen["rows"].append(logits.numel() // logits.shape[-1])),
    ]
    seen["hooks"] = hooks
    return seen


def _positions(seen) -> int:
    return sum(rows * width for rows, width in seen["positions"])


class Short:
    """Says that memory is short whenever more than ``most`` rows are asked for, as torch does on ``kind``."""

    ERRORS = {
        "cuda": lambda: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        "cpu": lambda: RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory"),
        "host": MemoryError,
    }

    def __init__(self, function, most: int, kind: str, rows):
        self.function, self.most, self.kind, self.rows, self.asked = function, most, kind, rows, []

    def __call__(self, *arguments, **keywords):
        self.asked.append(self.rows(*arguments, **keywords))
        if self.asked[-1] > self.most:
            raise self.ERRORS[self.kind]()
        return self.function(*arguments, **keywords)


@pytest.fixture
def talking_model(tiny_model):
    """The tiny model with weights so wide that what it says depends on the region and on the question."""

    def build(*overrides: str):
        model = tiny_model(*overrides)
        with torch.no_grad():
            for parameter in (*model.projector.parameters(), *model.decoder.parameters()):
                if parameter.ndim > 1:
                    parameter *= 12
        return model

    return build


@pytest.fixture(params=["timm_sam", "sam2"])
def model(request, talking_model):
    return request.getfixturevalue("video_model") if request.param == "sam2" else talking_model()


@pytest.fixture(scope="session")
def picture():
    """See ``_picture``."""
    return _picture


@pytest.fixture(scope="session")
def prompts():
    """See ``_prompts``."""
    return _prompts


@pytest.fixture(scope="session")
def plain():
    """See ``_plain``."""
    return _plain


@pytest.fixture(scope="session")
def assert_same_texts():
    """See ``_assert_same_texts``."""
    return _assert_same_texts


@pytest.fixture(scope="session")
def assert_plain():
    """See ``_assert_plain``."""
    return _assert_plain


@pytest.fixture(scope="session")
def watched():
    """See ``_watched``."""
    return _watched


@pytest.fixture(scope="session")
def positions():
    """See ``_positions``."""
    return _positions


@pytest.fixture(scope="session")
def short_of_memory():
    """See ``Short``."""
    return Short
