"""A session against the plain path: every region and question by itself, the picture encoded for each of them."""

import json

import numpy as np
import pytest
import torch

from pam_kit.contracts import Questions, RegionPrompt
from pam_kit.data.prepare import Asked, Geometry, collate, prepare
from pam_kit.errors import PamKitError, PromptError
from pam_kit.inference.predictor import RegionPredictor
from pam_kit.inference.result import texts_json
from pam_kit.inference.session import Session
from pam_kit.inference.session_events import MaskReady, RegionReady, TextGrows, TextReady
from pam_kit.inference.session_settings import SessionSettings
from pam_kit.tasks import QUESTIONS

TASKS, LANGUAGES, STEPS = ("recognize", "caption"), ("en", "zh"), 5
OWN = {"colour": {"en": "What colour is it?"}}


def picture(seed: int = 0, size: tuple[int, int] = (48, 80)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


def prompts() -> list[RegionPrompt]:
    """A box, two points, a mask, a box with a point outside of it."""
    mask = np.zeros((48, 80), dtype=bool)
    mask[10:30, 5:40] = True
    return [
        RegionPrompt(box=(4.0, 6.0, 50.0, 40.0)),
        RegionPrompt(points=((20.0, 12.0), (70.0, 40.0)), labels=(1, 0)),
        RegionPrompt(mask=mask),
        RegionPrompt(box=(30.0, 2.0, 79.0, 30.0), points=((35.0, 20.0),), labels=(0,)),
    ]


def plain(model, image: np.ndarray, prompt: RegionPrompt, words: str):
    """The mask logits (4h, 4w) and the answer to one question, with nothing shared."""
    prepared = prepare(image, [prompt], [Asked(0, "recognize", "en", words)], Geometry.of(model.backbone))
    batch = collate([prepared], Geometry.of(model.backbone))
    regions, answers = model.answer(batch.images, batch.image_index, batch.prompts, batch.questions, STEPS)
    return regions, answers[0]


def assert_same_texts(found, expected) -> None:
    for one, other in zip(found, expected, strict=True):
        own, others = texts_json(one.texts), texts_json(other.texts)
        assert list(own) == list(others), "texts are in the order of the questions"
        for task, by_language in own.items():
            for language, answer in by_language.items():
                assert answer["text"] == others[task][language]["text"]
                assert answer["score"] == pytest.approx(others[task][language]["score"], abs=1e-4)


def assert_plain(model, image: np.ndarray, predictions) -> None:
    for found in predictions:
        assert found.error is None and found.notes == ()
        said = 0
        for task, by_language in found.texts.items():
            for language, answer in by_language.items():
                words = {**QUESTIONS, **OWN}[task][language]
                regions, expected = plain(model, image, found.prompt, words)
                assert answer.text == expected.text and answer.score == pytest.approx(expected.score, abs=1e-4)
                said += 1
        full = torch.nn.functional.interpolate(regions.mask_logits, size=image.shape[:2], mode="bilinear")[0, 0]
        sure = full.abs() > 1e-4
        assert torch.equal(torch.from_numpy(found.mask)[sure], (full > 0)[sure]) and found.iou == pytest.approx(
            float(regions.iou), abs=1e-4
        )
        assert said


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


def test_answers_and_masks_are_those_of_the_plain_path(model):
    session = RegionPredictor(model, "cpu").open(picture())
    found = session.ask(prompts(), TASKS, LANGUAGES, STEPS, questions=OWN)
    assert_plain(model, picture(), found)
    assert all(list(one.texts) == ["recognize", "caption", "colour"] for one in found)
    said = [answer.text for one in found for by_language in one.texts.values() for answer in by_language.values()]
    assert len(set(said)) > 10, "what is said depends on the region and on the question"


def test_regions_of_several_pictures_are_told_apart(talking_model):
    model, images = (
        talking_model(),
        [picture(seed, size) for seed, size in ((0, (48, 80)), (1, (64, 64)), (2, (30, 90)))],
    )
    boxes = [[RegionPrompt(box=(1.0, 2.0, 40.0, 29.0)), RegionPrompt(points=((9.0, 9.0),), labels=(1,))], [], []]
    boxes[2] = [RegionPrompt(box=(50.0, 1.0, 90.0, 30.0))]
    for settings in (SessionSettings(), SessionSettings(picture_batch=1, region_batch=1, answer_batch=1)):
        predictor = RegionPredictor(model, "cpu", settings)
        found = predictor.predict_batch(images, boxes, TASKS, ("zh",), STEPS)
        assert [len(own) for own in found] == [2, 0, 1]
        for image, own in zip(images, found, strict=True):
            assert_plain(model, image, own)
    session = RegionPredictor(model, "cpu").open(*images)
    assert [one.mask.shape for one in session.ask(boxes[2], (), pictures=[2])] == [(30, 90)]
    with pytest.raises(PamKitError, match="of 3 pictures, counted from 0; there is no 3"):
        session.ask(boxes[2], pictures=[3])


@pytest.mark.parametrize("steps", ["growing", "fixed"])
def test_steps_of_every_kind_answer_alike(talking_model, steps):
    model = talking_model()
    session = RegionPredictor(model, "cpu", SessionSettings(steps=steps)).open(picture())
    for _ in range(2):
        assert_plain(model, picture(), session.ask(prompts(), TASKS, ("en",), STEPS))


def test_a_decoder_of_two_bytes_answers_and_the_masks_stay_as_they_are(talking_model):
    expected = RegionPredictor(talking_model(), "cpu").predict(picture(), prompts(), max_new_tokens=1)
    low = RegionPredictor(talking_model(), "cpu", precision="bfloat16")
    assert {p.dtype for p in low.model.decoder.parameters()} == {torch.bfloat16}
    for one, other in zip(low.predict(picture(), prompts(), max_new_tokens=1), expected, strict=True):
        assert np.array_equal(one.mask, other.mask)
        own, others = (found.texts["recognize"]["en"].score for found in (one, other))
        assert own == pytest.approx(others, abs=0.2)


def watched(model, monkeypatch) -> dict[str, list]:
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


def positions(seen) -> int:
    return sum(rows * width for rows, width in seen["positions"])


def test_the_work_is_done_once_and_counted_as_it_is(talking_model, monkeypatch):
    """Eight questions about four regions: one picture, four prefixes, and logits of nothing but the answers' words."""
    model = talking_model("decoder.template=chatml")
    seen, decoder = watched(model, monkeypatch), model.decoder
    session = RegionPredictor(model, "cpu").open(picture())
    assert seen["pictures"] == [1]
    session.ask(prompts(), (*QUESTIONS,), LANGUAGES, 1)
    words = sum(decoder.question_length(text) for by_language in QUESTIONS.values() for text in by_language.values())
    ahead = decoder.start_reading(1).length
    prefix = model.prefix_length()
    assert seen["pictures"] == [1] and seen["regions"] == [4] and seen["rows"] == [4 * 8]
    work = session.work
    assert work.prefix_positions == ahead + 4 * prefix, "the words ahead of regions are read once"
    assert work.positions == work.prefix_positions + 4 * (words - 8 * ahead)
    assert (work.pictures, work.regions, work.views, work.vocabulary_rows) == (1, 4, 4, 32)
    del seen["positions"][-1]  # of the reading that ``ahead`` was counted with
    assert positions(seen) == work.positions

    seen["positions"].clear()
    session.ask(prompts()[1:3], ("describe",), ("zh",), STEPS)
    assert seen["pictures"] == [1] and seen["regions"] == [4] and work.prefix_positions == ahead + 4 * prefix
    added = 2 * (decoder.question_length(QUESTIONS["describe"]["zh"]) - ahead)
    steps = len(seen["positions"])
    assert steps <= STEPS and positions(seen) <= added + 2 * (steps - 1)
    assert work.vocabulary_rows == sum(seen["rows"]) <= 32 + 2 * STEPS


def test_what_was_read_is_found_again_but_of_the_last_regions_alone(talking_model, monkeypatch):
    model = talking_model()
    session = RegionPredictor(model, "cpu", SessionSettings(kept_regions=2, region_batch=2, answer_batch=4)).open(
        picture()
    )
    expected = session.ask(prompts(), TASKS, ("en",), STEPS)
    assert_plain(model, picture(), expected)
    before = session.work.prefix_positions
    again = session.ask(prompts()[2:], TASKS, ("en",), STEPS)
    assert session.work.prefix_positions == before and session.work.regions == 4
    one_by_one = [session.ask([prompt], TASKS, ("en",), STEPS)[0] for prompt in reversed(prompts()[2:])]
    assert session.work.prefix_positions == before
    for found in (again, one_by_one[::-1]):
        assert_same_texts(found, expected[2:])
        assert all(np.array_equal(one.mask, other.mask) for one, other in zip(found, expected[2:], strict=True))
    mixed = session.ask([prompts()[0], prompts()[3]], TASKS, ("en",), STEPS)
    assert session.work.prefix_positions == before + before // 4 and session.work.regions == 5
    assert_plain(model, picture(), mixed)
    nothing = RegionPredictor(model, "cpu", SessionSettings(kept_regions=0)).open(picture())
    for _ in range(2):
        assert_plain(model, picture(), nothing.ask(prompts()[:2], TASKS, ("en",), STEPS))
    assert nothing.work.prefix_positions == before


def test_masks_come_first_then_texts_grow_and_each_region_ends_once(talking_model):
    session = RegionPredictor(talking_model(), "cpu", SessionSettings(region_batch=2, answer_batch=3)).open(picture())
    events = list(session.stream(prompts(), TASKS, LANGUAGES, STEPS))
    kinds = [type(event) for event in events]
    assert kinds[:4] == [MaskReady] * 4 and kinds.count(MaskReady) == 4
    assert kinds.count(RegionReady) == 4 and kinds.count(TextReady) == 16
    grown: dict[tuple, str] = {}
    for place, event in enumerate(events):
        if isinstance(event, MaskReady):
            assert event.prediction.texts == {}
        elif isinstance(event, TextGrows):
            key = (event.region, event.task, event.language)
            grown[key] = grown.get(key, "") + event.piece
        elif isinstance(event, TextReady):
            key = (event.region, event.task, event.language)
            assert grown.get(key, "").strip() == event.answer.text
        else:
            later = [other for other in events[place + 1 :] if other.region == event.region]
            assert not later and sum(map(len, event.prediction.texts.values())) == 4
    assert kinds.index(TextGrows) < kinds.index(TextReady), "pieces are told before an answer is whole"


def test_a_stream_that_is_left_early_leaves_the_session_as_it_was(talking_model):
    model = talking_model()
    session = RegionPredictor(model, "cpu").open(picture())
    stream = session.stream(prompts(), TASKS, ("en",), STEPS)
    next(event for event in stream if isinstance(event, TextGrows))
    assert_plain(model, picture(), session.ask(prompts(), TASKS, ("en",), STEPS))
    stream.close()
    assert_plain(model, picture(), session.ask(prompts(), TASKS, ("en",), STEPS))


def test_a_wrong_region_is_told_alone(talking_model):
    model, wrong = talking_model(), RegionPrompt(box=(10.0, 10.0, 900.0, 40.0))
    predictor = RegionPredictor(model, "cpu")
    session = predictor.open(picture())
    found = session.ask([prompts()[0], wrong, prompts()[1]], TASKS, ("en",), STEPS)
    assert_plain(model, picture(), [found[0], found[2]])
    assert "does not fit a picture of 80x48" in found[1].error and not found[1].mask.any() and found[1].texts == {}
    told = json.loads(json.dumps(found[1].to_json()))
    assert told["error"] == found[1].error and "error" not in found[0].to_json()
    first = next(session.stream([prompts()[0], wrong], TASKS, ("en",), STEPS))
    assert isinstance(first, RegionReady) and first.region == 1, "it is told before anything is computed"
    with pytest.raises(PromptError, match="region 2 of 2: box"):
        predictor.predict(picture(), [prompts()[0], wrong])


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


@pytest.mark.parametrize("kind", list(Short.ERRORS))
def test_memory_that_is_short_halves_what_is_done_at_once(talking_model, monkeypatch, kind):
    model = talking_model()
    images = [picture(seed) for seed in range(3)]
    encode = Short(model.backbone.encode, 1, kind, len)
    segment = Short(model.backbone.segment, 2, kind, lambda _f, _i, prompts: len(prompts))
    monkeypatch.setattr(model.backbone, "encode", encode)
    monkeypatch.setattr(model.backbone, "segment", segment)
    session = RegionPredictor(model, "cpu", SessionSettings(region_batch=8)).open(*images)
    found = session.ask(prompts() * 2, ("recognize",), ("en",), STEPS, pictures=[0] * 8)
    assert encode.asked == [3, 2, 1, 1, 1] and segment.asked == [8, 4, 2, 2, 4, 2, 2]
    assert session.settings.region_batch == 2 and session.settings.picture_batch == 1
    assert "memory was not enough for 8 regions at once; at most 4 from then on (region_batch)" in session.notes
    assert all(any("8 regions at once" in note for note in one.notes) for one in found)
    assert all(one.error is None and one.texts["recognize"]["en"].text is not None for one in found)
    monkeypatch.undo()
    again = RegionPredictor(model, "cpu").open(*images).ask(prompts() * 2, ("recognize",), ("en",), STEPS)
    assert_same_texts(again, found)


def test_answers_that_memory_cut_off_are_said_again_but_told_once(talking_model, monkeypatch):
    """The third step of the first try fails: what was told by then is not told twice."""
    model = talking_model()
    steps: list[int] = []

    def short(_module, inputs):
        rows, width = inputs[0].shape[:2]
        steps.append(width)
        if len(steps) == 4 and rows == 4:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    session = RegionPredictor(model, "cpu").open(picture())
    hook = model.decoder.layers()[0].register_forward_pre_hook(short)
    events = list(session.stream(prompts(), TASKS, ("en",), STEPS))
    hook.remove()
    ready = [event.prediction for event in events if isinstance(event, RegionReady)]
    assert len(ready) == 4 and session.settings.answer_batch == 4
    assert all("8 answers at once" in one.notes[0] for one in ready)
    for event in events:
        if isinstance(event, TextReady):
            key = (event.region, event.task)
            pieces = [e.piece for e in events if isinstance(e, TextGrows) and (e.region, e.task) == key]
            assert "".join(pieces).strip() == event.answer.text
    assert sum(isinstance(event, MaskReady) for event in events) == 4
    expected = session.ask(prompts(), TASKS, ("en",), STEPS)
    order = {event.region: event.prediction for event in events if isinstance(event, RegionReady)}
    assert_same_texts([order[number] for number in range(4)], expected)


def test_memory_that_is_never_enough_is_an_error_of_the_region(talking_model, monkeypatch):
    model = talking_model()
    session = RegionPredictor(model, "cpu").open(picture())
    never = Short(model.decoder.start_reading, 0, "cuda", lambda count, _steps: count)
    monkeypatch.setattr(model.decoder, "start_reading", never)
    found = session.ask(prompts()[:2], ("recognize",), ("en",), STEPS)
    assert never.asked == [2, 1, 1]
    for one in found:
        assert "not enough memory to answer recognize in en about this region alone: CUDA" in one.error
        assert one.mask.any() and one.texts == {}
    with pytest.raises(PamKitError, match="region 1 of 2: there is not enough memory"):
        RegionPredictor(model, "cpu").predict(picture(), prompts()[:2])
    monkeypatch.setattr(model.backbone, "segment", Short(None, 0, "host", lambda _f, _i, p: len(p)))
    assert all("memory for this region alone" in one.error for one in session.ask(prompts()[2:]))
    monkeypatch.setattr(model.backbone, "encode", Short(None, 0, "cpu", len))
    with pytest.raises(PamKitError, match="not enough memory to encode a single picture"):
        RegionPredictor(model, "cpu").open(picture())


def test_other_errors_are_not_taken_for_short_memory(talking_model, monkeypatch):
    model = talking_model()

    def broken(*_arguments):
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(model.backbone, "segment", broken)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        RegionPredictor(model, "cpu").predict(picture(), prompts())


def test_hypotheses_show_what_their_texts_describe(model):
    """Each text is what the model says of a region whose described token is that of the hypothesis."""
    session = RegionPredictor(model, "cpu").open(picture())
    point = [RegionPrompt(points=((30.0, 20.0),), labels=(1,)), prompts()[0]]
    found = session.ask(point, ("caption",), ("en",), STEPS, hypotheses=True)
    assert session.work.views == 6 and session.work.regions == 2
    geometry = Geometry.of(model.backbone)
    for one in found:
        assert [hypothesis.name for hypothesis in one.hypotheses] == ["part", "whole", "group"]
        areas = [hypothesis.mask.sum() for hypothesis in one.hypotheses]
        assert areas == sorted(areas)
        (chosen,) = [hypothesis for hypothesis in one.hypotheses if hypothesis.chosen]
        assert chosen.iou == max(hypothesis.iou for hypothesis in one.hypotheses) == one.iou
        assert np.array_equal(chosen.mask, one.mask) and chosen.texts == one.texts
        assert sorted(one.texts) == ["caption", "recognize"]
        asked = [Asked(0, "recognize", "en", QUESTIONS["recognize"]["en"])]
        batch = collate([prepare(picture(), [one.prompt], asked, geometry)], geometry)
        with torch.inference_mode():
            regions = model.segment(batch.images, batch.image_index, batch.prompts)
            logits = torch.nn.functional.interpolate(regions.candidate_logits, size=(48, 80), mode="bilinear")[0]
            for hypothesis in one.hypotheses:
                (k,) = [
                    k
                    for k in (1, 2, 3)
                    if float(regions.candidate_iou[0, k]) == pytest.approx(hypothesis.iou, abs=1e-5)
                ]
                sure = logits[k].abs() > 1e-4
                assert torch.equal(torch.from_numpy(hypothesis.mask)[sure], (logits[k] > 0)[sure])
                first = 1 + int(model.backbone.mask_decoder.pred_obj_scores)
                regions.mask_tokens = torch.stack([regions.all_tokens[:, first + k], regions.all_tokens[:, first]], 1)
                regions.mask_logits = regions.candidate_logits[:, k : k + 1]
                prefix = model.prefix(model.perceive(regions))
                (expected,) = model.decoder.generate(prefix, batch.questions, STEPS)
                assert hypothesis.texts["recognize"]["en"].text == expected.text
    before = session.work.prefix_positions
    assert session.ask(point[:1], ("caption",), ("en",), STEPS, hypotheses=True)[0].texts == found[0].texts
    assert session.work.prefix_positions == before, "three views of two regions are kept"
    told = found[0].to_json()["hypotheses"]
    assert [one["name"] for one in told] == ["part", "whole", "group"] and json.dumps(told)


def test_hypotheses_of_a_backbone_without_any_are_refused(talking_model, monkeypatch):
    model = talking_model()
    segment = model.backbone.segment

    def single(*arguments):
        regions = segment(*arguments)
        regions.candidate_tokens = None
        return regions

    monkeypatch.setattr(model.backbone, "segment", single)
    with pytest.raises(PamKitError, match="no hypotheses"):
        RegionPredictor(model, "cpu").open(picture()).ask(prompts(), hypotheses=True)


@pytest.mark.parametrize("overrides", [("decoder.architecture=bloom",), ("decoder.template=native",)])
def test_a_decoder_that_cannot_share_what_it_reads_answers_all_the_same(talking_model, overrides):
    model = talking_model(*overrides)
    if "native" in overrides[0]:
        model.decoder.tokenizer.chat_template = (
            "{{ messages[1].content.split('\n')[1][:4] }}: {{ messages[1].content }}"
        )
    session = RegionPredictor(model, "cpu").open(picture())
    assert_plain(model, picture(), session.ask(prompts(), TASKS, ("en",), STEPS))
    assert len(session.notes) == 1 and "together with its region" in session.notes[0]


def test_wrong_questions_and_settings_name_what_is_wrong(talking_model):
    session = Session(talking_model(), [picture()])
    for wrong, words in ((("paint",), "unknown task 'paint'.*questions="), (("caption", "caption"), "asked twice")):
        with pytest.raises(PamKitError, match=words):
            session.ask(prompts(), wrong)
    with pytest.raises(PamKitError, match="unknown language 'fr'"):
        session.ask(prompts(), languages=("fr",))
    with pytest.raises(PamKitError, match="region_batch is 0; it is at least 1"):
        SessionSettings(region_batch=0)
    with pytest.raises(PamKitError, match="steps is 'quick'; it is one of growing, fixed, compiled"):
        SessionSettings(steps="quick")
    assert session.ask([]) == []


@torch.inference_mode()
def test_a_region_is_told_of_by_the_mask_that_is_chosen(model):
    """Each of the decoder's masks by itself; beside them the one that the model would show."""
    session = RegionPredictor(model, "cpu").open(picture())
    point = RegionPrompt(points=((20.0, 12.0),), labels=(1,))
    ((numbers, features),) = session.segment([point])
    assert numbers == [0] and features.candidate_logits.shape[1] == 4
    asked = session.ask([point] * 5, ("caption",), ("en",), STEPS, candidates=[0, 1, 2, 3, None])
    expected = [features.hypothesis(candidate) for candidate in range(4)] + [features]
    prefix = session.prefixes([point] * 5, candidates=[0, 1, 2, 3, None])
    for one, own, read in zip(asked, expected, prefix, strict=True):
        full = torch.nn.functional.interpolate(own.mask_logits, size=(48, 80), mode="bilinear")[0, 0]
        assert torch.equal(torch.from_numpy(one.mask), full > 0) and one.iou == pytest.approx(float(own.iou))
        by_hand = model.prefix(model.perceive(own))
        assert torch.allclose(read, by_hand[0], rtol=1e-3, atol=1e-3)
        reading = model.decoder.start_reading(1)
        reading.read(by_hand)
        question = Questions(torch.zeros(1).long(), [QUESTIONS["caption"]["en"]], [""], ["caption"], ["en"])
        assert one.texts["caption"]["en"].text == reading.answer(question, STEPS)[0].text
    masks = {one.mask.tobytes() for one in asked[:4]}
    # Asked once more, the mask of a region and its text are those of the same candidate.
    again = session.ask([point] * 2, ("caption",), ("en",), STEPS, candidates=[3, 1])
    said = [one.texts["caption"]["en"].text for one in (*again, asked[3], asked[1])]
    assert len(masks) > 1 and said[:2] == said[2:]
    assert np.array_equal(again[0].mask, asked[3].mask)


def test_masks_that_cannot_be_chosen(tiny_model):
    session = RegionPredictor(tiny_model(), "cpu").open(picture())
    point = [RegionPrompt(points=((20.0, 12.0),), labels=(1,))]
    with pytest.raises(PamKitError, match="makes 4 masks to choose from at a prompt; there is no number 4"):
        session.ask(point, candidates=[4])
    with pytest.raises(PamKitError, match="ask for one or the other"):
        session.ask(point, hypotheses=True, candidates=[1])
    outside = [*point, RegionPrompt(points=((99.0, 12.0),), labels=(1,))]
    for looking in (lambda: list(session.segment(outside)), lambda: session.prefixes(outside)):
        with pytest.raises(PromptError, match="region 2 of 2: point"):
            looking()
