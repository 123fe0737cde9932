"""The plain path does what the released code does, no less and no more, and its answers are those of ``generate``."""

from copy import deepcopy

import numpy as np
import pytest
import torch

from pam_kit.bench.comparison import compare
from pam_kit.bench.measured_inference import Bench
from pam_kit.bench.models import chosen_model, pictures, prompts
from pam_kit.bench.plain_answers import PlainPath
from pam_kit.bench.stage_times import StageTimes
from pam_kit.bench.works import ModelChoice, Work
from pam_kit.data.prepare import Asked, Geometry, collate, prepare
from pam_kit.errors import PamKitError
from pam_kit.tasks import question

STEPS = 4


def test_everything_is_computed_anew_for_every_region_and_question(built):
    """Encoder calls, positions and vocabulary rows that really ran, against what they have to be."""
    model = deepcopy(built)
    work, decoder = Work(regions=3, questions=4, max_new_tokens=STEPS), model.decoder
    encoded, positions, rows = [], [], []
    encode = model.backbone.encode
    model.backbone.encode = lambda images: (encoded.append(len(images)), encode(images))[1]
    decoder.layers()[0].register_forward_pre_hook(lambda _m, inputs: positions.append(tuple(inputs[0].shape[:2])))
    decoder.lm.get_output_embeddings().register_forward_hook(lambda _m, _i, out: rows.append(out.shape[:-1].numel()))
    path = PlainPath(model, StageTimes("cpu"))
    (image,) = pictures(work)
    found = [path.picture(image, one, work.asked, STEPS) for one in prompts(work)]
    assert all(len(region.texts) == 4 and len(region.logits) == 1 for region in found)
    lengths = [
        decoder.question_length(question(task, "en")) + model.prefix_length() for task in work.asked[0]
    ] * work.regions
    expected = [(1, count) for length in lengths for count in (length, *[1] * (STEPS - 1))]
    assert encoded == [1, 1, 1] and positions == expected
    assert rows == [count for _, count in expected], "the logits of every position, also of those that nobody reads"
    assert path.counts.pictures == path.counts.regions == path.counts.views == 3
    assert path.counts.positions == path.counts.vocabulary_rows == sum(rows)


def test_its_texts_are_those_of_generate(built):
    model = deepcopy(built)
    work, path = Work(regions=2, questions=2, max_new_tokens=STEPS), PlainPath(model, StageTimes("cpu"))
    (image,) = pictures(work)
    for one in prompts(work):
        region = path.picture(image, one, work.asked, STEPS)
        asked = [Asked(0, task, "en", question(task, "en")) for task in work.asked[0]]
        geometry = Geometry.of(model.backbone)
        batch = collate([prepare(image, [one], asked, geometry)], geometry)
        regions, answers = model.answer(batch.images, batch.image_index, batch.prompts, batch.questions, STEPS)
        assert region.texts == [answer.text for answer in answers]
        assert torch.allclose(region.logits[0], regions.mask_logits[0, 0], atol=1e-5)
        assert region.scores[0][0] == pytest.approx(float(regions.iou[0]), abs=1e-5)


def test_an_answer_ends_where_the_model_ends_it(built):
    """A model that says the end as its second word is asked for no third one."""
    model = deepcopy(built)
    form_end, calls = model.decoder.tokenizer.convert_tokens_to_ids("<|im_end|>"), []

    def end_second(_module, _inputs, logits):
        calls.append(logits.shape[1])
        if len(calls) % 2 == 0:
            logits[..., form_end] = 1e4
        return logits

    model.decoder.lm.get_output_embeddings().register_forward_hook(end_second)
    work, times = Work(questions=3, max_new_tokens=STEPS), StageTimes("cpu")
    region = PlainPath(model, times).picture(pictures(work)[0], prompts(work)[0], work.asked, STEPS)
    assert len(calls) == 2 * 3 and times.tokens == 2 * 3
    assert all("<|im_end|>" not in text for text in region.texts)


CLIPS = """
model:
BACKBONE
  perceiver: {name: semantic_perceiver, num_semantic_tokens: 3, num_heads: 4, mlp_dim: 32}
  projector: {name: pixel_shuffle_mlp, ratio: 2, later_ratio: 4}
  decoder: {name: causal_lm, hidden_size: 32, num_layers: 2, num_heads: 4, vocab_size: 900, max_length: 1024}
data:
  train: {name: micro, num_samples: 8, seed: 0}
train: {max_steps: 2}
"""


