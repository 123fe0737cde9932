"""mask_tail's kernels against sam2's modules in float64: odd grids, types, shared images, exact counts, poison."""

from types import SimpleNamespace

import pytest
import torch
from sam2.modeling.sam.mask_decoder import MaskDecoder
from sam2.modeling.sam2_utils import LayerNorm2d
from torch import nn

from pam_kit.kernels import mask_tail
from pam_kit.kernels.dispatch import say_once
from pam_kit.kernels.mask_tail import mask_counts, pack_upscaling, select_token
from pam_kit.kernels.mask_tail.launch import channels_last, launch_select, launch_stage1, launch_tail
from pam_kit.kernels.mask_tail.packing import PackedUpscaling

# Root mean square of the error, relative to that of the value. Under the interpreter bfloat16 is cut off, not rounded.
BARS = {torch.float32: 2e-6, torch.float16: 1e-3, torch.bfloat16: 1e-2}
# Regions, images, grid, width C, masks, skip features, type.
CASES = {
    "one region": (1, 1, (4, 4), 32, 4, True, torch.float32),
    "shared images": (3, 2, (3, 5), 32, 4, True, torch.float32),
    "two blocks in a row": (1, 1, (2, 19), 32, 4, True, torch.float32),
    "odd width": (2, 2, (5, 3), 72, 3, True, torch.float32),
    "no skip features": (2, 1, (4, 4), 32, 1, False, torch.float32),
    "as SAM 2": (1, 1, (1, 17), 256, 4, True, torch.float16),
    "half": (2, 1, (3, 3), 64, 4, True, torch.float16),
    "bfloat16": (2, 2, (3, 4), 96, 4, True, torch.bfloat16),
}


def make(regions, images, grid, width, masks, skipped, dtype=torch.float32):
    """sam2's upscaling, tokens, the hyper-networks' output as a part of something wider, skip features, images."""
    torch.manual_seed(0)
    first, second, (h, w) = width // 4, width // 8, grid
    norm = LayerNorm2d(first)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    upscaling = nn.Sequential(
        nn.ConvTranspose2d(width, first, 2, 2), norm, nn.GELU(), nn.ConvTranspose2d(first, second, 2, 2), nn.GELU()
    )
    tokens = torch.randn(regions, h * w, width).to(dtype)
    # Small, so that many logits lie around the thresholds.
    hyper = (0.1 * torch.randn(regions, masks + 2, second + 3)).to(dtype)[:, 2:, :second]
    shapes = ((images, second, 4 * h, 4 * w), (images, first, 2 * h, 2 * w)) if skipped else ()
    skips = tuple(torch.randn(shape).to(dtype) for shape in shapes) or None
    return upscaling.to(dtype), tokens, hyper, skips, torch.arange(regions) % images


def by_modules(upscaling, tokens, grid, hyper, skips, index):
    """As ``MaskDecoder.predict_masks`` does it, in float64."""
    first, norm, act, second, last = upscaling.double()
    finer, fine = (skip.double()[index] for skip in skips) if skips else (0, 0)
    source = tokens.double().transpose(1, 2).unflatten(2, grid)
    out = last(second(act(norm(first(source) + fine))) + finer)
    return (hyper.double() @ out.flatten(2)).unflatten(2, out.shape[-2:])


def error(value: torch.Tensor, expected: torch.Tensor) -> float:
    return ((value.double() - expected).pow(2).mean().sqrt() / expected.pow(2).mean().sqrt()).item()


