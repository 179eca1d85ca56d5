"""What is made of records: Markdown, comparison, plots, and the command around them."""

import copy
import io
import os
from pathlib import Path

import pytest
from fast_sprites.nodes.benchmark import cli
from fast_sprites.nodes.benchmark.bench import markdown, plots, terminal
from fast_sprites.nodes.benchmark.bench.compare import compare_records
from fast_sprites.nodes.benchmark.bench.record import DeviceSample, PeakMemory, Record, RecordError

from .conftest import make_record

STEADY = [2.00, 2.01, 1.99, 2.00, 2.01, 1.99]
SLOWER = [2.20, 2.21, 2.19, 2.20, 2.21, 2.19]


def cells(text: str, name: str) -> list[str]:
    """The cells of a side's row."""
    (line,) = [line for line in text.splitlines() if line.startswith(f"| {name} |")]
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_the_table_says_what_was_measured():
    record = make_record(single={"stock": [4.0, 4.1, 3.9, 4.0, 4.05, 3.95], "ours": STEADY})
    text = markdown.markdown(record)
    assert cells(text, "stock")[1:6] == ["4.000", "3.900 to 4.100 (97%)", "6", "4.000", "15.0"]
    ours = cells(text, "ours")
    assert ours[1:6] == ["2.000", "1.990 to 2.010 (97%)", "6", "2.000", "30.0"]
    assert ours[6].startswith("2.00x (")
    assert ours[6].endswith("): faster")
    assert ours[7] == "PSNR 41.5 dB, SSIM 0.9910, error 9/255 (2 pictures)"
    assert "KSampler 3.00 s, VAEDecode 1.00 s; a step 160.0 ms" in text
    assert "Measured until the budget of 60 s ended." in text
    for fact in (
        "NVIDIA H100",
        "580.1",
        "700.0 W",
        "0.30.0",
        "2.11.0",
        "3.11.7",
        "--fast",
        "sdxl.safetensors",
        "fast-sprites bench run",
    ):
        assert fact in text


def test_seconds_a_picture_count_the_batch():
    record = make_record(batch8={"stock": [16.0, 16.0], "ours": [8.0, 8.0]})
    record.scenarios[0].num_pictures = 8
    text = markdown.markdown(record)
    assert cells(text, "ours")[4:6] == ["1.000", "60.0"]


def test_a_speed_without_its_fidelity_is_never_printed(tmp_path: Path):
    record = make_record(single={"stock": [4.0, 4.0, 4.0], "ours": [1.2345, 1.2345, 1.2345]})
    ours = record.scenarios[0].sides[1]
    ours.fidelity = None
    text = markdown.markdown(record)
    assert cells(text, "ours")[1:] == ["not shown: no saved picture to compare with stock's", "", "3", *[""] * 6]
    assert not any(speed in text.split("- Measured")[0] for speed in ("1.234", "1.235", "3.24"))


def test_everything_unusual_is_told(full_record: Record):
    text = markdown.markdown(full_record)
    for line in (
        "**Partial: stopped by Ctrl-C**",
        "- A note.",
        "ours (lossy)",
        "12.50 (driver)",
        "9.50",
        "*ours*: VAEDecode failed: OutOfMemoryError: no memory.",
        "*ours*: 1 runs were not counted: KSampler came from ComfyUI's cache.",
        "*ours*: 1 of 6 runs were disturbed: the card was slowed down by heat (software).",
        "refused: xformers: not installed",
    ):
        assert line in text


