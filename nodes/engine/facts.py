"""What this machine is, as a frozen value that plans are made from."""

import os
import shutil
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

import torch

GIB = 1024**3


@dataclass(frozen=True, kw_only=True)
class MachineFacts:
    """The device that a model runs on and the software around it.

    `device_type` is "cuda", "rocm", "xpu", "mps" or "cpu"; `capability` is CUDA's compute capability, None elsewhere;
    `is_integrated` is true where device and host share one memory (GB10, Jetson); `triton_missing` says what Triton lacks to
    build a kernel, "" when nothing.
    """

    device_type: str
    device_name: str
    capability: tuple[int, int] | None = None
    memory_total_gib: float = 0.0
    is_integrated: bool = False
    torch_version: tuple[int, int] = (0, 0)
    platform: str = sys.platform
    triton_missing: str = "is not installed"

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
    triton_missing = _what_triton_lacks()
    if device.type != "cuda":
        return MachineFacts(
            device_type=device.type, device_name=device.type.upper(), torch_version=torch_version, triton_missing=triton_missing
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
        triton_missing=triton_missing,
    )


def _what_triton_lacks() -> str:
    is_windows = sys.platform == "win32"
    try:
        import triton.language  # noqa: F401
    except (ImportError, OSError) as error:  # also one that was built for another Python, lacks a DLL, or left its folder behind
        if isinstance(error, ModuleNotFoundError) and error.name == "triton":
            return "is not installed" + (" (pip package triton-windows)" if is_windows else "")
        return f"cannot be imported ({str(error).partition(chr(10))[0]})"
    # Triton builds a launcher in C for every kernel (triton/runtime/build.py); triton-windows brings a compiler, but no headers.
    if not is_windows and not (os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")):
        return "needs a C compiler, and there is none on the PATH"
    # As Triton asks for them: Debian's own scheme has none.
    scheme = sysconfig.get_default_scheme().replace("posix_local", "posix_prefix")
    if not Path(sysconfig.get_paths(scheme)["include"], "Python.h").is_file():
        package = "portable ComfyUI lacks the folders include and libs" if is_windows else "Debian package python3-dev"
        return f"needs Python's C headers ({package})"
    return ""
