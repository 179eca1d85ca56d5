"""How the memory's chart and sidebar look: contrast in both themes, and at twice the zoom."""

import types
from typing import cast

import pytest
from comfy_page import ComfyPage
from memory_page import CHART, SIDEBAR, SIDEBAR_CHART, is_drawn, probe_workflow, sidebar
from playwright.sync_api import Browser, ViewportSize

from .conftest import SCREENSHOTS, renderers
from .test_report import contrast, rgb

GRAPHICS_CONTRAST = 3.0  # WCAG 2.2, 1.4.11 Non-text Contrast
TEXT_CONTRAST = 4.5  # WCAG 2.2, 1.4.3 Contrast (Minimum)
HALF: ViewportSize = {"width": 960, "height": 540}


@renderers
@pytest.mark.parametrize("theme", ["dark", "light"])
def test_curves_and_words_stand_out(fresh: ComfyPage, theme: str, vue_nodes: bool) -> None:
    page = fresh
    page.evaluate("theme => app.extensionManager.setting.set('Comfy.ColorPalette', theme)", theme)
    page.use_vue_nodes(vue_nodes)
    page.load(probe_workflow(), "theme")
    page.run()
    tab = sidebar(page)
    tab.get_by_role("rowheader", name="Draw", exact=True).wait_for()
    charts = [CHART, SIDEBAR_CHART]
    for chart in charts:
        assert is_drawn(page, chart)
    page.screenshot(SCREENSHOTS / f"memory-{theme}-{'vue' if vue_nodes else 'legacy'}.png")
    found: list[tuple[str, str, str, float]] = []
    for chart in charts:
        style = page.evaluate(
            f"""() => Object.fromEntries(
                ["surface", "text", "quiet", "active", "reserved", "driver", "ram", "process", "mark", "span", "edge"].map(
                    name => [name, getComputedStyle({chart}).getPropertyValue(`--${{name}}`)]))"""
        )
        surface = style.pop("surface")
        found.append(("text on a span", style["text"], style.pop("span"), TEXT_CONTRAST))
        words = ("text", "quiet", "ram")  # the numbers of the right axis are written in the last
        found += [(n, c, surface, TEXT_CONTRAST if n in words else GRAPHICS_CONTRAST) for n, c in style.items()]
    colors = page.evaluate(
        f"""() => [...document.querySelector('{SIDEBAR}').shadowRoot.querySelectorAll("h2, h3, th, td, li, button, #device")]
            .map(part => [part.id || part.localName, getComputedStyle(part).color,
                part.localName === "button" ? getComputedStyle(part).backgroundColor
                    : getComputedStyle(document.querySelector('{SIDEBAR}')).backgroundColor])"""
    )
    found += [(name, color, surface, TEXT_CONTRAST) for name, color, surface in colors]
    page.evaluate("() => app.extensionManager.setting.set('Comfy.ColorPalette', 'dark')")
    for name, color, surface, least in found:
        ratio = contrast(rgb(page, color), rgb(page, surface))
        assert ratio >= least, f"{name}: {color} on {surface} is {ratio:.2f}"


@renderers
def test_at_twice_the_zoom_everything_fits(browser: Browser, address: str, vue_nodes: bool) -> None:
    # what 200 % makes of 1920 x 1080
    zoomed = types.SimpleNamespace(new_page=lambda viewport: browser.new_page(viewport=HALF, device_scale_factor=2))
    page = ComfyPage(cast("Browser", zoomed), address)
    page.use_vue_nodes(vue_nodes)
    page.load(probe_workflow(), "zoom")
    page.run()
    tab = sidebar(page)
    tab.get_by_role("rowheader", name="Draw", exact=True).wait_for()
    assert is_drawn(page, SIDEBAR_CHART)
    page.screenshot(SCREENSHOTS / f"memory-200-percent-{'vue' if vue_nodes else 'legacy'}.png")
    assert tab.evaluate("element => element.scrollWidth <= element.clientWidth + 1")
    for button in tab.get_by_role("button").all():
        button.scroll_into_view_if_needed()
        box = button.bounding_box()
        assert box is not None
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= 960
    sharp = tab.locator("canvas").evaluate("canvas => canvas.width / canvas.clientWidth")
    assert sharp == pytest.approx(2, rel=0.02)
    assert page.console == []
    page.close()
