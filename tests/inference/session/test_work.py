"""What a session computes, counted where it is computed: nothing twice."""

import numpy as np

from pam_kit.inference.predictor import RegionPredictor
from pam_kit.inference.session_settings import SessionSettings
from pam_kit.tasks import QUESTIONS

TASKS, LANGUAGES, STEPS = ("recognize", "caption"), ("en", "zh"), 5


def test_the_work_is_done_once_and_counted_as_it_is(talking_model, monkeypatch, picture, prompts, watched, positions):
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


def test_what_was_read_is_found_again_but_of_the_last_regions_alone(
    talking_model, monkeypatch, picture, prompts, assert_same_texts, assert_plain
):
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
