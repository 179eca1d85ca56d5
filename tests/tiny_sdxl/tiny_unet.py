"""SDXL's UNet at toy width, with the key names of its checkpoints."""

import torch
import torch.nn.functional as F
from topology import (
    ADM_CHANNELS,
    CHANNEL_MULT,
    CONTEXT_DIM,
    HEAD_CHANNELS,
    LATENT_CHANNELS,
    MODEL_CHANNELS,
    NUM_RES_BLOCKS,
    TRANSFORMER_DEPTH,
    Upsample,
    attend,
    group_norm,
    sinusoids,
)
from torch import Tensor, nn


class ResBlock(nn.Module):
    def __init__(self, channels: int, out_channels: int):
        super().__init__()
        self.in_layers = nn.Sequential(group_norm(channels), nn.SiLU(), nn.Conv2d(channels, out_channels, 3, padding=1))
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(4 * MODEL_CHANNELS, out_channels))
        conv = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.out_layers = nn.Sequential(group_norm(out_channels), nn.SiLU(), nn.Identity(), conv)
        self.skip_connection = nn.Identity() if channels == out_channels else nn.Conv2d(channels, out_channels, 1)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        h = self.in_layers(x) + self.emb_layers(emb)[:, :, None, None]
        return self.skip_connection(x) + self.out_layers(h)

    @property
    def last(self) -> nn.Conv2d:
        conv = self.out_layers[3]
        assert isinstance(conv, nn.Conv2d)
        return conv


class CrossAttention(nn.Module):
    def __init__(self, width: int, context_dim: int):
        super().__init__()
        self.heads = width // HEAD_CHANNELS
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_k = nn.Linear(context_dim, width, bias=False)
        self.to_v = nn.Linear(context_dim, width, bias=False)
        self.to_out = nn.Sequential(nn.Linear(width, width))

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        return self.to_out(attend(self.to_q(x), self.to_k(context), self.to_v(context), self.heads))


class GatedGelu(nn.Module):
    def __init__(self, width: int, inner: int):
        super().__init__()
        self.proj = nn.Linear(width, 2 * inner)

    def forward(self, x: Tensor) -> Tensor:
        x, gate = self.proj(x).chunk(2, dim=-1)
        return x * F.gelu(gate)


class FeedForward(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.net = nn.Sequential(GatedGelu(width, 4 * width), nn.Identity(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class TransformerBlock(nn.Module):
    def __init__(self, width: int, context_dim: int):
        super().__init__()
        self.attn1 = CrossAttention(width, width)
        self.ff = FeedForward(width)
        self.attn2 = CrossAttention(width, context_dim)
        self.norm1, self.norm2, self.norm3 = nn.LayerNorm(width), nn.LayerNorm(width), nn.LayerNorm(width)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        n = self.norm1(x)
        x = x + self.attn1(n, n)
        x = x + self.attn2(self.norm2(x), context)
        return x + self.ff(self.norm3(x))


class SpatialTransformer(nn.Module):
    def __init__(self, width: int, depth: int):
        super().__init__()
        self.norm = group_norm(width, eps=1e-6)
        self.proj_in = nn.Linear(width, width)
        self.transformer_blocks = nn.ModuleList([TransformerBlock(width, CONTEXT_DIM) for _ in range(depth)])
        self.proj_out = nn.Linear(width, width)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        h = self.proj_in(self.norm(x).flatten(2).transpose(1, 2))
        for block in self.transformer_blocks:
            h = block(h, context)
        return x + self.proj_out(h).transpose(1, 2).unflatten(2, (height, width))

    @property
    def last(self) -> nn.Linear:
        return self.proj_out


class Downsample(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.op = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.op(x)


class UNet(nn.Module):
    """SDXL's UNet: ResBlocks at three levels, transformers at two of them and in the middle, label embedding."""

    def __init__(self, in_channels: int = LATENT_CHANNELS):
        super().__init__()
        emb = 4 * MODEL_CHANNELS
        self.time_embed = nn.Sequential(nn.Linear(MODEL_CHANNELS, emb), nn.SiLU(), nn.Linear(emb, emb))
        self.label_emb = nn.Sequential(nn.Sequential(nn.Linear(ADM_CHANNELS, emb), nn.SiLU(), nn.Linear(emb, emb)))

        width = MODEL_CHANNELS
        skips = [width]
        self.input_blocks = nn.ModuleList([nn.ModuleList([nn.Conv2d(in_channels, width, 3, padding=1)])])
        for level, mult in enumerate(CHANNEL_MULT):
            for _ in range(NUM_RES_BLOCKS):
                self.input_blocks.append(self._block(width, mult * MODEL_CHANNELS, TRANSFORMER_DEPTH[level]))
                width = mult * MODEL_CHANNELS
                skips.append(width)
            if level + 1 < len(CHANNEL_MULT):
                self.input_blocks.append(nn.ModuleList([Downsample(width)]))
                skips.append(width)
        self.middle_block = self._block(width, width, TRANSFORMER_DEPTH[-1])
        self.middle_block.append(ResBlock(width, width))
        self.output_blocks = nn.ModuleList()
        for level in reversed(range(len(CHANNEL_MULT))):
            for i in range(NUM_RES_BLOCKS + 1):
                block = self._block(width + skips.pop(), CHANNEL_MULT[level] * MODEL_CHANNELS, TRANSFORMER_DEPTH[level])
                width = CHANNEL_MULT[level] * MODEL_CHANNELS
                if level and i == NUM_RES_BLOCKS:
                    block.append(Upsample(width))
                self.output_blocks.append(block)
        self.out = nn.Sequential(group_norm(width), nn.SiLU(), nn.Conv2d(width, LATENT_CHANNELS, 3, padding=1))

    @staticmethod
    def _block(channels: int, out_channels: int, depth: int) -> nn.ModuleList:
        block = nn.ModuleList([ResBlock(channels, out_channels)])
        if depth:
            block.append(SpatialTransformer(out_channels, depth))
        return block

    @staticmethod
    def _run(block: nn.Module, h: Tensor, emb: Tensor, context: Tensor, size: torch.Size | None = None) -> Tensor:
        assert isinstance(block, nn.ModuleList)
        for layer in block:
            if isinstance(layer, ResBlock):
                h = layer(h, emb)
            elif isinstance(layer, SpatialTransformer):
                h = layer(h, context)
            elif isinstance(layer, Upsample):
                h = layer(h, size)
            else:
                h = layer(h)
        return h

    def forward(self, x: Tensor, timesteps: Tensor, context: Tensor, y: Tensor) -> Tensor:
        """Predict the noise of latents (B, 4, H/8, W/8) given timesteps (B,), text (B, 77, 48) and labels (B, 1568)."""
        emb = self.time_embed(sinusoids(timesteps, MODEL_CHANNELS).to(x.dtype)) + self.label_emb(y)
        h = x
        skips = []
        for block in self.input_blocks:
            h = self._run(block, h, emb, context)
            skips.append(h)
        h = self._run(self.middle_block, h, emb, context)
        for block in self.output_blocks:
            h = torch.cat([h, skips.pop()], dim=1)
            h = self._run(block, h, emb, context, skips[-1].shape[-2:] if skips else None)
        return self.out(h)
