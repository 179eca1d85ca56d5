"""ComfyUI inside this process on a GPU, with or without DynamicVRAM, set up as its main.py does it."""

import importlib
import importlib.util
import os
import sys
from pathlib import Path
from typing import Any

PACK_ROOT = Path(__file__).resolve().parents[2]


def start_comfyui(*, dynamic_vram: bool = True, flags: tuple[str, ...] = ()) -> Any:
    """Import ComfyUI from COMFYUI_PATH and return its `nodes` module; must run before torch is imported."""
    root = os.environ["COMFYUI_PATH"]
    sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() not in (PACK_ROOT, PACK_ROOT / "tests" / "gpu")]
    sys.path.insert(0, root)
    sys.argv[1:] = [*flags, *([] if dynamic_vram else ["--disable-dynamic-vram"])]
    importlib.import_module("comfy.options").enable_args_parsing()
    cli_args = importlib.import_module("comfy.cli_args")
    control = importlib.import_module("comfy_aimdo.control")
    wanted = cli_args.enables_dynamic_vram()
    if wanted:
        control.init()
    importlib.import_module("cuda_malloc")
    management = importlib.import_module("comfy.model_management")
    if wanted:
        patcher: Any = importlib.import_module("comfy.model_patcher")
        memory: Any = importlib.import_module("comfy.memory_management")
        if control.init_devices([(device.index, 0) for device in management.get_all_torch_devices()]):
            patcher.CoreModelPatcher = patcher.ModelPatcherDynamic
            memory.aimdo_enabled = True
            control.set_log_info()
    return importlib.import_module("nodes")


def load_pack() -> None:
    """Make the pack importable as `fast_sprites`."""
    spec = importlib.util.spec_from_file_location(
        "fast_sprites", PACK_ROOT / "__init__.py", submodule_search_locations=[str(PACK_ROOT)]
    )
    assert spec is not None
    assert spec.loader is not None
    pack = importlib.util.module_from_spec(spec)
    sys.modules["fast_sprites"] = pack
    spec.loader.exec_module(pack)
