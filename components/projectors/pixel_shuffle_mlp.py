"""PAM's projector: fewer visual tokens, and two MLPs into the decoder's width."""

from typing import Literal

from torch import Tensor, nn

from pam_kit.contracts import PerceivedTokens, ProjectedTokens, Projector
from pam_kit.errors import RecipeError
from pam_kit.kernels import shuffle_project
from pam_kit.kernels.dispatch import backend, say_once
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
        kernels: what merges and projects visual tokens: triton has them fused; auto is torch, the faster one on the
            GPUs measured so far.
    """

    def __init__(
        self,
        embed_dim: int,
        output_dim: int,
        ratio: Literal[1, 2, 4] = 2,
        later_ratio: Literal[2, 4] | None = None,
        token_order: Literal["row", "column"] = "row",
        kernels: Literal["auto", "triton", "torch"] = "auto",
    ):
        super().__init__()
        self.kernels = kernels
        self.ratio, self.later_ratio, self.token_order = ratio, later_ratio, token_order
        merged_dim = embed_dim * ratio**2
        self.narrow = nn.Linear(embed_dim * later_ratio**2, merged_dim) if later_ratio else None
        self.visual = two_layer_mlp(merged_dim, output_dim)
        self.semantic = two_layer_mlp(embed_dim, output_dim)

    def forward(self, tokens: PerceivedTokens, later: bool = False) -> ProjectedTokens:
        return ProjectedTokens(visual=self.project_visual(tokens, later), semantic=self.semantic(tokens.semantic))

    def project_visual(self, tokens: PerceivedTokens, later: bool) -> Tensor:
        """The half of ``forward`` that is about the visual tokens: (R, h*w/r^2, D)."""
        fused = backend(self.kernels, tokens.visual.device, "shuffle_project") == "triton" and self._is_whole()
        return (self._projected_by_kernels if fused else self._projected)(tokens, later)

    def _projected(self, tokens: PerceivedTokens, later: bool) -> Tensor:
        merged = merge_neighbours(tokens.visual, tokens.grid, self._ratio(later), self.token_order)
        if self.narrow is not None:
            merged = self.narrow(merged) if later else merged + self._nothing(self.narrow, merged)
        return self.visual(merged)

    def _projected_by_kernels(self, tokens: PerceivedTokens, later: bool) -> Tensor:
        """The same with the merged tokens never in memory."""
        first, _, second = self.visual
        mlp = (first.weight, first.bias, second.weight, second.bias)
        shuffle = {"ratio": self._ratio(later), "order": self.token_order, "kernels": self.kernels}
        if self.narrow is None:
            return shuffle_project(tokens.visual, *mlp, grid=tokens.grid, **shuffle)
        if not later:
            out = shuffle_project(tokens.visual, *mlp, grid=tokens.grid, **shuffle)
            return out + self._nothing(self.narrow, out).sum()
        narrow = (self.narrow.weight, self.narrow.bias)
        merged = shuffle_project(tokens.visual, *narrow, grid=tokens.grid, gelu=False, **shuffle)
        return shuffle_project(merged, *mlp, grid=(1, merged.shape[1]), ratio=1, kernels=self.kernels)

    def _is_whole(self) -> bool:
        """Whether the weights lie here in full: some strategies gather them for a layer only as it is called."""
        layers = [layer for layer in (self.narrow, *self.visual) if isinstance(layer, nn.Linear)]
        whole = all(layer.weight.shape == (layer.out_features, layer.in_features) for layer in layers)
        if not whole:
            say_once("projector: plain torch, since its weights are spread over devices")
        return whole

    @staticmethod
    def _nothing(narrow: nn.Linear, like: Tensor) -> Tensor:
        """A zero that gives the map of later frames a gradient of zero.

        Devices that see an image and devices that see a clip in the same step must have gradients for the same
        parameters.
        """
        return 0 * narrow(like.new_zeros(1, 1, narrow.in_features))

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
