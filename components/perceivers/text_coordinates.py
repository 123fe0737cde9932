"""A region as words: the coordinates of its box, written out."""

import torch
from torch import Tensor

from pam_kit.components.perceivers.picture_tokens import PictureTokens
from pam_kit.contracts import PerceivedTokens, Perceiver, RegionFeatures, region_boxes
from pam_kit.registry import register


@register("perceiver", "text_coordinates")
class TextCoordinates(Perceiver):
    """The whole picture's tokens, and behind them the box as plain text, "[0.123,0.456,0.789,0.999]".

    The format is Shikra's (arXiv 2306.15195): x1, y1, x2, y2 as shares of the picture with three decimals,
    in the words the language model has. Of a clip every read frame brings the box in that frame along, as in Elysium
    (arXiv 2403.16558). There is no region token: N = 0, so that there is nothing to align words with.

    Faithful: the notation, plain digits, no coordinate vocabulary, no region feature. Otherwise: each character is one
    token, which is what Llama's and Qwen's tokenizers make of digits but not always of the signs between them; the text
    stands ahead of the question rather than within it; shares are of the stretched model image, which has no borders;
    the box is the prompt's, and without one the predicted mask's. An object that is out of sight has "[0.000,...]".
    """

    def __init__(self, embed_dim: int):
        super().__init__()
        self.num_semantic_tokens, self.num_characters = 0, len("[0.000,0.000,0.000,0.000]")
        self.picture = PictureTokens(embed_dim)

    def forward(self, regions: RegionFeatures) -> PerceivedTokens:
        visual, grid = self.picture(regions)
        return PerceivedTokens(visual, visual[:, :0], grid, characters=spelled_boxes(region_boxes(regions)))


def spelled_boxes(boxes: Tensor) -> Tensor:
    """Boxes (R, 4) in shares of the picture -> (R, 25) long: code points of "[x1,y1,x2,y2]", three decimals each."""
    thousandths = (boxes.double().clamp(0, 1) * 1000).round().long()
    digits = [thousandths // unit % 10 + ord("0") for unit in (1000, 100, 10, 1)]
    point, comma = (torch.full_like(thousandths, ord(sign)) for sign in ".,")
    numbers = torch.stack([digits[0], point, *digits[1:], comma], dim=2).flatten(1)[:, :-1]  # (R, 23)
    opening, ending = (torch.full_like(numbers[:, :1], ord(sign)) for sign in "[]")
    return torch.cat([opening, numbers, ending], dim=1)