@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_logits_agree_with_the_modules_and_counts_with_the_logits(name, poisoned):
    regions, images, grid, width, masks, skipped, dtype = CASES[name]
    upscaling, tokens, hyper, skips, index = make(*CASES[name])
    packed = pack_upscaling(upscaling)
    packed = PackedUpscaling(*map(poisoned, packed.tensors), eps=packed.eps)
    # Channels last already, so that the kernels read the poisoned memory and no copy.
    given = tuple(poisoned(skip.permute(0, 2, 3, 1)).permute(0, 3, 1, 2) for skip in skips) if skips else None
    logits, counts = mask_tail(poisoned(tokens), grid, hyper, packed, given, index, kernels="triton")
    assert logits.dtype == dtype and logits.shape == (regions, masks, 4 * grid[0], 4 * grid[1])
    assert error(logits, by_modules(upscaling, tokens, grid, hyper, skips, index)) < BARS[dtype]
    assert counts.dtype == torch.int32 and torch.equal(counts, mask_counts(logits))
    assert 0 < counts.float().mean() < logits[0, 0].numel()


@pytest.mark.parametrize("dtype", BARS)
@torch.no_grad()
def test_counted_are_the_rounded_logits_against_the_rounded_threshold(dtype):
    """Logits from around the thresholds, many of them on one: off the tokens, from skip features GELU leaves alone."""
    torch.manual_seed(0)
    skip = (8 + 8 * torch.rand(1, 16, 64, 1)).to(dtype)
    near = ((torch.rand(1, 16, 1) + 0.5) * torch.randn(1, 16, 1).sign() * 0.05 / 12).to(dtype)
    nothing = [torch.zeros(shape, dtype=dtype) for shape in ((1, 8, 32, 8), (8, 4, 1), (1,))]
    logits, counts = launch_tail(nothing[0], nothing[1:], skip, torch.zeros(1).long(), near, 0.05)
    # As SAM 2 compares.
    wanted = [(logits > bound).sum((2, 3)) for bound in (-0.05, 0, 0.05)]
    assert torch.equal(counts, torch.stack(wanted, -1).int())
    exact, threshold = skip.double().permute(0, 3, 1, 2) * near[..., None].double(), torch.tensor(0.05).to(dtype)
    if dtype != torch.float32:
        assert (logits == threshold).any() and ((exact > threshold.double()) & (logits <= threshold)).any()


@pytest.mark.parametrize("dtype", BARS)
@torch.no_grad()
def test_stability_and_choice_are_sam2s_own_to_the_bit(dtype):
    regions, grid = 6, (3, 4)
    upscaling, tokens, hyper, skips, index = make(regions, 3, grid, 32, 4, True, dtype)
    # Some first masks are far from the thresholds, and so stable.
    hyper = hyper * torch.where(torch.arange(regions) % 2 == 0, 300, 1)[:, None, None].to(dtype)
    logits, counts = mask_tail(tokens, grid, hyper, pack_upscaling(upscaling), skips, index, kernels="triton")
    iou, mask_tokens = torch.rand(regions, 8).to(dtype)[:, ::2], torch.randn(regions, 9, 32).to(dtype)[:, 2:6]
    # Scores that are equal: the first of them counts.
    iou[0, 2] = iou[0, 1]
    decoder = SimpleNamespace(dynamic_multimask_stability_delta=0.05, dynamic_multimask_stability_thresh=0.98)
    decoder._get_stability_scores = lambda value: MaskDecoder._get_stability_scores(decoder, value)
    best, _ = MaskDecoder._dynamic_multimask_via_stability(decoder, logits, iou)
    found = select_token(counts, iou, mask_tokens, 0.98, kernels="triton")
    assert torch.equal(found.stability, decoder._get_stability_scores(logits[:, :1]).squeeze(1))
    rows = torch.arange(regions)
    assert torch.equal(logits[rows, found.index], best.squeeze(1)) and 0 < (found.index == 0).sum() < regions
    assert torch.equal(found.tokens, torch.stack([mask_tokens[rows, found.index], mask_tokens[:, 0]], 1))
    assert torch.equal(found.area, (best.squeeze(1) > 0).sum((1, 2), dtype=torch.int32))
    plain = select_token(counts, iou, mask_tokens, 0.98, kernels="torch")
    assert all(map(torch.equal, found, plain))


