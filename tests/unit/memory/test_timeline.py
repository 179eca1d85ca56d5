import sys
import threading

import pytest
import torch
from fast_sprites.nodes.engine.memory import samples
from fast_sprites.nodes.engine.memory.node_table import leak_line, table
from fast_sprites.nodes.engine.memory.readings import ComfyMemory, HeldModel
from fast_sprites.nodes.engine.memory.samples import Sample, take_quick_sample, take_sample
from fast_sprites.nodes.engine.memory.timeline import COLUMNS, MAX_MARKS, MAX_SPANS, NUM_RUNS, Mark, Run, Timeline


def sample(time_s: float, allocated: float | None = None, *, process: float = 1, peak: float | None = None) -> Sample:
    return Sample(time_s, allocated, allocated, peak, allocated, None, ram_gib=8, process_gib=process)


def test_rows_have_the_columns_and_the_newest_win():
    timeline = Timeline(capacity=3)
    for i in range(10_000):
        timeline.add(sample(i, i / 10))
    assert [row[0] for row in timeline.rows_since(0, 100)] == [9998, 9999, 10_000]
    assert dict(zip(COLUMNS, timeline.rows_since(9999, 100)[0], strict=True)) == {
        "seq": 10_000,
        "time_s": 9999,
        "active_gib": 999.9,
        "reserved_gib": 999.9,
        "driver_gib": None,
        "ram_gib": 8,
        "process_gib": 1,
        "graphs_gib": None,
    }
    assert [row[0] for row in timeline.rows_since(0, 2)] == [9999, 10_000]
    assert timeline.rows_since(10_000, 100) == timeline.rows_since(20_000, 100) == []


def test_nodes_of_a_run_become_spans_with_peak_and_growth():
    timeline = Timeline()
    timeline.start_run(0)
    timeline.start_node("1", "1", "Loader", sample(1, 1.0, process=2, peak=9))
    timeline.add(sample(2, 6.0, process=3))
    timeline.finish_node("1", sample(3, 5.0, process=2.5, peak=9))
    timeline.add(sample(3.5, 50.0))  # between two nodes, so nobody's
    timeline.start_node("2", "2", "Decode", sample(4, 5.0, peak=9))
    timeline.finish_node("2", sample(5, 5.0, peak=12))
    timeline.finish_node("3", sample(5, 5.0))  # cached: finished, never started
    timeline.end_run(sample(6, 5.0), 4.5)
    run = timeline.runs()[0]
    assert (run.number, run.start_s, run.end.time_s, run.held_gib) == (1, 0, 6, 4.5)
    assert table(run) == [
        {
            "node_id": "1",
            "class_type": "Loader",
            "seconds": 2,
            "peak_allocated_gib": 6.0,
            "is_peak_exact": False,
            "allocated_growth_gib": 4.0,
            "reserved_growth_gib": 4.0,
            "peak_process_gib": 3,
            "process_growth_gib": 0.5,
        },
        {
            "node_id": "2",
            "class_type": "Decode",
            "seconds": 1,
            "peak_allocated_gib": 12,  # torch's own peak rose in this node
            "is_peak_exact": True,
            "allocated_growth_gib": 0,
            "reserved_growth_gib": 0,
            "peak_process_gib": 1,
            "process_growth_gib": 0,
        },
    ]


def test_without_a_device_the_process_is_measured():
    timeline = Timeline()
    timeline.start_run(0)
    timeline.start_node("1", "1", "Node", sample(1, process=2))
    timeline.finish_node("1", sample(2, process=3))
    row = table(timeline.runs()[0])[0]
    assert (row["peak_allocated_gib"], row["allocated_growth_gib"], row["is_peak_exact"]) == (None, None, False)
    assert (row["peak_process_gib"], row["process_growth_gib"]) == (3, 1)


def test_where_torch_keeps_no_peaks_the_highest_sample_counts(monkeypatch):
    allocated = iter([1, 6, 4])  # at the node's start, while it ran, at its end
    monkeypatch.setattr(torch.mps, "current_allocated_memory", lambda: next(allocated) * 2**30)
    monkeypatch.setattr(torch.mps, "driver_allocated_memory", lambda: 7 * 2**30)
    timeline = Timeline()
    timeline.start_run(0)
    timeline.start_node("1", "1", "Decode", take_quick_sample(torch.device("mps")))
    timeline.add(take_quick_sample(torch.device("mps")))
    timeline.finish_node("1", take_quick_sample(torch.device("mps")))
    row = table(timeline.runs()[0])[0]
    assert (row["peak_allocated_gib"], row["is_peak_exact"], row["allocated_growth_gib"]) == (6, False, 3)


