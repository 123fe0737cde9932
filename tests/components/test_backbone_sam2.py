"""SAM 2.1 as a backbone, against golden tensors of the released PAM code and against the package's own predictor."""

import json
from concurrent.futures import ThreadPoolExecutor
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, safe_open, save_file
from sam2.sam2_image_predictor import SAM2ImagePredictor

from pam_kit.components.backbones.sam2 import Sam2
from pam_kit.components.backbones.sam_decoding import hide_absent, segment_regions, stability_score
from pam_kit.contracts import ImageFeatures, PromptBatch
from pam_kit.errors import CheckpointError, PamKitError, RecipeError
from pam_kit.registry import find
from pam_kit.weights import without_pretrained_weights

GOLDEN = Path(__file__).parents[3] / "shared" / "golden"
needs_golden = pytest.mark.skipif(
    not (GOLDEN / "recipe.py").is_file(), reason="golden data (../shared/golden) is absent"
)

BOX, POINT, POINTS, MASK, MASK_AND_BOX = range(5)


def mixed_prompts(size: int, kinds=(BOX, POINT, POINTS, MASK, MASK_AND_BOX)) -> PromptBatch:
    """One prompt of each kind, padded to the longest."""
    points, labels = torch.zeros(len(kinds), 4, 2), torch.full((len(kinds), 4), -1)
    masks, has_mask = torch.zeros(len(kinds), 1, size // 4, size // 4), torch.zeros(len(kinds), dtype=torch.bool)
    given = {
        BOX: ([[0.1, 0.2], [0.7, 0.6]], [2, 3]),
        POINT: ([[0.4, 0.5]], [1]),
        POINTS: ([[0.3, 0.3], [0.5, 0.6], [0.9, 0.1]], [1, 1, 0]),
        MASK: ([], []),
        MASK_AND_BOX: ([[0.5, 0.2], [0.9, 0.7]], [2, 3]),
    }
    for row, kind in enumerate(kinds):
        coordinates, codes = given[kind]
        if codes:
            points[row, : len(codes)] = torch.tensor(coordinates) * size
            labels[row, : len(codes)] = torch.tensor(codes)
        if kind in (MASK, MASK_AND_BOX):
            masks[row, 0, size // 16 : size // 8, size // 16 : size // 6] = 1
            has_mask[row] = True
    return PromptBatch(points, labels, masks, has_mask)


def rows(prompts: PromptBatch, chosen) -> PromptBatch:
    return PromptBatch(prompts.points[chosen], prompts.labels[chosen], prompts.masks[chosen], prompts.has_mask[chosen])


def pictures(count: int, size: int) -> torch.Tensor:
    return torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))


@pytest.fixture(scope="module")
def backbone() -> Sam2:
    """Hiera-tiny at 128 px; random point embeddings and no-memory embedding make every input matter."""
    torch.manual_seed(0)
    made = Sam2("tiny", image_size=128)
    torch.nn.init.normal_(made.model.no_mem_embed)
    return made


@pytest.fixture(scope="module")
def golden_recipe():
    spec = spec_from_file_location("golden_recipe", GOLDEN / "recipe.py")
    recipe = module_from_spec(spec)
    spec.loader.exec_module(recipe)
    return recipe


def golden_backbone(golden_recipe, seed: int, image_size: int = 256, **arguments) -> Sam2:
    made = Sam2("tiny", image_size, **arguments)
    state = made.model.state_dict()
    made.model.load_state_dict({k: torch.from_numpy(golden_recipe.weight(seed, k, v.shape)) for k, v in state.items()})
    return made


def golden_image(picture: torch.Tensor, size: int) -> torch.Tensor:
    """The released preprocessing: PIL's default resize to a square."""
    resized = Image.fromarray(picture.numpy()).convert("RGB").resize((size, size))
    return torch.from_numpy(np.array(resized)).permute(2, 0, 1)[None]


