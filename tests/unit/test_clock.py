"""The wall clock may be set while anything runs: durations and orders never come from it."""

import ast
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from fast_sprites.nodes.engine.memory.samples import now_s, take_quick_sample
from fast_sprites.nodes.engine.memory.timeline import Timeline
from fast_sprites.nodes.engine.sprites.file_names import publish, sprite_name

from ..conftest import PACK_ROOT

# The one reading that turns the monotonic clock into a date, when the pack is loaded.
MAY_READ_IT = {"nodes/engine/memory/samples.py"}
JUMPS_S = (-3600.0, 86400.0 * 400, -86400.0 * 9000, 0.0)


def test_only_one_module_reads_the_wall_clock():
    readers = set()
    for path in (PACK_ROOT / "nodes").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and ast.unparse(node) in ("time.time", "time.time_ns"):
                readers.add(path.relative_to(PACK_ROOT).as_posix())
    assert readers == MAY_READ_IT


@pytest.fixture
def set_clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    real, strftime = time.time, time.strftime

    def jump(by_s: float) -> None:
        monkeypatch.setattr(time, "time", lambda: real() + by_s)
        monkeypatch.setattr(time, "strftime", lambda code: strftime(code, time.localtime(real() + by_s)))

    return jump


def test_the_timeline_goes_on_through_every_jump(set_clock):
    timeline, before = Timeline(), now_s()
    timeline.start_run(before)
    for number, by_s in enumerate(JUMPS_S):
        set_clock(by_s)
        timeline.start_node(str(number), str(number), "Node", take_quick_sample(torch.device("cpu")))
        timeline.finish_node(str(number), take_quick_sample(torch.device("cpu")))
    timeline.end_run(take_quick_sample(torch.device("cpu")), 0.0)
    times = [row[1] for row in timeline.rows_since(0, 100)]
    assert times == sorted(times)
    assert len(times) == 2 * len(JUMPS_S)
    assert 0 <= times[-1] - before < 60
    (run,) = timeline.spans_json(1)
    assert all(0 <= span["end_s"] - span["start_s"] < 60 for span in run["spans"])


def test_names_made_of_the_time_never_meet(tmp_path: Path, set_clock):
    for number, by_s in enumerate((*JUMPS_S, *JUMPS_S)):
        set_clock(by_s)
        stem = sprite_name("%year%%month%%day%%hour%", number, None, None, 8, 8)
        temporary = tmp_path / ".tmp"
        temporary.write_text(str(number))
        publish(temporary, tmp_path, stem, ".png")
    assert sorted(path.read_text() for path in tmp_path.iterdir()) == [str(n) for n in range(2 * len(JUMPS_S))]
