"""`fast-sprites bench` on a real server: plants are found, equal sides stay equal, interruptions keep what was measured."""

import asyncio
import itertools
import json
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from dev_tools.workspace import TINY_CHECKPOINT, link_folder
from fast_sprites.nodes.benchmark.bench import graphs, markdown
from fast_sprites.nodes.benchmark.bench.campaign import Measuring
from fast_sprites.nodes.benchmark.bench.machine import watch_device
from fast_sprites.nodes.benchmark.bench.method import Limits
from fast_sprites.nodes.benchmark.bench.record import Run, ScenarioRecord, SideRecord, read_record
from fast_sprites.nodes.benchmark.bench.scenarios import STOCK, WORKFLOWS, Choices, Side, SideGraph, stock_graph
from fast_sprites.nodes.benchmark.bench.session import Session
from fast_sprites.nodes.benchmark.bench.statistics import median, paired_ratio
from fast_sprites.nodes.benchmark.client import connect
from fast_sprites.nodes.benchmark.server import ComfyServer, ServerSetup, known_flags

from ..conftest import PACK_ROOT, comfyui_path
from .conftest import FLAGS, TINY_SDXL, eventually

DELAY_S = 1.0
RUN_TIMEOUT_S = 300.0
SMALL = ("--size", "64", "--steps", "2", "--cfg", "4")

needs_signals = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT for a process of another group")


@pytest.fixture(scope="module")
def bench_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComfyServer]:
    """A server of its own, which the last test stops in the middle of a benchmark."""
    comfyui = comfyui_path()
    if comfyui is None:
        pytest.skip("ComfyUI not found: run `python3 dev.py test`, or set COMFYUI_PATH to a ComfyUI checkout")
    base = tmp_path_factory.mktemp("bench_base")
    (base / "custom_nodes").mkdir()
    (base / "models" / "checkpoints").mkdir(parents=True)
    link_folder(PACK_ROOT, base / "custom_nodes" / "fast-sprites")
    link_folder(TINY_SDXL / "comfy_extension", base / "custom_nodes" / "fast-sprites-tiny-sdxl")
    link_folder(Path(__file__).parent / "planted_delay", base / "custom_nodes" / "planted-delay")
    checkpoint = base / "models" / "checkpoints" / TINY_CHECKPOINT
    subprocess.run(
        [sys.executable, str(TINY_SDXL / "make_checkpoint.py"), str(checkpoint)], check=True, stdout=subprocess.DEVNULL
    )
    setup = ServerSetup(Path(sys.executable), comfyui, base, base / "server.log", known_flags(comfyui, FLAGS))
    with ComfyServer(setup) as running:
        yield running


def command(server: ComfyServer, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "nodes.benchmark", "bench", *arguments, "--server", server.address]