def test_clips_are_the_same_on_both_paths(tmp_path, small_sam2):
    (tmp_path / "clips.yaml").write_text(CLIPS.replace("BACKBONE\n", small_sam2), encoding="utf-8")
    work, files = Work(regions=2, questions=2, frames=3, max_new_tokens=STEPS), []
    for path in ("kit", "plain"):
        bench = Bench(ModelChoice(recipe=str(tmp_path / "clips.yaml")), path, "cpu")
        files.append(str(tmp_path / f"{path}.npz"))
        timing = bench.time(work, files[-1])
        assert timing.tokens == 2 * 2 * STEPS and all(value > 0 for value in timing.stages_ms.values())
    assert timing.counts["pictures"] == 2 * 3, "each region encodes the whole clip"
    compared = compare(*files)
    assert compared.same and compared.distinct > 1
    with np.load(files[0]) as found:
        assert found["masks"].shape == (2 * 3, 480, 640) and found["texts"].shape == (4,)


def test_an_answer_has_a_fork_wherever_two_words_are_as_likely(built):
    """From the third word on the second likeliest is as likely as the likeliest; once it is the one that ends it."""
    model, calls, seconds, ids = deepcopy(built), [], [], ([], [])
    end = model.decoder.tokenizer.convert_tokens_to_ids("<|im_end|>")

    def level(_module, _inputs, logits):
        calls.append(logits.shape[1])
        first, second = logits[0, -1].topk(2).indices
        ids[(len(calls) - 1) // STEPS].append(int(first))
        if (len(calls) - 1) % STEPS >= 2:
            second = end if len(calls) == 3 else second
            logits[0, -1, second] = logits[0, -1, first] * (1 - 1e-6)
            seconds.append(int(second))
        return logits

    work = Work(questions=2, max_new_tokens=STEPS)
    alone = PlainPath(deepcopy(built), StageTimes("cpu")).picture(
        pictures(work)[0], prompts(work)[0], work.asked, STEPS
    )
    assert alone.forks == [[], []] and alone.exact
    model.decoder.lm.get_output_embeddings().register_forward_hook(level)
    region = PlainPath(model, StageTimes("cpu")).picture(pictures(work)[0], prompts(work)[0], work.asked, STEPS)
    assert region.texts == alone.texts and len(calls) == 2 * STEPS
    decode = model.decoder.tokenizer.decode
    for number, (said, forks) in enumerate(zip(ids, region.forks, strict=True)):
        expected = [[*said[:2], seconds[2 * number]], [*said[:3], seconds[2 * number + 1]]]
        assert [fork.said for fork in forks] == [decode(one, skip_special_tokens=True).strip() for one in expected]
        assert [fork.whole for fork in forks] == [number == 0, True]
    assert len({*region.texts, *(fork.said for forks in region.forks for fork in forks)}) == 2 * 3


def test_a_decoder_without_logits_is_refused(built):
    model = deepcopy(built)
    model.decoder.tokenizer = None
    with pytest.raises(PamKitError, match="no tokenizer yet"):
        PlainPath(model, StageTimes("cpu"))
    model.decoder = torch.nn.Identity()
    with pytest.raises(PamKitError, match="written for the decoder causal_lm, not Identity"):
        PlainPath(model, StageTimes("cpu"))


def test_every_word_of_a_random_model_reads_differently(built):
    tokenizer = built.decoder.tokenizer
    named = [text for word in range(900) if (text := tokenizer.decode([word])).startswith(" <")]
    assert len(set(named)) == len(named) > 400 and len(tokenizer) == 900
    assert all(tokenizer.decode([word]) for word in range(3, 900)), "nothing that is said is shown as nothing"
    assert tokenizer("Classify this").input_ids == tokenizer(" ".join(["Classify", "this"])).input_ids


def test_both_processes_have_the_same_weights(built, recipe):
    other = chosen_model(ModelChoice(recipe=recipe))
    assert all(torch.equal(a, b) for a, b in zip(built.parameters(), other.parameters(), strict=True))
