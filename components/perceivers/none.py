"""The absence of a perceiver, as an ablation."""

from pam_kit.contracts import PerceivedTokens, Perceiver, RegionFeatures
from pam_kit.registry import register


@register("perceiver", "none")
class NoPerceiver(Perceiver):
    """Hands the fused image embedding and the mask tokens to the projector as they are; nothing is learned.

    Args:
        mask_tokens: whether the two mask tokens stand where the semantic tokens would.
    """

    def __init__(self, embed_dim: int, mask_tokens: bool = True):
        super().__init__()
        self.num_semantic_tokens = 2 if mask_tokens else 0

    def forward(self, regions: RegionFeatures) -> PerceivedTokens:
        image = regions.image_embedding
        return PerceivedTokens(
            visual=image.flatten(2).transpose(1, 2),
            semantic=regions.mask_tokens[:, : self.num_semantic_tokens],
            grid=(image.shape[-2], image.shape[-1]),
        )
