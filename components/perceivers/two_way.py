"""The two-way transformer: tokens read an image, and the image is rewritten by what the tokens say (SAM, section 3)."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pam_kit.errors import RecipeError


class FourierPositions(nn.Module):
    """Random Fourier features of places, such as the cell centres of a grid.

    The matrix is a buffer: it is drawn once and belongs to the checkpoint.
    """

    def __init__(self, embed_dim: int):
        super().__init__()
        self.register_buffer("gaussian", torch.randn(2, embed_dim // 2))

    def forward(self, grid: tuple[int, int]) -> Tensor:
        """(h, w) -> (h*w, C), row-major."""
        h, w = grid
        like = {"device": self.gaussian.device, "dtype": self.gaussian.dtype}
        y, x = ((torch.arange(n, **like) + 0.5) / n * 2 - 1 for n in (h, w))
        xy = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1).flatten(0, 1)  # (h*w, 2)
        return self.of(xy)

    def of(self, xy: Tensor) -> Tensor:
        """Places (..., 2) as x and y, from -1 to 1 over the picture -> (..., C)."""
        angle = 2 * math.pi * (xy @ self.gaussian)
        return torch.cat([angle.sin(), angle.cos()], dim=-1)


class Attention(nn.Module):
    """Multi-head attention whose inner width is ``embed_dim / downsample``."""

    def __init__(self, embed_dim: int, num_heads: int, downsample: int = 1):
        super().__init__()
        inner = embed_dim // downsample
        if embed_dim % downsample or inner % num_heads:
            raise RecipeError(
                [
                    f"attention of width {embed_dim} / {downsample} cannot be split into {num_heads} heads; "
                    "choose num_heads so that it divides the width"
                ]
            )
        self.num_heads = num_heads
        self.query, self.key, self.value = (nn.Linear(embed_dim, inner) for _ in range(3))
        self.out = nn.Linear(inner, embed_dim)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, key_bias: Tensor | None = None) -> Tensor:
        """(R, Lq, C), (R, Lk, C), (R, Lk, C) -> (R, Lq, C); ``key_bias`` (R, Lk) is added to every query's scores."""

        def heads(x: Tensor) -> Tensor:
            return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)

        bias = None if key_bias is None else key_bias[:, None, None, :].to(query.dtype)
        mixed = F.scaled_dot_product_attention(
            heads(self.query(query)), heads(self.key(key)), heads(self.value(value)), attn_mask=bias
        )
        return self.out(mixed.transpose(1, 2).flatten(2))


class TwoWayBlock(nn.Module):
    """Self-attention of the tokens, tokens to image, MLP on the tokens, image to tokens; post-norm.

    The first block's self-attention has neither positions nor a residual: it replaces the tokens.
    """

    def __init__(self, embed_dim: int, num_heads: int, mlp_dim: int, downsample: int, first: bool):
        super().__init__()
        self.first = first
        self.self_attention = Attention(embed_dim, num_heads)
        self.token_to_image = Attention(embed_dim, num_heads, downsample)
        self.image_to_token = Attention(embed_dim, num_heads, downsample)
        self.mlp = nn.Sequential(nn.Linear(embed_dim, mlp_dim), nn.ReLU(), nn.Linear(mlp_dim, embed_dim))
        self.norms = nn.ModuleList(nn.LayerNorm(embed_dim) for _ in range(4))

    def forward(
        self,
        tokens: Tensor,
        image: Tensor,
        token_pe: Tensor,
        image_pe: Tensor,
        token_bias: Tensor | None,
        image_bias: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        if self.first:
            tokens = self.self_attention(tokens, tokens, tokens, token_bias)
        else:
            located = tokens + token_pe
            tokens = tokens + self.self_attention(located, located, tokens, token_bias)
        tokens = self.norms[0](tokens)
        tokens = self.norms[1](tokens + self.token_to_image(tokens + token_pe, image + image_pe, image, image_bias))
        tokens = self.norms[2](tokens + self.mlp(tokens))
        image = self.norms[3](image + self.image_to_token(image + image_pe, tokens + token_pe, tokens, token_bias))
        return tokens, image


class TwoWayTransformer(nn.Module):
    """``depth`` two-way blocks and a last look of the tokens at the image."""

    def __init__(self, embed_dim: int, depth: int, num_heads: int, mlp_dim: int, downsample: int):
        super().__init__()
        self.blocks = nn.ModuleList(
            TwoWayBlock(embed_dim, num_heads, mlp_dim, downsample, first=i == 0) for i in range(depth)
        )
        self.last_look = Attention(embed_dim, num_heads, downsample)
        self.norm = nn.LayerNorm(embed_dim)

    def forward(
        self,
        tokens: Tensor,
        image: Tensor,
        image_pe: Tensor,
        token_bias: Tensor | None = None,
        image_bias: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Tokens (R, L, C), image (R, h*w, C), its positions (h*w, C) -> the two, rewritten.

        ``token_bias`` (R, L) and ``image_bias`` (R, h*w) are added to the attention scores of those keys; minus
        infinity hides a key.
        """
        token_pe = tokens
        for block in self.blocks:
            tokens, image = block(tokens, image, token_pe, image_pe, token_bias, image_bias)
        looked = self.last_look(tokens + token_pe, image + image_pe, image, image_bias)
        return self.norm(tokens + looked), image
