"""The memory's history in ComfyUI's own page: the chart on Memory Probe and the sidebar tab, in both renderers."""

import json
import re
from pathlib import Path
from typing import Any

from comfy_page import ComfyPage, get_json, read_workflow
from memory_page import (
    CHART,
    PROBE,
    SIDEBAR,
    SIDEBAR_CHART,
    gpu_rows,
    inject,
    is_drawn,
    label,
    probe_workflow,
    queue_by_api,
    sidebar,
    where,
)
from playwright.sync_api import Browser

from .conftest import SCREENSHOTS, renderers


@renderers
def test_the_node_draws_its_run_and_marks_its_place(fresh: ComfyPage, vue_nodes: bool) -> None:
    page = fresh
    page.use_vue_nodes(vue_nodes)
    page.load(probe_workflow(), "chart")
    page.run()
    page.page.wait_for_function(f"() => {CHART}.shadowRoot.querySelector('canvas').ariaLabel.startsWith('Memory in GiB: RAM')")
    assert page.eventually(lambda: "process" in label(page))
    for name in ("ram", "process", "span", "mark"):
        assert is_drawn(page, name=name), name
    page.screenshot(SCREENSHOTS / f"memory-node-{'vue' if vue_nodes else 'legacy'}.png")

    box = page.page.locator(".fastsprites-memory-chart canvas").bounding_box()
    assert box is not None
    assert where(page).startswith("GiB")

    def names_a_node(share: float) -> bool:
        page.page.mouse.move(box["x"] + box["width"] * share, box["y"] + box["height"] * 0.5)
        page.settle()
        assert page.eventually(lambda: "into the run" in where(page))
        return where(page).count("\u00b7") == 2  # unit, time and the node that ran

    assert any(map(names_a_node, (0.3, 0.4, 0.5, 0.6)))  # at one of them ComfyUI may be between two nodes
    page.page.mouse.move(5, 5)
    assert page.eventually(lambda: "run" not in where(page))

    assert all("memory" not in node["inputs"] for node in page.api_prompt().values())
    page.use_vue_nodes(not vue_nodes)
    assert is_drawn(page)


@renderers
def test_the_chart_moves_while_nodes_run(fresh: ComfyPage, vue_nodes: bool) -> None:
    page = fresh
    page.use_vue_nodes(vue_nodes)
    workflow = read_workflow("sprite_optimized")
    for node in workflow["nodes"]:
        if node["type"] == "KSampler":
            node["widgets_values"][2] = 40
        if node["type"] == "EmptyLatentImage":
            node["widgets_values"] = [256, 256, 1]
    page.load(workflow, "moves")
    page.evaluate("() => app.queuePrompt(0)")
    page.page.wait_for_function(f"() => {CHART}.shadowRoot.querySelector('.where').textContent.includes('Draw')")
    pictures = set()
    while len(pictures) < 4:
        assert get_json(page.address, "/queue")["queue_running"], "the chart stood still while the node ran"
        pictures.add(page.evaluate(f"() => {CHART}.shadowRoot.querySelector('canvas').toDataURL()"))
        page.page.wait_for_timeout(100)
    page.evaluate("() => app.api.interrupt()")
    assert page.eventually(lambda: not get_json(page.address, "/queue")["queue_running"])


@renderers
def test_inside_a_subgraph_and_after_a_reload(fresh: ComfyPage, vue_nodes: bool) -> None:
    page = fresh
    page.use_vue_nodes(vue_nodes)
    page.load(probe_workflow(), "subgraph")
    page.evaluate(
        """() => {
            const inner = app.rootGraph.nodes.filter(node => ["MemoryProbe", "KSampler"].includes(node.type));
            app.rootGraph.convertToSubgraph(new Set(inner));
        }"""
    )
    open_subgraph = """() => {
        const host = app.rootGraph.nodes.find(node => node.isSubgraphNode());
        app.canvas.openSubgraph(host.subgraph, host);
    }"""
    page.run()
    page.evaluate(open_subgraph)
    page.settle()
    assert is_drawn(page, name="mark")
    assert is_drawn(page, name="span")
    page.screenshot(SCREENSHOTS / f"memory-subgraph-{'vue' if vue_nodes else 'legacy'}.png")

    page.page.reload()
    page.wait_until_ready()
    page.page.wait_for_function("() => app.rootGraph.nodes.some(node => node.isSubgraphNode())")
    page.evaluate(open_subgraph)
    page.settle()
    page.page.wait_for_function(f"() => {CHART}.shadowRoot.querySelector('canvas')?.ariaLabel?.includes('RAM')")
    for name in ("ram", "span", "mark"):
        assert is_drawn(page, name=name), name


