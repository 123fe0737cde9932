"""PAM's Semantic Perceiver."""

from typing import Literal

import torch
from torch import Tensor, nn

from pam_kit.components.perceivers.two_way import FourierPositions, TwoWayTransformer
from pam_kit.contracts import PerceivedTokens, Perceiver, RegionFeatures, mask_shares
from pam_kit.registry import register

# A cell outside the mask keeps this weight, so that surroundings are not lost and an empty mask is no accident.
LEAST_SHARE = 1e-3


@register(
    "perceiver",
    "semantic_perceiver",
    presets={"pam": {"num_semantic_tokens": 16, "depth": 2, "num_heads": 8, "mlp_dim": 2048, "mask_focus": 0.0}},
)
class SemanticPerceiver(Perceiver):
    """Learned semantic tokens read the region's features in a two-way transformer (PAM, section 3.1, Figure 4).

    Args:
        num_semantic_tokens: learned tokens, N_s in the paper; 0 leaves visual tokens alone.
        depth: two-way blocks.
        num_heads: attention heads.
        mlp_dim: hidden width of the blocks' MLP.
        attention_downsample: by how much the cross-attention is narrower than the embedding.
        tokens: which tokens of the mask decoder come along: the two mask tokens, or all of them (Table 7).
        image_features: image embedding after or before the fusing module S2-FFM (Table 7).
        mask_focus: how much the tokens look at the predicted mask rather than elsewhere: attention to a cell is
            multiplied by its share of the mask to this power. 0 is the paper's; 1 learns far sooner from little data
            (after the masked attention of arXiv 2112.01527).
    """

    def __init__(
        self,
        embed_dim: int,
        num_semantic_tokens: int = 16,
        depth: int = 2,
        num_heads: int = 8,
        mlp_dim: int = 2048,
        attention_downsample: int = 2,
        tokens: Literal["mask", "all"] = "mask",
        image_features: Literal["post_ffm", "pre_ffm"] = "post_ffm",
        mask_focus: float = 0.0,
    ):
        super().__init__()
        self.num_semantic_tokens = num_semantic_tokens
        self.tokens, self.image_features, self.mask_focus = tokens, image_features, mask_focus
        self.semantic_tokens = nn.Parameter(torch.randn(num_semantic_tokens, embed_dim))
        self.positions = FourierPositions(embed_dim)
        self.transformer = TwoWayTransformer(embed_dim, depth, num_heads, mlp_dim, attention_downsample)

    def forward(self, regions: RegionFeatures) -> PerceivedTokens:
        image = regions.image_embedding if self.image_features == "post_ffm" else regions.source_embedding
        grid = (image.shape[-2], image.shape[-1])
        queries, token_bias = self._queries(regions)
        tokens, visual = self.transformer(
            queries, image.flatten(2).transpose(1, 2), self.positions(grid), token_bias, self._focus(regions, grid)
        )
        semantic = tokens[:, tokens.shape[1] - self.num_semantic_tokens :]
        return PerceivedTokens(visual=visual, semantic=semantic, grid=grid)

    def _queries(self, regions: RegionFeatures) -> tuple[Tensor, Tensor | None]:
        learned = self.semantic_tokens.expand(len(regions.mask_tokens), -1, -1)
        if self.tokens == "mask":
            return torch.cat([regions.mask_tokens, learned], dim=1), None
        hidden = torch.zeros_like(regions.token_padding, dtype=learned.dtype)
        hidden = hidden.masked_fill(regions.token_padding, -torch.inf)
        never = hidden.new_zeros(learned.shape[:2])
        return torch.cat([regions.all_tokens, learned], dim=1), torch.cat([hidden, never], dim=1)

    def _focus(self, regions: RegionFeatures, grid: tuple[int, int]) -> Tensor | None:
        """(R, h*w) attention bias: the logarithm of each cell's share of the mask; it does not train the mask."""
        if not self.mask_focus:
            return None
        share = mask_shares(regions.mask_logits, grid).flatten(1)
        return self.mask_focus * share.clamp_min(LEAST_SHARE).log()
