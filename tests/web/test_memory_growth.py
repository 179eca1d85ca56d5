"""What the memory's history costs a page that stays open: nothing that grows with the runs, nothing after it is closed."""

import itertools
from collections.abc import Callable

from comfy_page import ComfyPage
from memory_page import CHART, EMPTY, SIDEBAR, close_sidebar, counts, hear, probe_workflow, queue_by_api, sidebar

from .conftest import renderers


@renderers
def test_removed_charts_leave_nothing_behind(fresh: ComfyPage, vue_nodes: bool) -> None:
    page = fresh
    page.use_vue_nodes(vue_nodes)
    page.evaluate("() => globalThis.watched = {charts: [], others: [], sidebars: []}")
    for _ in range(4):
        page.load(probe_workflow(), "gone")
        sidebar(page)
        page.evaluate(
            f"""() => {{
                watched.charts.push(new WeakRef({CHART}));
                watched.others.push(new WeakRef(app.canvas.graph.nodes.find(node => node.type === "KSampler")));
                watched.sidebars.push(new WeakRef(document.querySelector('{SIDEBAR}')));
            }}"""
        )
        close_sidebar(page)
        page.load(EMPTY)
    assert page.page.locator(".fastsprites-memory-chart").count() == 0
    counts(page)
    kept = page.evaluate("() => Object.values(watched).map(all => all.filter(reference => reference.deref()).length)")
    # With Vue nodes ComfyUI's page itself keeps removed nodes, its own too, and their widgets with them.
    charts, others, sidebars = kept
    assert charts <= others
    assert sidebars <= 1  # Chromium's WebFormElementObserver, for autofill, holds on to the last form control removed
    if not vue_nodes:
        assert charts == 0


@renderers
def test_half_an_hour_of_runs_stays_bounded(fresh: ComfyPage, address: str, vue_nodes: bool) -> None:
    """9,000 events, as many as a page hears in 30 minutes of running, and 30 real runs, with node and sidebar open."""
    page = fresh
    page.use_vue_nodes(vue_nodes)
    page.load(probe_workflow(), "soak")
    page.run()
    sidebar(page).get_by_role("rowheader", name="Draw", exact=True).wait_for()
    widths = itertools.count(64 if vue_nodes else 2048, 8)

    def grown(action: Callable[[], None]) -> dict[str, float]:
        before = counts(page)
        action()
        page.page.wait_for_timeout(500)
        after = counts(page)
        return {name: after[name] - before[name] for name in after}

    def runs() -> None:
        for _ in range(30):
            queue_by_api(address, next(widths))

    def live(is_on: bool) -> None:
        page.evaluate("isOn => app.extensionManager.setting.set('FastSprites.Memory.Live', isOn)", is_on)
        page.page.wait_for_timeout(500)

    hear(page, 1_000_000, 4500)  # fills the history: what it holds is bounded, not nothing
    heard = grown(lambda: hear(page, 2_000_000, 4500))
    assert heard["Nodes"] <= 50
    assert heard["JSEventListeners"] <= 10
    assert heard["JSHeapUsedSize"] <= 1.5e6
    ran = grown(runs)
    # ComfyUI's page itself grows with every job that it lists, so a page without readings is the measure.
    try:
        live(False)
        close_sidebar(page)
        without = [grown(runs), grown(runs)]
    finally:
        live(True)
    for name, room in (("Nodes", 200), ("JSEventListeners", 100), ("JSHeapUsedSize", 1.5e6)):
        assert ran[name] <= 1.5 * max(0, *(measure[name] for measure in without)) + room, name
