"""SDXL's two text encoders at toy width, with the key names of transformers."""

import torch
import torch.nn.functional as F
from topology import END_TOKEN, NUM_TOKENS, TEXT_LAYERS, TEXT_WIDTH_G, TEXT_WIDTH_L, VOCABULARY, attend
from torch import Tensor, nn


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
