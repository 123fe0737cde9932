"""A picture with all that was found in it."""

from collections.abc import Sequence

import numpy as np
from PIL import Image

from pam_kit.inference.found_regions import FoundRegion
from pam_kit.inference.overlay import draw_regions

# More numbers and lines of legend cannot be told apart.
MOST_DRAWN = 40


def draw_everything(
    image: np.ndarray, regions: Sequence[FoundRegion], languages: Sequence[str] = ("en",)
) -> Image.Image:
    """The picture with its best 40 regions, numbered as they come, and a legend of what is said of them.

    Args:
        image: (H, W, 3) uint8, RGB.
        regions: by falling score.
        languages: whose texts the legend shows, in this order.
    """
    return draw_regions(image, [one.prediction() for one in regions[:MOST_DRAWN]], languages, prompts=False)
