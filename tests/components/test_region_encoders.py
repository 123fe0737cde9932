"""The rivals of PAM's perceiver: closed forms, and what each may and may not depend on."""

import math
from dataclasses import replace

import pytest
import torch

from pam_kit.components.perceivers.focal_crop import FocalCrop
from pam_kit.components.perceivers.mask_pooling import MaskPooling, mask_average
from pam_kit.components.perceivers.merged_mask_tokens import MergedMaskTokens, merged
from pam_kit.components.perceivers.roi_align import RoiAlignEncoder
from pam_kit.components.perceivers.text_coordinates import TextCoordinates, spelled_boxes
from pam_kit.components.perceivers.token_marks import TokenMarks
from pam_kit.components.perceivers.visual_prompt import VisualPrompt
from pam_kit.contracts import CropWindow, RegionFeatures, region_boxes
from pam_kit.errors import PamKitError, RecipeError

WIDTH, GRID = 16, (4, 6)
MADE = {
    "text_coordinates": lambda: TextCoordinates(WIDTH),
    "visual_prompt": lambda: VisualPrompt(WIDTH),
    "osprey": lambda: MaskPooling(WIDTH, position_side=8),
    "region_gpt": lambda: MaskPooling(WIDTH, position_token=False, refine=True),
    "roi_align": lambda: RoiAlignEncoder(WIDTH, output_size=3),
    "focal_crop": lambda: FocalCrop(WIDTH, depth=1, num_heads=2, mlp_dim=32),
    "marked_masks": lambda: TokenMarks(WIDTH, num_marks=5),
    "marked_boxes": lambda: TokenMarks(WIDTH, num_marks=5, under="box"),
    "merged": lambda: MergedMaskTokens(WIDTH, num_tokens=3, candidates=8),
}
# What of a region each may read besides the picture.
READS = {
    **dict.fromkeys(("text_coordinates", "roi_align", "marked_boxes", "visual_prompt"), {"box"}),
    **dict.fromkeys(("osprey", "region_gpt", "marked_masks", "merged"), {"mask"}),
    "focal_crop": {"box", "mask", "crop"},
}


def regions_of(count: int = 4, seed: int = 0, **fields) -> RegionFeatures:
    """Regions of one picture: a box, a point, a box with two points, and one that is followed; uneven masks."""
    generator = torch.Generator().manual_seed(seed)
    h, w = GRID

    def noise(*shape):
        return torch.randn(*shape, generator=generator)

    logits = noise(count, 1, 4 * h, 4 * w) * 3 + 1
    corners = torch.rand(count, 2, 2, generator=generator).sort(dim=1).values * 0.9
    points = torch.cat([corners, torch.rand(count, 2, 2, generator=generator)], dim=1)
    labels = torch.tensor([[2, 3, -1, -1], [1, -1, -1, -1], [2, 3, 1, 0], [-1, -1, -1, -1]])
    given = dict(
        image_embedding=noise(count, WIDTH, h, w),
        source_embedding=noise(1, WIDTH, h, w).expand(count, -1, -1, -1).clone(),
        mask_tokens=noise(count, 2, WIDTH),
        all_tokens=noise(count, 5, WIDTH),
        token_padding=torch.zeros(count, 5, dtype=torch.bool),
        mask_logits=logits,
        iou=torch.zeros(count),
        object_score=torch.zeros(count),
        candidate_logits=logits,
        candidate_iou=torch.zeros(count, 1),
        points=points,
        labels=labels[torch.arange(count) % 4],
        crop_embedding=noise(count, WIDTH, h, w),
    )
    return RegionFeatures(**{**given, **fields})


def made(name: str, seed: int = 0):
    """The perceiver with all that begins at zero moved away from it."""
    torch.manual_seed(seed)
    perceiver = MADE[name]().eval()
    with torch.no_grad():
        for parameter in perceiver.parameters():
            if not parameter.any():
                parameter.normal_(std=0.5)
    return perceiver


def tensors_of(tokens) -> list[torch.Tensor]:
    found = [tokens.visual, tokens.semantic, tokens.characters, tokens.mask_logits]
    return [tensor for tensor in found if tensor is not None]


