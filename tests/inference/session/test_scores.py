"""Labels scored in a session: as of each region by itself, read once for labels and texts, and in halves if need be."""

import pytest
import torch

from pam_kit.errors import PamKitError
from pam_kit.inference.closed_set import ClosedSet, recognise
from pam_kit.inference.predictor import RegionPredictor
from pam_kit.inference.region_reading import read_regions

STEPS = 5
QUESTION, LABELS = "What is this?", ["cup", "a red cup", "ball", "杯子"]


@pytest.fixture
def expected(talking_model, picture, prompts):
    """(4, K): of each region by itself, with nothing shared."""
    predictor, chosen = RegionPredictor(talking_model(), "cpu"), ClosedSet(LABELS, question=QUESTION)
    prefixes = [read_regions(predictor, [picture()], [[prompt]])[1] for prompt in prompts()]
    return torch.cat([chosen.log_probabilities(predictor.model.decoder, prefix) for prefix in prefixes]).float()


def test_a_region_is_read_once_for_its_labels_and_its_texts(
    talking_model, monkeypatch, picture, prompts, watched, positions, assert_plain, expected
):
    model = talking_model("decoder.template=plain")
    seen = watched(model, monkeypatch)
    session = RegionPredictor(model, "cpu").open(picture())
    scores = session.score(prompts(), QUESTION, LABELS)
    torch.testing.assert_close(scores.log_probability, expected, atol=1e-3, rtol=0)
    assert scores.num_tokens.shape == (4,) and session.work.prefix_positions == 4 * model.prefix_length()
    assert positions(seen) == session.work.positions
    found = session.ask(prompts(), ("recognize",), ("en",), STEPS)
    assert seen["pictures"] == [1] and seen["regions"] == [4] and session.work.views == 4
    assert session.work.prefix_positions == 4 * model.prefix_length()
    assert positions(seen) == session.work.positions and sum(seen["rows"]) == session.work.vocabulary_rows
    again = session.score(prompts()[::-1], QUESTION, LABELS)
    torch.testing.assert_close(again.log_probability, expected.flip(0), atol=1e-3, rtol=0)
    assert session.work.prefix_positions == 4 * model.prefix_length()
    monkeypatch.undo()
    assert_plain(model, picture(), found)


def test_memory_that_is_short_halves_what_is_scored_at_once(talking_model, picture, prompts, expected):
    model, rows = talking_model(), []

    def short(_module, inputs):
        rows.append(len(inputs[0]))
        if rows[-1] > 1:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    session = RegionPredictor(model, "cpu").open(picture())
    hook = model.decoder.layers()[-1].register_forward_pre_hook(short)
    scores = session.score(prompts(), QUESTION, LABELS)
    hook.remove()
    torch.testing.assert_close(scores.log_probability, expected, atol=1e-3, rtol=0)
    assert session.settings.answer_batch == 1 and "4 answers at once" in session.notes[0] and max(rows) > 1


def test_what_cannot_be_scored_is_told(talking_model, monkeypatch, picture, prompts, short_of_memory):
    model = talking_model()
    session = RegionPredictor(model, "cpu").open(picture())
    with pytest.raises(PamKitError, match="give one at least"):
        session.score([], QUESTION, LABELS)
    with pytest.raises(PamKitError, match="has no words"):
        session.score(prompts(), QUESTION, ["cup", ""])
    never = short_of_memory(None, 0, "cuda", lambda count, _steps: count)
    monkeypatch.setattr(model.decoder, "start_reading", never)
    with pytest.raises(PamKitError, match="region 1 of 2: there is not enough memory to answer recognize in en"):
        RegionPredictor(model, "cpu").open(picture()).score(prompts()[:2], QUESTION, LABELS)


def test_a_decoder_that_cannot_share_what_it_reads_scores_all_the_same(talking_model, picture, prompts):
    model = talking_model("decoder.template=native")
    model.decoder.tokenizer.chat_template = "{{ messages[1].content.split('\n')[1][:4] }}: {{ messages[1].content }}"
    predictor, chosen = RegionPredictor(model, "cpu"), ClosedSet(LABELS, question=QUESTION)
    session = predictor.open(picture())
    found = session.score(prompts(), QUESTION, LABELS).log_probability
    _, prefix = read_regions(predictor, [picture()], [prompts()])
    torch.testing.assert_close(found, chosen.log_probabilities(model.decoder, prefix).float(), atol=1e-3, rtol=0)
    assert len(session.notes) == 1 and "together with its region" in session.notes[0]


def test_recognise_is_made_of_a_session(talking_model, monkeypatch, picture, prompts, watched, expected):
    model = talking_model()
    seen = watched(model, monkeypatch)
    ranked = recognise(RegionPredictor(model, "cpu"), picture(), prompts(), ClosedSet(LABELS, question=QUESTION), 1)
    assert [own[0].name for own in ranked] == [LABELS[best] for best in expected.argmax(1).tolist()]
    assert seen["pictures"] == [1] and seen["regions"] == [4]
