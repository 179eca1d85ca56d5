"""The bundled workflows and the report on the nodes, in ComfyUI's own page and in both of its renderers."""

import copy
import json
import urllib.request
from typing import Any

import pytest
from build_workflows import link_problems
from comfy_page import ComfyPage, bundled_workflows, read_api_workflow, read_workflow
from playwright.sync_api import Browser

from .conftest import SCREENSHOTS

DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
WORKFLOWS = bundled_workflows()
PLACEHOLDER = "Run the workflow to see here what this node did."
renderers = pytest.mark.parametrize("vue_nodes", [False, True], ids=["legacy", "vue"])


def small(workflow: dict[str, Any]) -> dict[str, Any]:
    """The workflow with pictures and step counts that a CPU draws at once."""
    workflow = copy.deepcopy(workflow)
    sizes = {"width": 64, "height": 64, "batch_size": 2, "count": 2, "steps": 1, "native_width": 16, "native_height": 16}
    for node in workflow["nodes"]:
        names = [entry["widget"]["name"] for entry in node.get("inputs", []) if "widget" in entry]
        if "seed" in names:
            names.insert(names.index("seed") + 1, "control_after_generate")
        for index, name in enumerate(names):
            if name in sizes:
                node["widgets_values"][index] = sizes[name]
    return workflow


def get_json(address: str, route: str) -> Any:
    with DIRECT.open(f"{address}{route}", timeout=10) as response:
        return json.load(response)


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
    assert after == before
    assert all("report" not in node["inputs"] for node in page.api_prompt().values())

    page.use_vue_nodes(not vue_nodes)
    assert page.reports() == reports


@pytest.mark.parametrize("name", [name for name in WORKFLOWS if not name.startswith("baseline")])
def test_every_text_of_our_nodes_is_shown(page: ComfyPage, address: str, name: str) -> None:
    page.load(small(read_workflow(name)), name)
    page.run()
    page.settle()
    assert sorted(map(shown, page.reports().values())) == sorted(map(shown, last_texts(address).values()))


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
def test_reports_come_back_after_a_reload(browser: Browser, address: str, vue_nodes: bool) -> None:
    page = ComfyPage(browser, address)
    page.use_vue_nodes(vue_nodes)
    page.load(small(read_workflow("sprite_optimized")), "reload")
    page.run()
    page.settle()
    reports = page.reports()
    assert PLACEHOLDER not in reports.values()
    page.page.reload()
    page.wait_until_ready()
    page.page.wait_for_function("() => app.canvas.graph.nodes.some(node => node.type === 'OptimizeModel')")
    page.settle()
    assert page.reports() == reports
    assert page.console == []
    page.close()


@renderers
def test_reports_inside_a_subgraph(browser: Browser, address: str, vue_nodes: bool) -> None:
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
    assert "Optimize Model" not in page.reports()
    page.evaluate(open_subgraph)
    page.settle()
    reports = page.reports()
    assert shown(reports["Optimize Model"]) in map(shown, last_texts(address).values())
    page.screenshot(SCREENSHOTS / f"subgraph-{'vue' if vue_nodes else 'legacy'}.png")

    page.page.reload()
    page.wait_until_ready()
    page.page.wait_for_function("() => app.rootGraph.nodes.some(node => node.isSubgraphNode())")
    page.evaluate(open_subgraph)
    page.settle()
    assert page.reports() == reports
    assert page.console == []
    page.close()
