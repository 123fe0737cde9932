"""The plainest projector, as a baseline."""

from torch import nn

from pam_kit.contracts import PerceivedTokens, ProjectedTokens, Projector
from pam_kit.registry import register


@register("projector", "linear")
class LinearProjector(Projector):
    """One linear map for visual and one for semantic tokens; the number of tokens stays.

    Args:
        bias: whether the maps have one.
    """

    def __init__(self, embed_dim: int, output_dim: int, bias: bool = True):
        super().__init__()
        self.visual = nn.Linear(embed_dim, output_dim, bias=bias)
        self.semantic = nn.Linear(embed_dim, output_dim, bias=bias)

    def forward(self, tokens: PerceivedTokens, later: bool = False) -> ProjectedTokens:
        return ProjectedTokens(visual=self.visual(tokens.visual), semantic=self.semantic(tokens.semantic))

    def num_visual_tokens(self, grid: tuple[int, int], later: bool = False) -> int:
        return grid[0] * grid[1]
