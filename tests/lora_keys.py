"""Which weights the LoRA of tests/comfy and tests/gpu change."""

LORA_KEYS = (
    "attn1.to_q.weight",
    "attn2.to_k.weight",
    "ff.net.0.proj.weight",
    "in_layers.2.weight",
    "emb_layers.1.bias",
    "skip_connection.weight",
)
"""Ends of names: attention, feed-forward, convolutions and embeddings."""
