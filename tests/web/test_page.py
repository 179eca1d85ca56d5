"""The bundled workflows and the report on the nodes, in ComfyUI's own page and in both of its renderers."""

import pytest
from build_workflows import link_problems
from comfy_page import ComfyPage, bundled_workflows, get_json, read_api_workflow, read_workflow, small
from playwright.sync_api import Browser

from .conftest import SCREENSHOTS, renderers

WORKFLOWS = bundled_workflows()
PLACEHOLDER = "Run the workflow to see here what this node did."


def last_texts(address: str) -> dict[str, str]:
    """What the nodes of the last finished run reported, by execution id, as the server keeps it."""
    last = get_json(address, "/api/jobs?status=completed&limit=1")["jobs"][0]
    outputs = get_json(address, f"/api/jobs/{last['id']}")["outputs"]
    return {node: "\n".join(output["text"]) for node, output in outputs.items() if "text" in output}


def shown(report: str) -> str:
    """A report without what its display adds and drops: the marks and the ends of lines."""
    for mark in "\u2713\u2715\u2013\u2139":
        report = report.replace(mark, "")
    return "".join(report.split())


@renderers
@pytest.mark.parametrize("name", WORKFLOWS)
def test_workflow_opens(page: ComfyPage, name: str, vue_nodes: bool) -> None:
    workflow = read_workflow(name)
    page.use_vue_nodes(vue_nodes)
    page.load(workflow, name)
    page.screenshot(SCREENSHOTS / f"{name}-{'vue' if vue_nodes else 'legacy'}.png")
    unknown = page.evaluate("() => app.rootGraph.nodes.filter(node => !(node.type in LiteGraph.registered_node_types))")
    assert unknown == []
    assert page.evaluate("() => app.rootGraph.nodes.length") == len(workflow["nodes"])
    assert link_problems(page) == []
    assert set(page.reports().values()) <= {PLACEHOLDER}


@pytest.mark.parametrize("name", WORKFLOWS)
def test_api_twin_is_what_the_page_makes_of_the_workflow(page: ComfyPage, name: str) -> None:
    page.load(read_workflow(name), name)
    assert page.api_prompt() == read_api_workflow(name), "run python tests/web/export_api.py"


@pytest.mark.parametrize("name", WORKFLOWS)
def test_saving_an_opened_workflow_changes_nothing(page: ComfyPage, name: str) -> None:
    workflow = read_workflow(name)
    page.load(workflow, name)
    saved = page.serialized()
    for node in saved["nodes"]:  # newer pages also name the values, and leave out an empty list of them
        named = node.pop("widgets_values_named", {})
        assert list(named.values()) == node.setdefault("widgets_values", [])[: len(named)]
    for part in ("nodes", "links", "groups"):
        assert saved[part] == workflow[part], part


@renderers
def test_run_shows_the_reports(page: ComfyPage, address: str, vue_nodes: bool) -> None:
    page.use_vue_nodes(vue_nodes)
    page.load(small(read_workflow("sprite_optimized")), "run")
    before = page.serialized()["nodes"]
    page.run()
    page.settle()
    reports = page.reports()
    assert set(reports) == {"Optimize Model", "Optimize VAE", "Memory Probe"}
    assert sorted(map(shown, reports.values())) == sorted(map(shown, last_texts(address).values()))
    page.screenshot(SCREENSHOTS / f"report-{'vue' if vue_nodes else 'legacy'}.png")

    after = page.serialized()["nodes"]
    for node in (*before, *after):  # the seed is drawn anew after a run
        if node["type"] == "KSampler":
            node["widgets_values"][0] = 0
            node.pop("widgets_values_named", None)  # newer pages keep the values by name too
    assert after == before
    assert all("report" not in node["inputs"] for node in page.api_prompt().values())

    page.use_vue_nodes(not vue_nodes)
    assert page.reports() == reports