def test_every_tab_sees_every_run(browser: Browser, address: str) -> None:
    tabs = [ComfyPage(browser, address) for _ in range(2)]
    for tab in tabs:
        tab.load(probe_workflow(), "tab")
        sidebar(tab)
    tabs[0].run()
    queue_by_api(address, 512)
    for tab in tabs:
        # titles of nodes of this workflow are not put on those of another
        row = sidebar(tab).get_by_role("rowheader", name="EmptyLatentImage")
        row.wait_for()
        assert sidebar(tab).locator("th[scope=row]").all_text_contents() == ["EmptyLatentImage", "MemoryProbe"]
    tabs[1].run()
    for tab in tabs:
        sidebar(tab).get_by_role("rowheader", name="Draw", exact=True).wait_for()
        sidebar(tab).get_by_text("Optimize Model, CPU: 0 applied").wait_for()
        assert tab.console == []
        tab.close()


def test_the_sidebar_shows_nodes_models_and_plans(fresh: ComfyPage) -> None:
    page = fresh
    page.load(probe_workflow(), "sidebar")
    page.run()
    tab = sidebar(page)
    tab.get_by_role("rowheader", name="Memory Probe").wait_for()
    headings = tab.get_by_role("columnheader").all_text_contents()
    assert headings == ["Node", "Time", "Peak process, GiB", "Growth, GiB"]
    for cell in tab.locator("td:nth-of-type(2)").all_text_contents():
        assert 0.1 < float(cell.removeprefix("\u2265 ")) < 20
    tab.get_by_text("SDXL: 0.0 of 0.0 GiB on cpu").wait_for()
    assert tab.get_by_role("heading").all_text_contents() == [
        "Memory", "Nodes of the last run", "Models and CUDA graphs held", "Applied and refused in the last run",
    ]  # fmt: skip
    tab.get_by_text("CPU: 0 applied").wait_for()
    tab.get_by_label("Show").select_option("last run")
    assert is_drawn(page, SIDEBAR_CHART, "span", 500)
    page.screenshot(SCREENSHOTS / "memory-sidebar.png")

    tab.get_by_role("button", name="Free memory").click()
    tab.get_by_text("ComfyUI frees the memory once no prompt runs.").wait_for()
    is_none = page.eventually(lambda: tab.get_by_text("None.").count())
    held = {route: get_json(page.address, route) for route in ("/fast-sprites/readings", "/queue")}
    assert is_none, (tab.locator("#models").text_content(), held)
    tab.get_by_role("button", name="Reset peak").click()
    tab.get_by_text("Nothing to reset: torch keeps no peak on this device.").wait_for()


def test_history_can_be_saved(fresh: ComfyPage, tmp_path: Path) -> None:
    page = fresh
    page.load(probe_workflow(), "save")
    page.run()
    tab = sidebar(page)
    tab.get_by_role("rowheader", name="Draw", exact=True).wait_for()
    saved = {}
    for kind in ("JSON", "CSV", "PNG"):
        with page.page.expect_download() as download:
            tab.get_by_role("button", name=f"Save {kind}").click()
        assert download.value.suggested_filename.endswith(f".{kind.lower()}")
        path = tmp_path / kind
        download.value.save_as(path)
        saved[kind] = path.read_bytes()
    document = json.loads(saved["JSON"])
    assert len(document["rows"]) > 3
    assert {len(row) for row in document["rows"]} == {len(document["columns"])}
    assert any(row["class_type"] == "KSampler" for row in document["table"]["rows"])
    lines = saved["CSV"].decode().splitlines()
    assert len(lines) > len(document["rows"])
    assert any(line.endswith(",KSampler") for line in lines)
    assert saved["PNG"].startswith(b"\x89PNG")
    (SCREENSHOTS / "memory-saved.png").write_bytes(saved["PNG"])