def test_a_clock_that_falls_is_a_disturbance():
    record = make_record(single={"stock": STEADY})
    runs = record.scenarios[0].sides[0].runs
    for run, clock in zip(runs, [1980, 1965, 1980, 1500, 1980, 1980], strict=True):
        run.device = DeviceSample(clock, 60 + clock // 1000, 600.0, 10.0, [], 0)
    runs[0].device = DeviceSample(None, 35, None, None, [], 0)
    assert [bool(found) for found in markdown.disturbances(runs)] == [False, False, False, True, False, False]
    text = markdown.markdown(record)
    assert "*stock*: 1 of 6 runs were disturbed: the card's clock was more than 5% below its median." in text
    assert "*stock*: the card ran at 1500 to 1980 MHz, up to 61 degrees C, up to 600 W." in text


@pytest.mark.parametrize(
    ("memory", "expected"),
    [
        (PeakMemory(5.0, 6.0, 4.5, 12.0, 3.0), (12.0, "driver")),
        (PeakMemory(5.0, 6.0, 4.5, None, 3.0), (10.5, "torch")),
        (PeakMemory(None, None, None, None, 3.0), (3.0, "RAM")),
        (None, None),
    ],
)
def test_the_peak_comes_from_the_best_source(memory: PeakMemory | None, expected: tuple[float, str] | None):
    assert markdown.peak_gib(memory) == expected


def test_a_rung_that_adds_nothing_is_named():
    record = make_record(single={"stock": STEADY, "attention": STEADY, "autotune": STEADY})
    for side in record.scenarios[0].sides[1:]:
        side.reports = [f"CPU: 1 applied\napplied: memory: reserved\nrefused: {side.name}: needs a CUDA device"]
    assert "*autotune* applies the same as *attention* on this machine" in markdown.markdown(record)
    record.scenarios[0].sides[2].reports = ["CPU: 2 applied\napplied: memory: reserved\napplied: autotune: on"]
    assert "applies the same" not in markdown.markdown(record)


def test_a_slow_down_over_the_threshold_is_a_regression():
    old = make_record(single={"stock": [4.0] * 6, "ours": STEADY}, batch8={"stock": STEADY, "ours": STEADY})
    new = make_record(single={"stock": [4.0] * 6, "ours": SLOWER}, batch8={"stock": STEADY, "ours": STEADY})
    found = compare_records(old, new, threshold=0.05, relative=False)
    slow = [change for change in found.changes if change.ratio.verdict == "slower"]
    assert [(change.scenario, change.side, change.is_regression) for change in slow] == [("single", "ours", True)]
    assert slow[0].ratio.low < 1.1 < slow[0].ratio.high
    assert found.has_regression
    assert "+10.0%" in found.text()
    assert not compare_records(old, new, threshold=0.2, relative=False).has_regression
    (fast,) = [change for change in compare_records(new, old, 0.05, relative=False).changes if change.ratio.verdict == "faster"]
    assert not fast.is_regression


def test_noise_is_no_regression():
    old = make_record(single={"stock": STEADY, "ours": [1.0, 2.0, 3.0, 1.5, 2.5, 2.0]})
    new = make_record(single={"stock": STEADY, "ours": [1.3, 2.4, 3.3, 1.8, 2.9, 2.2]})
    found = compare_records(old, new, threshold=0.05, relative=False)
    assert [change.ratio.verdict for change in found.changes] == ["no difference"] * 2
    assert found.changes[1].ratio.value > 1.1  # over the threshold, but not beyond the noise
    assert not found.has_regression


def test_relative_cancels_a_slower_machine():
    old = make_record(single={"stock": STEADY, "ours": [time_s / 2 for time_s in STEADY]})
    new = make_record(single={"stock": [3 * time_s for time_s in STEADY], "ours": [1.5 * time_s for time_s in STEADY]})
    assert compare_records(old, new, 0.05, relative=False).has_regression
    (change,) = compare_records(old, new, 0.05, relative=True).changes
    assert (change.side, change.ratio.verdict) == ("ours", "no difference")


def test_different_work_is_not_compared():
    old, new = make_record(single={"stock": STEADY}), make_record(single={"stock": STEADY})
    new.scenarios[0].workflow_sha256 = "cd" * 32
    with pytest.raises(RecordError, match=r"no measured scenario in common.*single draws another workflow"):
        compare_records(old, new, 0.05, relative=False)


def test_what_else_changed_is_noted(full_record: Record):
    new = copy.deepcopy(full_record)
    new.machine["card"]["driver"] = "590.2"
    ours = new.scenarios[0].sides[1]
    assert ours.memory is not None
    assert ours.fidelity is not None
    ours.memory.driver_gib = 20.0
    ours.fidelity = None
    notes = compare_records(full_record, new, 0.05, relative=False).notes
    assert "driver: 580.1 in the old record, 590.2 in the new one." in notes
    assert "single, ours: peak memory 12.50 -> 20.00 GiB (driver)." in notes
    assert "The new record is partial: stopped by Ctrl-C" in notes


def test_the_compare_command_has_a_status_for_scripts(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    paths = [str(tmp_path / name) for name in ("old.json", "new.json")]
    make_record(single={"stock": STEADY}).write(Path(paths[0]))
    make_record(single={"stock": SLOWER}).write(Path(paths[1]))
    assert cli.main(["bench", "compare", *paths]) == 3
    assert "slower by more than 5 %" in capsys.readouterr().err
    assert cli.main(["bench", "compare", *paths, "--threshold-pct", "20"]) == 0
    assert cli.main(["bench", "compare", *reversed(paths)]) == 0
    capsys.readouterr()
    assert cli.main(["bench", "compare", paths[0], str(tmp_path / "none.json")]) == 1
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_the_report_command_writes_markdown(full_record: Record, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    full_record.write(tmp_path / "record.json")
    assert cli.main(["bench", "report", str(tmp_path / "record.json"), "--out", str(tmp_path / "report.md")]) == 0
    assert (tmp_path / "report.md").read_text(encoding="utf-8") == markdown.markdown(full_record)
    assert "ours (lossy)" in capsys.readouterr().out
    assert cli.main(["bench", "report", str(tmp_path / "record.json"), "--out", str(tmp_path / "report.doc")]) == 1
    assert "is written as .md, .png or .svg" in capsys.readouterr().err
    missing = tmp_path / "missing" / "report.md"
    assert cli.main(["bench", "report", str(tmp_path / "record.json"), "--out", str(missing)]) == 1
    assert str(missing) in capsys.readouterr().err


def test_plots_without_matplotlib_ask_for_it(
    full_record: Record, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(plots, "is_available", lambda: False)
    full_record.write(tmp_path / "record.json")
    assert cli.main(["bench", "report", str(tmp_path / "record.json"), "--out", str(tmp_path / "page.png")]) == 1
    assert "plots need matplotlib" in capsys.readouterr().err


@pytest.mark.parametrize("suffix", plots.FORMATS)
def test_the_page_holds_every_panel(tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed: pip install matplotlib")
    monkeypatch.setitem(os.environ, "MPLCONFIGDIR", str(tmp_path))
    record = make_record(
        single={"stock": STEADY, "ours": STEADY},
        batch2={"stock": SLOWER, "ours": STEADY},
        hires={"stock": SLOWER, "ours": STEADY},
    )
    for scenario in record.scenarios:
        scenario.sides[1].memory = PeakMemory(5.0, 6.0, 4.5, 12.0, 3.0)
    path = tmp_path / f"page{suffix}"
    plots.draw_page(record, path)
    assert path.stat().st_size > 10_000
    if suffix == ".svg":
        text = path.read_text(encoding="utf-8")
        for title in ("Stock beside the others", "Where the time goes", "Time per picture against batch", "Memory against batch"):
            assert f"<!-- {title} -->" in text


def test_a_stock_side_that_runs_out_of_memory_is_a_result():
    record = make_record(batch32={"stock": [], "ours": STEADY})
    record.scenarios[0].sides[0].failure = "VAEDecode failed: OutOfMemoryError: no memory"
    text = markdown.markdown(record)
    assert cells(text, "stock")[1] == "VAEDecode failed: OutOfMemoryError: no memory"
    assert cells(text, "ours")[6] == "stock drew nothing"


def test_the_bar_shows_the_share_of_the_budget():
    console = pytest.importorskip("rich.console", reason="rich is not installed: pip install rich")
    progress = pytest.importorskip("rich.progress", reason="rich is not installed: pip install rich")
    written = io.StringIO()
    with progress.Progress(console=console.Console(file=written, force_terminal=True, width=100), auto_refresh=False) as bar:
        shown = terminal.RichProgress(bar)
        record = make_record(single={"stock": STEADY}, batch8={"stock": STEADY})
        for number, scenario in enumerate(record.scenarios, start=1):
            shown.scenario_started(scenario, number, 2, 100.0)
            shown.run_done(scenario.sides[0], "run", scenario.sides[0].runs[0])
        (task,) = bar.tasks
        assert (task.description, task.total) == ("2/2 batch8", 100.0)
        assert 0 <= task.completed < 50
    assert "stock        run          2.000 s,  100 s left" in written.getvalue()


def test_lines_tell_a_disturbance_once(capsys: pytest.CaptureFixture[str]):
    record = make_record(single={"stock": STEADY})
    (side,) = record.scenarios[0].sides
    with terminal.make_progress() as shown:
        shown.scenario_started(record.scenarios[0], 1, 1, 60.0)
        for run in side.runs[:2]:
            run.disturbances = ["the card was slowed down by the power brake"]
            shown.run_done(side, "run", run)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "[1/1] single: the scenario single, 60 s and at least one round"
    assert [line for line in lines if "disturbed" in line] == ["  disturbed: the card was slowed down by the power brake"]


def test_the_summary_fits_a_terminal(full_record: Record, capsys: pytest.CaptureFixture[str]):
    terminal.summary(full_record)
    printed = capsys.readouterr().out
    assert "Partial: stopped by Ctrl-C" in printed
    header, rows = terminal._layout(markdown.rows(full_record.scenarios[0]))
    assert header == ["", "stock", "ours (lossy)"]
    lines = terminal.plain_table(header, rows).splitlines()
    assert lines[1].split() == ["median", "s", "4.100", "2.050"]
    ladder = make_record(single=dict.fromkeys(("stock", "a", "b", "c"), STEADY))
    header, rows = terminal._layout(markdown.rows(ladder.scenarios[0]))
    assert [row[0] for row in rows] == ["stock", "a", "b", "c"]