@pytest.mark.parametrize("name", [name for name in WORKFLOWS if not name.startswith("baseline")])
def test_a_run_shows_every_text_and_keeps_the_layout(page: ComfyPage, address: str, name: str) -> None:
    page.load(small(read_workflow(name)), name)
    sizes = [node["size"] for node in page.serialized()["nodes"]]
    page.run()
    page.settle()
    assert sorted(map(shown, page.reports().values())) == sorted(map(shown, last_texts(address).values()))
    assert [node["size"] for node in page.serialized()["nodes"]] == sizes
    page.screenshot(SCREENSHOTS / f"{name}-after-run.png")


def test_cached_nodes_report_again(page: ComfyPage) -> None:
    workflow = small(read_workflow("sprite_optimized"))
    page.load(workflow, "first")
    page.run()
    page.load(workflow, "second")
    assert set(page.reports().values()) == {PLACEHOLDER}
    page.run()
    page.settle()
    assert PLACEHOLDER not in page.reports().values()


@renderers
def test_reports_in_subgraphs_and_after_a_reload(browser: Browser, address: str, vue_nodes: bool) -> None:
    page = ComfyPage(browser, address)
    page.use_vue_nodes(vue_nodes)
    page.load(small(read_workflow("sprite_optimized")), "subgraph")
    page.evaluate(
        """() => {
            const inner = app.rootGraph.nodes.filter(node => ["OptimizeModel", "KSampler"].includes(node.type));
            app.rootGraph.convertToSubgraph(new Set(inner));
        }"""
    )
    open_subgraph = """() => {
        const host = app.rootGraph.nodes.find(node => node.isSubgraphNode());
        app.canvas.openSubgraph(host.subgraph, host);
    }"""
    page.run()
    page.settle()
    outside = page.reports()
    assert set(outside) == {"Optimize VAE", "Memory Probe"}
    assert PLACEHOLDER not in outside.values()
    page.evaluate(open_subgraph)
    page.settle()
    inside = page.reports()
    assert set(inside) == {"Optimize Model"}
    assert shown(inside["Optimize Model"]) in map(shown, last_texts(address).values())
    page.screenshot(SCREENSHOTS / f"subgraph-{'vue' if vue_nodes else 'legacy'}.png")

    page.page.reload()
    page.wait_until_ready()
    page.page.wait_for_function("() => app.rootGraph.nodes.some(node => node.isSubgraphNode())")
    page.settle()
    page.evaluate("() => app.canvas.setGraph(app.rootGraph)")
    page.settle()
    assert page.reports() == outside
    page.evaluate(open_subgraph)
    page.settle()
    assert page.reports() == inside
    assert page.console == []
    page.close()


def test_templates_browser_lists_the_workflows(page: ComfyPage) -> None:
    page.evaluate("() => app.extensionManager.command.execute('Comfy.BrowseTemplates')")
    dialog = page.page.get_by_role("dialog")
    dialog.get_by_text("fast-sprites", exact=True).click()
    dialog.get_by_text(f"of {len(WORKFLOWS)} templates").wait_for()
    for name in WORKFLOWS:
        thumbnail = dialog.get_by_alt_text(name, exact=True)
        thumbnail.scroll_into_view_if_needed()
        page.page.wait_for_function("image => image.complete && image.naturalWidth > 0", arg=thumbnail.element_handle())
    page.screenshot(SCREENSHOTS / "templates.png")
    dialog.get_by_alt_text("batch_optimized", exact=True).click()
    page.page.wait_for_function("() => app.rootGraph.nodes.some(node => node.type === 'BatchSpriteSampler')")


def test_two_copies_of_a_template_are_two_workflows(page: ComfyPage) -> None:
    ids = []
    for _ in range(2):
        page.load(read_workflow("sprite_optimized"), "sprite_optimized")
        ids.append(page.evaluate("() => app.rootGraph.id"))
    assert ids[0] != ids[1]


def test_help_page_opens(page: ComfyPage) -> None:
    page.load(read_workflow("sprite_optimized"), "help")
    page.evaluate("() => app.canvas.selectNode(app.canvas.graph.nodes.find(node => node.type === 'OptimizeModel'))")
    page.page.get_by_test_id("info-button").click()
    page.page.get_by_text("A model that is no SDXL UNet is passed through untouched.").wait_for()
    page.screenshot(SCREENSHOTS / "help.png")
