"""The SDXL UNet as the engine sees it: blocks of typed layers, nothing of ComfyUI."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

Block = tuple[tuple[str, Any], ...]
Weights = dict[nn.Module, tuple[torch.Tensor, torch.Tensor | None]]


def residual_linears(block: Any) -> tuple[Any, Any, Any]:
    """Return the linears of a BasicTransformerBlock whose products are added to its tokens, in the order of its forward."""
    return block.attn1.to_out[0], block.attn2.to_out[0], block.ff.net[2]


def self_attention_inputs(block: Any) -> tuple[Any, Any, Any]:
    """Return the linears of a BasicTransformerBlock that read the same rows: queries, keys and values of its self-attention."""
    return block.attn1.to_q, block.attn1.to_k, block.attn1.to_v


@dataclass(frozen=True)
class UNetLayout:
    """Blocks are tuples of (kind, module); kinds are conv, resblock, transformer, downsample, upsample and other."""

    input_blocks: tuple[Block, ...]
    middle_block: Block
    output_blocks: tuple[Block, ...]
    time_embed: Any
    label_emb: Any
    out: Any
    model_channels: int

    def layers(self) -> Iterator[tuple[str, Any]]:
        """Yield every (kind, module) in the order of the forward."""
        for block in (*self.input_blocks, self.middle_block, *self.output_blocks):
            yield from block

    def transformer_blocks(self) -> Iterator[Any]:
        """Yield every BasicTransformerBlock in the order of the forward."""
        for kind, layer in self.layers():
            if kind == "transformer":
                yield from layer.transformer_blocks

    def convolutions(self) -> list[nn.Module]:
        """Return every convolution that the engine runs as one: not the shortcuts, which are 1x1."""
        found: list[nn.Module] = [self.out[2]]
        for kind, layer in self.layers():
            if kind == "resblock":
                found += [layer.in_layers[2], layer.out_layers[3]]
            elif kind == "downsample":
                found.append(layer.op)
            elif kind == "upsample":
                found.append(layer.conv)
            elif kind == "conv":
                found.append(layer)
        return found

    def weighted_modules(self) -> list[nn.Module]:
        """Return every module with weights that the engine's own forward reads."""
        roots = [layer for kind, layer in self.layers() if kind != "other"]
        found = (m for root in (self.time_embed, self.label_emb, *roots, self.out) for m in root.modules())
        return [m for m in found if isinstance(m, (nn.Linear, nn.Conv2d, nn.GroupNorm, nn.LayerNorm))]
