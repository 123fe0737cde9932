"""What crosses between slots: prompts, samples, batches, features, tokens, texts; one abstract class per slot.

Axis legend, used in every shape of the kit:
  B  images of a batch            R  regions, over all images of the batch
  Q  questions, over all regions  S  side of the square model image, in pixels
  h, w  the feature grid (S/16)   C  embedding width of the backbone (256 in SAM 2)
  T  tokens of the mask decoder   N  semantic tokens            D  width of the decoder
  M  mask candidates of a region  P  points of a prompt, padded
  F  frames of a clip             W  characters of a region's text

Coordinates are (x, y) in pixels, origin at the top-left corner; boxes are (x1, y1, x2, y2).
"""

from pam_kit.contracts.batches import (
    AnswerScores,
    ClipBatch,
    GeneratedText,
    ImageFeatures,
    PerceivedTokens,
    ProjectedTokens,
    PromptBatch,
    Questions,
    RegionBatch,
    RegionFeatures,
    Spoken,
    TextLoss,
)
from pam_kit.contracts.places import CropWindow, cropped, mask_boxes, mask_shares, region_boxes
from pam_kit.contracts.samples import (
    BOX_BOTTOM_RIGHT,
    BOX_TOP_LEFT,
    NEGATIVE_POINT,
    PAD_POINT,
    POSITIVE_POINT,
    ClipSample,
    Event,
    Region,
    RegionPrompt,
    RegionSample,
    VideoRegion,
    VideoSample,
)
from pam_kit.contracts.slots import (
    Decoder,
    Perceiver,
    Precision,
    Projector,
    Reading,
    RegionMemory,
    Steps,
    VisionBackbone,
)

__all__ = [
    "BOX_BOTTOM_RIGHT",
    "BOX_TOP_LEFT",
    "AnswerScores",
    "ClipBatch",
    "ClipSample",
    "CropWindow",
    "Decoder",
    "Event",
    "GeneratedText",
    "ImageFeatures",
    "NEGATIVE_POINT",
    "PAD_POINT",
    "POSITIVE_POINT",
    "PerceivedTokens",
    "Perceiver",
    "ProjectedTokens",
    "Precision",
    "Projector",
    "PromptBatch",
    "Questions",
    "Reading",
    "Region",
    "RegionBatch",
    "RegionFeatures",
    "RegionMemory",
    "RegionPrompt",
    "RegionSample",
    "Spoken",
    "Steps",
    "TextLoss",
    "VideoRegion",
    "VideoSample",
    "VisionBackbone",
    "cropped",
    "mask_boxes",
    "mask_shares",
    "region_boxes",
]
