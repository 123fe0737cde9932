"""Frames of a video with what is known of its regions: tinted masks, prompts, numbers, and the texts as subtitles."""

from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image

from pam_kit.contracts import GeneratedText, RegionPrompt
from pam_kit.inference import marks
from pam_kit.inference.layers import Sizes, paint_numbers, paint_regions, region_layer
from pam_kit.inference.panel import BACKGROUND, Entry, draw_panel
from pam_kit.inference.presence import OCCLUDED

# Videos with a shorter long side are enlarged by a whole factor, for text and marks to be legible.
MIN_SIDE = 512
TINT = 0.34
# Room for the texts below the picture: lines a region and language, and regions at the most.
_LINES_A_TEXT, _MOST_REGIONS = 2, 4
_LEADING = 1.35

Texts = dict[str, dict[str, GeneratedText]]


class FrameAnnotator:
    """Draws frames of one size, with room below for the texts of a number of regions.

    Args:
        size: (width, height) of the frames.
        num_regions: for how many there is room; texts of more are cut off at the bottom.
        languages: whose texts are shown, in this order.
        num_texts: how many texts of a region and language there are: the tasks.
        texts: what will be drawn, where that is known, so that there is just enough room; region number -> task ->
            language -> answer.
    """

    def __init__(
        self,
        size: tuple[int, int],
        num_regions: int,
        languages: Sequence[str] = ("en",),
        num_texts: int = 1,
        texts: Mapping[int, Texts] | None = None,
    ):
        self.languages = tuple(languages)
        self.scale = -(-MIN_SIDE // max(size))
        self._picture = (size[0] * self.scale, size[1] * self.scale)
        self._sizes = Sizes.of(Image.new("RGB", self._picture))
        self._panel: tuple[object, Image.Image] | None = None
        regions = max(1, min(num_regions, _MOST_REGIONS))
        if texts is None:
            rows = regions * (1 + _LINES_A_TEXT * num_texts * len(self.languages))
            strip = round(self._sizes.text * (_LEADING * rows + 2 + regions))
        else:
            strip = self._subtitles(dict.fromkeys(texts, OCCLUDED), texts).height
        width, height = self._picture[0], self._picture[1] + strip
        # Video encoders take even sides.
        self.size = (width + width % 2, height + height % 2)

    def draw(
        self,
        image: np.ndarray,
        masks: Mapping[int, np.ndarray],
        states: Mapping[int, str],
        texts: Mapping[int, Texts],
        prompts: Mapping[int, RegionPrompt] | None = None,
    ) -> np.ndarray:
        """(H, W, 3) uint8 -> (h, w, 3) uint8 of ``size``.

        Args:
            masks: region number -> (H, W) boolean mask; may be empty.
            states: region number -> a word behind its number, such as its presence.
            texts: region number -> task -> language -> answer, below the picture.
            prompts: region number -> how it is pointed at in this very frame.
        """
        prompts = prompts or {}
        canvas = Image.fromarray(image)
        if self.scale > 1:
            canvas = canvas.resize(self._picture, Image.Resampling.BICUBIC)
        layers = [
            region_layer(number, mask, prompts.get(number, RegionPrompt()), self.scale, self._picture)
            for number, mask in sorted(masks.items())
            if mask.any() or number in prompts
        ]
        paint_regions(canvas, layers, self._sizes, TINT)
        paint_numbers(canvas, layers, self._sizes)
        whole = Image.new("RGB", self.size, BACKGROUND)
        whole.paste(canvas, (0, 0))
        whole.paste(self._subtitles(states, texts), (0, self._picture[1]))
        return np.asarray(whole)

    def _subtitles(self, states: Mapping[int, str], texts: Mapping[int, Texts]) -> Image.Image:
        """The panel, drawn anew only when something in it has changed."""
        entries = {number: (state, self._rows(texts.get(number, {}))) for number, state in sorted(states.items())}
        if self._panel is None or self._panel[0] != entries:
            drawn = [
                Entry(marks.badge(str(number), marks.region_colour(number - 1), self._sizes.sign), state, rows)
                for number, (state, rows) in entries.items()
            ]
            panel = (
                draw_panel(drawn, self._picture[0], self._sizes.text) if drawn else Image.new("RGB", (1, 1), BACKGROUND)
            )
            self._panel = (entries, panel)
        return self._panel[1]

    def _rows(self, texts: Texts) -> tuple[tuple[str, str], ...]:
        return tuple(
            (task if place == 0 else "", answers[language].text or "(empty)")
            for task, answers in texts.items()
            for place, language in enumerate(one for one in self.languages if one in answers)
        )
