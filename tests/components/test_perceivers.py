"""Perceivers: the released PAM's outputs, SAM 2's own two-way transformer, and properties of masks and padding."""

import json
import math
from dataclasses import replace

import pytest
import torch
from sam2.modeling.position_encoding import PositionEmbeddingRandom
from sam2.modeling.sam.transformer import TwoWayTransformer as Sam2TwoWayTransformer

from pam_kit.components.perceivers.none import NoPerceiver
from pam_kit.components.perceivers.semantic_perceiver import SemanticPerceiver
from pam_kit.components.perceivers.two_way import FourierPositions
from pam_kit.contracts import RegionFeatures
from pam_kit.errors import PamKitError

WIDTH, HEADS = 32, 4


def regions_of(image: torch.Tensor, mask_tokens: torch.Tensor, **fields) -> RegionFeatures:
    """What a perceiver reads, around (R, C, h, w) and (R, 2, C); the mask covers everything alike."""
    count, _, h, w = image.shape
    logits = torch.zeros(count, 1, 4 * h, 4 * w)
    given = dict(
        image_embedding=image,
        source_embedding=image.flip(0),
        mask_tokens=mask_tokens,
        all_tokens=mask_tokens,
        token_padding=torch.zeros(mask_tokens.shape[:2], dtype=torch.bool),
        mask_logits=logits,
        iou=torch.zeros(count),
        object_score=torch.zeros(count),
        candidate_logits=logits,
        candidate_iou=torch.zeros(count, 1),
    )
    return RegionFeatures(**{**given, **fields})


def random_regions(count: int = 3, grid=(4, 6), tokens: int = 7, seed: int = 0) -> RegionFeatures:
    torch.manual_seed(seed)
    everything = torch.randn(count, tokens, WIDTH)
    padding = torch.zeros(count, tokens, dtype=torch.bool)
    return regions_of(
        torch.randn(count, WIDTH, *grid), everything[:, 2:4], all_tokens=everything, token_padding=padding
    )


def perceiver(seed: int = 0, **arguments) -> SemanticPerceiver:
    torch.manual_seed(seed)
    return SemanticPerceiver(**{"embed_dim": WIDTH, "num_heads": HEADS, "mlp_dim": 48, **arguments}).eval()


def one_row(regions: RegionFeatures, row: int) -> RegionFeatures:
    return regions.of_rows([row])


@pytest.mark.parametrize("name", ["sem16_hw16_b1", "sem4_hw16_b2", "sem64_hw8_b1", "sem16_hw64_b1_rows", "mini"])
def test_semantic_perceiver_equals_the_released_one(golden, released_name, name):
    name = "mini_c32_sem16_hw8_b2_explicit" if name == "mini" else name
    expected, about = golden.load(f"perceiver/{name}")
    seed, side, count = int(about["seed"]), int(about["hw"]), int(about["bs"])
    sizes = {"embedding_dim": 256, "mlp_dim": 2048, "num_heads": 8, **json.loads(about["kw"])}
    width = sizes["embedding_dim"]
    made = SemanticPerceiver(width, int(about["num_sem_tokens"]), 2, sizes["num_heads"], sizes["mlp_dim"])
    made.load_state_dict(
        {name: golden.weight(seed, released_name(name), value.shape) for name, value in made.state_dict().items()}
    )
    image = golden.input(seed, "image_embedding", (count, width, side, side))
    mask_tokens = golden.input(seed, "mask_tokens", (count, 2, width))
    with torch.inference_mode():
        out = made(regions_of(image, mask_tokens))
    assert out.grid == (side, side)
    torch.testing.assert_close(out.semantic, expected["sem_tokens_out"], atol=1e-4, rtol=0)
    if "keys_tokens" in expected:
        torch.testing.assert_close(out.visual, expected["keys_tokens"], atol=1e-4, rtol=0)
    else:
        chosen = out.visual[:, expected["keys_tokens_row_index"]]
        torch.testing.assert_close(chosen, expected["keys_tokens_rows"], atol=1e-4, rtol=0)


