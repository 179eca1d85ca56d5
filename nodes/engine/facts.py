"""What this machine is, as a frozen value that plans are made from."""

import importlib.util
import sys
from dataclasses import dataclass

import torch

GIB = 1024**3


@dataclass(frozen=True, kw_only=True)
class MachineFacts:
    """The device that a model runs on and the software around it.

    `device_type` is "cuda", "rocm", "xpu", "mps" or "cpu"; `capability` is CUDA's compute capability, None elsewhere;
    `is_integrated` is true where device and host share one memory (GB10, Jetson).
    """

    device_type: str
    device_name: str
    capability: tuple[int, int] | None = None
    memory_total_gib: float = 0.0
    is_integrated: bool = False
    torch_version: tuple[int, int] = (0, 0)
    platform: str = sys.platform
    has_triton: bool = False

    @property
    def label(self) -> str:
        """Return the device as people name it, for instance "NVIDIA H100 (sm_90, 79.1 GiB)"."""
        if self.capability is None:
            return self.device_name
        return f"{self.device_name} (sm_{self.capability[0]}{self.capability[1]}, {self.memory_total_gib:.1f} GiB)"


def read_machine_facts(device: torch.device) -> MachineFacts:
    """Read the facts of `device` without running anything on it."""
    major, minor = torch.__version__.split(".")[:2]
    torch_version = (int(major), int(minor))
    has_triton = importlib.util.find_spec("triton") is not None
    if device.type != "cuda":
        return MachineFacts(
            device_type=device.type, device_name=device.type.upper(), torch_version=torch_version, has_triton=has_triton
        )
    properties = torch.cuda.get_device_properties(device)
    is_rocm = torch.version.hip is not None
    return MachineFacts(
        device_type="rocm" if is_rocm else "cuda",
        device_name=properties.name,
        capability=None if is_rocm else (properties.major, properties.minor),
        memory_total_gib=properties.total_memory / GIB,
        is_integrated=bool(properties.is_integrated),
        torch_version=torch_version,
        has_triton=has_triton,
    )