def test_a_floor_that_rises_is_told(fresh: ComfyPage, address: str) -> None:
    page = fresh
    sentence = "The floor of torch's memory rose after each of the last 5 runs, by 0.5 GiB in all: something keeps memory."
    rows = [
        {"node_id": "9", "class_type": "VAEDecode", "seconds": 1.5, "peak_allocated_gib": 6.25, "is_peak_exact": exact}
        | {"allocated_growth_gib": growth, "peak_process_gib": 2, "process_growth_gib": 0}
        for exact, growth in ((True, 0.5), (False, -0.3))
    ]
    table = {"run": 1, "rows": rows, "num_left_out": 3, "leak": sentence}
    page.page.route("**/fast-sprites/table", lambda route: route.fulfill(json=table))
    model = {"name": "SDXL", "device": "cuda:0", "size_gib": 4.78, "resident_gib": 3.2, "outside_torch_gib": 3.2}
    reading = {"device": "Card", "graphs": {"own_gib": 1.94, "captured_gib": 0.25}, "comfyui": {"models": [model]}, "missing": []}
    page.page.route("**/fast-sprites/readings", lambda route: route.fulfill(json=reading))
    tab = sidebar(page)
    queue_by_api(address, 640)
    tab.get_by_role("alert").filter(has_text=sentence).wait_for()
    assert tab.get_by_role("columnheader").all_text_contents()[2] == "Peak torch, GiB"
    assert tab.get_by_role("cell").all_text_contents() == ["1.5 s", "6.3", "+0.5", "1.5 s", "\u2265 6.3", "\u22120.3"]
    tab.locator("#models li").filter(has_text="graphs").wait_for()
    assert tab.locator("#models li").all_text_contents() == [
        "SDXL: 3.2 of 4.8 GiB on cuda:0",
        "CUDA graphs, GiB: 1.9 in torch (this pack's), 0.3 allocated in captures",
    ]
    assert "3 more executions" in tab.locator("#nodes").text_content()  # type: ignore[operator]


def test_a_gpus_curves_have_their_own_axis(fresh: ComfyPage) -> None:
    page = fresh
    answer = {"columns": [], "now_s": 1, "rows": gpu_rows(), "runs": [], "marks": [], "problem": ""}
    page.page.route("**/fast-sprites/history?*", lambda route: route.fulfill(json=answer))
    page.load(probe_workflow(), "gpu")
    page.evaluate("() => app.api.dispatchEvent(new CustomEvent('reconnected'))")
    sidebar(page)
    page.page.wait_for_function(f"() => {CHART}.shadowRoot.querySelector('canvas').ariaLabel?.includes('active')")
    for name in ("active", "reserved", "driver", "ram"):
        assert is_drawn(page, SIDEBAR_CHART, name, 20), name
    assert "active" in page.evaluate(f"() => {SIDEBAR_CHART}.shadowRoot.querySelector('.legend').textContent")
    page.screenshot(SCREENSHOTS / "memory-gpu-rows.png")


@renderers
def test_keys_move_the_cursor_and_leave_the_node(fresh: ComfyPage, vue_nodes: bool) -> None:
    page = fresh
    page.use_vue_nodes(vue_nodes)
    page.load(probe_workflow(), "keys")
    page.run()
    page.settle()
    page.evaluate(f"() => app.canvas.selectNode({PROBE})")
    page.evaluate(f"() => {CHART}.shadowRoot.querySelector('canvas').focus()")

    def place_after(key: str) -> str:
        page.page.keyboard.press(key)
        page.settle()
        return re.sub(r"(\d+ min )?[\d.]+ m?s ago", "ago", where(page))  # which grows while the test goes on

    places = [place_after("Home")]
    while "into the run" not in places[-1] or len(places) == 1:  # a long run shows more than one reading before it
        places.append(place_after("ArrowRight"))
        assert len(places) < 20, places
    assert places[-1] != places[-2]
    assert place_after("ArrowLeft") == places[-2]
    # Ten readings on, or at the last one; the way back passes the run's first reading, which a single step would have led to.
    place, steps_back = place_after("Shift+ArrowRight"), 0
    while place != places[-1] and steps_back < 10:
        place, steps_back = place_after("ArrowLeft"), steps_back + 1
    assert 0 < steps_back < 10
    page.page.keyboard.press("Delete")
    page.page.keyboard.press("Escape")
    page.settle()
    assert "run" not in where(page)
    assert page.evaluate(f"() => Boolean({PROBE})")
    assert page.page.get_by_role("img", name="Memory in GiB").count() >= 1
    assert re.search("into the run|ago", place_after("Home"))
    queue_by_api(page.address, 832)  # what was pointed at is no longer shown: the newest values are
    assert page.eventually(lambda: not re.search("into the run|ago", where(page)))
    assert "\u2013" not in label(page)


@renderers
def test_the_canvas_can_be_zoomed_and_dragged_over_the_node(page: ComfyPage, vue_nodes: bool) -> None:
    page.use_vue_nodes(vue_nodes)
    page.place_alone("MemoryProbe")
    view = "() => [app.canvas.ds.scale, app.canvas.ds.offset[0]]"
    for element in (".fastsprites-report:visible", ".fastsprites-memory-chart canvas"):
        box = page.page.locator(element).bounding_box()
        assert box is not None
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        scale, _ = page.evaluate(view)
        page.page.mouse.move(x, y)
        page.page.mouse.wheel(0, -100)
        assert page.eventually(lambda scale=scale: page.evaluate(view)[0] > scale), element
        _, left = page.evaluate(view)
        page.page.mouse.down(button="middle")
        page.page.mouse.move(x + 60, y, steps=3)
        page.page.mouse.up(button="middle")
        assert page.eventually(lambda left=left: page.evaluate(view)[1] > left + 10), element


