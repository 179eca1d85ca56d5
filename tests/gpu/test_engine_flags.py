"""The engine under ComfyUI's flags, each set in a process of its own (sample_with_flags.py), all at once."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import NODES, WHY_NOT

if NODES is None:
    pytest.skip(WHY_NOT, allow_module_level=True)

from .engine_checks import ON_CPU, STEPS, TOLERANCE, VISIBLE

# The name of a set: ComfyUI's flags, the patcher that they lead to, and whether the engine runs.
FLAGS = {
    "none": ((), "ModelPatcherDynamic", True),
    "highvram": (("--highvram",), "ModelPatcher", True),
    "lowvram": (("--lowvram",), "ModelPatcherDynamic", True),
    "disable dynamic": (("--disable-dynamic-vram",), "ModelPatcher", True),
    "legacy lowvram": (("--disable-dynamic-vram", "--lowvram"), "ModelPatcher", True),
    "legacy novram": (("--disable-dynamic-vram", "--novram"), "ModelPatcher", False),
    "fast": (("--fast",), "ModelPatcherDynamic", True),
    "fast highvram": (("--fast", "--highvram"), "ModelPatcher", True),
    "no cudaMallocAsync": (("--disable-cuda-malloc",), "ModelPatcherDynamic", True),
    "channels last": (("--disable-dynamic-vram", "--force-channels-last"), "ModelPatcher", True),
}
VRAM_FLAGS = {"--highvram", "--lowvram", "--novram"}  # exclude --cpu


@pytest.fixture(scope="module")
def processes(checkpoints):
    """Start one process for each set of flags."""
    started = {
        name: subprocess.Popen(
            [
                sys.executable,
                str(Path(__file__).with_name("sample_with_flags.py")),
                str(checkpoints / "trained.safetensors"),
                *flags,
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={key: value for key, value in os.environ.items() if not key.startswith("PYTORCH_")},
        )
        for name, (flags, _, _) in FLAGS.items()
        if not (ON_CPU and VRAM_FLAGS & set(flags))
    }
    yield started
    for process in started.values():
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.mark.parametrize("name", list(FLAGS))
def test_pictures_under_flags(processes, name):
    _, patcher, engine_runs = FLAGS[name]
    if name not in processes:
        pytest.skip("these flags exclude --cpu")
    out, errors = processes[name].communicate(timeout=240)
    assert processes[name].returncode == 0, errors[-3000:]
    found = json.loads(out.splitlines()[-1])
    assert max(found["errors"].values()) < TOLERANCE, found
    assert found["lora_changes"] > VISIBLE
    assert found["stock_is_identical"]
    if not ON_CPU:
        assert found["patcher"] == patcher, found
    if engine_runs:
        assert found["captures"] > 0, found["notes"]
        assert found["replays"] >= STEPS - 1
    else:
        assert found["captures"] == 0
        assert any("ComfyUI's own forward ran" in note for note in found["notes"]), found["notes"]
