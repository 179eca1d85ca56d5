"""What the tests of the memory's history share: a workflow with a probe, the chart and the sidebar of a page, what they hold."""

import itertools
import time
from typing import Any

from comfy_page import TIMEOUT_S, ComfyPage, get_json, post_json, read_workflow, small
from playwright.sync_api import Locator

SIDEBAR = ".fastsprites-memory-sidebar"
TOGGLE = "() => app.extensionManager.command.execute('Workspace.ToggleSidebarTab.fast-sprites')"
PROBE = "app.canvas.graph.nodes.find(node => node.type === 'MemoryProbe')"
CHART = f"{PROBE}.widgets.find(widget => widget.name === 'memory').element"
SIDEBAR_CHART = f"document.querySelector('{SIDEBAR}').shadowRoot.querySelector('.fastsprites-memory-chart')"
EMPTY = {"nodes": [], "links": [], "groups": [], "config": {}, "extra": {}, "version": 0.4}
SEEDS = itertools.count(1000)


def probe_workflow() -> dict[str, Any]:
    """A small workflow with a probe, whose sampler has no cached result."""
    workflow = small(read_workflow("sprite_optimized"))
    for node in workflow["nodes"]:
        if node["type"] == "KSampler":
            node["widgets_values"][0] = next(SEEDS)
    return workflow


def queue_by_api(address: str, width: int) -> None:
    """Run a small prompt as a program that has no tab does, and wait for its end."""
    widgets = {"label": "", "reset_peak": False, "snapshot": "", "compare_with": ""}
    prompt = {
        "1": {"class_type": "EmptyLatentImage", "inputs": {"width": width, "height": 64, "batch_size": 1}},
        "77": {"class_type": "MemoryProbe", "inputs": {"value": ["1", 0], **widgets}},
    }
    queued = post_json(address, "/prompt", {"prompt": prompt, "client_id": "a program"})
    deadline = time.monotonic() + TIMEOUT_S
    while not get_json(address, f"/history/{queued['prompt_id']}"):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def sidebar(page: ComfyPage) -> Locator:
    """The open sidebar tab."""
    found = page.page.locator(SIDEBAR)
    if not found.count():
        page.evaluate(TOGGLE)
        found.wait_for()
    return found


def close_sidebar(page: ComfyPage) -> None:
    if page.page.locator(SIDEBAR).count():
        page.evaluate(TOGGLE)
        page.page.locator(SIDEBAR).wait_for(state="detached")


def label(page: ComfyPage) -> str:
    """What the node's chart says to those who cannot see it."""
    return page.evaluate(f"() => {CHART}.shadowRoot.querySelector('canvas').ariaLabel")


def where(page: ComfyPage) -> str:
    return page.evaluate(f"() => {CHART}.shadowRoot.querySelector('.where').textContent")


def pixels(page: ComfyPage, chart: str = CHART, name: str = "ram") -> int:
    """How many pixels of the chart have a colour of its palette, give or take what smoothing does."""
    return page.evaluate(
        f"""name => {{
            const element = {chart};
            const canvas = element.shadowRoot.querySelector("canvas");
            const one = new OffscreenCanvas(1, 1).getContext("2d");
            one.fillStyle = getComputedStyle(element).getPropertyValue(`--${{name}}`);
            one.fillRect(0, 0, 1, 1);
            const wanted = one.getImageData(0, 0, 1, 1).data;
            const seen = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
            let count = 0;
            for (let i = 0; i < seen.length; i += 4)
                count += seen[i + 3] > 100 && [0, 1, 2].every(part => Math.abs(seen[i + part] - wanted[part]) < 40);
            return count;
        }}""",
        name,
    )


def is_drawn(page: ComfyPage, chart: str = CHART, name: str = "ram", more_than: int = 10) -> bool:
    """Whether the chart has, or comes to have, more pixels of a colour than that: a busy machine draws late."""
    return page.eventually(lambda: pixels(page, chart, name) > more_than)


def gpu_rows() -> list[list[float]]:
    """The last 50 seconds of a GPU, which the server of these tests does not have."""
    return [[1_000_000 + i, time.time() - 50 + 0.25 * i, 3 + i % 4, 6, 8, 20, 4] for i in range(200)]


def inject(page: ComfyPage, rows: list[list[float]]) -> None:
    """Let the page hear rows as from the server."""
    page.evaluate(
        "rows => app.api.dispatchEvent(new CustomEvent('fast-sprites.memory', {detail: {rows}}))",
        rows,
    )
    page.settle()


def counts(page: ComfyPage) -> dict[str, float]:
    """DOM nodes, listeners and JavaScript heap after collecting garbage."""
    session = page.page.context.new_cdp_session(page.page)
    session.send("Performance.enable")
    for _ in range(4):
        session.send("HeapProfiler.collectGarbage")
        page.settle()
    found = {metric["name"]: metric["value"] for metric in session.send("Performance.getMetrics")["metrics"]}
    session.detach()
    return {name: found[name] for name in ("Nodes", "JSEventListeners", "JSHeapUsedSize")}


def hear(page: ComfyPage, first: int, num_events: int) -> None:
    """Let the page hear events as while prompts run: four samples and a run of twelve nodes in each."""
    page.evaluate(
        """async ([first, count]) => {
            const spans = run => Array.from({length: 12}, (_, i) => ({node_id: String(i), class_type: "Node",
                start_s: run * 2 + i / 6, end_s: run * 2 + (i + 1) / 6}));
            for (let event = 0; event < count; event++) {
                const rows = Array.from({length: 4}, (_, i) => {
                    const seq = first + event * 4 + i;
                    return [seq, seq / 20, 4 + seq % 5, 8, 9, 20, 3];
                });
                const run = Math.floor(event / 10) + first;
                const detail = {rows, runs: [{run, start_s: run * 2, end_s: event % 10 ? null : run * 2 + 2, num_left_out: 0,
                    spans: spans(run)}], marks: []};
                app.api.dispatchEvent(new CustomEvent("fast-sprites.memory", {detail}));
                if (event % 50 === 0) await new Promise(done => requestAnimationFrame(done));
            }
        }""",
        [first, num_events],
    )
