"""How the report on a node looks and behaves: readable in both themes, usable by keyboard, gone when its node is."""

import re
from typing import Any

import pytest
from comfy_page import ComfyPage, read_workflow
from playwright.sync_api import Locator

from .conftest import SCREENSHOTS, renderers

MIN_CONTRAST = 4.5  # WCAG 2.2, 1.4.3 Contrast (Minimum), level AA
REPORT = "\n".join(
    [
        "CPU: 1 applied, 1 refused",
        "applied: channels-last: whole UNet",
        "refused: CUDA graph: needs a CUDA device, this is CPU",
        "kept: precision: fp32, as ComfyUI loaded it",
        "note: the first run compiles",
        *(f"line {number}" for number in range(40)),
    ]
)
EXECUTED = """report => {
    const node = app.canvas.graph.nodes.find(node => node.type === "OptimizeModel");
    node.onExecuted({ text: [report] });
}"""


@pytest.fixture
def optimize_model(page: ComfyPage) -> ComfyPage:
    """One Optimize Model alone on the canvas, at its normal size, where nothing covers it."""
    page.place_alone("OptimizeModel")
    return page


def report_element(page: ComfyPage) -> Locator:
    return page.page.locator(".fastsprites-report:visible")


def rgb(page: ComfyPage, color: str) -> tuple[float, float, float]:
    """A CSS colour as the browser paints it, each part 0 to 1."""
    pixel = page.evaluate(
        """color => {
            const context = new OffscreenCanvas(1, 1).getContext("2d");
            context.fillStyle = color;
            context.fillRect(0, 0, 1, 1);
            return [...context.getImageData(0, 0, 1, 1).data];
        }""",
        color,
    )
    red, green, blue, alpha = (part / 255 for part in pixel)
    assert alpha == 1, color
    return red, green, blue


