"""The pack in other languages than English: nodes, tooltips, help pages, settings and the sidebar tab, as ComfyUI's page shows them."""

import json
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
from comfy_page import PACK_ROOT, TIMEOUT_S, ComfyPage
from playwright.sync_api import Browser

from .conftest import SCREENSHOTS

DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
NODE_WORDS = """names => Object.fromEntries(names.map(name => {
    const kind = LiteGraph.registered_node_types[name];
    const node = LiteGraph.createNode(name);
    return [name, {
        display_name: kind.title,
        description: kind.nodeData.description,
        category: kind.nodeData.category,
        inputs: Object.fromEntries(node.inputs.map(input => [input.name, input.localized_name])),
        widgets: Object.fromEntries((node.widgets ?? []).map(widget => [widget.name, widget.label])),
        outputs: node.outputs.map(output => output.localized_name),
    }];
}))"""
TITLE_AND_INPUT = """() => {
    const node = app.canvas.graph.nodes[0];
    const [x, y] = node.getConnectionPos(true, 0);
    return {title: [node.pos[0] + 60, node.pos[1] - 12], input: [x + 2, y]};
}"""


def words(language: str, file: str) -> dict[str, Any]:
    return json.loads((PACK_ROOT / "locales" / language / f"{file}.json").read_text(encoding="utf-8"))


def set_language(address: str, language: str) -> None:
    request = urllib.request.Request(f"{address}/settings/Comfy.Locale", json.dumps(language).encode(), method="POST")
    DIRECT.open(request, timeout=TIMEOUT_S).close()


@pytest.fixture(params=["zh", "ja"])
def language(request: pytest.FixtureRequest, address: str) -> Iterator[str]:
    """The language of every page that is opened now."""
    set_language(address, request.param)
    yield request.param
    set_language(address, "en")


def test_nodes_help_settings_and_sidebar_are_translated(browser: Browser, address: str, language: str) -> None:
    page = ComfyPage(browser, address)
    page.use_vue_nodes(False)
    nodes, main = words(language, "nodeDefs"), words(language, "main")
    shown = page.evaluate(NODE_WORDS, list(nodes))
    for name, node in nodes.items():
        seen = shown[name]
        assert (seen["display_name"], seen["description"]) == (node["display_name"], node["description"])
        assert seen["inputs"].items() <= {key: socket["name"] for key, socket in node["inputs"].items()}.items(), name
        own = {key: label for key, label in seen["widgets"].items() if key in node["inputs"]}
        assert own == {key: node["inputs"][key]["name"] for key in own}, name
        assert seen["outputs"] == [socket["name"] for socket in node["outputs"].values()], name
    assert shown["PixelPalette"]["category"] == f"Fast Sprites/{main['nodeCategories']['pixel art']}"

    page.place_alone("PixelPalette", y=300)
    places = page.evaluate(TITLE_AND_INPUT)
    left, top = page.evaluate("() => { const box = app.canvas.canvas.getBoundingClientRect(); return [box.left, box.top]; }")
    tooltips = {"title": nodes["PixelPalette"]["description"], "input": nodes["PixelPalette"]["inputs"]["image"]["tooltip"]}
    for part, text in tooltips.items():
        page.page.mouse.move(left + places[part][0] + 3, top + places[part][1])
        page.page.mouse.move(left + places[part][0], top + places[part][1])
        page.page.get_by_text(text, exact=True).wait_for()

    page.evaluate("() => app.canvas.selectNode(app.canvas.graph.nodes[0])")
    page.page.get_by_test_id("info-button").click()
    page.page.get_by_role("heading", name=nodes["PixelPalette"]["display_name"], level=1).wait_for()
    page.screenshot(SCREENSHOTS / f"help-{language}.png")

    page.page.get_by_role("button", name=main["Fast Sprites: memory"]).wait_for()
    page.evaluate("() => app.extensionManager.command.execute('Comfy.ShowSettingsDialog')")
    dialog = page.page.get_by_role("dialog")
    dialog.get_by_text("Fast Sprites", exact=True).click()
    for setting in words(language, "settings").values():
        dialog.get_by_text(setting["name"], exact=True).wait_for()
    dialog.get_by_text(main["settingsCategories"]["Memory"], exact=True).first.wait_for()
    page.screenshot(SCREENSHOTS / f"settings-{language}.png")
    assert page.console == []
    page.close()
