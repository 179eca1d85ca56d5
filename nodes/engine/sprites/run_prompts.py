"""Encode the prompts of a batch of sprites, each distinct text once."""

import math
from typing import Any, NoReturn

import torch

from ...comfy_adapters import conditioning
from ..errors import BadInputError
from .prompts import SpritePrompt, refuse_halves, shortest_period

CLIP_TOKENS = 77
"""In a chunk: SDXL's encoders give whole chunks, and its UNet reads them by cross-attention, which repeated ones do not change."""


def encode_prompts(clip: Any, prompts: list[SpritePrompt], negative: str) -> tuple[list[Any], list[Any]]:
    """Return positive and negative conditioning; the positive has one row per sprite, or per period of a repeating list.

    Prompts that need different numbers of tokens are repeated to their least common multiple, as ComfyUI's CONDCrossAttn.concat does
    with positive and negative: cross-attention over repeated tokens is the same. Raises BadInputError without a CLIP, for half a
    character, and for texts that another model's encoder gives what cannot be stacked so.
    """
    if clip is None:
        raise BadInputError("clip is empty: the checkpoint has no text encoder; load one with DualCLIPLoader.")
    refuse_halves("negative", negative)
    texts = [prompt.text for prompt in prompts]
    texts = texts[: shortest_period(texts)]
    encoded = {text: conditioning.encode(clip, text) for text in dict.fromkeys(texts)}
    return batched([encoded[text] for text in texts]), conditioning.encode(clip, negative.strip())


def batched(rows: list[list[Any]]) -> list[Any]:
    """Stack the conditionings of single pictures; a schedule with several entries is stacked entry by entry.

    Raises BadInputError where they differ in what only some models' encoders give: any number of tokens, or an attention mask.
    """
    stacked = []
    for entries in zip(*rows, strict=True):
        lengths = {cross.shape[1] for cross, _ in entries}
        if len(lengths) > 1 and any(length % CLIP_TOKENS for length in lengths):
            _refuse_stacking(f"{min(lengths)} to {max(lengths)} tokens")
        for key, value in entries[0][1].items():
            is_own = isinstance(value, torch.Tensor) and key != "pooled_output"
            if is_own and not all(torch.equal(value, options[key]) for _, options in entries):
                _refuse_stacking(f"each its {key}")
        length = math.lcm(*lengths)
        options = dict(entries[0][1])
        if options.get("pooled_output") is not None:
            options["pooled_output"] = torch.cat([own["pooled_output"] for _, own in entries])
        stacked.append([torch.cat([cross.repeat(1, length // cross.shape[1], 1) for cross, _ in entries]), options])
    return stacked


def _refuse_stacking(differing: str) -> NoReturn:
    raise BadInputError(
        f"This text encoder, not SDXL's, gives the prompts {differing}, so they cannot be drawn in one batch: write one prompt, and draw "
        "the others in runs of their own."
    )
