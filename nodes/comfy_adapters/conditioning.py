"""ComfyUI's text encoders."""

from typing import Any


def encode(clip: Any, text: str) -> list[Any]:
    """Return the conditioning that CLIPTextEncode makes of `text`."""
    return clip.encode_from_tokens_scheduled(clip.tokenize(text))
