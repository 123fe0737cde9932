"""What regions may bring into a model besides tokens: a text in the decoder's words, and a crop of their picture."""

from dataclasses import replace
from functools import partial

import pytest
import torch

from pam_kit.contracts import ClipBatch, Decoder, PromptBatch, Questions, cropped, region_boxes
from pam_kit.errors import PamKitError
from pam_kit.training.feature_cache import FeatureCache
from pam_kit.training.plan import plan

TEXT = "perceiver=text_coordinates"
CROPS = "perceiver={name: focal_crop, num_heads: 2, mlp_dim: 32}"
RIVALS = (
    *("text_coordinates", "visual_prompt", "mask_pooling", "roi_align", "focal_crop", "token_marks"),
    "merged_mask_tokens",
)
CLIPS = ("backbone.track=true", "projector.later_ratio=4")
LETTERS = 25


def clips() -> ClipBatch:
    """Two clips of two and one regions, boxes in their first frames; not every frame is read."""
    generator = torch.Generator().manual_seed(0)
    frames = [torch.randint(0, 256, (count, 3, 64, 64), generator=generator, dtype=torch.uint8) for count in (3, 4)]
    boxes = torch.tensor([[[8, 8], [40, 40]], [[20, 4], [60, 30]], [[2, 2], [30, 50]]]).float()
    prompts = PromptBatch(
        boxes, torch.tensor([[2, 3]] * 3), torch.zeros(3, 1, 16, 16), torch.zeros(3, dtype=torch.bool)
    )
    asked = Questions(torch.tensor([0, 1, 2]), ["What is this?"] * 3, ["cup"] * 3, ["caption"] * 3, ["en"] * 3)
    targets = torch.zeros(3, 1, 16, 16), torch.zeros(3, dtype=torch.bool)
    return ClipBatch(frames, [[0, 2], [1, 2, 3]], torch.tensor([0, 0, 1]), prompts, asked, *targets)


def test_a_regions_text_stands_in_the_decoders_words_ahead_of_the_question(tiny_model, sample_batch):
    """The same sequence as with the box typed into the question, character by character."""
    model, batch = tiny_model(TEXT), sample_batch(regions=(3,), questions=3)
    regions = model.segment(batch.images, batch.image_index, batch.prompts)
    prefix = model.prefix(model.perceive(regions))
    assert prefix.shape[1] == model.prefix_length() == model.tokens_per_region()[0] + 1 + LETTERS
    words = model.decoder.lm.get_input_embeddings()
    tokenizer = model.decoder.tokenizer
    for row, box in enumerate(region_boxes(regions).tolist()):
        text = "[" + ",".join(f"{value:.3f}" for value in box) + "]"
        ids = [tokenizer(character, add_special_tokens=False).input_ids for character in text]
        assert all(len(one) == 1 for one in ids)
        typed = words(torch.tensor([one[0] for one in ids]))
        assert tokenizer.decode([one[0] for one in ids]) == text
        torch.testing.assert_close(prefix[row, -LETTERS:], typed)


def test_a_vocabulary_learned_from_no_digit_knows_all_of_them(tiny_model):
    decoder = tiny_model(TEXT).decoder
    ids = [decoder._ready_format().character(character) for character in "0123456789.,[]"]
    assert len(set(ids)) == 14 and decoder.tokenizer.decode(ids) == "0123456789.,[]"


def test_where_was_pointed_reaches_the_answers_loss_through_the_text_alone(tiny_model, sample_batch):
    model, batch = tiny_model(TEXT), sample_batch(regions=(1,), questions=1)
    regions = model.segment(batch.images, batch.image_index, batch.prompts)

    def loss(regions):
        return model.decoder(model.prefix(model.perceive(regions)), batch.questions).loss

    moved = replace(regions, points=regions.points * 0.5)
    assert (loss(regions) - loss(moved)).abs() > 1e-5
    other_picture = replace(regions, image_embedding=torch.randn_like(regions.image_embedding))
    assert torch.equal(loss(regions), loss(other_picture))


@pytest.mark.parametrize("choice", [TEXT, CROPS])
def test_clips_have_a_text_or_a_crop_in_every_read_frame(tiny_model, choice):
    model, batch = tiny_model(choice, *CLIPS), clips()
    with torch.no_grad():
        together, prefixes = model.read_clips(batch)
        model.backbone.tracks_together = False
        _, alone = model.read_clips(batch)
        _, followed = model.follow(iter(batch.frames[0]), [0, 2], batch.prompts.of_rows(torch.tensor([0, 1])))
    assert [len(prefix) for prefix in prefixes] == [model.prefix_length(count) for count in (2, 2, 3)]
    for one, other in zip(prefixes, alone, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-4)
    torch.testing.assert_close(model.prefix(followed), torch.stack(prefixes[:2]), rtol=0, atol=1e-4)
    assert model.decoder(prefixes, batch.questions).loss.isfinite() and len(together) == 2


def test_a_followed_region_has_the_box_of_its_mask_in_each_frame(tiny_model):
    model, batch = tiny_model(TEXT, *CLIPS), clips()
    with torch.no_grad():
        (_, (first, later)), _ = model.watch(batch)
    torch.testing.assert_close(region_boxes(first), batch.prompts.points[:2].flatten(1) / 64)
    assert (later.labels == -1).all()
    for row, box in enumerate(region_boxes(later)):
        shown = (later.mask_logits[row, 0] > 0).nonzero()
        low, high = (shown.min(0).values, shown.max(0).values + 1) if len(shown) else torch.zeros(2, 2)
        torch.testing.assert_close(box, torch.cat([low.flip(0), high.flip(0)]) / 16)