def golden_prompt(entry: dict, width: int, height: int, size: int) -> PromptBatch:
    flat = np.asarray(entry["visual_prompt"], dtype=np.float32).reshape(-1, 2)
    points = torch.from_numpy(flat / np.float32([width, height]) * size)[None]
    labels = torch.tensor([[2, 3] if entry["labels"] is None else entry["labels"]])
    return PromptBatch(points, labels, torch.zeros(1, 1, size // 4, size // 4), torch.zeros(1, dtype=torch.bool))


@pytest.mark.slow  # the parity check reads the same files
@needs_golden
@pytest.mark.parametrize(("name", "seed"), [("image256_stable", 401), ("image256_unstable", 405)])
def test_golden_boxes_and_points(golden_recipe, name, seed):
    path = GOLDEN / "public" / "sam2" / f"{name}.safetensors"
    golden = load_file(path)
    with safe_open(path, "pt") as file:
        entries = json.loads(file.metadata()["prompts"])
    backbone, features = golden_backbone(golden_recipe, seed), {}
    for entry in entries:
        picture = golden[f"image.{entry['image']}"]
        if entry["image"] not in features:
            features[entry["image"]] = backbone.encode(golden_image(picture, 256))
        prompt = golden_prompt(entry, picture.shape[1], picture.shape[0], 256)
        regions = backbone.segment(features[entry["image"]], torch.zeros(1, dtype=torch.long), prompt)
        expected = {
            k.removeprefix(f"{entry['name']}."): v for k, v in golden.items() if k.startswith(entry["name"] + ".")
        }
        check_golden(regions, expected)
        shown = 0 if entry["stable"] else entry["best"]
        torch.testing.assert_close(regions.iou, expected["iou_pred_all"][:, shown], atol=1e-5, rtol=0)
        assert torch.equal(regions.mask_logits, regions.candidate_logits[:, shown : shown + 1])
        backbone.shown = "single"
        released = backbone.segment(features[entry["image"]], torch.zeros(1, dtype=torch.long), prompt)
        backbone.shown = "described"
        check_golden_mask(released, expected, picture.shape[:2])
        assert torch.equal(released.mask_tokens, regions.mask_tokens)


def check_golden_mask(regions, expected, size):
    """The released mask: the single one, of the picture's size; nothing where the score says that nothing is there."""
    torch.testing.assert_close(regions.iou, expected["iou_pred_all"][:, 0], atol=1e-5, rtol=0)
    masks = torch.nn.functional.interpolate(regions.mask_logits, size=size, mode="bilinear", align_corners=False)
    stride = max(1, size[1] // 40)
    shown = masks[:, :, ::stride, ::stride]
    torch.testing.assert_close(shown, expected["video_res_mask_logits_strided"], atol=1e-4, rtol=0)


@pytest.mark.slow  # the parity check reads the same files
@needs_golden
def test_golden_box_at_the_size_of_the_release(golden_recipe):
    path = GOLDEN / "public" / "sam2" / "image1024_rows.safetensors"
    golden = load_file(path)
    with safe_open(path, "pt") as file:
        entries = json.loads(file.metadata()["prompts"])
    backbone = golden_backbone(golden_recipe, 401, image_size=1024, shown="single")
    picture = golden["image.a"]
    features = backbone.encode(golden_image(picture, 1024))
    for entry in entries:
        prompt = golden_prompt(entry, picture.shape[1], picture.shape[0], 1024)
        regions = backbone.segment(features, torch.zeros(1, dtype=torch.long), prompt)
        expected = {
            k.removeprefix(f"{entry['name']}."): v for k, v in golden.items() if k.startswith(entry["name"] + ".")
        }
        embedding, close = regions.image_embedding, dict(atol=2e-5, rtol=0)
        torch.testing.assert_close(embedding[:, :, ::8, ::8], expected["mid_image_embed_strided"], **close)
        mean, std = embedding.mean((2, 3)), embedding.std((2, 3), correction=0)
        torch.testing.assert_close(mean, expected["mid_image_embed_channel_mean"], **close)
        torch.testing.assert_close(std, expected["mid_image_embed_channel_std"], **close)
        torch.testing.assert_close(regions.mask_tokens, expected["mid_mask_tokens_out"], **close)
        torch.testing.assert_close(regions.object_score[:, None], expected["score_returned"], **close)
        check_golden_mask(regions, expected, picture.shape[:2])


def check_golden(regions, expected):
    close = dict(atol=2e-5, rtol=0)
    torch.testing.assert_close(regions.image_embedding, expected["mid_image_embed"], **close)
    torch.testing.assert_close(regions.mask_tokens, expected["mid_mask_tokens_out"], **close)
    torch.testing.assert_close(regions.all_tokens[:, 2:6], expected["all_mask_tokens"], **close)
    torch.testing.assert_close(regions.candidate_iou, expected["iou_pred_all"], **close)
    torch.testing.assert_close(regions.object_score[:, None], expected["object_score_logits"], **close)
    torch.testing.assert_close(stability_score(regions.candidate_logits[:, 0]), expected["stability_score"], **close)
    strided = regions.candidate_logits[:, :, ::4, ::4]
    torch.testing.assert_close(strided, expected["low_res_masks_all_strided"], atol=1e-4, rtol=0)


@pytest.mark.slow  # the parity check reads the same files
@needs_golden
def test_golden_mask_prompt(golden_recipe):
    golden = load_file(GOLDEN / "public" / "sam2" / "mask256_intended.safetensors")
    backbone = golden_backbone(golden_recipe, 401)
    nowhere = mixed_prompts(256, (MASK,))
    # The released code adds the no-memory embedding to every prompt but masks.
    torch.nn.init.zeros_(backbone.model.no_mem_embed)
    regions = segment_regions(
        backbone.prompt_encoder,
        backbone.mask_decoder,
        backbone.encode(golden_image(golden["image"], 256)),
        torch.zeros(1, dtype=torch.long),
        nowhere,
        golden["dense_mask_prompt"],
        "stability",
    )
    check_golden(regions, golden)


def test_masks_are_those_of_the_packages_own_predictor(backbone):
    size, prompts = backbone.image_size, mixed_prompts(backbone.image_size)
    image = pictures(1, size)
    predictor = SAM2ImagePredictor(backbone.model)
    predictor._bb_feat_sizes = [(size // stride, size // stride) for stride in (4, 8, 16)]
    predictor.set_image(image[0].permute(1, 2, 0).numpy())
    regions = backbone.segment(backbone.encode(image), torch.zeros(len(prompts), dtype=torch.long), prompts)
    for row in range(len(prompts)):
        real = prompts.labels[row] >= 0
        # Without any point the predictor leaves SAM's padding points out; its training code does not.
        points = prompts.points[row][real].numpy() if real.any() else np.zeros((1, 2), dtype=np.float32)
        labels = prompts.labels[row][real].numpy() if real.any() else np.array([-1])
        mask = (prompts.masks[row] * 20 - 10).numpy() if prompts.has_mask[row] else None
        for multimask, chosen in ((True, slice(1, 4)), (False, slice(0, 1))):
            _, ious, logits = predictor.predict(points, labels, mask_input=mask, multimask_output=multimask)
            expected = regions.candidate_logits[row, chosen].clamp(-32, 32).numpy()
            np.testing.assert_allclose(logits, expected, atol=1e-5)
            np.testing.assert_allclose(ious, regions.candidate_iou[row, chosen].numpy(), atol=1e-5)


def test_a_batch_gives_what_one_by_one_gives(backbone):
    prompts, images = mixed_prompts(128, (BOX, POINT, MASK, POINTS, MASK_AND_BOX, POINT, BOX)), pictures(3, 128)
    index = torch.tensor([2, 0, 1, 1, 0, 2, 0])
    features = backbone.encode(images)
    together = backbone.segment(features, index, prompts)
    for row in range(len(prompts)):
        alone = backbone.segment(backbone.encode(images[index[row]][None]), torch.tensor([0]), rows(prompts, [row]))
        tokens = together.all_tokens[row][~together.token_padding[row]]
        torch.testing.assert_close(tokens, alone.all_tokens[0], atol=1e-5, rtol=0)
        for name in ("image_embedding", "source_embedding", "mask_tokens", "candidate_logits", "iou", "mask_logits"):
            torch.testing.assert_close(getattr(together, name)[row], getattr(alone, name)[0], atol=1e-5, rtol=0)


def test_padding_may_stand_anywhere(backbone):
    features, index = backbone.encode(pictures(1, 128)), torch.tensor([0])
    prompts = mixed_prompts(128, (BOX,))
    moved = PromptBatch(prompts.points.roll(2, 1), prompts.labels.roll(2, 1), prompts.masks, prompts.has_mask)
    first, second = backbone.segment(features, index, prompts), backbone.segment(features, index, moved)
    torch.testing.assert_close(first.candidate_logits, second.candidate_logits)


@pytest.mark.parametrize(("selection", "allowed"), [("single", {0}), ("best", {1, 2, 3}), ("stability", {0, 1, 2, 3})])
def test_the_shown_mask_is_the_one_its_token_makes(backbone, selection, allowed):
    prompts = mixed_prompts(128)
    backbone.selection = selection
    try:
        regions = backbone.segment(backbone.encode(pictures(1, 128)), torch.zeros(5, dtype=torch.long), prompts)
    finally:
        backbone.selection = "stability"
    tokens = regions.all_tokens[:, 2:6]
    for row in range(5):
        shown = (tokens[row] == regions.mask_tokens[row, 0]).all(dim=1).nonzero()[0].item()
        assert shown in allowed
        assert torch.equal(regions.mask_logits[row, 0], regions.candidate_logits[row, shown])
        assert regions.iou[row] == regions.candidate_iou[row, shown]
        if selection == "best":
            assert regions.iou[row] == regions.candidate_iou[row, 1:].max()
    assert torch.equal(regions.mask_tokens[:, 1], tokens[:, 0])


@pytest.mark.parametrize("selection", ["stability", "best"])
def test_the_single_mask_may_be_shown_whatever_is_described(backbone, monkeypatch, selection):
    monkeypatch.setattr(backbone, "selection", selection)
    features, index, prompts = backbone.encode(pictures(1, 128)), torch.zeros(5, dtype=torch.long), mixed_prompts(128)
    described = backbone.segment(features, index, prompts)
    monkeypatch.setattr(backbone, "shown", "single")
    shown = backbone.segment(features, index, prompts)
    assert torch.equal(shown.mask_tokens, described.mask_tokens)
    assert torch.equal(shown.iou, shown.candidate_iou[:, 0])
    there = (shown.object_score > 0)[:, None, None, None]
    assert torch.equal(shown.mask_logits, torch.where(there, shown.candidate_logits[:, :1], -1024.0))


def test_the_single_mask_is_hidden_where_no_object_is():
    score = torch.tensor([-0.1, 0.0, 0.1])
    hidden = hide_absent(torch.arange(3.0).reshape(3, 1, 1, 1), score)
    assert hidden.flatten().tolist() == [-1024, -1024, 2]


def test_stability_score_is_the_overlap_of_two_thresholds():
    logits = torch.tensor([[[1.0, 0.0, -1.0]], [[-1.0, -1.0, -1.0]], [[1.0, 2.0, -0.06]]])
    assert stability_score(logits).tolist() == [0.5, 1.0, 1.0]


def test_eight_regions_run_the_encoder_once_and_leave_no_hook(backbone):
    calls = []
    handle = backbone.model.image_encoder.register_forward_hook(lambda *_: calls.append(1))
    features = backbone.encode(pictures(1, 128))
    backbone.segment(features, torch.zeros(8, dtype=torch.long), mixed_prompts(128, (BOX, POINT, MASK, POINTS) * 2))
    handle.remove()
    assert len(calls) == 1
    assert not backbone.mask_decoder.transformer._forward_hooks


def test_the_hook_goes_when_the_decoder_fails(backbone):
    features = backbone.encode(pictures(1, 128))
    broken = ImageFeatures(features.embedding, tuple(level[..., :-1] for level in features.high_resolution))
    with pytest.raises(RuntimeError):
        backbone.segment(broken, torch.tensor([0]), mixed_prompts(128, (BOX,)))
    assert not backbone.mask_decoder.transformer._forward_hooks


def test_threads_do_not_see_each_others_tokens(backbone):
    features, prompts = backbone.encode(pictures(1, 128)), mixed_prompts(128)
    index = torch.zeros(1, dtype=torch.long)
    alone = [backbone.segment(features, index, rows(prompts, [row])).all_tokens for row in range(5)]
    with ThreadPoolExecutor(4) as pool:
        jobs = [pool.submit(backbone.segment, features, index, rows(prompts, [turn % 5])) for turn in range(40)]
    for turn, job in enumerate(jobs):
        torch.testing.assert_close(job.result().all_tokens, alone[turn % 5], atol=1e-5, rtol=0)


def test_no_region_gives_empty_features(backbone):
    features = backbone.encode(pictures(1, 128))
    nothing = PromptBatch(
        torch.zeros(0, 0, 2), torch.zeros(0, 0).long(), torch.zeros(0, 1, 32, 32), torch.zeros(0).bool()
    )
    regions = backbone.segment(features, torch.zeros(0, dtype=torch.long), nothing)
    assert regions.image_embedding.shape == (0, 256, 8, 8) and regions.mask_tokens.shape == (0, 2, 256)
    assert regions.mask_logits.shape == (0, 1, 32, 32) and regions.candidate_iou.shape == (0, 4)


def test_frozen_stays_in_eval_mode_and_out_of_the_graph(backbone):
    backbone.train()
    assert not any(module.training for module in backbone.modules())
    regions = backbone.segment(backbone.encode(pictures(1, 128)), torch.tensor([0]), mixed_prompts(128, (BOX,)))
    assert not any(parameter.requires_grad for parameter in backbone.parameters())
    assert not regions.image_embedding.requires_grad and not regions.mask_logits.requires_grad


def test_not_frozen_reaches_every_learnable_parameter():
    backbone = Sam2("tiny", image_size=64, frozen=False).train()
    regions = backbone.segment(backbone.encode(pictures(1, 64)), torch.tensor([0, 0]), mixed_prompts(64, (BOX, MASK)))
    (regions.candidate_logits.sum() + regions.candidate_iou.sum() + regions.object_score.sum()).backward()
    without = {name for name, p in backbone.named_parameters() if p.requires_grad and p.grad is None}
    assert not without
    assert backbone.model.maskmem_tpos_enc.requires_grad is False


def test_casting_to_bfloat16_keeps_coordinates(backbone):
    cast = Sam2("tiny", image_size=128)
    cast.load_state_dict(backbone.state_dict())
    cast.to(torch.bfloat16)
    prompts, index = mixed_prompts(128), torch.zeros(5, dtype=torch.long)
    exact = backbone.segment(backbone.encode(pictures(1, 128)), index, prompts)
    rounded = cast.segment(cast.encode(pictures(1, 128)), index, prompts)
    assert rounded.image_embedding.dtype == torch.bfloat16
    assert cast.prompt_encoder.pe_layer.positional_encoding_gaussian_matrix.dtype == torch.float32
    error = (rounded.image_embedding.float() - exact.image_embedding).norm() / exact.image_embedding.norm()
    assert error < 0.05
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = backbone.segment(backbone.encode(pictures(1, 128)), index, prompts)
    error = (mixed.image_embedding.float() - exact.image_embedding).norm() / exact.image_embedding.norm()
    assert error < 0.05


@pytest.mark.parametrize("size", ["tiny", "small", "base_plus", "large"])
def test_every_size_is_built_on_the_meta_device(size):
    with torch.device("meta"):
        built = find("backbone", f"sam2_hiera_{size}").build(weights="not/there/yet.pt")
    assert all(parameter.is_meta for parameter in built.parameters())
    assert built.grid == (64, 64) and built.image_size == 1024 and built.embed_dim == 256


def test_weights_of_either_kind_load_and_misfits_are_listed(backbone, tmp_path):
    state = {name: tensor.clone() for name, tensor in backbone.model.state_dict().items()}
    torch.save({"model": state}, tmp_path / "sam.pt")
    save_file(state, tmp_path / "sam.safetensors")
    for name in ("sam.pt", "sam.safetensors"):
        made = Sam2("tiny", image_size=128, weights=str(tmp_path / name))
        loaded = made.model.state_dict()
        assert all(torch.equal(tensor, loaded[key]) for key, tensor in state.items())
        assert made.weight_files == (tmp_path / name,)
    with without_pretrained_weights():
        assert Sam2("tiny", image_size=128, weights=str(tmp_path / "sam.pt")).weight_files == ()
    assert backbone.weight_files == ()
    del state["no_mem_embed"]
    state["surplus"] = torch.zeros(1)
    state["maskmem_tpos_enc"] = torch.zeros(2)
    save_file(state, tmp_path / "broken.safetensors")
    with pytest.raises(CheckpointError) as caught:
        Sam2("tiny", image_size=128, weights=str(tmp_path / "broken.safetensors"))
    for line in ("missing: no_mem_embed", "unknown: surplus", "of another shape: maskmem_tpos_enc"):
        assert line in str(caught.value)


def test_sizes_that_do_not_fit_are_refused(backbone):
    with pytest.raises(RecipeError, match="100.*multiples of 32"):
        Sam2("tiny", image_size=100)
    with pytest.raises(PamKitError, match=r"\(1, 3, 96, 96\)"):
        backbone.encode(pictures(1, 96))
    with pytest.raises(PamKitError, match="float32"):
        backbone.encode(pictures(1, 128).float())


@pytest.mark.parametrize("size", [32, 96, 160])
def test_any_multiple_of_32_runs(size):
    backbone = Sam2("tiny", image_size=size)
    features = backbone.encode(pictures(1, size))
    assert features.embedding.shape[-2:] == backbone.grid == (size // 16, size // 16)


def test_the_released_preset_is_what_the_golden_data_were_made_with():
    preset = find("backbone", "pam").preset
    assert preset == {"size": "large", "image_size": 1024, "frozen": True, "selection": "stability", "shown": "single"}
