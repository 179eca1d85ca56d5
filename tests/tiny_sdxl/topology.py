"""The sizes of SDXL's three parts at toy width, and the layers that they share.

Plain torch, so that the checkpoint can be written and trained without ComfyUI. `tests/comfy/test_tiny_sdxl.py` holds
`tiny_unet.py`, `tiny_vae.py` and `tiny_text.py` against ComfyUI's own; `single_file.py` puts them together.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MODEL_CHANNELS = 32
CHANNEL_MULT = (1, 2, 4)
NUM_RES_BLOCKS = 2
TRANSFORMER_DEPTH = (0, 1, 2)
HEAD_CHANNELS = 64
# SDXL has 32 groups of 10 or more channels; 32 groups of 32 channels would be instance norm, which loses the colour of flat areas.
NUM_GROUPS = 8
TEXT_WIDTH_L = 16
TEXT_WIDTH_G = 32
CONTEXT_DIM = TEXT_WIDTH_L + TEXT_WIDTH_G
ADM_CHANNELS = TEXT_WIDTH_G + 6 * 256
TEXT_LAYERS = 3
VOCABULARY = 49408
NUM_TOKENS = 77
START_TOKEN, END_TOKEN = 49406, 49407
VAE_CHANNELS = 32
VAE_MULT = (1, 2, 4, 4)
LATENT_CHANNELS = 4
LATENT_SCALE = 0.13025


def sinusoids(values: Tensor, dim: int) -> Tensor:
    """Cosines then sines of `values` (N,) at `dim`/2 frequencies, (N, dim) float32."""
    half = dim // 2
    frequencies = torch.exp(-math.log(10000) * torch.arange(half, dtype=torch.float32, device=values.device) / half)
    angles = values[:, None].float() * frequencies[None]
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


def size_embedding(sizes: Tensor) -> Tensor:
    """SDXL's micro-conditioning: (N, 6) of height, width, crop_h, crop_w, target_height, target_width to (N, 1536)."""
    return sinusoids(sizes.flatten(), 256).view(sizes.shape[0], -1)


def group_norm(channels: int, eps: float = 1e-5) -> nn.GroupNorm:
    return nn.GroupNorm(NUM_GROUPS, channels, eps=eps)


def attend(q: Tensor, k: Tensor, v: Tensor, heads: int, causal: bool = False) -> Tensor:
    """Multi-head attention over (B, N, C) tensors."""
    q, k, v = (t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, is_causal=causal).transpose(1, 2).flatten(2)


class Upsample(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor, size: torch.Size | None = None) -> Tensor:
        if size is None:
            return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return self.conv(F.interpolate(x, size=size, mode="nearest"))
