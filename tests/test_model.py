"""RegionVLM: what is computed once, batches against single regions, the prefix and its length."""

from dataclasses import fields

import pytest
import torch

from pam_kit.contracts import ClipBatch, ProjectedTokens, PromptBatch, Questions, RegionBatch, RegionFeatures
from pam_kit.errors import PamKitError
from pam_kit.model import RegionPrefix, RegionVLM


def questions_of(questions: Questions, region: int) -> tuple[Questions, list[int]]:
    """The questions about one region, as region 0, and their places."""
    rows = [i for i, about in enumerate(questions.region_index.tolist()) if about == region]
    lists = ([getattr(questions, name)[i] for i in rows] for name in ("questions", "answers", "tasks", "languages"))
    return Questions(torch.zeros(len(rows), dtype=torch.long), *lists), rows


def one_region(batch: RegionBatch, region: int) -> tuple[RegionBatch, list[int]]:
    """The batch of one picture and one region of it, and the places of its questions."""
    image, row = int(batch.image_index[region]), slice(region, region + 1)
    prompts = PromptBatch(*(getattr(batch.prompts, f.name)[row] for f in fields(PromptBatch)))
    questions, places = questions_of(batch.questions, region)
    images, index = batch.images[image : image + 1], torch.zeros(1, dtype=torch.long)
    single = RegionBatch(images, index, prompts, questions, batch.target_masks[row], batch.has_target[row])
    return single, places


def talkative(model: RegionVLM) -> RegionVLM:
    """Wider weights: a decoder as it is initialised would only repeat its last word."""
    for p in model.decoder.lm.parameters():
        if p.ndim > 1:
            p.data *= 12
    return model


def answers_of(model: RegionVLM, batch: RegionBatch):
    return model.answer(batch.images, batch.image_index, batch.prompts, batch.questions, max_new_tokens=6)


@pytest.mark.parametrize("run", [lambda model, batch: model(batch), answers_of], ids=["training", "answers"])
def test_an_image_is_encoded_once_and_a_region_perceived_once(tiny_model, sample_batch, run):
    model, calls = tiny_model(), {"extractor": [], "perceiver": [], "projector": []}
    model.backbone.extractor.register_forward_pre_hook(lambda _m, inputs: calls["extractor"].append(len(inputs[0])))
    model.perceiver.register_forward_pre_hook(lambda _m, inputs: calls["perceiver"].append(len(inputs[0].iou)))
    model.projector.register_forward_pre_hook(lambda _m, inputs: calls["projector"].append(len(inputs[0].visual)))
    run(model, sample_batch(regions=(8,), questions=24))
    assert calls == {"extractor": [1], "perceiver": [8], "projector": [8]}


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("perceiver.tokens=all", "backbone.selection=best"),
        ("perceiver.mask_focus=1.0", "backbone.draw_prompts=false", "backbone.selection=stability"),
        ("perceiver=none", "decoder.template=chatml"),
    ],
    ids=["default", "all_tokens", "mask_focus", "no_perceiver"],
)
def test_a_batch_equals_its_regions_one_by_one(tiny_model, sample_batch, overrides):
    """Two pictures, prompts of all kinds, several questions about some regions."""
    model, batch = talkative(tiny_model(*overrides)), sample_batch(regions=(4, 3), questions=10, seed=1)
    with torch.inference_mode():
        out = model(batch)
        regions, answers = answers_of(model, batch)
        for region in range(7):
            single, places = one_region(batch, region)
            alone = model(single)
            compare_regions(out.regions, alone.regions, region)
            torch.testing.assert_close(out.text.per_question[places], alone.text.per_question, atol=1e-4, rtol=1e-4)
            alone_regions, alone_answers = answers_of(model, single)
            compare_regions(regions, alone_regions, region)
            assert [answers[i].text for i in places] == [answer.text for answer in alone_answers]
            for i, answer in zip(places, alone_answers, strict=True):
                assert answers[i].score == pytest.approx(answer.score, abs=1e-4)
    assert len({answer.text for answer in answers}) > 3


def compare_regions(batched: RegionFeatures, alone: RegionFeatures, region: int) -> None:
    for name in ("mask_logits", "iou", "mask_tokens", "image_embedding", "candidate_logits"):
        torch.testing.assert_close(getattr(batched, name)[region], getattr(alone, name)[0], atol=1e-4, rtol=1e-4)


