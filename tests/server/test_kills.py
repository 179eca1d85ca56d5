"""Kills ComfyUI and `fast-sprites generate` at random points of a batch and lets it go on.

After every kill the batch is resumed; in the end each sprite must be there once, equal to an undisturbed run's. Twenty kills:
python -m pytest tests/server/test_kills.py --kills 20 -s
"""

import io
import json
import os
import random
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dev_tools.workspace import TINY_CHECKPOINT
from fast_sprites.nodes.benchmark.server import ComfyServer, ServerSetup
from numpy.typing import NDArray
from PIL import Image

from ..conftest import PACK_ROOT
from .conftest import server_setup

NUM_SPRITES = 64
SIDE = 64
STEPS = 2
PROMPTS = "iron sword\n{red|blue} potion\ngolden key\nwooden shield\nruby ring\n"
RUN_TIMEOUT_S = 300.0
# Sprites of one micro-batch are rounded together, and a value between two bytes may fall on either side.
MAX_DIFFERENCE = 1


def small_workflow(folder: Path, **sampler: Any) -> Path:
    """The pack's workflow with small pictures of few steps, as a file."""
    graph = json.loads((PACK_ROOT / "workflows" / "api" / "sprites_to_disk.json").read_text(encoding="utf-8"))
    settings = {"width": SIDE, "height": SIDE, "steps": STEPS, "cfg": 4.0, "sampler_name": "euler", **sampler}
    for node in graph.values():
        if node["class_type"] == "BatchSpriteSampler":
            node["inputs"] |= settings
    path = folder / "workflow.json"
    path.write_text(json.dumps(graph), encoding="utf-8")
    return path


def command(*arguments: str | Path) -> list[str]:
    """`fast-sprites generate` from this clone."""
    return [sys.executable, "-m", "nodes.benchmark", "generate", *map(str, arguments)]


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run it to its end."""
    return subprocess.run(command(*arguments), cwd=PACK_ROOT, capture_output=True, text=True, timeout=RUN_TIMEOUT_S, check=False)


def request(folder: Path, address: str, num_sprites: int = NUM_SPRITES) -> list[str | Path]:
    """The arguments of a new batch whose files lie in `folder`."""
    prompts = folder / "prompts.txt"
    prompts.write_text(PROMPTS, encoding="utf-8")
    workflow = small_workflow(folder)
    count = ["--count", str(num_sprites), "--seed", "7", "--checkpoint", TINY_CHECKPOINT, "--job-size", "4"]
    return ["--prompts", prompts, "--workflow", workflow, "--server", address, "--output", folder / "sprites", *count]


def records(output: Path) -> list[dict[str, Any]]:
    """The manifest's sprites."""
    lines = (output / "manifest.jsonl").read_bytes().split(b"\n")[:-1] if (output / "manifest.jsonl").exists() else []
    return [record for line in lines if (record := json.loads(line))["kind"] == "sprite"]


def pixels(path: Path) -> NDArray[np.int16]:
    """A file's picture."""
    with Image.open(io.BytesIO(path.read_bytes())) as picture:
        return np.asarray(picture).astype(np.int16)


def problems(output: Path, reference: Path, num_sprites: int = NUM_SPRITES) -> list[str]:
    """What is wrong with a finished batch, compared with an undisturbed one."""
    found = []
    made, expected = records(output), {record["index"]: record for record in records(reference)}
    if sorted(record["index"] for record in made) != list(range(num_sprites)):
        found.append(f"the manifest has {len(made)} sprites")
    files = {str(path.relative_to(output)) for path in output.rglob("*") if path.is_file()} - {"manifest.jsonl"}
    if files != {record["file"] for record in made}:
        found.append(f"there are {len(files)} files: {sorted(files ^ {record['file'] for record in made})}")
    for record in made:
        other = expected[record["index"]]
        if (record["seed"], record["prompt"], record["file"]) != (other["seed"], other["prompt"], other["file"]):
            found.append(f"sprite {record['index']} has another seed, prompt or name")
        difference = int(np.abs(pixels(output / record["file"]) - pixels(reference / other["file"])).max())
        if difference > MAX_DIFFERENCE:
            found.append(f"sprite {record['index']} differs by {difference} of 255")
    return found


class KilledBatch:
    """A server of its own, and a batch that is killed and resumed."""

    def __init__(self, setup: ServerSetup, folder: Path) -> None:
        """Start the server and draw the batch without a disturbance."""
        self._server = ComfyServer(setup)
        self._server.start()
        done = run(*request(folder, self._server.address))
        assert done.returncode == 0, done.stderr
        self._reference = folder / "sprites"

    def close(self) -> None:
        """Stop the server."""
        self._server.stop()

    def kill(self, victim: str, folder: Path, draw: random.Random) -> str:
        """Begin the batch anew, kill `victim` ("server" or "client") at a random moment, resume it, and say when that was."""
        output = folder / "sprites"
        client = subprocess.Popen(
            command(*request(folder, self._server.address)),
            cwd=PACK_ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        moment = draw.randrange(NUM_SPRITES)
        while len(records(output)) < moment and client.poll() is None:
            time.sleep(0.01)
        time.sleep(draw.uniform(0.0, 0.5))
        os.kill(client.pid if victim == "client" else self._server.pid, signal.SIGKILL)
        errors = client.communicate(timeout=RUN_TIMEOUT_S)[1]
        before = len(records(output))
        again = ["generate", *map(str, request(folder, self._server.address)), "--resume"]
        if victim == "server":
            if client.returncode:
                assert errors.count("\n") == 1, errors
            if before and client.returncode:
                again = shlex.split(errors.split("go on with: ")[1])[3:]  # less python -m nodes.benchmark
            self._server.stop()
            self._server.start()
        resumed = run(*again[1:])
        assert resumed.returncode == 0, resumed.stderr
        assert problems(output, self._reference) == []
        return f"{victim} killed with {before} of {NUM_SPRITES} sprites finished: all there once"


@pytest.fixture
def batch(tmp_path: Path, comfyui: Path) -> Iterator[KilledBatch]:
    (tmp_path / "reference").mkdir()
    started = KilledBatch(server_setup(tmp_path / "base", comfyui), tmp_path / "reference")
    yield started
    started.close()


@pytest.mark.slow
def test_a_killed_batch_goes_on(batch: KilledBatch, tmp_path: Path, pytestconfig: pytest.Config):
    num_kills = int(pytestconfig.getoption("--kills"))  # type: ignore[arg-type] - it has a default
    draw = random.Random(num_kills)
    for number in range(num_kills):
        folder = tmp_path / f"kill{number:02}"
        folder.mkdir()
        print(number + 1, batch.kill(("server", "client")[number % 2], folder, draw), flush=True)
