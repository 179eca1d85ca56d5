"""Encode the prompts of a batch of sprites, each distinct text once."""

import math
from typing import Any

import torch

from ...comfy_adapters import conditioning
from ..errors import BadInputError
from .prompts import SpritePrompt, refuse_halves, shortest_period


def encode_prompts(clip: Any, prompts: list[SpritePrompt], negative: str) -> tuple[list[Any], list[Any]]:
    """Return positive and negative conditioning; the positive has one row per sprite, or per period of a repeating list.

    Prompts that need different numbers of tokens are repeated to their least common multiple, as ComfyUI's CONDCrossAttn.concat does
    with positive and negative: attention over repeated tokens is the same attention. Raises BadInputError without a CLIP and for half a
    character.
    """
    if clip is None:
        raise BadInputError("clip is empty: the checkpoint has no text encoder; load one with DualCLIPLoader.")
    refuse_halves("negative", negative)
    texts = [prompt.text for prompt in prompts]
    texts = texts[: shortest_period(texts)]
    encoded = {text: conditioning.encode(clip, text) for text in dict.fromkeys(texts)}
    return batched([encoded[text] for text in texts]), conditioning.encode(clip, negative.strip())


def batched(rows: list[list[Any]]) -> list[Any]:
    """Stack the conditionings of single pictures; a schedule with several entries is stacked entry by entry."""
    stacked = []
    for entries in zip(*rows, strict=True):
        length = math.lcm(*(cross.shape[1] for cross, _ in entries))
        options = dict(entries[0][1])
        if options.get("pooled_output") is not None:
            options["pooled_output"] = torch.cat([own["pooled_output"] for _, own in entries])
        stacked.append([torch.cat([cross.repeat(1, length // cross.shape[1], 1) for cross, _ in entries]), options])
    return stacked