def test_the_whole_loss_is_the_mean_over_all_supervised_tokens(tiny_model, sample_batch):
    model, batch = tiny_model(), sample_batch(regions=(4, 3), questions=9)
    with torch.inference_mode():
        out = model(batch).text
        singles = [model(one_region(batch, region)[0]).text for region in range(7)]
    counts = torch.stack([single.num_tokens for single in singles])
    assert out.num_tokens == counts.sum()
    mean = (torch.stack([single.loss for single in singles]) * counts).sum() / counts.sum()
    torch.testing.assert_close(out.loss, mean, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("regions", [(0,), (0, 0), (2, 0)])
def test_no_region_and_no_question_are_legal(tiny_model, sample_batch, regions):
    model, batch = tiny_model(), sample_batch(regions=regions, questions=0)
    out, (found, answers) = model(batch), answers_of(model, batch)
    assert out.text is None and answers == []
    assert out.regions.mask_logits.shape == found.mask_logits.shape == (sum(regions), 1, 16, 16)
    assert out.tokens.visual.shape == (sum(regions), 4, 32) and out.tokens.semantic.shape == (sum(regions), 3, 32)


@pytest.mark.parametrize("semantic", [0, 2])
def test_prefix_is_visual_newline_semantic_newline(semantic):
    prefix = RegionPrefix(4, has_semantic=semantic > 0)
    tokens = ProjectedTokens(torch.randn(3, 5, 4), torch.randn(3, semantic, 4))
    out = prefix(tokens)
    assert torch.equal(out[:, :5], tokens.visual) and torch.equal(out[:, 5], prefix.visual_newline.expand(3, 4))
    if semantic:
        assert out.shape == (3, 5 + 1 + 2 + 1, 4) and torch.equal(out[:, 6:8], tokens.semantic)
        assert torch.equal(out[:, 8], prefix.semantic_newline.expand(3, 4))
    else:
        assert out.shape == (3, 5 + 1, 4) and prefix.semantic_newline is None


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ((), (4, 3)),
        (("projector.ratio=1", "perceiver.num_semantic_tokens=7"), (16, 7)),
        (("projector.ratio=4", "backbone.image_size=128"), (4, 3)),
        (("projector=linear", "perceiver=none"), (16, 2)),
        (("perceiver.num_semantic_tokens=0",), (4, 0)),
    ],
)
def test_tokens_per_region_are_those_that_reach_the_decoder(tiny_model, sample_batch, overrides, expected):
    model = tiny_model(*overrides)
    assert model.tokens_per_region() == expected
    side = model.backbone.image_size
    tokens = model(sample_batch(image_size=side, cells=side // 4)).tokens
    assert (tokens.visual.shape[1], tokens.semantic.shape[1]) == expected
    newlines = 2 if expected[1] else 1
    assert model.prefix(tokens).shape[1] == sum(expected) + newlines


def test_the_model_supplies_the_widths_on_which_its_parts_agree(tiny_model, sample_batch):
    model = tiny_model("backbone.embed_dim=48", "decoder.hidden_size=40")
    out = model(sample_batch())
    assert out.regions.mask_tokens.shape[-1] == model.perceiver.semantic_tokens.shape[-1] == 48
    assert out.tokens.visual.shape[-1] == out.tokens.semantic.shape[-1] == model.prefix.visual_newline.numel() == 40


def test_clips_tracked_together_are_as_tracked_alone(tiny_model):
    """Clips of 4, 2 and 3 frames with 1, 2 and no regions: the same features and prefixes, whatever they end beside."""
    model = tiny_model("backbone.track=true", "backbone.score_objects=true", "projector.later_ratio=4")
    generator = torch.Generator().manual_seed(5)
    frames = [torch.randint(0, 256, (count, 3, 64, 64), generator=generator, dtype=torch.uint8) for count in (4, 2, 3)]
    boxes = torch.tensor([[[8, 8], [40, 40]], [[20, 4], [60, 30]], [[2, 2], [30, 50]]]).float()
    prompts = PromptBatch(
        boxes, torch.tensor([[2, 3]] * 3), torch.zeros(3, 1, 16, 16), torch.zeros(3, dtype=torch.bool)
    )
    nothing = Questions(torch.zeros(0, dtype=torch.long), [], [], [], [])
    targets = torch.zeros(3, 1, 16, 16), torch.zeros(3, dtype=torch.bool)
    batch = ClipBatch(frames, [[0, 2, 3], [0, 1], [1, 2]], torch.tensor([0, 1, 1]), prompts, nothing, *targets)
    with torch.no_grad():
        together, prefixes = model.read_clips(batch)
        model.backbone.tracks_together = False
        alone, expected = model.read_clips(batch)
    assert [len(regions) for regions in together] == [1, 2, 0]
    for one, other in zip(together, alone, strict=True):
        torch.testing.assert_close(one.mask_logits, other.mask_logits, rtol=0, atol=1e-4)
    for one, other in zip(prefixes, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-4)


def test_a_projector_that_miscounts_is_found_out(tiny_model, monkeypatch):
    model = tiny_model("backbone.track=true", "projector.later_ratio=4")
    prompts = PromptBatch(
        torch.tensor([[[8.0, 8], [40, 40]]]),
        torch.tensor([[2, 3]]),
        torch.zeros(1, 1, 16, 16),
        torch.zeros(1, dtype=torch.bool),
    )
    nothing = Questions(torch.zeros(0, dtype=torch.long), [], [], [], [])
    frames = [torch.zeros(2, 3, 64, 64, dtype=torch.uint8)]
    targets = torch.zeros(1, 1, 16, 16), torch.zeros(1, dtype=torch.bool)
    batch = ClipBatch(frames, [[0, 1]], torch.tensor([0]), prompts, nothing, *targets)
    assert [len(prefix) for prefix in model.read_clips(batch)[1]] == [model.prefix_length(2)]
    monkeypatch.setattr(model.projector, "num_visual_tokens", lambda grid, later=False: 3)
    with pytest.raises(PamKitError, match="num_visual_tokens says something else"):
        model.read_clips(batch)