@pytest.mark.parametrize("name", MADE)
def test_a_region_comes_out_as_it_does_alone(name):
    """Also where a neighbour's prompt is longer, and in another order."""
    perceiver, regions = made(name), regions_of()
    whole = tensors_of(perceiver(regions))
    for row in range(4):
        alone = regions.of_rows([row])
        given = alone.labels[0] != -1
        alone.points, alone.labels = alone.points[:, given], alone.labels[:, given]
        for mine, single in zip(whole, tensors_of(perceiver(alone)), strict=True):
            torch.testing.assert_close(mine[row : row + 1], single, atol=1e-5, rtol=1e-5)
    for mine, other in zip(whole, tensors_of(perceiver(regions.of_rows([2, 0, 3, 1]))), strict=True):
        torch.testing.assert_close(mine[[2, 0, 3, 1]], other, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", MADE)
def test_no_region_is_legal(name):
    perceiver = made(name)
    tokens = perceiver(regions_of().of_rows([]))
    assert tokens.visual.shape == (0, 24, WIDTH) and tokens.semantic.shape == (0, perceiver.num_semantic_tokens, WIDTH)


@pytest.mark.parametrize("name", MADE)
def test_nothing_that_the_prompt_conditioned_is_read(name):
    """Neither the decoder's image nor its tokens: the region enters by the rival's own way alone."""
    regions, nan = regions_of(), torch.nan
    blind = replace(
        regions,
        image_embedding=torch.full_like(regions.image_embedding, nan),
        mask_tokens=torch.full_like(regions.mask_tokens, nan),
        all_tokens=torch.full_like(regions.all_tokens, nan),
        **({} if "crop" in READS[name] else {"crop_embedding": None}),
    )
    for mine, expected in zip(tensors_of(made(name)(blind)), tensors_of(made(name)(regions)), strict=True):
        assert torch.equal(mine, expected)


@pytest.mark.parametrize("name", sorted(set(MADE) - {"focal_crop", "marked_masks", "marked_boxes"}))
def test_the_pictures_tokens_do_not_depend_on_the_prompt(name):
    visual = made(name)(regions_of()).visual
    assert torch.equal(visual, visual[:1].expand_as(visual)) and visual.std() > 0.1


@pytest.mark.parametrize("name", MADE)
def test_each_reads_the_box_or_the_mask_as_it_says(name):
    """All regions have a box and one mask; another mask, or another box, changes what it should and no more."""
    regions, perceiver = regions_of(), made(name)
    regions.labels = torch.tensor([[2, 3, -1, -1]] * 4)
    other_mask = replace(regions, mask_logits=regions.mask_logits.flip(3))
    other_box = replace(regions, points=regions.points * 0.5)
    for kind, changed in (("mask", other_mask), ("box", other_box)):
        pairs = zip(tensors_of(perceiver(regions)), tensors_of(perceiver(changed)), strict=True)
        moved = any(not torch.allclose(one.float(), other.float(), atol=1e-4) for one, other in pairs)
        assert moved == (kind in READS[name]), kind


@pytest.mark.parametrize("name", MADE)
def test_gradients_reach_the_picture_and_the_parameters_but_not_the_mask(name):
    torch.manual_seed(0)
    perceiver, regions = MADE[name](), regions_of()
    for tensor in (regions.source_embedding, regions.mask_logits, regions.crop_embedding):
        tensor.requires_grad_()
    tokens = perceiver(regions)
    (tokens.visual.square().sum() + tokens.semantic.square().sum()).backward()
    # What the crop reads of the picture is behind a gate that is closed at first.
    read = regions.crop_embedding if name == "focal_crop" else regions.source_embedding
    assert read.grad.any() and regions.mask_logits.grad is None
    assert all(p.grad is not None and p.grad.isfinite().all() for p in perceiver.parameters())


@pytest.mark.parametrize(
    ("box", "text"),
    [
        ((0.1234, 0.5, 0.789, 1.0), "[0.123,0.500,0.789,1.000]"),
        ((0, 0, 0, 0), "[0.000,0.000,0.000,0.000]"),
        ((-0.2, 0.0996, 1.7, 0.9996), "[0.000,0.100,1.000,1.000]"),
    ],
)
def test_coordinates_are_written_out(box, text):
    codes = spelled_boxes(torch.tensor([box], dtype=torch.float))
    assert "".join(map(chr, codes[0].tolist())) == text and codes.shape[1] == TextCoordinates(8).num_characters


def test_coordinates_are_those_that_python_writes():
    boxes = torch.rand(200, 4, generator=torch.Generator().manual_seed(0))
    for row, codes in zip(boxes.tolist(), spelled_boxes(boxes).tolist(), strict=True):
        assert "".join(map(chr, codes)) == "[" + ",".join(f"{value:.3f}" for value in row) + "]"


def test_text_coordinates_are_of_the_prompts_box_and_else_of_the_mask():
    regions = regions_of()
    codes = TextCoordinates(WIDTH)(regions).characters
    assert torch.equal(codes, spelled_boxes(region_boxes(regions)))
    said = [float(value) for value in "".join(map(chr, codes[0].tolist()))[1:-1].split(",")]
    assert said == pytest.approx(regions.points[0, :2].flatten().tolist(), abs=5.1e-4)


def test_a_visual_prompt_is_its_codes_its_type_and_a_linear_map():
    perceiver, regions = made("visual_prompt"), regions_of()
    tokens = perceiver(regions).semantic
    gaussian, types = perceiver.codes.gaussian, perceiver.types

    def coded(place):
        angle = 2 * math.pi * ((2 * place - 1) @ gaussian)
        return torch.cat([angle.sin(), angle.cos()])

    points = regions.points
    box = torch.cat([coded(points[2, 0]) + types[2], coded(points[2, 1]) + types[2]])
    expected = [
        perceiver.box(box),
        perceiver.point(coded(points[2, 2]) + types[0]),
        perceiver.point(coded(points[2, 3]) + types[1]),
        perceiver.point(types[3]),
    ]
    torch.testing.assert_close(tokens[2], torch.stack(expected), atol=1e-5, rtol=1e-5)
    invalid = perceiver.box(torch.cat([types[3], types[3]]))
    torch.testing.assert_close(tokens[1, 0], invalid)  # a point is no box
    assert not torch.allclose(tokens[3, 0], invalid, atol=1e-3)  # what is followed is where its mask is


def test_a_visual_prompt_of_what_is_out_of_sight_is_invalid():
    perceiver, regions = made("visual_prompt"), regions_of().of_rows([3])
    gone = perceiver(replace(regions, mask_logits=torch.full_like(regions.mask_logits, -1024.0))).semantic[0]
    types = perceiver.types
    torch.testing.assert_close(gone[0], perceiver.box(torch.cat([types[3], types[3]])))
    torch.testing.assert_close(gone[1:], perceiver.point(types[3]).expand(3, -1))


def test_points_beyond_the_places_are_not_read():
    torch.manual_seed(0)
    perceiver, regions = VisualPrompt(WIDTH, num_points=1).eval(), regions_of()
    moved = replace(regions, points=regions.points.clone())
    moved.points[2, 3] = 0.77  # the second point of the third region
    assert torch.equal(perceiver(regions).semantic, perceiver(moved).semantic)
    assert VisualPrompt(WIDTH, num_points=0)(regions).semantic.shape == (4, 1, WIDTH)


def test_the_pool_of_a_constant_region_is_its_value():
    h, w = GRID
    features, logits = torch.randn(2, WIDTH, h, w), torch.full((2, 1, 4 * h, 4 * w), -40.0)
    logits[:, :, 4:12, 8:16] = 40.0  # cells 1..2 x 2..3
    features[:, :, 1:3, 2:4] = torch.arange(WIDTH)[:, None, None].float()
    torch.testing.assert_close(mask_average(features, logits), torch.arange(WIDTH).float().expand(2, -1))


def test_a_pool_weighs_cells_by_their_share_and_nothing_is_zero():
    features = torch.tensor([[[[2.0, 10.0]]]])
    logits = torch.full((1, 1, 4, 8), -100.0)
    logits[..., :4], logits[:, :, :1, 4:] = 100.0, 100.0  # all of the first cell, a quarter of the second
    torch.testing.assert_close(mask_average(features, logits), torch.tensor([[(2 * 4 + 10) / 5]]))
    assert mask_average(features, torch.full((1, 1, 4, 8), -1024.0)).tolist() == [[0.0]]


def test_refined_features_are_pooled_at_the_masks_own_resolution():
    perceiver = made("region_gpt")
    assert perceiver.refinement(torch.zeros(1, WIDTH, 4, 6)).shape == (1, WIDTH, 16, 24)
    assert made("osprey").num_semantic_tokens == 2 and perceiver.num_semantic_tokens == 1


def test_roi_align_of_a_ramp_is_the_ramp_at_the_windows_cells():
    """Bilinear samples of a linear function are exact away from the border."""
    h, w = 8, 12
    y, x = torch.meshgrid(torch.arange(h) + 0.5, torch.arange(w) + 0.5, indexing="ij")
    ramp = (2 * x - 7 * y).expand(1, WIDTH, -1, -1).contiguous()
    x1, y1, x2, y2 = box = 0.2, 0.3, 0.7, 0.8
    perceiver = RoiAlignEncoder(WIDTH, output_size=4)
    steps = (torch.arange(4) + 0.5) / 4
    expected = 2 * (x1 + steps * (x2 - x1))[None] * w - 7 * (y1 + steps * (y2 - y1))[:, None] * h
    found = perceiver.window(ramp, torch.tensor([box]))
    torch.testing.assert_close(found[0, 3], expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", MADE)
def test_half_precision_is_legal(name):
    perceiver, regions = made(name), regions_of()
    exact = tensors_of(perceiver(regions))
    with torch.autocast("cpu", torch.bfloat16):
        for mine, expected in zip(tensors_of(perceiver(regions)), exact, strict=True):
            torch.testing.assert_close(mine.float(), expected.float(), atol=0.15, rtol=0.05)


def test_marks_are_under_the_mask_only_and_beside_the_question():
    perceiver, regions = made("marked_masks"), regions_of()
    regions.mask_logits = torch.full_like(regions.mask_logits, -1024.0)
    regions.mask_logits[:, :, :8, :4] = 1024.0  # cells 0..1 x 0
    tokens, bare = perceiver(regions), perceiver.picture(regions)[0]
    mark, under = perceiver.marks[0], [0, GRID[1]]
    added = tokens.visual - bare
    torch.testing.assert_close(added[:, under], mark.expand(4, 2, -1))
    assert not added[:, [cell for cell in range(24) if cell not in under]].any()
    assert torch.equal(tokens.semantic, mark.expand(4, 1, -1))


def test_marks_cover_a_box_by_the_share_of_each_cell():
    perceiver, regions = made("marked_boxes"), regions_of().of_rows([0])
    regions.points[0, :2] = torch.tensor([[0.25, 0.25], [0.5, 0.625]])  # x 1.5..3 of 6 cells, y 1..2.5 of 4
    added = perceiver(regions).visual[0] - perceiver.picture(regions)[0][0]
    share = torch.zeros(GRID)
    share[1, 1:3] = torch.tensor([0.5, 1.0])
    share[2, 1:3] = torch.tensor([0.25, 0.5])
    torch.testing.assert_close(added, share.flatten()[:, None] * perceiver.marks[0], atol=1e-5, rtol=1e-5)


def test_marks_are_drawn_anew_in_training_and_the_same_in_use():
    perceiver, regions = made("marked_masks"), regions_of(count=64)
    assert torch.equal(perceiver(regions).semantic, perceiver.marks[:1].expand(64, 1, -1))
    perceiver.train()
    torch.manual_seed(0)
    drawn = perceiver(regions)
    numbers = (drawn.semantic == perceiver.marks).all(2).int().argmax(1)
    assert set(numbers.tolist()) == set(range(5))
    added = (drawn.visual - perceiver.picture(regions)[0]).flatten(1)
    alike = torch.nn.functional.cosine_similarity(added.unflatten(1, (24, -1)), drawn.semantic, dim=2)
    torch.testing.assert_close(alike, torch.ones_like(alike), atol=1e-3, rtol=0)


def test_closed_gates_leave_the_crops_tokens_alone():
    torch.manual_seed(0)
    perceiver, regions = MADE["focal_crop"]().eval(), regions_of()
    tokens = perceiver(regions)
    assert torch.equal(tokens.visual, regions.crop_embedding.flatten(2).transpose(1, 2))
    assert tokens.semantic.shape == (4, 0, WIDTH)
    with torch.no_grad():
        perceiver.blocks[0].gates.fill_(0.3)
    assert not torch.allclose(perceiver(regions).visual, tokens.visual, atol=1e-3)


def test_the_mask_of_a_crop_is_the_mask_in_its_window():
    """The window is the right half of the picture, so the crop's mask is that half at twice the width."""
    perceiver, regions = made("focal_crop"), regions_of().of_rows([0])
    perceiver.crop = CropWindow(1.0, 0.01)
    regions.points[0, :2] = torch.tensor([[0.5, 0.0], [1.0, 1.0]])
    regions.mask_logits = torch.full_like(regions.mask_logits, -8.0)
    regions.mask_logits[..., 12:18] = 8.0  # the left half of the window
    shown = perceiver(regions).mask_logits[0, 0] > 0
    assert shown[:, :12].all() and not shown[:, 12:].any()


def test_a_crop_that_is_missing_is_asked_for():
    with pytest.raises(PamKitError, match="focal_crop looks at crops.*RegionVLM.segment"):
        made("focal_crop")(regions_of(crop_embedding=None))


def test_runs_are_cut_where_neighbours_are_least_alike():
    east, north = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    cells = torch.stack([east, 3 * east, north, 2 * north, 4 * north, -east])[None]
    weights = torch.tensor([[1.0, 1.0, 1.0, 0.5, 0.5, 1.0]])
    expected = torch.stack([2 * east, (1 + 1 + 2) / 2 * north, -east])[None]
    torch.testing.assert_close(merged(cells, weights, 3), expected)
    mean = (weights[..., None] * cells).sum(1, keepdim=True) / weights.sum()
    torch.testing.assert_close(merged(cells, weights, 1), mean)


def test_cells_outside_the_mask_part_nothing_and_give_nothing():
    east, north = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    cells = torch.stack([-east, east, east, north, -north])[None]
    found = merged(cells, torch.tensor([[0.0, 1.0, 1.0, 1.0, 0.0]]), 2)
    torch.testing.assert_close(found, torch.stack([east, north])[None])
    assert not merged(cells, torch.zeros(1, 5), 3).any()


def test_one_merged_token_is_the_mean_under_the_mask():
    torch.manual_seed(0)
    perceiver, regions = MergedMaskTokens(WIDTH, num_tokens=1, candidates=24).eval(), regions_of()
    pooled = mask_average(regions.source_embedding, regions.mask_logits)
    torch.testing.assert_close(perceiver(regions).semantic[:, 0], perceiver.mlp(pooled), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("build", "named"),
    [
        (lambda: VisualPrompt(8, num_points=-1), "perceiver.num_points"),
        (lambda: MaskPooling(8, position_side=0), "perceiver.position_side"),
        (lambda: RoiAlignEncoder(8, output_size=0), "perceiver.output_size"),
        (lambda: FocalCrop(8, scale=0.5), "perceiver.scale"),
        (lambda: FocalCrop(8, least=0.0), "perceiver.least"),
        (lambda: TokenMarks(8, num_marks=0), "perceiver.num_marks"),
        (lambda: MergedMaskTokens(8, num_tokens=5, candidates=4), "perceiver.num_tokens.*candidates"),
        (lambda: MergedMaskTokens(WIDTH, 25, 30)(regions_of()), "num_tokens is 25.*4x6 cells"),
    ],
)
def test_arguments_out_of_range(build, named):
    with pytest.raises(RecipeError, match=named):
        build()
