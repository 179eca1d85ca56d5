"""SDXL's three parts at toy width, with the key names of SDXL's single-file checkpoints.

Plain torch, so that the checkpoint can be written and trained without ComfyUI. `tests/comfy/test_tiny_sdxl.py` holds
these definitions against ComfyUI's own.
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


class Upsample(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor, size: torch.Size | None = None) -> Tensor:
        if size is None:
            return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return self.conv(F.interpolate(x, size=size, mode="nearest"))


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


class TextAttention(nn.Module):
    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        return self.out_proj(attend(self.q_proj(x), self.k_proj(x), self.v_proj(x), self.heads, causal=True))


class TextMlp(nn.Module):
    def __init__(self, width: int, quick_gelu: bool):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.quick_gelu = quick_gelu

    def forward(self, x: Tensor) -> Tensor:
        h = self.fc1(x)
        return self.fc2(h * torch.sigmoid(1.702 * h) if self.quick_gelu else F.gelu(h))


class TextLayer(nn.Module):
    def __init__(self, width: int, heads: int, quick_gelu: bool):
        super().__init__()
        self.layer_norm1, self.layer_norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.self_attn = TextAttention(width, heads)
        self.mlp = TextMlp(width, quick_gelu)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.self_attn(self.layer_norm1(x))
        return x + self.mlp(self.layer_norm2(x))


class TextEmbeddings(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.token_embedding = nn.Embedding(VOCABULARY, width)
        self.position_embedding = nn.Embedding(NUM_TOKENS, width)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.token_embedding(tokens) + self.position_embedding.weight


class TextStack(nn.Module):
    def __init__(self, width: int, heads: int, quick_gelu: bool):
        super().__init__()
        self.layers = nn.ModuleList(TextLayer(width, heads, quick_gelu) for _ in range(TEXT_LAYERS))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The last hidden states and the penultimate ones."""
        penultimate = x
        for i, layer in enumerate(self.layers):
            x = layer(x)
            if i == TEXT_LAYERS - 2:
                penultimate = x
        return x, penultimate


class TextModel(nn.Module):
    def __init__(self, width: int, heads: int, quick_gelu: bool):
        super().__init__()
        self.embeddings = TextEmbeddings(width)
        self.encoder = TextStack(width, heads, quick_gelu)
        self.final_layer_norm = nn.LayerNorm(width)


class TextEncoder(nn.Module):
    """A narrow CLIP text encoder; keys as in transformers' `text_model.*` plus `text_projection.weight`."""

    text_projection: nn.Linear | None

    def __init__(self, width: int, heads: int, quick_gelu: bool, projected: bool):
        super().__init__()
        self.text_model = TextModel(width, heads, quick_gelu)
        self.text_projection = nn.Linear(width, width, bias=False) if projected else None

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor | None]:
        """Penultimate hidden states (B, 77, width) of `tokens` (B, 77), and the projected state of the end token."""
        last, penultimate = self.text_model.encoder(self.text_model.embeddings(tokens))
        if self.text_projection is None:
            return penultimate, None
        end = (tokens == END_TOKEN).int().argmax(dim=-1)
        states = self.text_model.final_layer_norm(last)[torch.arange(len(tokens), device=tokens.device), end]
        return penultimate, self.text_projection(states)


class TextEncoders(nn.Module):
    """Both text encoders: token ids of L and G to the UNet's context (B, 77, 48) and the pooled text (B, 32)."""

    def __init__(self):
        super().__init__()
        self.clip_l = TextEncoder(TEXT_WIDTH_L, heads=1, quick_gelu=True, projected=False)
        self.clip_g = TextEncoder(TEXT_WIDTH_G, heads=2, quick_gelu=False, projected=True)

    def forward(self, tokens_l: Tensor, tokens_g: Tensor) -> tuple[Tensor, Tensor]:
        hidden_l, _ = self.clip_l(tokens_l)
        hidden_g, pooled = self.clip_g(tokens_g)
        assert pooled is not None
        return torch.cat([hidden_l, hidden_g], dim=-1), pooled