def test_a_node_that_starts_again_counts_from_there_and_failures_end_with_the_run():
    timeline = Timeline()
    timeline.start_run(0)
    timeline.start_node("1", "1", "Lazy", sample(1))
    timeline.start_node("2", "2", "Inner", sample(2))
    timeline.finish_node("2", sample(3))
    timeline.start_node("1", "1", "Lazy", sample(4))
    assert [(span["node_id"], span["start_s"], span["end_s"]) for span in timeline.spans_json(1)[0]["spans"]] == [
        ("2", 2, 3),
        ("1", 4, None),
    ]
    timeline.end_run(sample(5), 0)
    assert [row["seconds"] for row in table(timeline.runs()[0])] == [1, 1]
    timeline.start_node("9", "9", "Late", sample(6))  # of a prompt that was never started
    assert len(timeline.runs()[0].spans) == 2


def test_everything_is_bounded():
    timeline = Timeline()
    timeline.start_run(0)
    for i in range(MAX_SPANS + 7):
        timeline.start_node(str(i), str(i), "Loop", sample(i))
        timeline.finish_node(str(i), sample(i))
        timeline.mark(Mark(i, str(i), None))
    assert (len(timeline.runs()[0].spans), timeline.runs()[0].num_left_out) == (MAX_SPANS, 7)
    assert len(timeline.marks_json()) == MAX_MARKS
    for i in range(NUM_RUNS + 5):
        timeline.start_run(i)
        timeline.end_run(sample(i), 0)
    assert [run.number for run in timeline.runs()] == list(range(7, NUM_RUNS + 7))
    assert [run["run"] for run in timeline.spans_json(2)] == [NUM_RUNS + 5, NUM_RUNS + 6]


def test_all_that_changed_is_told_when_one_run_follows_another():
    timeline = Timeline()
    for number in range(3):
        timeline.start_run(number)
        timeline.end_run(sample(number), 0)
    told = timeline.position[1]
    assert timeline.changed_runs_json(told) == []
    timeline.start_run(10)
    timeline.start_node("1", "1", "Decode", sample(10))
    told = timeline.position[1]
    timeline.finish_node("1", sample(11))
    timeline.end_run(sample(12), 0)
    timeline.start_run(13)
    changed = timeline.changed_runs_json(told)
    assert [(run["run"], run["end_s"]) for run in changed] == [(4, 12), (5, None)]
    assert [span["end_s"] for span in changed[0]["spans"]] == [11]


def test_clearing_keeps_the_running_prompt_and_counts_on():
    timeline = Timeline()
    timeline.add(sample(0))
    timeline.start_run(0)
    timeline.end_run(sample(1), 0)
    timeline.start_run(2)
    before = timeline.position
    timeline.clear()
    assert [run.number for run in timeline.runs()] == [2]
    assert timeline.rows_since(0, 100) == []
    assert timeline.position[1] > before[1]
    timeline.add(sample(3))
    assert timeline.rows_since(0, 100)[0][0] == 2


def test_threads_may_read_while_others_write():
    timeline = Timeline(capacity=50)
    failures = []

    def read():
        try:
            for _ in range(300):
                rows = [row[0] for row in timeline.rows_since(0, 50)]
                assert rows == list(range(rows[0], rows[0] + len(rows))) if rows else True
        except (AssertionError, RuntimeError) as error:
            failures.append(error)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    threads = [threading.Thread(target=read) for _ in range(3)]
    for thread in threads:
        thread.start()
    for i in range(3000):
        timeline.add(sample(i))
    for thread in threads:
        thread.join()
    sys.setswitchinterval(interval)
    assert failures == []


def runs_with_floors(floors, *, models=None, process=None):
    return [
        Run(i, i, end=sample(i, floor, process=process[i] if process else 1), held_gib=models[i] if models else 0)
        for i, floor in enumerate(floors)
    ]


