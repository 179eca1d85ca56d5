"""How many sprites are drawn at once: a plan from measured memory, halved when it was too bold."""

import hashlib
import math
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import OutOfMemoryError

GIB = 1024**3
MIB = 1024**2

SDXL_SAMPLE_MIB = 158.0
"""Peak of live activations of SDXL's UNet per latent sample at 128x128 latents in 2-byte floats; measured by counting live tensors."""

SAFETY = 1.25
"""Allocator slack, convolution workspaces and the sampler's own copies on top of the live activations."""

MAX_AUTO_SIZE = 8
"""More sprites at once than this cost memory and gain no speed: one CFG forward of 16 samples fills every matrix of SDXL's UNet."""


@dataclass(frozen=True)
class SamplingFacts:
    """What the machine and the model say before a run; sizes in bytes."""

    is_sdxl: bool
    latent_area: int
    """Height times width of the latent."""
    element_size: int
    """Bytes of one number in the model's compute dtype."""
    memory_usage_factor: float
    """ComfyUI's own factor for the model family, used where nothing was measured."""


def samples_per_sprite(cfg: float, sampler_name: str) -> int:
    """Return how many samples of the UNet one sprite takes: two with CFG, one at CFG 1, where only CFG++ samplers still need both."""
    return 1 if math.isclose(cfg, 1.0) and "cfg_pp" not in sampler_name else 2


def sprite_bytes(facts: SamplingFacts, num_samples: int) -> int:
    """Return the device memory that one more sprite of `num_samples` samples in the batch needs."""
    if facts.is_sdxl:
        sample = SDXL_SAMPLE_MIB * MIB * (facts.latent_area / 128**2) * (facts.element_size / 2) * SAFETY
    else:
        sample = facts.latent_area * facts.element_size * 0.01 * facts.memory_usage_factor * MIB  # BaseModel.memory_required
    return max(1, round(sample * num_samples))


@dataclass(frozen=True)
class MicroBatchPlan:
    """The size to begin with and why."""

    size: int
    reason: str


def plan_micro_batches(
    count: int, asked: int, free_bytes: int, per_sprite: int, remembered: int | None, coupled: str | None
) -> MicroBatchPlan:
    """Choose the micro-batch for `count` sprites of `per_sprite` bytes each.

    `asked` is the widget (0: choose); `remembered` a size that an earlier run of this node had to fall back to; `coupled` a reason
    why sprites of one batch would change each other.
    """
    if coupled is not None:
        return MicroBatchPlan(1, f"one at a time: {coupled}")
    if asked:
        size, reason = min(asked, count), "as set"
    else:
        fitting = max(1, free_bytes // per_sprite)
        size = min(count, fitting, MAX_AUTO_SIZE)
        reason = f"{fitting} fit into {free_bytes / GIB:.1f} GiB at {per_sprite / GIB:.2f} GiB each"
    if remembered is not None and remembered < size:
        size, reason = remembered, f"{remembered} after an earlier run was short of memory"
    if asked:
        return MicroBatchPlan(size, reason)
    # Nine sprites are drawn as 5 + 4 rather than 8 + 1: the same number of forwards, a lower peak.
    return MicroBatchPlan(-(-count // -(-count // size)), reason)


def halve(size: int, per_sprite: int, free_bytes: int, torch_words: str) -> int:
    """Return the next smaller size after an out of memory; raises OutOfMemoryError when one sprite was already too many."""
    if size > 1:
        return size // 2
    missing = max(per_sprite - free_bytes, 0)
    lack = f"at least {missing / GIB:.1f} GiB are missing" if missing else "the driver or another process holds the rest"
    raise OutOfMemoryError(
        f"One sprite needs about {per_sprite / GIB:.1f} GiB beside the model and {free_bytes / GIB:.1f} GiB are free, so {lack}; "
        f"lower width and height, close other programs or start ComfyUI with --lowvram. torch says: {torch_words}"
    )


class RememberedSizes:
    """Sizes that runs had to fall back to, by graph; bounded, and gone when the server ends."""

    def __init__(self, capacity: int = 256) -> None:
        """Keep the `capacity` newest entries."""
        self._sizes: OrderedDict[str, int] = OrderedDict()
        self._capacity = capacity

    def get(self, key: str) -> int | None:
        """Return the size kept under `key`."""
        return self._sizes.get(key)

    def remember(self, key: str, size: int) -> None:
        """Keep `size` under `key`, forgetting the oldest entry when full."""
        self._sizes[key] = size
        self._sizes.move_to_end(key)
        if len(self._sizes) > self._capacity:
            self._sizes.popitem(last=False)


def graph_key(node_id: str, prompt: Mapping[str, Any] | None, latent_shape: tuple[int, ...]) -> str:
    """Name this node in this graph at this picture size: the graph is its node types and links, not its widgets."""
    nodes = []
    for name, node in sorted((prompt or {}).items()):
        links = sorted(f"{key}<-{value[0]}" for key, value in node.get("inputs", {}).items() if isinstance(value, list) and value)
        nodes.append(f"{name}:{node.get('class_type')}:{','.join(links)}")
    return hashlib.sha256(f"{node_id}|{latent_shape}|{';'.join(nodes)}".encode()).hexdigest()
