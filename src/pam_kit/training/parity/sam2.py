"""SAM 2 on pictures: boxes, points and masks, and where prompts land in the model image."""

from collections.abc import Sequence
from pathlib import PurePosixPath

import torch
import torch.nn.functional as F
import yaml
from torch import Tensor

from pam_kit.components.backbones.sam_decoding import stability_score
from pam_kit.contracts import ImageFeatures, PromptBatch, RegionFeatures, RegionPrompt, VisionBackbone
from pam_kit.data.prepare import Geometry
from pam_kit.registry import find
from pam_kit.released.names import VISION_TOWER
from pam_kit.training.parity.golden_file import GoldenFile, GoldenFileError
from pam_kit.training.parity.prompts import prompted_picture, region_prompt
from pam_kit.training.parity.report import TOLERANCE, Comparison, close
from pam_kit.training.parity.weights import fill

# Which mask decoder output is a mask token: ahead of them stand the object-score and the IoU token.
_MASK_TOKENS = slice(2, 6)
_COLUMNS_KEPT = 40
# Mask logits are products of tokens and pixels, both of them 2e-6 off: 1.1e-5 was seen on one thread instead of two.
MASK_LOGITS_TOLERANCE = 3e-5
_DEFAULT_CONFIG = "sam2.1_hiera_t.yaml"
_SIZES = {"t": "tiny", "s": "small", "b+": "base_plus", "l": "large"}


def build_sam2(config: str, overrides: Sequence[str]) -> VisionBackbone:
    """The kit's SAM 2 as a released configuration file and its overrides, ``++model.a.b=value`` each, describe it."""
    size = PurePosixPath(config).stem.rpartition("hiera_")[2]
    if size not in _SIZES:
        raise GoldenFileError(f"it names the configuration {config!r}, which is none of SAM 2.1's")
    given = [one.removeprefix("++model.").split("=", 1) for one in overrides]
    values = {key: yaml.safe_load(value) for key, value in given}
    # The preset is what this override asks for.
    values.pop("multimask_output_in_sam", None)
    image_size = values.pop("image_size", 1024)
    return find("backbone", "pam").build(size=_SIZES[size], image_size=image_size, overrides=values).eval()


def filled_sam2(file: GoldenFile) -> tuple[VisionBackbone, list[Comparison]]:
    """The file's SAM 2 with the formula's weights."""
    backbone = build_sam2(file.about.get("config", _DEFAULT_CONFIG), file.said("overrides"))
    return backbone, fill({"backbone": backbone}, file, f"{VISION_TOWER}.")


def full_size(mask_logits: Tensor, height: int, width: int) -> Tensor:
    """(R, 1, 4h, 4w) -> (R, 1, H, W): mask logits in the pixels of the picture."""
    return F.interpolate(mask_logits, size=(height, width), mode="bilinear", align_corners=False)


def check_images(file: GoldenFile) -> list[Comparison]:
    """Boxes and points in pictures: the normalised picture, the image stream, mask tokens, masks and scores."""
    backbone, found = filled_sam2(file)
    geometry, encoded, normalised = Geometry.of(backbone), {}, []
    backbone.model.image_encoder.register_forward_pre_hook(lambda _module, inputs: normalised.append(inputs[0][0]))
    for entry in file.said("prompts"):
        name, picture = entry["image"], file.tensor(f"image.{entry['image']}")
        batch = prompted_picture(picture, region_prompt(entry["visual_prompt"], entry["labels"]), geometry)
        with torch.inference_mode():
            if name not in encoded:
                encoded[name] = backbone.encode(batch.images)
                found += _compared_strided(file, "preprocessed", f"preprocessed.{name}", normalised[-1])
            regions = backbone.segment(encoded[name], batch.image_index, batch.prompts)
        found += _compared_region(file, regions, f"{entry['name']}.", picture.shape[0], picture.shape[1])
    return found


def check_mask_prompt(file: GoldenFile) -> list[Comparison]:
    """A drawn mask, as the released code means to read it, and as it does with its shortcut for masks switched off."""
    backbone, found = filled_sam2(file)
    picture, drawn = file.tensor("image"), file.tensor("mask_uint8")
    # The prompt only sizes the batch; the mask enters as SAM's prompt encoder takes it.
    batch = prompted_picture(picture, RegionPrompt(mask=drawn.numpy() > 0), Geometry.of(backbone))
    with torch.inference_mode():
        mask = _binary(drawn, backbone.image_size)
        dense = backbone.model.mask_downsample(mask)
        features = backbone.encode(batch.images)
        # The shortcut decodes the picture without the embedding that says "no memory".
        no_memory = backbone.model.no_mem_embed.reshape(1, -1, 1, 1)
        bare = ImageFeatures(features.embedding - no_memory, features.high_resolution)
        intended = _segment_mask(backbone, bare, batch.prompts, dense)
        small = F.interpolate(mask, size=dense.shape[-2:], mode="bilinear", align_corners=False, antialias=True)
        without_shortcut = _segment_mask(backbone, features, batch.prompts, small)
    found.append(close("dense_mask_prompt", dense, file.tensor("dense_mask_prompt")))
    found += _compared_region(file, intended, "", picture.shape[0], picture.shape[1])
    return found + _compared_region(file, without_shortcut, "alt_flag_off.", picture.shape[0], picture.shape[1])


