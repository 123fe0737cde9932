"""PAM's projector: fewer visual tokens, and two MLPs into the decoder's width."""

from typing import Literal

from torch import nn

from pam_kit.contracts import PerceivedTokens, ProjectedTokens, Projector
from pam_kit.errors import RecipeError
from pam_kit.kernels.shuffle_project import merge_neighbours
from pam_kit.registry import register


def two_layer_mlp(input_dim: int, output_dim: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(input_dim, output_dim), nn.GELU(), nn.Linear(output_dim, output_dim))


@register("projector", "pixel_shuffle_mlp")
class PixelShuffleMlp(Projector):
    """Merges r x r neighbouring visual tokens, then one MLP for visual and one for semantic tokens (PAM, section 3.1).

    Args:
        ratio: r; visual tokens become r^2 times fewer and r^2 times wider before the MLP.
        token_order: order of the merged tokens; released PAM checkpoints expect column.
    """

    def __init__(
        self,
        embed_dim: int,
        output_dim: int,
        ratio: Literal[1, 2, 4] = 2,
        token_order: Literal["row", "column"] = "row",
    ):
        super().__init__()
        self.ratio, self.token_order = ratio, token_order
        self.visual = two_layer_mlp(embed_dim * ratio**2, output_dim)
        self.semantic = two_layer_mlp(embed_dim, output_dim)

    def forward(self, tokens: PerceivedTokens) -> ProjectedTokens:
        merged = merge_neighbours(tokens.visual, tokens.grid, self.ratio, self.token_order)
        return ProjectedTokens(visual=self.visual(merged), semantic=self.semantic(tokens.semantic))

    def num_visual_tokens(self, grid: tuple[int, int]) -> int:
        if grid[0] % self.ratio or grid[1] % self.ratio:
            raise RecipeError(
                [
                    f"projector.ratio {self.ratio} does not divide the feature grid of {grid[0]}x{grid[1]}; "
                    "choose another ratio or backbone.image_size"
                ]
            )
        return grid[0] * grid[1] // self.ratio**2
