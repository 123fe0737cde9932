"""mask_tail without Triton: equal to sam2's modules, the registered operators, compilation, launches, errors."""

import pytest
import torch
from sam2.modeling.sam.mask_decoder import MaskDecoder
from sam2.modeling.sam.transformer import TwoWayTransformer
from sam2.modeling.sam2_utils import LayerNorm2d
from torch import nn

from pam_kit.components.backbones.decoder_kernels import DecoderKernels, heads_of, transformed
from pam_kit.kernels import mask_tail
from pam_kit.kernels.counting import launches
from pam_kit.kernels.mask_tail import cases, mask_counts, misfit, pack_upscaling, select_token
from pam_kit.kernels.mask_tail.table import obstacle

WIDTH, GRID = 32, (3, 4)


def decoder(scored: bool = True, skipped: bool = True, **options) -> MaskDecoder:
    torch.manual_seed(0)
    made = MaskDecoder(
        transformer_dim=WIDTH,
        transformer=TwoWayTransformer(depth=1, embedding_dim=WIDTH, num_heads=2, mlp_dim=32),
        iou_head_hidden_dim=48,
        use_high_res_features=skipped,
        iou_prediction_use_sigmoid=True,
        pred_obj_scores=scored,
        **{"pred_obj_scores_mlp": scored, **options},
    )
    nn.init.normal_(made.output_upscaling[1].weight)
    return made.eval()


