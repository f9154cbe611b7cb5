"""DINOv2's vision transformer (Oquab et al. 2023), whose class token is the feature of FD-DINOv2 (Stein et al. 2023).

Its tensors have the names of the published checkpoint. An image is n embedded patches p_1, ..., p_n. With a learned
class token c and learned position embeddings e, the input is h = [c, p_1, ..., p_n] + e, and each block computes

    h <- h + g1 attention(norm(h)),    h <- h + g2 mlp(norm(h)).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
OFFSET = 0.1  # the official code adds this to the number of patches when it interpolates position embeddings


@dataclass(frozen=True)
class Sizes:
    """The sizes of a transformer. `patch`: pixels per side of a patch. `grid`: learned position embeddings per side."""

    width: int = 1024
    depth: int = 24
    heads: int = 16
    patch: int = 14
    grid: int = 37


VIT_L = Sizes()


def build(resize: Callable[[Tensor, int], Tensor]) -> DINOv2:
    """ViT-L/14, whose weights are not set. `resize`: brings images [B, C, H, W] to a size."""
    with torch.device("meta"):
        module = DINOv2(resize, VIT_L)
    return module.to_empty(device="cpu")


class DINOv2(nn.Module):
    """The transformer. `resize`: brings images [B, C, H, W] to 224 pixels per side."""

    size = 224

    def __init__(self, resize: Callable[[Tensor, int], Tensor], sizes: Sizes) -> None:
        super().__init__()
        self.resize, self.grid, self.width = resize, sizes.grid, sizes.width
        self.cls_token = nn.Parameter(torch.zeros(1, 1, sizes.width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + sizes.grid**2, sizes.width))
        self.mask_token = nn.Parameter(torch.zeros(1, sizes.width))
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, sizes.width, sizes.patch, sizes.patch)})
        self.blocks = nn.ModuleList(Block(sizes.width, sizes.heads) for _ in range(sizes.depth))
        self.norm = nn.LayerNorm(sizes.width, eps=1e-6)

    def forward(self, images: Tensor) -> tuple[Tensor, None]:
        """The class tokens [B, width] after the last norm, and no logits, for images [B, C, H, W] in 0..255."""
        x = self.resize(images, self.size) / 255
        mean, deviation = (x.new_tensor(values)[:, None, None] for values in (MEAN, DEVIATION))
        return self.tokens((x - mean) / deviation)[:, 0], None

    def tokens(self, x: Tensor) -> Tensor:
        """All tokens [B, 1 + n, width] of normalised square images [B, 3, S, S]; S is a multiple of the patch."""
        patches = self.patch_embed["proj"](x)
        hidden = torch.cat([self.cls_token.expand(len(x), -1, -1), patches.flatten(2).mT], 1)
        hidden = hidden + self.position_embeddings(patches.shape[-1])
        for block in self.blocks:
            hidden = block(hidden)
        return self.norm(hidden)

    def position_embeddings(self, side: int) -> Tensor:
        """e [1, 1 + side^2, width], by bicubic interpolation of the learned ones with the scale (side + 0.1) / grid."""
        if side == self.grid:
            return self.pos_embed
        learned = self.pos_embed[:, 1:].mT.unflatten(2, (self.grid, self.grid))
        scale = (side + OFFSET) / self.grid
        interpolated = functional.interpolate(learned, scale_factor=(scale, scale), mode="bicubic")
        return torch.cat([self.pos_embed[:, :1], interpolated.flatten(2).mT], 1)


class Block(nn.Module):
    """Attention and an MLP, each after a norm, and each scaled per channel before it is added."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = Attention(width, heads)
        self.ls1 = Scale(width)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = MLP(width)
        self.ls2 = Scale(width)

    def forward(self, x: Tensor) -> Tensor:
        """The tokens [B, n, width] after the block."""
        x = x + self.ls1(self.attn(self.norm1(x)))
        return x + self.ls2(self.mlp(self.norm2(x)))


class Attention(nn.Module):
    """softmax(q k^T / sqrt(d)) v in each head; one linear map computes q, k and v of all heads."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """The tokens [B, n, width], each a mixture of all."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return self.proj(functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class MLP(nn.Module):
    """Two linear layers with GELU between them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """The tokens [B, n, width], each transformed alone."""
        return self.fc2(functional.gelu(self.fc1(x)))


class Scale(nn.Module):
    """gamma x, per channel."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """The tokens [B, n, width], scaled."""
        return x * self.gamma