def initialise(unet: UNet, vae: Autoencoder, text: TextEncoders) -> None:
    """Set the initial weights that torch's defaults leave too large: embeddings, and the last layer of each residual branch."""
    for encoder in (text.clip_l, text.clip_g):
        embeddings = encoder.text_model.embeddings
        for embedding in (embeddings.token_embedding, embeddings.position_embedding):
            nn.init.normal_(embedding.weight, std=0.3)
    branches = [
        module.last
        for module in (*unet.modules(), *vae.modules())
        if isinstance(module, ResBlock | VaeResBlock | SpatialTransformer)
    ]
    with torch.no_grad():
        for layer in branches:
            layer.weight.mul_(0.1)


def _to_open_clip(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename a `TextEncoder` state dict to open_clip's names, in which SDXL files keep their second text encoder."""
    out = {
        "token_embedding.weight": state["text_model.embeddings.token_embedding.weight"],
        "positional_embedding": state["text_model.embeddings.position_embedding.weight"],
        "ln_final.weight": state["text_model.final_layer_norm.weight"],
        "ln_final.bias": state["text_model.final_layer_norm.bias"],
        "text_projection": state["text_projection.weight"].T,
    }
    names = {"layer_norm1": "ln_1", "layer_norm2": "ln_2", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj"}
    names["self_attn.out_proj"] = "attn.out_proj"
    for i in range(TEXT_LAYERS):
        old, new = f"text_model.encoder.layers.{i}.", f"transformer.resblocks.{i}."
        for part in ("weight", "bias"):
            for ours, theirs in names.items():
                out[f"{new}{theirs}.{part}"] = state[f"{old}{ours}.{part}"]
            out[f"{new}attn.in_proj_{part}"] = torch.cat([state[f"{old}self_attn.{p}_proj.{part}"] for p in "qkv"])
    return out


def _from_open_clip(state: dict[str, Tensor]) -> dict[str, Tensor]:
    out = {
        "text_model.embeddings.token_embedding.weight": state["token_embedding.weight"],
        "text_model.embeddings.position_embedding.weight": state["positional_embedding"],
        "text_model.final_layer_norm.weight": state["ln_final.weight"],
        "text_model.final_layer_norm.bias": state["ln_final.bias"],
        "text_projection.weight": state["text_projection"].T,
    }
    names = {"layer_norm1": "ln_1", "layer_norm2": "ln_2", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj"}
    names["self_attn.out_proj"] = "attn.out_proj"
    for i in range(TEXT_LAYERS):
        new, old = f"text_model.encoder.layers.{i}.", f"transformer.resblocks.{i}."
        for part in ("weight", "bias"):
            for ours, theirs in names.items():
                out[f"{new}{ours}.{part}"] = state[f"{old}{theirs}.{part}"]
            for p, tensor in zip("qkv", state[f"{old}attn.in_proj_{part}"].chunk(3), strict=True):
                out[f"{new}self_attn.{p}_proj.{part}"] = tensor
    return out


PREFIXES = {
    "unet": "model.diffusion_model.",
    "clip_l": "conditioner.embedders.0.transformer.",
    "clip_g": "conditioner.embedders.1.model.",
    "vae": "first_stage_model.",
}


def to_single_file(unet: UNet, vae: Autoencoder, text: TextEncoders, dtype: torch.dtype = torch.float16) -> dict[str, Tensor]:
    """The parts as one state dict in SDXL's single-file layout."""
    parts = {
        "unet": unet.state_dict(),
        "clip_l": text.clip_l.state_dict(),
        "clip_g": _to_open_clip(text.clip_g.state_dict()),
        "vae": vae.state_dict(),
    }
    return {
        PREFIXES[part] + key: tensor.detach().to("cpu", dtype).contiguous(memory_format=torch.contiguous_format).clone()
        for part, state in parts.items()
        for key, tensor in state.items()
    }


def from_single_file(state: dict[str, Tensor], unet: UNet, vae: Autoencoder, text: TextEncoders) -> None:
    """Load the parts from one state dict in SDXL's single-file layout; every key must be there, none left over."""
    parts = {part: {k[len(p) :]: v for k, v in state.items() if k.startswith(p)} for part, p in PREFIXES.items()}
    unet.load_state_dict(parts["unet"])
    vae.load_state_dict(parts["vae"])
    text.clip_l.load_state_dict(parts["clip_l"])
    text.clip_g.load_state_dict(_from_open_clip(parts["clip_g"]))
