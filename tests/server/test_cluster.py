"""`fast-sprites generate --cluster` on three nodes that Ray makes on this machine."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from ..conftest import PACK_ROOT
from .conftest import FLAGS, server_setup
from .test_kills import NUM_SPRITES, command, problems, records, request, run

pytest.importorskip("ray", reason="Ray is not installed: pip install ray")
TIMEOUT_S = 900.0


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, comfyui: Path) -> Path:
    folder = tmp_path_factory.mktemp("cluster") / "base"
    server_setup(folder, comfyui)
    return folder


@pytest.fixture
def cluster() -> Iterator[Any]:
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


@pytest.mark.slow
def test_a_batch_survives_a_node_a_server_and_the_driver(cluster, base: Path, comfyui: Path, comfy, tmp_path: Path):
    (tmp_path / "alone").mkdir()
    alone = run(*request(tmp_path / "alone", comfy.server.address))
    assert alone.returncode == 0, alone.stderr
    (tmp_path / "cluster").mkdir()
    output = tmp_path / "cluster" / "sprites"
    arguments = [*request(tmp_path / "cluster", comfy.server.address), *cluster_options(cluster, base, comfyui)]

    def start(*more: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            command(*arguments, *more), cwd=PACK_ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )  # fmt: skip

    client = start()
    wait_for(output, NUM_SPRITES // 8, client)
    os.kill(servers(base)[0], signal.SIGKILL)
    wait_for(output, NUM_SPRITES // 4, client)
    cluster.remove_node(next(iter(cluster.worker_nodes)), allow_graceful=False)
    wait_for(output, NUM_SPRITES // 2, client)
    client.kill()
    client.communicate()
    client = start("--resume")
    said, errors = client.communicate(timeout=TIMEOUT_S)
    assert client.returncode == 0, errors
    assert problems(output, tmp_path / "alone" / "sprites") == []
    assert f"{NUM_SPRITES} sprites, " in said
    deadline = time.monotonic() + 30
    while servers(base):
        assert time.monotonic() < deadline, "workers left servers behind"
        time.sleep(0.5)
