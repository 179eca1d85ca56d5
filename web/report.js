/** @file Shows on each node of the pack what it reported: what was applied, what was refused and why, what was read. */

import { api, app, forwardToCanvas } from "./comfy_frontend.mjs";
import { nodeByExecutionId, reportOf } from "./report_text.mjs";
import { ReportView } from "./report_view.mjs";

/** @typedef {import("./comfy_frontend.mjs").ComfyNode} ComfyNode */
/** @typedef {import("./comfy_frontend.mjs").NodeOutput} NodeOutput */

const REPORTING_NODES = new Set([
  "OptimizeModel",
  "OptimizeVAE",
  "MemoryProbe",
  "BatchSpriteSampler",
  "SpritePrompts",
  "SaveSprites",
  "PixelGridSnap",
]);
const MIN_HEIGHT_PX = 124; // summary and four lines, with the margins that the legacy canvas adds

/** @type {WeakMap<ComfyNode, ReportView>} */
const views = new WeakMap();

/** @param {ComfyNode} node */
function addReport(node) {
  const view = new ReportView("Run the workflow to see here what this node did.");
  views.set(node, view);
  forwardToCanvas(view.element);
  const widget = node.addDOMWidget("report", "FASTSPRITES_REPORT", view.element, {
    serialize: false,
    hideOnZoom: false,
    hideInPanel: true,
    getMinHeight: () => MIN_HEIGHT_PX,
    getValue: () => "",
  });
  widget.serialize = false;

  const onExecuted = node.onExecuted;
  node.onExecuted = function (output) {
    onExecuted?.call(this, output);
    const report = reportOf(output);
    if (report !== null) view.show(report);
  };
}

/** Fills the empty reports from the workflow's last finished run: the page forgets them on reload, the server does not. */
async function restoreReports() {
  const graph = app.rootGraph;
  const workflowId = graph.id;
  const jobs = await getJson(`/jobs?workflow_id=${workflowId}&status=completed&limit=1`);
  const lastJob = jobs?.jobs[0];
  if (!lastJob) return;
  const job = await getJson(`/jobs/${lastJob.id}`);
  if (graph !== app.rootGraph || workflowId !== graph.id) return; // another workflow was opened meanwhile

  /** @type {Record<string, NodeOutput>} */
  const outputs = job?.outputs ?? {};
  for (const [executionId, output] of Object.entries(outputs)) {
    const node = nodeByExecutionId(graph, executionId);
    const view = node && views.get(node);
    const report = reportOf(output);
    if (view?.isEmpty && report !== null) view.show(report);
  }
}

/**
 * @param {string} route
 * @returns {Promise<any>} null where the server has no answer, as one that is shutting down
 */
async function getJson(route) {
  const response = await api.fetchApi(route);
  return response.ok ? response.json() : null;
}

app.registerExtension({
  name: "fastsprites.report",
  nodeCreated(node) {
    if (REPORTING_NODES.has(node.comfyClass)) addReport(node);
  },
  afterConfigureGraph() {
    restoreReports().catch((error) => console.warn("Fast Sprites: the last reports could not be read", error));
  },
});