def test_a_text_is_read_part_by_part_as_in_one_go(tiny_model):
    model, batch = tiny_model(TEXT, *CLIPS), clips()
    with torch.inference_mode():
        _, frames = model.follow(iter(batch.frames[0]), [0, 1, 2], batch.prompts.of_rows(torch.tensor([0, 1])))
        asked = batch.questions.first_of_each_region(1)._chosen([0, 1])
        whole = model.decoder.generate(model.prefix(frames), asked, 6)
        reading = model.decoder.start_reading(2)
        for frame in frames:
            reading.read(model.prefix.of_frame(frame))
        parts = reading.answer(asked, 6)
    assert [one.text for one in parts] == [one.text for one in whole]


def test_a_decoder_that_cannot_spell_says_so(tiny_model, sample_batch, monkeypatch):
    model, batch = tiny_model(TEXT), sample_batch()
    monkeypatch.setattr(type(model.decoder), "spell", Decoder.spell)
    with pytest.raises(PamKitError, match="CausalLM cannot read a region's text"):
        model(batch)


def test_a_tokenizer_without_a_character_is_named(tiny_model, monkeypatch):
    form = tiny_model(TEXT).decoder._ready_format()
    monkeypatch.setattr(form, "encode", lambda text: [1, 2])
    monkeypatch.setattr(form.tokenizer, "convert_tokens_to_ids", lambda text: None)
    with pytest.raises(PamKitError, match="no token for the character '7'"):
        form.character("7")


def test_a_crop_is_encoded_as_a_picture_of_its_own(tiny_model, sample_batch):
    model, batch = tiny_model(CROPS), sample_batch(regions=(2, 1))
    with torch.no_grad():
        regions = model.segment(batch.images, batch.image_index, batch.prompts)
        windows = model.perceiver.crop.around(region_boxes(regions))
        for row, image in enumerate(batch.image_index.tolist()):
            crop = cropped(batch.images[image : image + 1], torch.tensor([0]), windows[row : row + 1])
            alone = model.backbone.encode(crop).embedding
            torch.testing.assert_close(regions.crop_embedding[row : row + 1], alone, atol=1e-4, rtol=1e-4)
    assert tiny_model().segment(batch.images, batch.image_index, batch.prompts).crop_embedding is None


def test_no_region_has_no_crop(tiny_model, sample_batch):
    model, batch = tiny_model(CROPS), sample_batch(regions=(0,), questions=0)
    regions, answers = model.answer(batch.images, batch.image_index, batch.prompts, batch.questions, 4)
    assert regions.crop_embedding.shape[0] == 0 and answers == []


def test_kept_features_hold_the_crop_and_know_its_window(tiny_model, tiny_recipe, sample_batch, tmp_path):
    frozen = ("backbone.frozen=true", "data.cache_features=true", f"data.cache_folder={tmp_path / 'kept'}")
    model, batch = tiny_model(CROPS, *frozen), sample_batch(regions=(2, 1))
    expected = model.segment(batch.images, batch.image_index, batch.prompts)
    for hits, misses in ((0, 3), (3, 0)):
        cache = FeatureCache.of(tiny_recipe(CROPS, *frozen), model)
        kept = cache.segment(model, batch)
        torch.testing.assert_close(kept.crop_embedding, expected.crop_embedding, atol=1e-5, rtol=1e-5)
        assert (cache.hits, cache.misses) == (hits, misses)
    closer = "perceiver={name: focal_crop, num_heads: 2, mlp_dim: 32, scale: 2.0}"
    other = tiny_model(closer, *frozen)
    cache = FeatureCache.of(tiny_recipe(closer, *frozen), other)
    assert not torch.allclose(cache.segment(other, batch).crop_embedding, expected.crop_embedding, atol=1e-3)
    assert cache.misses == 3


@pytest.mark.parametrize("name", RIVALS)
def test_rivals_are_planned_before_anything_is_there(tiny_recipe, tiny_model, name):
    """Their perceiver runs on tensors without numbers, and positions are those of a real prefix."""
    small = "perceiver={name: focal_crop, num_heads: 2, mlp_dim: 32}" if name == "focal_crop" else f"perceiver={name}"
    found = plan(tiny_recipe(small))
    model = tiny_model(small)
    assert found.positions == model.prefix_length() and found.device_gib > 0
    assert found.trained_parameters > sum(p.numel() for p in model.perceiver.parameters() if p.requires_grad)


def test_kept_clips_hold_the_crops_of_their_read_frames(tiny_model, tiny_recipe, tmp_path):
    overrides = (CROPS, *CLIPS, "backbone.frozen=true", "data.cache_features=true", f"data.cache_folder={tmp_path}")
    model, batch = tiny_model(*overrides), clips()
    plain = model.read_clips(batch)[1]
    for misses in (3, 0):
        cache = FeatureCache.of(tiny_recipe(*overrides), model)
        found = model.read_clips(batch, partial(cache.watch, model))[1]
        assert cache.misses == misses
        for one, other in zip(found, plain, strict=True):
            torch.testing.assert_close(one, other, atol=1e-4, rtol=0)
