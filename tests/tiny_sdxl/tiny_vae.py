"""SDXL's VAE at toy width, with the key names of its checkpoints."""

import torch.nn.functional as F
from topology import LATENT_CHANNELS, VAE_CHANNELS, VAE_MULT, Upsample, attend, group_norm
from torch import Tensor, nn


class VaeResBlock(nn.Module):
    nin_shortcut: nn.Conv2d | None

    def __init__(self, channels: int, out_channels: int):
        super().__init__()
        self.norm1 = group_norm(channels, eps=1e-6)
        self.conv1 = nn.Conv2d(channels, out_channels, 3, padding=1)
        self.norm2 = group_norm(out_channels, eps=1e-6)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.nin_shortcut = None if channels == out_channels else nn.Conv2d(channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h)))
        return h + (x if self.nin_shortcut is None else self.nin_shortcut(x))

    @property
    def last(self) -> nn.Conv2d:
        return self.conv2


class VaeAttention(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.norm = group_norm(channels, eps=1e-6)
        self.q, self.k, self.v, self.proj_out = (nn.Conv2d(channels, channels, 1) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        n = self.norm(x)
        q, k, v = (conv(n).flatten(2).transpose(1, 2) for conv in (self.q, self.k, self.v))
        h = attend(q, k, v, heads=1).transpose(1, 2).unflatten(2, x.shape[-2:])
        return x + self.proj_out(h)


class VaeDownsample(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class VaeLevel(nn.Module):
    """ResBlocks of one resolution, and the way to the next."""

    downsample: nn.Module | None
    upsample: nn.Module | None

    def __init__(self, channels: int, out_channels: int, num_blocks: int):
        super().__init__()
        self.block = nn.ModuleList([VaeResBlock(out_channels if i else channels, out_channels) for i in range(num_blocks)])
        self.downsample = None
        self.upsample = None

    def forward(self, x: Tensor) -> Tensor:
        for block in self.block:
            x = block(x)
        if self.downsample is not None:
            x = self.downsample(x)
        if self.upsample is not None:
            x = self.upsample(x)
        return x


class VaeMiddle(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.block_1 = VaeResBlock(channels, channels)
        self.attn_1 = VaeAttention(channels)
        self.block_2 = VaeResBlock(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.block_2(self.attn_1(self.block_1(x)))


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        widths = [VAE_CHANNELS * mult for mult in VAE_MULT]
        self.conv_in = nn.Conv2d(3, VAE_CHANNELS, 3, padding=1)
        levels = [VaeLevel(a, b, 2) for a, b in zip([VAE_CHANNELS, *widths[:-1]], widths, strict=True)]
        for level, width in zip(levels[:-1], widths[:-1], strict=True):
            level.downsample = VaeDownsample(width)
        self.down = nn.ModuleList(levels)
        self.mid = VaeMiddle(widths[-1])
        self.norm_out = group_norm(widths[-1], eps=1e-6)
        self.conv_out = nn.Conv2d(widths[-1], 2 * LATENT_CHANNELS, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv_in(x)
        for level in self.down:
            h = level(h)
        return self.conv_out(F.silu(self.norm_out(self.mid(h))))


class Decoder(nn.Module):
    def __init__(self):
        super().__init__()
        widths = [VAE_CHANNELS * mult for mult in VAE_MULT]
        self.conv_in = nn.Conv2d(LATENT_CHANNELS, widths[-1], 3, padding=1)
        self.mid = VaeMiddle(widths[-1])
        levels = [VaeLevel(a, b, 3) for a, b in zip([*widths[1:], widths[-1]], widths, strict=True)]
        for level, width in zip(levels[1:], widths[1:], strict=True):
            level.upsample = Upsample(width)
        self.up = nn.ModuleList(levels)
        self.norm_out = group_norm(widths[0], eps=1e-6)
        self.conv_out = nn.Conv2d(widths[0], 3, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        h = self.mid(self.conv_in(z))
        for level in reversed(list(self.up)):
            h = level(h)
        return self.conv_out(F.silu(self.norm_out(h)))


class Autoencoder(nn.Module):
    """AutoencoderKL, 8x: pictures (B, 3, H, W) in -1..1 to latents (B, 4, H/8, W/8) and back."""

    def __init__(self):
        super().__init__()
        self.encoder = Encoder()
        self.decoder = Decoder()
        self.quant_conv = nn.Conv2d(2 * LATENT_CHANNELS, 2 * LATENT_CHANNELS, 1)
        self.post_quant_conv = nn.Conv2d(LATENT_CHANNELS, LATENT_CHANNELS, 1)

    def moments(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of the latents."""
        mean, log_variance = self.quant_conv(self.encoder(pixels)).chunk(2, dim=1)
        return mean, log_variance

    def encode(self, pixels: Tensor) -> Tensor:
        return self.moments(pixels)[0]

    def decode(self, latents: Tensor) -> Tensor:
        return self.decoder(self.post_quant_conv(latents))