@torch.no_grad()
def test_nothing_is_written_beside_a_tensor_and_nothing_is_left_out(guarded):
    grid = (3, 5)
    upscaling, tokens, hyper, skips, index = make(2, 1, grid, 40, 3, True)
    *weights, eps = pack_upscaling(upscaling)
    finer, fine = map(channels_last, skips)
    with guarded():
        embedding = launch_stage1(tokens, list(grid), weights[:4], eps, fine, index)
        logits, counts = launch_tail(embedding, weights[4:], finer, index, hyper, 0.05)
        chosen = launch_select(counts, torch.rand(2, 3), torch.randn(2, 3, 40), 0.98)
    found = (embedding, logits, chosen.stability, chosen.tokens)
    assert not any(value.isnan().any() for value in found)
    assert error(logits, by_modules(upscaling, tokens, grid, hyper, skips, index)) < BARS[torch.float32]


@torch.no_grad()
def test_an_empty_mask_is_stable():
    counts = torch.tensor([[[0, 0, 0], [9, 9, 9]], [[100, 99, 98], [9, 9, 9]], [[100, 99, 97], [9, 8, 7]]]).int()
    found = select_token(counts, torch.rand(3, 2), torch.randn(3, 2, 8), 0.98, kernels="triton")
    assert found.index.tolist() == [0, 0, 1] and found.area.tolist() == [0, 99, 8]
    assert found.stability.tolist() == [1, torch.tensor(0.98).item(), torch.tensor(0.97).item()]


@torch.no_grad()
def test_strides_and_repetition_change_no_bit():
    grid = (2, 3)
    upscaling, tokens, hyper, skips, index = make(2, 2, grid, 32, 4, True)
    packed = pack_upscaling(upscaling)
    out = mask_tail(tokens, grid, hyper, packed, skips, index, kernels="triton")
    apart = torch.stack([tokens, torch.zeros_like(tokens)], -1)[..., 0]
    turned = tokens.transpose(0, 1).contiguous().transpose(0, 1)
    for given in (tokens, apart, turned):
        again = mask_tail(given, grid, hyper.contiguous(), packed, skips, index, kernels="triton")
        assert all(map(torch.equal, again, out))


@torch.no_grad()
def test_no_region():
    upscaling, tokens, hyper, skips, index = make(0, 1, (2, 3), 32, 4, True)
    logits, counts = mask_tail(tokens, (2, 3), hyper, pack_upscaling(upscaling), skips, index, kernels="triton")
    assert logits.shape == (0, 4, 8, 12) and counts.shape == (0, 4, 3)
    chosen = select_token(counts, torch.rand(0, 4), torch.rand(0, 4, 32), 0.98, kernels="triton")
    assert [part.shape for part in chosen] == [(0,), (0,), (0, 2, 32), (0,)]


@torch.no_grad()
def test_offsets_beyond_32_bits():
    """The third region lies 2^31 elements behind the first, in memory of which almost nothing is ever touched."""
    grid = (2, 2)
    upscaling, near, hyper, skips, index = make(3, 1, grid, 32, 4, True, torch.float16)
    tokens = torch.empty(2**31 + 1024, dtype=torch.float16).as_strided((3, 4, 32), (2**30, 32, 1))
    tokens.copy_(near)
    rest = (grid, hyper, pack_upscaling(upscaling), skips, index)
    far, expected = mask_tail(tokens, *rest, kernels="triton"), mask_tail(near, *rest, kernels="triton")
    assert all(map(torch.equal, far, expected))


def test_with_gradients_torch_runs_and_the_log_says_so_once(caplog):
    grid = (2, 2)
    upscaling, tokens, hyper, skips, index = make(2, 1, grid, 32, 4, True)
    say_once.cache_clear()
    for _ in range(2):
        logits, counts = mask_tail(tokens, grid, hyper, pack_upscaling(upscaling), skips, index, kernels="triton")
    logits.sum().backward()
    assert upscaling[0].weight.grad is not None and torch.equal(counts, mask_counts(logits))
    assert sum("have no gradient" in record.message for record in caplog.records) == 1