def test_a_floor_that_rises_every_time_is_told():
    assert leak_line(runs_with_floors([9, 1, 1.1, 1.2, 1.3, 1.5])) == (
        "The floor of torch's memory rose after each of the last 5 runs, by 0.5 GiB in all: something keeps memory from run to run."
    )
    rising = [1, 1.1, 1.2, 1.3, 1.4]
    assert "this process's RAM rose" in leak_line(runs_with_floors([None] * 5, process=rising))


@pytest.mark.parametrize(
    "floors",
    [
        [1, 1.1, 1.2, 1.3],  # too few runs
        [1, 1.1, 1.2, 1.2, 1.3],  # it stopped once
        [1, 1.1, 1.05, 1.3, 1.4],
        [1, 1.005, 1.01, 1.015, 1.02],  # too little
        [5, 4, 3, 2, 1],
    ],
)
def test_a_floor_that_stays_is_not_told(floors):
    assert leak_line(runs_with_floors(floors)) == ""


def test_models_that_comfyui_holds_are_no_leak():
    assert leak_line(runs_with_floors([1, 2, 3, 4, 5], models=[0.5, 1.5, 2.5, 3.5, 4.5])) == ""


def test_weights_outside_torch_do_not_lower_its_floor():
    """DynamicVRAM's weights are resident but not in torch's memory: that they come and go is neither a leak nor hides one."""

    def held_gib(outside_torch_gib: float) -> float:
        sdxl = HeldModel("SDXL", "cuda:0", 5, outside_torch_gib + 0.1, outside_torch_gib)
        others = (HeldModel("VAE", "cuda:0", 0.2, 0.2), HeldModel("CLIP", "cpu", 1.5, 1.5))
        return ComfyMemory((sdxl, *others), dynamic_vram_gib=outside_torch_gib).held_in_torch_gib("cuda:0")

    assert [held_gib(outside) for outside in (4.5, 0)] == pytest.approx([0.3, 0.3])
    held = [held_gib(4.5 - 0.5 * i) for i in range(5)]
    assert "rose after each" in leak_line(runs_with_floors([0.5 + 0.6 * i for i in range(5)], models=held))


def test_a_run_that_is_not_over_has_no_floor():
    runs = runs_with_floors([1, 1.1, 1.2, 1.3, 1.4])
    runs[-1].end = None
    assert leak_line(runs) == ""


def test_a_run_leaves_a_curve_without_a_sampler():
    timeline = Timeline()
    timeline.start_run(0)
    timeline.start_node("1", "1", "Node", sample(1, 1.0))
    timeline.finish_node("1", sample(2, 3.0))
    timeline.finish_node("2", sample(2, 3.0))  # cached
    assert [row[1:3] for row in timeline.rows_since(0, 10)] == [(1, 1.0), (2, 3.0)]


def test_samples_of_the_cpu_have_the_host_alone():
    for take in (take_sample, take_quick_sample):
        seen = take(torch.device("cpu"))
        assert (seen.active_gib, seen.driver_gib, seen.problem) == (None, None, "")
        assert 0 < seen.process_gib < seen.ram_gib + 1


def test_a_device_that_vanished_is_a_sentence(monkeypatch):
    def lost(*_, **__):
        raise RuntimeError("CUDA error: device lost\nCUDA kernel errors might be reported later")

    monkeypatch.setattr(samples, "read_memory", lost)
    monkeypatch.setattr(samples, "torch_memory", lost)
    for take in (take_sample, take_quick_sample):
        seen = take(torch.device("cuda", 0))
        assert (seen.problem, seen.active_gib) == ("CUDA error: device lost", None)
        assert seen.ram_gib > 0


def test_a_quick_sample_asks_no_driver(monkeypatch):
    stats = {"active_bytes": {"all": {"current": 2 * 1024**3}}, "allocated_bytes": {"all": {"current": 0, "peak": 3 * 1024**3}}}
    monkeypatch.setattr(torch.cuda, "memory_stats_as_nested_dict", {1: stats}.__getitem__)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda *_: pytest.fail("the driver was asked"))
    seen = take_quick_sample(torch.device("cuda", 1))
    assert (seen.active_gib, seen.peak_allocated_gib, seen.reserved_gib) == (2, 3, 0)