def skip_features(images: int) -> tuple[torch.Tensor, torch.Tensor]:
    h, w = GRID
    return torch.randn(images, WIDTH // 8, 4 * h, 4 * w), torch.randn(images, WIDTH // 4, 2 * h, 2 * w)


def decoded(made: MaskDecoder, regions: int = 3, images: int = 2):
    """sam2's own outputs, and those of packed products from the same transformer."""
    source, dense = torch.randn(2, regions, WIDTH, *GRID)
    positions, sparse, index = (
        torch.randn(1, WIDTH, *GRID),
        torch.randn(regions, 2, WIDTH),
        torch.arange(regions) % images,
    )
    skips = skip_features(images) if made.use_high_res_features else ()
    logits, iou, _, score = made.predict_masks(
        source, positions, sparse, dense, repeat_image=False, high_res_features=[skip[index] for skip in skips] or None
    )
    tokens, image = transformed(made, source, positions, sparse, dense)
    return (logits, iou, score), DecoderKernels().decode(made, "torch", tokens, image, GRID, skips, index)


def assert_same(found, wanted, **tolerance):
    for one, other in zip((found.logits, found.iou, found.object_score), wanted, strict=True):
        torch.testing.assert_close(one, other, **tolerance)


@pytest.mark.parametrize(("scored", "skipped"), [(True, True), (False, True), (True, False)])
@torch.no_grad()
def test_packed_products_are_sam2s_decoder(scored, skipped):
    wanted, found = decoded(decoder(scored, skipped))
    assert_same(found, wanted, atol=1e-6, rtol=1e-5)


def test_gradients_are_those_of_the_modules():
    made = decoder().double()
    torch.set_default_dtype(torch.float64)
    try:
        wanted, found = decoded(made)
    finally:
        torch.set_default_dtype(torch.float32)
    parts = [value.square().sum() for value in wanted]
    ours = [value.square().sum() for value in (found.logits, found.iou, found.object_score)]
    names, parameters = zip(*((n, p) for n, p in made.named_parameters() if not n.startswith("conv_s")), strict=True)
    gradients = [torch.autograd.grad(sum(terms), parameters) for terms in (parts, ours)]
    for name, one, other in zip(names, *gradients, strict=True):
        torch.testing.assert_close(other, one, msg=name)


@torch.no_grad()
def test_what_is_packed_follows_the_parameters():
    made, kernels = decoder(), DecoderKernels("torch")
    first = kernels._packed(made)
    assert all(one is other for one, other in zip(first, kernels._packed(made), strict=True))
    made.output_hypernetworks_mlps[2].layers[1].bias.add_(1)
    heads, upscaling = kernels._packed(made)
    assert heads is not first[0] and upscaling is first[1]
    assert torch.equal(heads.second_bias[4, :WIDTH], made.output_hypernetworks_mlps[2].layers[1].bias)
    made.load_state_dict(decoder().state_dict())
    assert torch.equal(kernels._packed(made)[0].second_bias, first[0].second_bias)
    made.double()
    assert kernels._packed(made)[1].first_weight.dtype == torch.float64
    # Written behind autograd's back: only ``forget`` helps.
    kept = kernels._packed(made)[0]
    made.iou_prediction_head.layers[0].bias.data.add_(1)
    assert kernels._packed(made)[0] is kept
    kernels.forget()
    assert not torch.equal(kernels._packed(made)[0].first_bias, kept.first_bias)


def test_what_is_packed_in_inference_mode_serves_a_graph_later():
    made, kernels = decoder().requires_grad_(False), DecoderKernels("torch")
    with torch.inference_mode():
        kept = kernels._packed(made)
    assert kernels._packed(made)[0] is kept[0] and not kept[0].first_weight.is_inference()


def test_a_training_step_packs_inside_the_graph():
    made, kernels = decoder(), DecoderKernels("torch")
    assert kernels._packed(made)[0].first_weight.requires_grad
    assert kernels._packed(made)[0] is not kernels._packed(made)[0]


def test_which_decoders_stay_with_sam2s_modules(monkeypatch):
    device = torch.device("cuda")
    monkeypatch.setattr("pam_kit.components.backbones.decoder_kernels.backend", lambda *_: "triton")
    assert DecoderKernels().chosen(decoder(), device) == "triton"
    # An object score of one linear layer, an activation of another kind.
    assert DecoderKernels().chosen(decoder(pred_obj_scores_mlp=False), device) == "modules"
    assert DecoderKernels().chosen(decoder(activation=nn.ReLU), device) == "modules"
    monkeypatch.setattr("pam_kit.components.backbones.decoder_kernels.backend", lambda *_: "torch")
    assert DecoderKernels().chosen(decoder(), device) == "torch"
    assert DecoderKernels().chosen(decoder(), torch.device("cpu")) == "modules"
    assert len(heads_of(decoder())) == 6 and len(heads_of(decoder(scored=False))) == 5


def arguments(regions: int = 3):
    torch.manual_seed(0)
    packed = [tensor.detach() for tensor in pack_upscaling(decoder().output_upscaling).tensors]
    tokens, hyper = torch.randn(regions, GRID[0] * GRID[1], WIDTH), torch.randn(regions, 4, WIDTH // 8)
    return tokens, list(GRID), hyper, *packed, 1e-6, *skip_features(2), torch.arange(regions) % 2, 0.05


def test_the_registration_holds():
    """Schema, fake implementation and compilation with changing shapes, as torch checks them."""
    given = arguments()
    torch.library.opcheck(torch.ops.pam_kit.mask_tail, given)
    tokens = torch.cat([given[0]] * 2, -1)[..., :WIDTH]
    torch.library.opcheck(torch.ops.pam_kit.mask_tail, (tokens, *given[1:10], None, None, *given[12:]))
    _, counts = torch.ops.pam_kit.mask_tail(*given)
    chosen = (counts, torch.rand(3, 8)[:, ::2], torch.randn(3, 9, WIDTH)[:, 2:6], 0.98)
    torch.library.opcheck(torch.ops.pam_kit.select_token, chosen)


@torch.no_grad()
def test_it_compiles_into_one_graph():
    made = decoder()

    def public(tokens, hyper, skips, index, mask_tokens):
        logits, counts = mask_tail(tokens, GRID, hyper, pack_upscaling(made.output_upscaling), skips, index)
        return logits, *select_token(counts, mask_tokens[..., 0], mask_tokens, 0.98)

    def operator(tokens, hyper, skips, index, mask_tokens):
        packed = pack_upscaling(made.output_upscaling)
        logits, counts = torch.ops.pam_kit.mask_tail(
            tokens, GRID, hyper, *packed.tensors, packed.eps, *skips, index, 0.05
        )
        return logits, *torch.ops.pam_kit.select_token(counts, mask_tokens[..., 0], mask_tokens, 0.98)

    tokens, _, hyper, *_, finer, fine, index, _ = arguments()
    given = (tokens, hyper, (finer, fine), index, torch.randn(3, 4, WIDTH))
    for function in (public, operator):
        torch._dynamo.reset()
        compiled = torch.compile(function, backend="aot_eager", fullgraph=True, dynamic=True)
        torch.testing.assert_close(compiled(*given), tuple(function(*given)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_counts_are_made_in_the_type_of_the_logits(dtype):
    """As in SAM 2, whose threshold is a number of the logits' type: 0.05 is 0.0500488 in bfloat16."""
    logits = torch.tensor([-0.06, -0.05, 0.0, 0.05, 0.0501, 0.06], dtype=dtype).reshape(1, 1, 2, 3)
    wanted = [(logits > bound).sum().item() for bound in (-0.05, 0, 0.05)]
    assert mask_counts(logits).tolist() == [[wanted]]


def test_launches_and_bytes():
    """Three launches, and at 16 regions a tenth of the bytes; the embedding of the masks' size is never in memory."""
    for case in cases():
        inputs = case.inputs("meta", torch.bfloat16)
        eager, view = (launches(case.providers[name], *inputs) for name in ("eager", "view"))
        bytes_of = [sum(launch.bytes for launch in found) for found in (eager, view, case.forward)]
        assert len(case.forward) == 3 < len(view) < len(eager) and bytes_of[0] > bytes_of[1] > 4 * bytes_of[2]
        assert sum(launch.flops for launch in case.forward) == sum(launch.flops for launch in view)
        assert case.regions == 1 or bytes_of[0] > 10 * bytes_of[2]


def test_the_published_form_is_the_reference():
    made = decoder()
    del made.conv_s0, made.conv_s1
    case = cases()[0]
    inputs = case.inputs("cpu", torch.float32)
    eager, view = case.providers["eager"](*inputs), case.providers["view"](*inputs)
    torch.testing.assert_close(eager[0], view[0], atol=1e-5, rtol=1e-4)
    assert (eager[1] - view[1]).abs().max() <= 2


@pytest.mark.parametrize(("change", "message"), [
    ({"grid": (4, 4)}, r"tokens are of shape \(2, 12, 32\); a grid of 4x4 takes \(2, 16, 32\)"),
    ({"hyper": torch.randn(2, 4, 8)}, r"hyper are of shape \(2, 4, 8\)"),
    ({"skips": tuple(torch.randn(1, c, 12, 16) for c in (4, 8))}, "fine skip features are of shape"),
    ({"kernels": "cuda"}, "choose one of auto, triton, torch"),
])  # fmt: skip
def test_errors_name_the_culprit(change, message):
    packed = pack_upscaling(decoder().output_upscaling)
    given = {"tokens": torch.randn(2, 12, WIDTH), "grid": GRID, "hyper": torch.randn(2, 4, 4), "upscaling": packed}
    given |= {"skips": skip_features(1), "image_index": torch.zeros(2).long()}
    with pytest.raises(ValueError, match=message):
        mask_tail(**{**given, **change})


def test_what_cannot_be_packed_or_selected_is_said():
    upscaling = decoder().output_upscaling
    assert misfit(upscaling) == "" and "LayerNorm2d" in misfit(nn.Sequential(*upscaling[:1], *upscaling[2:]))
    wide = nn.Sequential(nn.ConvTranspose2d(8, 4, 3, 2), LayerNorm2d(4), nn.GELU(), *upscaling[3:])
    assert "kernel and stride 2" in misfit(wide)
    wide[0], wide[2] = upscaling[0], nn.GELU("tanh")
    assert "approximation" in misfit(wide)
    with pytest.raises(ValueError, match="cannot be packed"):
        pack_upscaling(wide)
    with pytest.raises(ValueError, match="need the same R and M"):
        select_token(torch.zeros(2, 4, 3).int(), torch.rand(2, 4), torch.rand(2, 3, 8), 0.98)
    assert "at most 128" in obstacle(160, 80, 4) and "at most 16 masks" in obstacle(64, 32, 17)