def test_the_sidebar_works_by_keyboard(fresh: ComfyPage) -> None:
    page = fresh
    page.load(probe_workflow(), "keyboard")
    page.evaluate(f"() => app.canvas.selectNode({PROBE})")
    tab = sidebar(page)
    tab.get_by_label("Show").focus()
    reached = []
    for _ in range(7):
        page.page.keyboard.press("Tab")
        reached.append(page.evaluate(f"() => document.querySelector('{SIDEBAR}').shadowRoot.activeElement?.id"))
    assert [name for name in reached if name] == ["free", "reset", "json", "csv", "png", "nodes"]
    page.page.keyboard.press("Delete")
    page.page.keyboard.press("Backspace")
    assert page.evaluate(f"() => Boolean({PROBE})")
    with page.page.expect_request("**/api/prompt"):  # runs the workflow from here too
        page.page.keyboard.press("Control+Enter")
    assert page.eventually(lambda: not any(get_json(page.address, "/queue").values()))


def test_settings_choose_rate_curves_unit_and_off(fresh: ComfyPage, address: str) -> None:
    page = fresh
    asked: list[str] = []
    page.page.on("request", lambda request: asked.append(request.url) if "/fast-sprites/history" in request.url else None)
    page.load(probe_workflow(), "settings")
    tab = sidebar(page)
    page.run()
    page.settle()

    def choose(name: str, value: Any) -> None:
        page.evaluate("([name, value]) => app.extensionManager.setting.set(`FastSprites.Memory.${name}`, value)", [name, value])

    try:
        choose("Curve.ram", False)
        assert page.eventually(lambda: "process" in label(page) and "RAM" not in label(page))
        tab.get_by_role("columnheader", name="Peak process, GiB").wait_for()
        choose("Unit", "MiB")
        assert page.eventually(lambda: label(page).startswith("Memory in MiB"))
        tab.get_by_role("columnheader", name="Peak process, MiB").wait_for()
        choose("Rate", "10")
        assert page.eventually(lambda: asked[-1].endswith("rate_hz=10"))
        choose("Live", False)
        assert page.eventually(lambda: label(page) == "Memory: no readings yet")
        assert "off" in where(page)
        asked.clear()
        queue_by_api(address, 704)
        # the table and what was applied are of this run all the same
        tab.get_by_role("rowheader", name="EmptyLatentImage").wait_for()
        tab.get_by_text("It used neither Optimize Model nor Optimize VAE.").wait_for()
        assert label(page) == "Memory: no readings yet"
        assert asked == []
    finally:
        for name, value in (("Curve.ram", True), ("Unit", "GiB"), ("Rate", "4"), ("Live", True)):
            choose(name, value)
    page.page.wait_for_function(f"() => {CHART}.shadowRoot.querySelector('canvas').ariaLabel.startsWith('Memory in GiB: RAM')")


def test_a_new_server_starts_a_new_history(fresh: ComfyPage) -> None:
    page = fresh
    page.load(probe_workflow(), "reconnect")
    sidebar(page)
    inject(page, gpu_rows())
    legend = page.page.locator(f"{SIDEBAR} .legend")
    assert page.eventually(lambda: "active" in (legend.text_content() or ""))
    page.evaluate("() => app.api.dispatchEvent(new CustomEvent('reconnecting'))")
    assert page.eventually(lambda: "the server is away" in where(page))
    page.evaluate("() => app.api.dispatchEvent(new CustomEvent('reconnected'))")
    assert page.eventually(lambda: "active" not in (legend.text_content() or "") and "away" not in where(page))


def test_a_broken_device_is_said_in_the_chart(fresh: ComfyPage) -> None:
    page = fresh
    answer = {"columns": [], "now_s": 1, "rows": gpu_rows(), "runs": [], "marks": [], "problem": "CUDA error: device lost"}
    page.page.route("**/fast-sprites/history?*", lambda route: route.fulfill(json=answer))
    page.load(probe_workflow(), "broken")
    page.evaluate("() => app.api.dispatchEvent(new CustomEvent('reconnected'))")
    page.page.wait_for_function(f"() => {CHART}.shadowRoot.querySelector('.where').textContent.includes('device lost')")
