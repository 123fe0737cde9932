"""Sessions whose memory is short: less is done at once, nothing is told twice, and what was read stays whole."""

import pytest
import torch

from pam_kit.errors import PamKitError
from pam_kit.inference.predictor import RegionPredictor
from pam_kit.inference.session_events import MaskReady, RegionReady, TextGrows, TextReady
from pam_kit.inference.session_settings import SessionSettings

TASKS, STEPS = ("recognize", "caption"), 5


@pytest.mark.parametrize("kind", ["cuda", "cpu", "host"])
def test_memory_that_is_short_halves_what_is_done_at_once(
    talking_model, monkeypatch, kind, picture, prompts, assert_same_texts, short_of_memory
):
    model = talking_model()
    images = [picture(seed) for seed in range(3)]
    encode = short_of_memory(model.backbone.encode, 1, kind, len)
    segment = short_of_memory(model.backbone.segment, 2, kind, lambda _f, _i, prompts: len(prompts))
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


def test_answers_that_memory_cut_off_are_said_again_but_told_once(
    talking_model, monkeypatch, picture, prompts, assert_same_texts
):
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


def test_memory_that_is_never_enough_is_an_error_of_the_region(
    talking_model, monkeypatch, picture, prompts, short_of_memory
):
    model = talking_model()
    session = RegionPredictor(model, "cpu").open(picture())
    never = short_of_memory(model.decoder.start_reading, 0, "cuda", lambda count, _steps: count)
    monkeypatch.setattr(model.decoder, "start_reading", never)
    found = session.ask(prompts()[:2], ("recognize",), ("en",), STEPS)
    assert never.asked == [2, 1, 1, 1, 1], "each by itself once more, without what waits of the other"
    for one in found:
        assert "not enough memory to answer recognize in en about this region alone: CUDA" in one.error
        assert one.mask.any() and one.texts == {}
    with pytest.raises(PamKitError, match="region 1 of 2: there is not enough memory"):
        RegionPredictor(model, "cpu").predict(picture(), prompts()[:2])
    monkeypatch.setattr(model.backbone, "segment", short_of_memory(None, 0, "host", lambda _f, _i, p: len(p)))
    assert all("memory for this region alone" in one.error for one in session.ask(prompts()[2:]))
    monkeypatch.setattr(model.backbone, "encode", short_of_memory(None, 0, "cpu", len))
    with pytest.raises(PamKitError, match="not enough memory to encode a single picture"):
        RegionPredictor(model, "cpu").open(picture())


def test_other_errors_are_not_taken_for_short_memory(talking_model, monkeypatch, picture, prompts):
    model = talking_model()

    def broken(*_arguments):
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(model.backbone, "segment", broken)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        RegionPredictor(model, "cpu").predict(picture(), prompts())


def out_of_memory(*_arguments):
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


@pytest.mark.parametrize("together", [False, True])
def test_memory_that_ends_in_the_last_layer_of_a_step_fails_one_answer_alone(
    talking_model, together, picture, prompts, assert_plain
):
    """The keys of the layers ahead have grown by then; what is asked next finds them as they were."""
    model = talking_model()
    session = RegionPredictor(model, "cpu").open(picture())
    session.ask(prompts() if together else prompts()[:1], ("recognize",), ("en",), STEPS)
    hook = model.decoder.layers()[-1].register_forward_pre_hook(out_of_memory)
    (failed,) = session.ask(prompts()[:1], ("caption",), ("zh",), STEPS)
    hook.remove()
    assert "not enough memory to answer caption in zh about this region alone: CUDA" in failed.error
    assert_plain(model, picture(), session.ask(prompts(), TASKS, ("en",), STEPS))


def test_what_is_kept_goes_ahead_of_a_failing_answer(talking_model, monkeypatch, picture, prompts, assert_same_texts):
    """One region and one question at a time: the readings of the others go, the cache behind them, then once more."""
    model = talking_model()
    session = RegionPredictor(model, "cpu").open(picture())
    expected = [session.ask([prompt], ("recognize",), ("en",), STEPS)[0] for prompt in prompts()]
    kept, emptied = session._answering.kept, []
    assert len(kept) == 4

    def short(_module, _inputs):
        if len(kept) > 1:
            out_of_memory()

    hook = model.decoder.layers()[-1].register_forward_pre_hook(short)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.empty_cache", lambda: emptied.append(len(kept)))
    before = session.work.prefix_positions
    (found,) = session.ask(prompts()[2:3], ("recognize",), ("en",), STEPS)
    monkeypatch.undo()
    hook.remove()
    assert_same_texts([found], expected[2:3])
    note = "memory was not enough for 4 regions kept besides; at most 2 from then on (kept_regions)"
    assert found.notes == (note,) and session.notes == [note] and session.settings.kept_regions == 2
    assert emptied == [1], "what is let go of is given back, and the region that is asked about is not"
    assert session.work.prefix_positions == before
    again = session.ask(prompts(), ("recognize",), ("en",), STEPS)
    assert_same_texts(again, expected)
    assert len(kept) == 2


def test_what_is_kept_goes_ahead_of_a_failing_region(talking_model, monkeypatch, picture, prompts):
    model = talking_model()
    session = RegionPredictor(model, "cpu").open(picture())
    session.ask(prompts()[:2], ("recognize",), ("en",), 1)
    segment, kept = model.backbone.segment, session._answering.kept
    monkeypatch.setattr(model.backbone, "segment", lambda *given: out_of_memory() if len(kept) else segment(*given))
    (found,) = session.ask(prompts()[2:3], ("recognize",), ("en",), 1)
    assert found.error is None and found.mask.any() and "2 regions kept besides" in found.notes[0]
