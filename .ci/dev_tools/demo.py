"""Draws the bundled workflows on a running server, shows the progress, saves the pictures and prints what was done."""

import asyncio
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dev_tools.console import bar, draw_over, say
from dev_tools.contact_sheet import write_contact_sheet
from dev_tools.memory_watch import MemoryWatch
from dev_tools.pack import pack_module
from dev_tools.workflow_files import TINY_SIZE, Workflow, fitted, load_workflows
from dev_tools.workspace import PACK_ROOT


@dataclass(frozen=True)
class Drawn:
    """What one workflow did."""

    name: str
    pictures: tuple[Path, ...]
    size: str
    seconds: float
    peak_gib: float
    reports: tuple[str, ...]


class WorkflowProgress:
    """One bar for a workflow: nodes done of all, and the steps of the one that runs."""

    def __init__(self, workflow: Workflow) -> None:
        """Nothing is done yet."""
        self._workflow = workflow
        self._done: set[str] = set()
        self._running: str | None = None
        self._steps = (0, 0)
        self._started_at = time.monotonic()
        self._live = sys.stdout.isatty()

    def update(self, event: Any) -> None:
        """Take one event of the server into account."""
        client = pack_module("nodes.benchmark.client")
        if isinstance(event, client.Cached):
            self._done.update(event.node_ids)
        elif isinstance(event, client.NodeStarted):
            if self._running is not None:
                self._done.add(self._running)
            self._running, self._steps = event.node_id, (0, 0)
            if not self._live:
                say(self.text())
        elif isinstance(event, client.Step):
            self._running, self._steps = event.node_id, (event.value, event.maximum)
        if self._live:
            draw_over(self.text())

    def text(self) -> str:
        """The bar, the running node with its steps, and the time."""
        step, steps = self._steps
        fraction = (len(self._done) + (step / steps if steps else 0)) / len(self._workflow.prompt)
        node = self._workflow.title(self._running) if self._running else "waiting"
        counted = f" {step}/{steps}" if steps else ""
        return f"{self._workflow.name:<20} {bar(fraction)} {time.monotonic() - self._started_at:6.1f} s  {node}{counted}"

    def finish(self, outcome: str) -> None:
        """Leave the full bar, or what became of it, on the screen."""
        full = bar(1.0) if outcome == "done" else bar(0.0)
        text = f"{self._workflow.name:<20} {full} {time.monotonic() - self._started_at:6.1f} s  {outcome}"
        if self._live:
            draw_over(text)
            print(flush=True)
        else:
            say(text)


def summary_of(report: str) -> list[str]:
    """The lines of OptimizeModel's report that say what was applied and what was refused."""
    return [line for line in report.splitlines() if line.startswith(("applied:", "refused:"))]


async def draw(client: Any, workflow: Workflow, output: Path, watch: MemoryWatch) -> Drawn:
    """Run one workflow and save its pictures; raises DevError with the node and the reason if it fails."""
    events = pack_module("nodes.benchmark.client")
    progress, started_at = WorkflowProgress(workflow), time.monotonic()
    watch.restart()
    outcome = None
    prompt_id = await client.queue(workflow.prompt, workflow.ui)
    async for event in client.follow(prompt_id):
        progress.update(event)
        outcome = event
    if not isinstance(outcome, events.Succeeded):
        progress.finish("failed")
        reason = (
            f"{workflow.title(outcome.node_id)}: {outcome.message}" if isinstance(outcome, events.Failed) else "it was cancelled"
        )
        raise events.ClientError(f"{workflow.name} failed: {reason}")
    seconds = time.monotonic() - started_at
    progress.finish("done")
    history = await client.history(prompt_id)
    pictures = []
    for number, ref in enumerate(history.images, start=1):
        picture = output / f"{workflow.name}_{number:02}.png"
        picture.write_bytes(await client.image(ref))
        pictures.append(picture)
    if not pictures:
        raise events.ClientError(f"{workflow.name} saved no picture: look for its Save Image node.")
    texts = [history.outputs.get(node_id, {}).get("text", ()) for node_id in workflow.nodes_of("OptimizeModel")]
    reports = tuple(line for text in texts for line in summary_of("\n".join(text)))
    return Drawn(workflow.name, tuple(pictures), sizes_of(pictures), seconds, watch.peak_gib, reports)


def sizes_of(pictures: Sequence[Path]) -> str:
    """The sizes of the pictures, each once."""
    from PIL import Image

    sizes: dict[str, None] = {}
    for path in pictures:
        with Image.open(path) as picture:
            sizes[f"{picture.width}x{picture.height}"] = None
    return ", ".join(sizes)


def table(rows: Sequence[Drawn], memory: str) -> str:
    """What was drawn, one line a workflow; then what OptimizeModel did in each."""
    head = ("workflow", "pictures", "size", "seconds", f"peak {memory}")
    cells = [head] + [(r.name, str(len(r.pictures)), r.size, f"{r.seconds:.1f}", f"{r.peak_gib:.2f} GiB") for r in rows]
    widths = [max(len(row[column]) for row in cells) for column in range(len(head))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]
    lines.insert(1, "  ".join("-" * width for width in widths))
    by_reports: dict[tuple[str, ...], list[str]] = {}
    for row in rows:
        by_reports.setdefault(row.reports, []).append(row.name)
    for reports, names in by_reports.items():
        lines += ["", f"OptimizeModel in {', '.join(names)}:"]
        lines += [f"  {line}" for line in reports] or ["  nothing applied, nothing refused"]
    return "\n".join(lines)


async def draw_all(server: Any, workflows: Sequence[Workflow], output: Path, with_cuda: bool) -> list[Drawn]:
    """Run the workflows one after the other."""
    connect = pack_module("nodes.benchmark.client").connect
    async with connect(server.address) as client, MemoryWatch(client, server.pid, with_cuda) as watch:
        return [await draw(client, workflow, output, watch) for workflow in workflows]


def run_demo(server: Any, checkpoint: str, tiny: bool, names: Sequence[str] | None, output: Path, device: str | None) -> int:
    """Start the server, draw, save, print the table, stop the server; 0 if every picture was drawn."""
    workflows = [
        fitted(workflow, checkpoint, TINY_SIZE if tiny else None) for workflow in load_workflows(PACK_ROOT / "workflows", names)
    ]
    output.mkdir(parents=True, exist_ok=True)
    say(f"Starting ComfyUI on {device or 'the CPU'} with {checkpoint}; its log is {server.setup.log}")
    with server:
        rows = asyncio.run(draw_all(server, workflows, output, device is not None))
    sheet = output / "contact_sheet.png"
    write_contact_sheet([(row.name, row.pictures) for row in rows], sheet)
    say("")
    say(table(rows, "VRAM in use" if device else "server memory"))
    say("")
    num_pictures = sum(len(row.pictures) for row in rows)
    say(f"{num_pictures} picture{'s' if num_pictures != 1 else ''} and {sheet.name} are in {output.resolve()}")
    if tiny:
        say("They come from a tiny stand-in for SDXL: give a real checkpoint with --checkpoint FILE to draw sprites.")
    return 0