@pytest.mark.parametrize("downsample", [1, 2])
def test_semantic_perceiver_equals_sam2s_two_way_transformer(released_name, downsample):
    made = perceiver(num_semantic_tokens=5, attention_downsample=downsample)
    reference = Sam2TwoWayTransformer(2, WIDTH, HEADS, 48, attention_downsample_rate=downsample).eval()
    positions = PositionEmbeddingRandom(WIDTH // 2)
    state = {released_name(name): value for name, value in made.state_dict().items()}
    positions.positional_encoding_gaussian_matrix.copy_(state.pop("pe_layer.positional_encoding_gaussian_matrix"))
    learned = state.pop("sem_tokens.weight")
    reference.load_state_dict(state)
    regions = random_regions()
    queries = torch.cat([regions.mask_tokens, learned.expand(3, -1, -1)], dim=1)
    with torch.no_grad():
        image_positions = positions((4, 6)).expand(3, -1, -1, -1)
        tokens, visual = reference(regions.image_embedding, image_positions, queries)
        out = made(regions)
    torch.testing.assert_close(out.semantic, tokens[:, 2:], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(out.visual, visual, atol=1e-5, rtol=1e-5)


def test_positions_are_those_of_sam2_and_of_the_formula():
    torch.manual_seed(0)
    own, reference = FourierPositions(8), PositionEmbeddingRandom(4)
    reference.positional_encoding_gaussian_matrix.copy_(own.gaussian)
    found = own((3, 5))
    torch.testing.assert_close(found, reference((3, 5)).flatten(1).T, atol=1e-5, rtol=1e-5)
    y, x, channel = 2, 4, 1
    angle = 2 * math.pi * ((2 * 4.5 / 5 - 1) * own.gaussian[0, channel] + (2 * 2.5 / 3 - 1) * own.gaussian[1, channel])
    cell = found[y * 5 + x]
    assert cell[channel].item() == pytest.approx(math.sin(angle), abs=1e-5)
    assert cell[4 + channel].item() == pytest.approx(math.cos(angle), abs=1e-5)


def test_no_semantic_tokens_leave_the_visual_tokens_to_the_mask_tokens():
    made = perceiver(num_semantic_tokens=0)
    out = made(random_regions())
    assert out.semantic.shape == (3, 0, WIDTH) and out.visual.shape == (3, 24, WIDTH)
    changed = random_regions()
    changed.mask_tokens = changed.mask_tokens + 1
    assert not torch.allclose(made(changed).visual, out.visual, atol=1e-3)


@pytest.mark.parametrize("tokens", ["mask", "all"])
def test_no_region_is_legal(tokens):
    out = perceiver(tokens=tokens, mask_focus=1.0)(random_regions(count=0))
    assert out.visual.shape == (0, 24, WIDTH) and out.semantic.shape == (0, 16, WIDTH)


@pytest.mark.parametrize("seed", range(3))
def test_padded_tokens_change_nothing(seed):
    """Rows of 7, 4 and 5 tokens in one batch come out as each does alone, whatever stands in the padding."""
    made = perceiver(tokens="all", num_semantic_tokens=3)
    regions, lengths = random_regions(seed=seed), (7, 4, 5)
    for row, length in enumerate(lengths):
        regions.token_padding[row, length:] = True
        regions.all_tokens[row, length:] = 100.0
    out = made(regions)
    for row, length in enumerate(lengths):
        alone = one_row(regions, row)
        alone.all_tokens, alone.token_padding = alone.all_tokens[:, :length], alone.token_padding[:, :length]
        single = made(alone)
        torch.testing.assert_close(out.visual[row : row + 1], single.visual, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(out.semantic[row : row + 1], single.semantic, atol=1e-5, rtol=1e-5)


def test_all_tokens_of_the_mask_decoder_are_read():
    """Unlike with the mask tokens alone, a change in a prompt token reaches the semantic tokens."""
    regions = random_regions()
    changed = replace(regions, all_tokens=regions.all_tokens + torch.eye(7)[6][:, None])
    everything, mask_only = perceiver(tokens="all"), perceiver(tokens="mask")
    assert not torch.allclose(everything(regions).semantic, everything(changed).semantic, atol=1e-3)
    assert torch.equal(mask_only(regions).semantic, mask_only(changed).semantic)


@pytest.mark.parametrize(("choice", "read"), [("post_ffm", "image_embedding"), ("pre_ffm", "source_embedding")])
def test_image_features_choose_the_embedding(choice, read):
    regions = random_regions()
    only_it = replace(regions, image_embedding=getattr(regions, read), source_embedding=getattr(regions, read))
    nan = torch.full_like(regions.image_embedding, torch.nan)
    other = "source_embedding" if read == "image_embedding" else "image_embedding"
    out = perceiver(image_features=choice)(replace(regions, **{other: nan}))
    torch.testing.assert_close(out.semantic, perceiver()(only_it).semantic)
    torch.testing.assert_close(out.visual, perceiver()(only_it).visual)


def half_masked(regions: RegionFeatures, certainty: float) -> tuple[RegionFeatures, torch.Tensor]:
    """The left half of the picture is the mask. Also the cells outside it: (h*w,) bool."""
    h, w = regions.image_embedding.shape[-2:]
    logits = torch.full((len(regions.mask_tokens), 1, 4 * h, 4 * w), -certainty)
    logits[..., : 2 * w] = certainty
    outside = torch.zeros(h, w, dtype=torch.bool)
    outside[:, w // 2 :] = True
    return replace(regions, mask_logits=logits), outside.flatten()


def test_with_a_sharp_mask_focus_cells_outside_the_mask_vanish():
    """With a large exponent the semantic tokens are those of the masked cells alone, as if no other had a key.

    Depth 1, so that no token has yet been written into the picture and read back.
    """
    regions, outside = half_masked(random_regions(), certainty=30.0)
    noise = torch.randn_like(regions.image_embedding) * outside.view(1, 1, 4, 6)
    changed = replace(regions, image_embedding=regions.image_embedding + noise)
    plain, sharp = perceiver(depth=1), perceiver(depth=1, mask_focus=20.0)
    torch.testing.assert_close(sharp(regions).semantic, sharp(changed).semantic, atol=1e-6, rtol=0)
    assert (plain(regions).semantic - plain(changed).semantic).abs().max() > 1e-2


def test_mask_focus_multiplies_attention_by_the_share_of_the_mask():
    """A query without preference reads the mean of the values, weighted by each cell's share to the power given."""
    made = perceiver(depth=1, mask_focus=0.5)
    regions = random_regions()
    regions.mask_logits = torch.randn(3, 1, 16, 24) * 3
    attention, seen = made.transformer.last_look, {}
    torch.nn.init.zeros_(attention.query.weight), torch.nn.init.zeros_(attention.query.bias)
    attention.register_forward_hook(lambda _module, inputs, output: seen.update(value=inputs[2], out=output))
    with torch.no_grad():
        made(regions)
        share = regions.mask_logits.sigmoid().unfold(2, 4, 4).unfold(3, 4, 4).mean((-1, -2)).flatten(1)
        weights = share.clamp_min(1e-3).sqrt()
        mean = (weights[..., None] * attention.value(seen["value"])).sum(1) / weights.sum(1, keepdim=True)
        expected = attention.out(mean)[:, None].expand_as(seen["out"])
    torch.testing.assert_close(seen["out"], expected, atol=1e-5, rtol=1e-5)


def test_mask_focus_of_a_mask_that_is_alike_everywhere_equals_none():
    """An empty mask is no accident: the focus is the same everywhere, thus as if there were none."""
    regions = random_regions()
    plain = perceiver()(regions).semantic
    for logit in (-100.0, 0.0, 100.0):
        focused = perceiver(mask_focus=1.0)(replace(regions, mask_logits=torch.full((3, 1, 16, 24), logit)))
        torch.testing.assert_close(focused.semantic, plain, atol=1e-5, rtol=1e-5)


def test_mask_focus_does_not_train_the_mask():
    regions = random_regions()
    regions.mask_logits.requires_grad_()
    out = perceiver(mask_focus=1.0)(regions)
    assert torch.autograd.grad(out.semantic.sum(), regions.mask_logits, allow_unused=True) == (None,)


@pytest.mark.parametrize("arguments", [{"num_heads": 5}, {"num_heads": 16, "attention_downsample": 4}])
def test_heads_that_do_not_divide_the_width(arguments):
    with pytest.raises((ValueError, PamKitError), match="cannot be split into .* heads.*num_heads"):
        perceiver(**arguments)


def test_no_perceiver_hands_on_what_it_gets():
    regions = random_regions()
    out = NoPerceiver(WIDTH)(regions)
    assert out.grid == (4, 6) and torch.equal(out.semantic, regions.mask_tokens)
    assert torch.equal(out.visual[:, 1 * 6 + 2], regions.image_embedding[:, :, 1, 2])
    bare = NoPerceiver(WIDTH, mask_tokens=False)
    assert bare.num_semantic_tokens == 0 and bare(regions).semantic.shape == (3, 0, WIDTH)