def check_coordinates(file: GoldenFile) -> list[Comparison]:
    """Boxes in pictures of many sizes -> the corners in the model image.

    The kit keeps coordinates in fp32 whatever the type of the weights. The released code rounds them to bfloat16 where
    the weights are; that column is not something to reproduce, so what is compared is how far the kit is from it,
    which the metadata state for the released fp32.
    """
    size = int(file.said("image_size"))
    geometry = Geometry(size, (size // 4, size // 4))
    corners = []
    for (width, height), box in zip(file.tensor("size_wh").tolist(), file.tensor("box_xyxy").tolist(), strict=True):
        batch = prompted_picture(torch.zeros(height, width, 3, dtype=torch.uint8), region_prompt(box, None), geometry)
        corners.append(batch.prompts.points[0])
    own = torch.stack(corners)
    error = (own - file.tensor("model_coords_bf16")).abs()
    return [
        close("model_coords_fp32", own, file.tensor("model_coords_fp32")),
        close("mean_err_px of bf16", error.mean(), torch.tensor(float(file.said("mean_err_px")))),
        close("max_err_px of bf16", error.max(), torch.tensor(float(file.said("max_err_px")))),
    ]


def _binary(drawn: Tensor, size: int) -> Tensor:
    """(H, W) -> (1, 1, S, S) in {0, 1}."""
    mask = (drawn > 0).float()[None, None]
    resized = F.interpolate(mask, size=(size, size), mode="bilinear", align_corners=False, antialias=True)
    return (resized >= 0.5).float()


def _segment_mask(
    backbone: VisionBackbone, features: ImageFeatures, prompts: PromptBatch, mask_logits: Tensor
) -> RegionFeatures:
    """Hand (1, 1, 4h, 4w) to SAM's prompt encoder as it is: the backbone turns m in [0, 1] into (2m - 1) * 10."""
    # In double precision, so that the way there and back changes nothing.
    masks = (mask_logits.double() / 10 + 1) / 2
    prompts = PromptBatch(prompts.points, prompts.labels, masks, prompts.has_mask)
    return backbone.segment(features, torch.zeros(1, dtype=torch.long), prompts)


def _compared_strided(
    file: GoldenFile, what: str, name: str, own: Tensor, tolerance: float = TOLERANCE
) -> list[Comparison]:
    """Every so many rows and columns, as many as the golden tensor keeps."""
    if not file.has(name):
        return []
    golden = file.tensor(name)
    step = max(1, own.shape[-1] // golden.shape[-1])
    of = name.removesuffix(what).removeprefix(what).strip(".")
    return [close(what, own[..., ::step, ::step], golden, tolerance, of)]


def _compared_region(
    file: GoldenFile, regions: RegionFeatures, prefix: str, height: int, width: int
) -> list[Comparison]:
    """Whatever the file holds of one region; its names begin with ``prefix``."""
    image, masks = regions.image_embedding, regions.candidate_logits
    step = max(1, width // _COLUMNS_KEPT)
    own = {
        "mid_image_embed": image,
        "mid_image_embed_channel_mean": image.mean((2, 3)),
        "mid_image_embed_channel_std": image.std((2, 3), correction=0),
        "mid_mask_tokens_out": regions.mask_tokens,
        "all_mask_tokens": regions.all_tokens[:, _MASK_TOKENS],
        "iou_pred_all": regions.candidate_iou,
        "stability_score": stability_score(masks[:, 0]),
        "object_score_logits": regions.object_score[:, None],
        "score_returned": regions.object_score[:, None],
    }
    of = prefix.rstrip(".")
    found = [close(n, own[n], file.tensor(prefix + n), of=of) for n in own if file.has(prefix + n)]
    found += _compared_strided(file, "mid_image_embed_strided", prefix + "mid_image_embed_strided", image)
    low = "low_res_masks_all_strided"
    found += _compared_strided(file, low, prefix + low, masks, MASK_LOGITS_TOLERANCE)
    if file.has(f"{prefix}video_res_mask_logits_strided"):
        shown = full_size(regions.mask_logits, height, width)[..., ::step, ::step]
        golden = file.tensor(f"{prefix}video_res_mask_logits_strided")
        found.append(close("video_res_mask_logits_strided", shown, golden, MASK_LOGITS_TOLERANCE, of))
    return found