def finish(line: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(line, cwd=PACK_ROOT, capture_output=True, text=True, timeout=RUN_TIMEOUT_S, check=False)


def test_the_command_measures_and_reports(bench_server: ComfyServer, tmp_path: Path):
    path = tmp_path / "record.json"
    done = finish(command(bench_server, "run", "--scenarios", "single", *SMALL, "--budget-s", "12", "--json", str(path)))
    assert done.returncode == 0, done.stderr
    record = read_record(path)
    assert record.partial == ""
    assert record.machine["system"]["comfyui_version"]
    assert record.method["checkpoint"] == TINY_CHECKPOINT
    (scenario,) = record.scenarios
    stock, ours = scenario.sides
    assert scenario.num_pictures == 1
    assert len(stock.runs) == len(ours.runs) >= 1
    assert [run.seed for run in stock.runs] == [run.seed for run in ours.runs]
    for side in (stock, ours):
        assert side.first_run is not None
        assert "CheckpointLoaderSimple" in side.first_run.spans_s  # from an empty card
        assert not side.rejected
        assert side.memory is not None
        assert 0.2 < side.memory.process_ram_gib < 16
        for run in side.runs:
            assert {"KSampler", "VAEDecode", "SaveImage"} <= set(run.spans_s)
            assert "CheckpointLoaderSimple" not in run.spans_s
            assert sum(run.spans_s.values()) > 0
            assert run.step_s is not None
        # Spans are read off events as they arrive: one busy moment moves one run's.
        assert min(abs(sum(run.spans_s.values()) - run.server_s) for run in side.runs) < 0.1
    assert not stock.reports
    assert any("refused: CUDA graph" in report for report in ours.reports)
    assert ours.fidelity is not None
    assert ours.fidelity.worst_psnr_db is None or ours.fidelity.worst_psnr_db > 50
    assert path.with_suffix(".md").read_text(encoding="utf-8") == markdown.markdown(record)
    assert "fidelity to stock" in done.stdout


def test_sprites_saved_while_drawing_are_compared_with_each_drawn_alone(bench_server: ComfyServer, tmp_path: Path):
    path = tmp_path / "record.json"
    line = command(
        bench_server, "run", "--scenarios", "files8", *SMALL, "--no-first-runs", "--budget-s", "1", "--json", str(path)
    )
    done = finish(line)
    assert done.returncode == 0, done.stderr
    (scenario,) = read_record(path).scenarios
    stock, ours = scenario.sides
    assert not stock.failure + ours.failure
    assert scenario.num_pictures == 8
    assert all("SaveSprites" in run.spans_s and "VAEDecode" not in run.spans_s for run in ours.runs)
    assert ours.fidelity is not None
    assert ours.fidelity.worst_psnr_db is None or ours.fidelity.worst_psnr_db > 50


class Silent:
    """A watch that shows nothing."""

    def run_done(self, side: SideRecord, kind: str, run: Run) -> None:
        pass


def planted(graph: graphs.Graph, seconds: float) -> graphs.Graph:
    """The graph with a delay between sampling and decoding."""
    (sampler,) = graphs.seed_nodes(graph)
    changed = json.loads(json.dumps(graph))
    graphs.insert_after(changed, (sampler, 0), "delay", "PlantedDelay", {"samples": None, "seconds": seconds})
    return changed


def measured(server: ComfyServer, drawn: Sequence[tuple[Side, graphs.Graph]], rounds: int) -> ScenarioRecord:
    sides = [SideGraph(side, graph, {}) for side, graph in drawn]
    records = [SideRecord(side.name, side.title, lossy=False, optimizers={}) for side, _ in drawn]
    scenario = ScenarioRecord("planted", "a planted delay", "baseline_single", "", records)

    async def inside() -> None:
        async with connect(server.address) as client:
            stats = await client.system_stats()
            session = Session(client, await client.object_info(), watch_device(server.address, stats))
            measuring = Measuring(session, scenario, sides, Silent())
            seeds = itertools.count(5000)
            await measuring.run(
                Limits(budget_s=RUN_TIMEOUT_S, min_rounds=rounds, max_rounds=rounds), lambda: next(seeds), first_runs=False
            )
            measuring.compare()

    asyncio.run(asyncio.wait_for(inside(), RUN_TIMEOUT_S))
    return scenario


@pytest.mark.slow
def test_a_sleep_of_known_length_is_found_and_equal_sides_are_equal(bench_server: ComfyServer):
    choices = Choices(checkpoint=TINY_CHECKPOINT, size=64, steps=2, cfg=4.0)
    graph = stock_graph(graphs.read_graph(WORKFLOWS / "baseline_single.json"), choices)
    late, again = Side("late", "with a planted delay"), Side("again", "the same once more")
    scenario = measured(bench_server, [(STOCK, graph), (late, planted(graph, DELAY_S)), (again, graph)], rounds=10)
    stock, delayed, same = scenario.sides
    assert not any(side.rejected or side.failure for side in scenario.sides)

    ratio = paired_ratio(stock.times_s, delayed.times_s)
    assert ratio.verdict == "slower"
    assert paired_ratio(delayed.times_s, stock.times_s).verdict == "faster"
    gaps = [late_s - stock_s for stock_s, late_s in zip(stock.times_s, delayed.times_s, strict=True)]
    assert median(gaps).value == pytest.approx(DELAY_S, rel=0.3)
    assert median([run.spans_s["PlantedDelay"] for run in delayed.runs]).value == pytest.approx(DELAY_S, rel=0.1)
    assert paired_ratio(stock.times_s, same.times_s).verdict == "no difference"
    for side in (delayed, same):
        assert side.fidelity is not None
        assert side.fidelity.num_identical == side.fidelity.num_pictures > 0
    table = markdown.table(scenario).splitlines()
    assert "): slower | identical" in table[3]
    assert "): no difference | identical" in table[4]


def test_the_same_seed_twice_is_rejected(bench_server: ComfyServer):
    choices = Choices(checkpoint=TINY_CHECKPOINT, size=64, steps=2, cfg=4.0)
    graph = stock_graph(graphs.read_graph(WORKFLOWS / "baseline_single.json"), choices)
    scenario = measured(bench_server, [(STOCK, graph), (STOCK, graph)], rounds=1)
    first, second = scenario.sides
    assert not first.rejected
    assert {rejected.reason for rejected in second.rejected} == {"KSampler came from ComfyUI's cache"}


def until_running(process: subprocess.Popen[str]) -> None:
    """Read the progress up to the first counted round of both sides."""
    assert process.stderr is not None
    num_runs = 0
    for line in process.stderr:
        num_runs += line.split()[1:2] == ["run"]
        if num_runs == 2:
            return
    pytest.fail("the benchmark ended before its first round")


def started(server: ComfyServer, path: Path) -> subprocess.Popen[str]:
    line = command(server, "run", "--scenarios", "single", *SMALL[:2], "--steps", "12", "--no-first-runs", "--tight-pct", "0.001")
    return subprocess.Popen(
        [*line, "--json", str(path)], cwd=PACK_ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def partial_record(process: subprocess.Popen[str], path: Path, status: int) -> Any:
    out, err = process.communicate(timeout=RUN_TIMEOUT_S)
    assert process.returncode == status, err
    assert "Traceback" not in err
    assert "median s" in out
    record = read_record(path)
    (scenario,) = record.scenarios
    stock, ours = scenario.sides
    assert len(stock.runs) >= len(ours.runs) >= 1
    assert ours.fidelity is not None
    assert f"**Partial: {record.partial}**" in path.with_suffix(".md").read_text(encoding="utf-8")
    return record


@needs_signals
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_keeps_what_was_measured_and_stops_the_server_s_work(
    bench_server: ComfyServer, tmp_path: Path, number: signal.Signals
):
    path = tmp_path / "record.json"
    process = started(bench_server, path)
    until_running(process)
    process.send_signal(number)
    assert partial_record(process, path, 130).partial == "stopped by Ctrl-C or SIGTERM"

    async def waiting() -> int:
        async with connect(bench_server.address) as client:
            return await client.queue_length()

    assert eventually(lambda: asyncio.run(waiting()) == 0)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["run", "--checkpoint", "missing.safetensors"], "The server has no missing.safetensors"),
        (["run", "--scenarios", "lora", "--lora", "missing.safetensors"], r"The server has no missing.safetensors (lora_name)"),
        (["run", "--scenarios", "nonsense"], "There is no scenario 'nonsense'"),
        (["run", "--workflow", "README.md"], "README.md is no JSON"),
        (["ladder", "--pack", "."], "--pack are for a server that this command starts"),
        (["run", "--json", f"{__file__}/record.json"], __file__),  # before it draws, which would be told on a line of its own
    ],
)
def test_what_cannot_be_measured_gets_one_sentence(bench_server: ComfyServer, arguments: list[str], says: str):
    done = finish(command(bench_server, *arguments))
    assert done.returncode == 1
    assert says in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert done.stdout == ""


def test_a_busy_server_is_not_measured(bench_server: ComfyServer):
    choices = Choices(checkpoint=TINY_CHECKPOINT, size=256, steps=500)
    long = stock_graph(graphs.read_graph(WORKFLOWS / "baseline_single.json"), choices)

    async def queue_and_measure() -> subprocess.CompletedProcess[str]:
        async with connect(bench_server.address) as client:
            prompt_id = await client.queue(long)
            try:
                return await asyncio.to_thread(finish, command(bench_server, "run"))
            finally:
                await client.cancel(prompt_id)

    done = asyncio.run(queue_and_measure())
    assert done.returncode == 1
    assert "The server's queue holds 1 prompts" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_server_that_dies_leaves_a_partial_record(bench_server: ComfyServer, tmp_path: Path):
    """The last test of this file: the server does not come back."""
    path = tmp_path / "record.json"
    process = started(bench_server, path)
    until_running(process)
    bench_server.stop()
    record = partial_record(process, path, 1)
    assert "ComfyUI" in record.partial
    assert "\n" not in record.partial
