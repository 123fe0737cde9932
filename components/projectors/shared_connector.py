"""One MLP for the picture's tokens and the region's, as RegionGPT has it."""

from typing import Literal

from pam_kit.components.projectors.pixel_shuffle_mlp import PixelShuffleMlp
from pam_kit.contracts import PerceivedTokens, ProjectedTokens
from pam_kit.registry import register


@register("projector", "shared_connector")
class SharedConnector(PixelShuffleMlp):
    """pixel_shuffle_mlp without an MLP of its own for region tokens: they go through the visual tokens' (arXiv
    2403.02330).

    That MLP takes r x r tokens merged into one, so a region token enters as r x r neighbours that are all equal to it.
    With r = 1 it is RegionGPT's connector, which merges nothing.

    Args:
        ratio: r.
        later_ratio: r of the later frames of a clip, as in pixel_shuffle_mlp; null treats all frames alike.
        kernels: what merges and projects visual tokens: triton has them fused; auto is torch, the faster one on the
            GPUs measured so far.
    """

    def __init__(
        self,
        embed_dim: int,
        output_dim: int,
        ratio: Literal[1, 2, 4] = 2,
        later_ratio: Literal[2, 4] | None = None,
        kernels: Literal["auto", "triton", "torch"] = "auto",
    ):
        super().__init__(embed_dim, output_dim, ratio, later_ratio, kernels=kernels)
        del self.semantic

    def forward(self, tokens: PerceivedTokens, later: bool = False) -> ProjectedTokens:
        block = tokens.semantic.repeat(1, 1, self.ratio**2)
        return ProjectedTokens(visual=self.project_visual(tokens, later), semantic=self.visual(block))
