"""Draws with stock and with the optimised tiny model under some of ComfyUI's flags and prints what came out as JSON.

COMFYUI_PATH=... python tests/gpu/sample_with_flags.py CHECKPOINT [ComfyUI's flags]
"""

import asyncio
import json
import logging
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from comfy_on_gpu import PACK_ROOT, load_pack, start_comfyui

ON_CPU = os.environ.get("FAST_SPRITES_GPU_TESTS_ON_CPU") == "1"
checkpoint, flags = sys.argv[1], sys.argv[2:]
nodes = start_comfyui(flags=(*flags, *(["--cpu"] if ON_CPU else [])))
import comfy.sd  # noqa: E402
import torch  # noqa: E402

load_pack()
sys.path.append(str(Path(__file__).resolve().parent))  # start_comfyui() took it off the front
import engine_checks  # noqa: E402
import pytest  # noqa: E402

notes: list[str] = []


class Notes(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        notes.append(record.getMessage())


@torch.inference_mode()
def main() -> dict[str, object]:
    asyncio.run(nodes.load_custom_node(str(PACK_ROOT / "tests" / "tiny_sdxl" / "comfy_extension")))
    logging.getLogger("fast_sprites").setLevel(logging.INFO)
    logging.getLogger("fast_sprites").addHandler(Notes())
    model, clip = comfy.sd.load_checkpoint_guess_config(checkpoint)[:2]
    conds = engine_checks.encode(clip)
    patch = pytest.MonkeyPatch()
    if ON_CPU:
        engine_checks.use_stand_in_graphs(patch)
    watch = engine_checks.Watch(patch)
    engine_checks.sample(model, conds)
    stock_lora = engine_checks.with_lora(model, 1.0)
    plain, patched = engine_checks.sample(model, conds), engine_checks.sample(stock_lora, conds)
    ours = engine_checks.optimize(model)[0]
    watch.reset()
    errors = {
        "plain": engine_checks.relative_error(engine_checks.sample(ours, conds), plain),
        "lora after": engine_checks.relative_error(engine_checks.sample(engine_checks.with_lora(ours, 1.0), conds), patched),
        "lora before": engine_checks.relative_error(engine_checks.sample(engine_checks.optimize(stock_lora)[0], conds), patched),
        "plain again": engine_checks.relative_error(engine_checks.sample(ours, conds), plain),
    }
    return {
        "patcher": type(model).__name__,
        "errors": errors,
        "lora_changes": engine_checks.relative_error(patched, plain),
        "stock_is_identical": torch.equal(engine_checks.sample(model, conds), plain),
        "captures": watch.captures,
        "replays": watch.replays,
        "notes": notes,
    }


print(json.dumps(main()))
