"""A UNet of SD 1.5's kind with one level, that ComfyUI recognises and runs: a model that is no SDXL."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

CHANNELS = 320
EMBEDDING = 4 * CHANNELS
CONTEXT = 768
PREFIX = "model.diffusion_model."


def tiny_sd15() -> dict[str, Tensor]:
    """Random weights under the checkpoint's names; 40 MB."""
    import torch

    generator = torch.Generator().manual_seed(15)
    weights: dict[str, Tensor] = {}

    def add(name: str, *shape: int, bias: bool = True) -> None:
        scale = (shape[0] if len(shape) == 1 else shape[1]) ** -0.5 / 3
        weights[f"{PREFIX}{name}.weight"] = (torch.randn(shape, generator=generator) * scale).half()
        if bias:
            weights[f"{PREFIX}{name}.bias"] = torch.zeros(shape[0]).half()

    def resblock(name: str, channels: int) -> None:
        add(f"{name}.in_layers.0", channels)
        add(f"{name}.in_layers.2", CHANNELS, channels, 3, 3)
        add(f"{name}.emb_layers.1", CHANNELS, EMBEDDING)
        add(f"{name}.out_layers.0", CHANNELS)
        add(f"{name}.out_layers.3", CHANNELS, CHANNELS, 3, 3)
        if channels != CHANNELS:
            add(f"{name}.skip_connection", CHANNELS, channels, 1, 1)

    def transformer(name: str) -> None:
        add(f"{name}.norm", CHANNELS)
        add(f"{name}.proj_in", CHANNELS, CHANNELS, 1, 1)
        add(f"{name}.proj_out", CHANNELS, CHANNELS, 1, 1)
        block = f"{name}.transformer_blocks.0"
        for attention, context in (("attn1", CHANNELS), ("attn2", CONTEXT)):
            add(f"{block}.{attention}.to_q", CHANNELS, CHANNELS, bias=False)
            add(f"{block}.{attention}.to_k", CHANNELS, context, bias=False)
            add(f"{block}.{attention}.to_v", CHANNELS, context, bias=False)
            add(f"{block}.{attention}.to_out.0", CHANNELS, CHANNELS)
        add(f"{block}.ff.net.0.proj", 8 * CHANNELS, CHANNELS)
        add(f"{block}.ff.net.2", CHANNELS, 4 * CHANNELS)
        for number in (1, 2, 3):
            add(f"{block}.norm{number}", CHANNELS)

    add("time_embed.0", EMBEDDING, CHANNELS)
    add("time_embed.2", EMBEDDING, EMBEDDING)
    add("input_blocks.0.0", CHANNELS, 4, 3, 3)
    resblock("input_blocks.1.0", CHANNELS)
    transformer("input_blocks.1.1")
    resblock("middle_block.0", CHANNELS)
    transformer("middle_block.1")
    resblock("middle_block.2", CHANNELS)
    for number in (0, 1):
        resblock(f"output_blocks.{number}.0", 2 * CHANNELS)
        transformer(f"output_blocks.{number}.1")
    add("out.0", CHANNELS)
    add("out.2", 4, CHANNELS, 3, 3)
    return weights
