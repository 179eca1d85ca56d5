"""`fast-sprites generate --cluster` on three nodes that Ray makes on this machine.

Ten batches of 300: python -m pytest tests/server/test_cluster.py --rounds 10 --sprites 300 -s
"""

import os
import random
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from ..conftest import PACK_ROOT
from .conftest import FLAGS, Comfy, server_setup
from .test_kills import command, problems, records, request, run

pytest.importorskip("ray", reason="Ray is not installed: pip install ray")
TIMEOUT_S = 900.0


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, comfyui: Path) -> Path:
    folder = tmp_path_factory.mktemp("cluster") / "base"
    server_setup(folder, comfyui)
    return folder


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setenv("RAY_raylet_start_wait_time_s", "180")  # a node of a busy machine takes longer than Ray's 30 s
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    for _ in range(2):
        made.add_node(num_cpus=1)
    yield made
    made.shutdown()


def cluster_options(cluster: Any, base: Path, comfyui: Path) -> list[str | Path]:
    servers = ["--comfyui", comfyui, "--comfyui-base", base, *(f"--comfyui-flag={flag}" for flag in FLAGS)]
    return ["--cluster", cluster.address, "--gpus-per-worker", "0", *servers]


def servers(base: Path) -> list[int]:
    """The processes of ComfyUI that workers have started with this base folder."""
    found = psutil.process_iter(["cmdline"])
    return [process.pid for process in found if str(base) in (words := process.info["cmdline"] or []) and "--port" in words]


def wait_for(output: Path, num_sprites: int, client: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while len(records(output)) < num_sprites:
        assert client.poll() is None, client.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)


def start(arguments: list[str | Path]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command(*arguments), cwd=PACK_ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )  # fmt: skip


def wait_for_no_servers(base: Path) -> None:
    deadline = time.monotonic() + 30
    while servers(base):
        assert time.monotonic() < deadline, "workers left servers behind"
        time.sleep(0.5)


@pytest.mark.slow
def test_batches_survive_a_node_a_server_and_the_driver(
    cluster: Any, base: Path, comfyui: Path, comfy: Comfy, tmp_path: Path, pytestconfig: pytest.Config
):
    num_sprites = int(pytestconfig.getoption("--sprites"))  # type: ignore[arg-type] - it has a default
    num_rounds = int(pytestconfig.getoption("--rounds"))  # type: ignore[arg-type]
    (tmp_path / "alone").mkdir()
    alone = run(*request(tmp_path / "alone", comfy.server.address, num_sprites))
    assert alone.returncode == 0, alone.stderr
    draw = random.Random(num_sprites)
    for number in range(num_rounds):
        if number:
            cluster.add_node(num_cpus=1)  # in place of the one that was killed
        folder = tmp_path / f"round{number:02}"
        folder.mkdir()
        output = folder / "sprites"
        arguments = [*request(folder, comfy.server.address, num_sprites), *cluster_options(cluster, base, comfyui)]
        moments = sorted(draw.sample(range(1, 3 * num_sprites // 4), 3))
        client = start(arguments)
        wait_for(output, moments[0], client)
        os.kill(draw.choice(servers(base)), signal.SIGKILL)
        wait_for(output, moments[1], client)
        cluster.remove_node(draw.choice(sorted(cluster.worker_nodes, key=id)), allow_graceful=False)
        wait_for(output, moments[2], client)
        client.kill()
        client.communicate()
        kept = len(records(output))
        client = start([*arguments, "--resume"])
        said, errors = client.communicate(timeout=TIMEOUT_S)
        assert client.returncode == 0, errors
        assert problems(output, tmp_path / "alone" / "sprites", num_sprites) == []
        assert f"{num_sprites} sprites, " in said
        wait_for_no_servers(base)
        print(
            f"{number + 1}: a server killed at {moments[0]}, a node at {moments[1]}, the driver at {kept}: all there once",
            flush=True,
        )
