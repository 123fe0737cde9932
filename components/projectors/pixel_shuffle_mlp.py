"""PAM's projector: fewer visual tokens, and two MLPs into the decoder's width."""

from typing import Literal

from torch import nn

from pam_kit.contracts import PerceivedTokens, ProjectedTokens, Projector
from pam_kit.errors import RecipeError
from pam_kit.kernels.shuffle_project import merge_neighbours
from pam_kit.registry import register


def two_layer_mlp(input_dim: int, output_dim: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(input_dim, output_dim), nn.GELU(), nn.Linear(output_dim, output_dim))


@register("projector", "pixel_shuffle_mlp", presets={"pam": {"ratio": 2, "later_ratio": 4, "token_order": "column"}})
class PixelShuffleMlp(Projector):
    """Merges r x r neighbouring visual tokens, then one MLP for visual and one for semantic tokens (PAM, section 3.1).

    Args:
        ratio: r; visual tokens become r^2 times fewer and r^2 times wider before the MLP.
        later_ratio: r of the later frames of a clip, whose tokens are narrowed to those of the first frame by a linear
            map ahead of the MLP; null treats all frames alike.
        token_order: order of the merged tokens; released PAM checkpoints expect column.
    """

    def __init__(
        self,
        embed_dim: int,
        output_dim: int,
        ratio: Literal[1, 2, 4] = 2,
        later_ratio: Literal[2, 4] | None = None,
        token_order: Literal["row", "column"] = "row",
    ):
        super().__init__()
        self.ratio, self.later_ratio, self.token_order = ratio, later_ratio, token_order
        merged_dim = embed_dim * ratio**2
        self.narrow = nn.Linear(embed_dim * later_ratio**2, merged_dim) if later_ratio else None
        self.visual = two_layer_mlp(merged_dim, output_dim)
        self.semantic = two_layer_mlp(embed_dim, output_dim)

    def forward(self, tokens: PerceivedTokens, later: bool = False) -> ProjectedTokens:
        merged = merge_neighbours(tokens.visual, tokens.grid, self._ratio(later), self.token_order)
        if self.narrow is not None:
            # An image leaves the map of later frames a gradient of zero: devices that see an image and devices that see
            # a clip in the same step must have gradients for the same parameters.
            nothing = merged.new_zeros(1, 1, self.narrow.in_features)
            merged = self.narrow(merged) if later else merged + 0 * self.narrow(nothing)
        return ProjectedTokens(visual=self.visual(merged), semantic=self.semantic(tokens.semantic))

    def num_visual_tokens(self, grid: tuple[int, int], later: bool = False) -> int:
        ratio = self._ratio(later)
        if grid[0] % ratio or grid[1] % ratio:
            raise RecipeError(
                [
                    f"projector.{'later_' if later else ''}ratio {ratio} does not divide the feature grid of "
                    f"{grid[0]}x{grid[1]}; choose another ratio or backbone.image_size"
                ]
            )
        return grid[0] * grid[1] // ratio**2

    def clip_parameters(self) -> list[nn.Parameter]:
        return [] if self.narrow is None else list(self.narrow.parameters())

    def _ratio(self, later: bool) -> int:
        return self.later_ratio if later and self.later_ratio else self.ratio
