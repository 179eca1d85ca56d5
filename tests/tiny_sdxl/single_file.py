"""The three parts together: their first weights, and SDXL's single-file layout."""

from collections.abc import Iterator

import torch
from tiny_text import TextEncoders
from tiny_unet import ResBlock, SpatialTransformer, UNet
from tiny_vae import Autoencoder, VaeResBlock
from topology import TEXT_LAYERS
from torch import Tensor, nn


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


def _open_clip_names() -> dict[str, str]:
    """The names of a `TextEncoder`'s weights in open_clip, in which SDXL files keep their second text encoder; without attention's."""
    names = {
        "text_model.embeddings.token_embedding.weight": "token_embedding.weight",
        "text_model.embeddings.position_embedding.weight": "positional_embedding",
        "text_model.final_layer_norm.weight": "ln_final.weight",
        "text_model.final_layer_norm.bias": "ln_final.bias",
    }
    inside = {"layer_norm1": "ln_1", "layer_norm2": "ln_2", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj"}
    inside["self_attn.out_proj"] = "attn.out_proj"
    for i in range(TEXT_LAYERS):
        for part in ("weight", "bias"):
            for ours, theirs in inside.items():
                names[f"text_model.encoder.layers.{i}.{ours}.{part}"] = f"transformer.resblocks.{i}.{theirs}.{part}"
    return names


def _attention_names() -> Iterator[tuple[list[str], str]]:
    """What open_clip keeps as one tensor: queries, keys and values."""
    for i in range(TEXT_LAYERS):
        for part in ("weight", "bias"):
            ours = [f"text_model.encoder.layers.{i}.self_attn.{p}_proj.{part}" for p in "qkv"]
            yield ours, f"transformer.resblocks.{i}.attn.in_proj_{part}"


def _to_open_clip(state: dict[str, Tensor]) -> dict[str, Tensor]:
    out = {theirs: state[ours] for ours, theirs in _open_clip_names().items()}
    out["text_projection"] = state["text_projection.weight"].T
    return out | {theirs: torch.cat([state[name] for name in ours]) for ours, theirs in _attention_names()}


def _from_open_clip(state: dict[str, Tensor]) -> dict[str, Tensor]:
    out = {ours: state[theirs] for ours, theirs in _open_clip_names().items()}
    out["text_projection.weight"] = state["text_projection"].T
    for ours, theirs in _attention_names():
        out |= dict(zip(ours, state[theirs].chunk(3), strict=True))
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