def contrast(first: tuple[float, float, float], second: tuple[float, float, float]) -> float:
    """WCAG's contrast ratio of two colours."""

    def luminance(color: tuple[float, float, float]) -> float:
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in color]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    lighter, darker = sorted((luminance(first), luminance(second)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def styles(page: ComfyPage) -> dict[str, Any]:
    """The report's background, and by kind of line the colours of its text and of its mark."""
    return report_element(page).evaluate(
        """element => ({
            background: getComputedStyle(element).backgroundColor,
            lines: Object.fromEntries([...element.shadowRoot.querySelectorAll("p")].map(line => [line.className,
                [line, ...line.querySelectorAll(".mark")].map(part => getComputedStyle(part).color)])),
        })"""
    )


@renderers
@pytest.mark.parametrize("theme", ["dark", "light"])
def test_lines_are_readable_and_distinct(optimize_model: ComfyPage, theme: str, vue_nodes: bool) -> None:
    page = optimize_model
    page.evaluate("theme => app.extensionManager.setting.set('Comfy.ColorPalette', theme)", theme)
    page.use_vue_nodes(vue_nodes)
    page.evaluate(EXECUTED, REPORT)
    page.settle()
    found = styles(page)
    page.screenshot(SCREENSHOTS / f"report-{theme}-{'vue' if vue_nodes else 'legacy'}.png")
    page.evaluate("() => app.extensionManager.setting.set('Comfy.ColorPalette', 'dark')")
    background = rgb(page, found["background"])
    for kind, colors in found["lines"].items():
        for color in colors:
            ratio = contrast(rgb(page, color), background)
            assert ratio >= MIN_CONTRAST, f"{kind}: {color} on {found['background']} is {ratio:.2f}"
    assert found["lines"]["applied"][1] != found["lines"]["refused"][1]


@renderers
def test_a_new_node_has_room_for_its_report(page: ComfyPage, vue_nodes: bool) -> None:
    page.use_vue_nodes(vue_nodes)
    for kind in ("OptimizeModel", "MemoryProbe", "BatchSpriteSampler"):
        page.place_alone(kind)
        box = report_element(page).bounding_box()
        assert box is not None, kind
        assert box["height"] >= 100, kind
        assert box["width"] >= 180, kind


@renderers
def test_a_long_report_scrolls_and_leaves_the_node_as_it_is(optimize_model: ComfyPage, vue_nodes: bool) -> None:
    page = optimize_model
    page.use_vue_nodes(vue_nodes)
    element = report_element(page)
    before = element.bounding_box()
    page.evaluate(EXECUTED, REPORT)
    page.settle()
    assert element.bounding_box() == before
    element.focus()
    assert element.evaluate("element => element.scrollTop") == 0
    page.page.keyboard.press("End")
    page.page.wait_for_function("() => document.activeElement.scrollTop > 100")
    page.evaluate(EXECUTED, "CPU: 0 applied, 0 refused")
    assert element.evaluate("element => element.scrollTop") == 0


@renderers
def test_the_report_is_announced_and_its_labels_are_words(optimize_model: ComfyPage, vue_nodes: bool) -> None:
    page = optimize_model
    page.use_vue_nodes(vue_nodes)
    page.evaluate(EXECUTED, REPORT)
    page.settle()
    assert report_element(page).get_attribute("tabindex") == "0"  # Safari focuses nothing that scrolls by itself
    snapshot = page.page.get_by_role("status", name="Report").aria_snapshot()
    assert re.search(r"applied: channels-last: whole UNet", snapshot)
    assert re.search(r"refused: CUDA graph: needs a CUDA device, this is CPU", snapshot)
    assert "\u2713" not in snapshot


@renderers
def test_keys_in_the_report_do_not_reach_the_canvas(optimize_model: ComfyPage, vue_nodes: bool) -> None:
    page = optimize_model
    page.use_vue_nodes(vue_nodes)
    page.evaluate(EXECUTED, REPORT)
    page.evaluate("() => app.canvas.selectNode(app.canvas.graph.nodes[0])")
    report_element(page).focus()
    for key in ("Delete", "Backspace", "m", "Control+b"):
        page.page.keyboard.press(key)
    page.settle()
    assert page.evaluate("() => app.canvas.graph.nodes.map(node => [node.type, node.mode])") == [["OptimizeModel", 0]]


@renderers
def test_text_of_the_report_can_be_copied(optimize_model: ComfyPage, vue_nodes: bool) -> None:
    page = optimize_model
    page.use_vue_nodes(vue_nodes)
    page.evaluate(EXECUTED, REPORT)
    page.settle()
    line = report_element(page).locator("p.refused")
    box = line.bounding_box()
    assert box is not None
    page.page.mouse.click(box["x"] + 60, box["y"] + 8, click_count=3)
    copied = report_element(page).evaluate(
        """element => new Promise(done => {
            element.addEventListener("copy", event => done([event.defaultPrevented, String(getSelection())]), {once: true});
            document.execCommand("copy");
        })"""
    )
    assert copied[0] is False
    assert "CUDA graph: needs a CUDA device, this is CPU" in copied[1]


def test_removed_nodes_leave_nothing_behind(page: ComfyPage) -> None:
    empty = {"nodes": [], "links": [], "groups": [], "config": {}, "extra": {}, "version": 0.4}
    page.load(read_workflow("sprite_optimized"))
    page.evaluate(
        """() => globalThis.watched = app.rootGraph.nodes
            .flatMap(node => node.widgets ?? []).filter(widget => widget.name === "report")
            .map(widget => new WeakRef(widget.element))"""
    )
    assert page.evaluate("() => watched.length") == 3
    page.load(empty)
    assert page.page.locator(".fastsprites-report").count() == 0
    session = page.page.context.new_cdp_session(page.page)
    for _ in range(5):
        session.send("HeapProfiler.collectGarbage")
        page.settle()
    assert page.evaluate("() => watched.filter(reference => reference.deref()).length") == 0
