"""`fast-sprites generate --cluster` on three nodes that Ray makes on this machine.

Ten batches of 300: python -m pytest tests/server/test_cluster.py --rounds 10 --sprites 300 -s
"""

import contextlib
import hashlib
import os
import random
import re
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
def num_rounds(pytestconfig: pytest.Config) -> int:
    rounds = int(pytestconfig.getoption("--rounds"))  # type: ignore[arg-type] - it has a default
    if not rounds:
        pytest.skip("clusters whose workers start ComfyUIs take minutes: ask for them by --rounds 1")
    return rounds


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, comfyui: Path) -> Path:
    folder = tmp_path_factory.mktemp("cluster") / "base"
    server_setup(folder, comfyui)
    return folder


@pytest.fixture
def ray_starts_slowly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_raylet_start_wait_time_s", "180")  # a node of a busy machine takes longer than Ray's 30 s


@pytest.fixture
def cluster(ray_starts_slowly: None) -> Iterator[Any]:
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    for _ in range(2):
        add_node(made)
    yield made
    made.shutdown()


def add_node(cluster: Any, num_tries: int = 4) -> None:
    """Start a node; again where Ray gives up after 30 s (ray/_private/node.py, 2.60), which a busy machine exceeds."""
    try:
        cluster.add_node(num_cpus=1)
    except Exception as error:
        if num_tries == 1 or "timed out during startup" not in str(error):
            raise
        add_node(cluster, num_tries - 1)


def server_options(base: Path, comfyui: Path) -> list[str | Path]:
    return ["--comfyui", comfyui, "--comfyui-base", base, *(f"--comfyui-flag={flag}" for flag in FLAGS)]


def server_processes(base: Path) -> list[psutil.Process]:
    """The ComfyUIs that workers have started with this base folder."""
    found = psutil.process_iter(["cmdline"])
    return [process for process in found if str(base) in (words := process.info["cmdline"] or []) and "--port" in words]


def servers(base: Path) -> list[int]:
    """Their process ids."""
    return [process.pid for process in server_processes(base)]


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


def assert_lines_agree(output: Path) -> None:
    """Every line says what lies there, whoever wrote it."""
    for record in records(output):
        assert hashlib.sha256((output / record["file"]).read_bytes()).hexdigest() == record["sha256"], record


def wait_for_no_servers(base: Path) -> None:
    deadline = time.monotonic() + 30
    while servers(base):
        assert time.monotonic() < deadline, "workers left servers behind"
        time.sleep(0.5)


@pytest.fixture(scope="module")
def alone(comfy: Comfy, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve sprites that the server has drawn alone."""
    folder = tmp_path_factory.mktemp("alone")
    done = run(*request(folder, comfy.server.address, 12))
    assert done.returncode == 0, done.stderr
    return folder / "sprites"


@pytest.mark.parametrize("scheme", ["", "local://"], ids=["path", "url"])
def test_two_workers_on_one_server_draw_what_it_draws_alone(
    comfy: Comfy, alone: Path, scheme: str, tmp_path: Path, ray_starts_slowly: None
):
    """Into the driver's folder, and at a URL, where the workers write by themselves."""
    if scheme:
        pytest.importorskip("fsspec", reason="a batch at a URL needs fsspec: pip install fsspec")
    options = ["--output", f"{scheme}{tmp_path / 'sprites'}", "--cluster", "local", "--gpus-per-worker", "0", "--workers", "2"]
    done = run(*request(tmp_path, comfy.server.address, 12), *options)
    assert done.returncode == 0, done.stderr
    assert problems(tmp_path / "sprites", alone, 12) == []
    assert_lines_agree(tmp_path / "sprites")
    assert len(re.findall(r"\(process \d+\): \d+ sprites, ", done.stdout)) == 2, done.stdout


@pytest.mark.slow
def test_batches_survive_a_node_a_server_and_the_driver(
    num_rounds: int, cluster: Any, base: Path, comfyui: Path, comfy: Comfy, tmp_path: Path, pytestconfig: pytest.Config
):
    num_sprites = int(pytestconfig.getoption("--sprites"))  # type: ignore[arg-type] - it has a default
    (tmp_path / "alone").mkdir()
    alone = run(*request(tmp_path / "alone", comfy.server.address, num_sprites))
    assert alone.returncode == 0, alone.stderr
    draw = random.Random(num_sprites)
    options = ["--cluster", cluster.address, "--gpus-per-worker", "0", *server_options(base, comfyui)]
    for number in range(num_rounds):
        if number:
            add_node(cluster)  # in place of the one that was killed
        folder = tmp_path / f"round{number:02}"
        folder.mkdir()
        output = folder / "sprites"
        arguments = [*request(folder, comfy.server.address, num_sprites), *options]
        if number % 2 == 0:  # the workers write, otherwise the driver
            arguments += ["--output", output.as_uri()]
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
        assert_lines_agree(output)
        assert f"{num_sprites} sprites, " in said
        wait_for_no_servers(base)
        print(
            f"{number + 1}: a server killed at {moments[0]}, a node at {moments[1]}, the driver at {kept}: all there once",
            flush=True,
        )


@pytest.mark.slow
def test_every_gpu_has_a_server_of_its_own(
    num_rounds: int, base: Path, comfyui: Path, comfy: Comfy, tmp_path: Path, ray_starts_slowly: None
):
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "num_gpus": 2, "include_dashboard": False})
    try:
        options = ["--cluster", cluster.address, "--gpus-per-worker", "1", *server_options(base, comfyui)]
        client = start([*request(tmp_path, comfy.server.address, 16), *options])
        found: set[tuple[str, str]] = set()
        deadline = time.monotonic() + TIMEOUT_S
        while len(found) < 2 and client.poll() is None and time.monotonic() < deadline:
            for process in server_processes(base):
                with contextlib.suppress(psutil.NoSuchProcess):
                    words = process.cmdline()
                    found.add((process.environ()["CUDA_VISIBLE_DEVICES"], words[words.index("--port") + 1]))
            time.sleep(0.2)
        said, errors = client.communicate(timeout=TIMEOUT_S)
        assert client.returncode == 0, errors
        assert len(records(tmp_path / "sprites")) == 16, said
        assert sorted(gpu for gpu, _ in found) == ["0", "1"]
        assert len({port for _, port in found}) == 2
        wait_for_no_servers(base)
    finally:
        cluster.shutdown()
