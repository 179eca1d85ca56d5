/** @file The memory's history on every Memory Probe and in the sidebar tab "Fast Sprites". */

import "./report.js"; // first: a node's report stands above its chart, whichever file the page loads sooner
import { api, app, forwardToCanvas } from "./comfy_frontend.mjs";
import { MemoryChart } from "./memory_chart.mjs";
import { MemoryFeed } from "./memory_feed.mjs";
import { chosen, settings } from "./memory_settings.mjs";
import { MemorySidebar } from "./memory_sidebar.mjs";
import { nodeByExecutionId } from "./report_text.mjs";

/** @typedef {import("./comfy_frontend.mjs").ComfyNode} ComfyNode */

const MIN_HEIGHT_PX = 170; // the chart's own 150 and the margins that the legacy canvas adds
const IDLE_RANGE_S = 60;

const feed = new MemoryFeed(api);
/** @type {MemorySidebar | null} */
let sidebar = null;

/**
 * The node's title where the open workflow has this node, else its kind.
 * @param {{node_id: string, class_type: string}} span
 */
function titleOf({ node_id, class_type }) {
  const node = nodeByExecutionId(app.rootGraph, node_id);
  return node?.comfyClass === class_type ? node.title : class_type;
}

/** The last run, or the last minute before there is one. */
function range() {
  const { store } = feed;
  const run = store.lastRun;
  if (!run) return { from: store.lastTime - IDLE_RANGE_S, to: store.lastTime };
  const end = run.end_s ?? store.lastTime;
  const margin = Math.max((end - run.start_s) * 0.03, 0.02);
  return { from: run.start_s - margin, to: Math.max(end, run.start_s) + margin };
}

/** @param {ComfyNode} node */
function addChart(node) {
  const isOwn = (/** @type {import("./memory_data.mjs").Mark} */ mark) =>
    (mark.workflow_id ?? app.rootGraph.id) === app.rootGraph.id && nodeByExecutionId(app.rootGraph, mark.node_id) === node;
  const marks = () => feed.store.marks.filter(isOwn).map((mark) => mark.time_s);
  const chart = new MemoryChart(feed, { range, marks, titleOf, maxLanes: 1 });
  forwardToCanvas(chart.element);
  const widget = node.addDOMWidget("memory", "FASTSPRITES_MEMORY", chart.element, {
    serialize: false,
    hideOnZoom: false,
    hideInPanel: true,
    getMinHeight: () => MIN_HEIGHT_PX,
    getValue: () => "",
  });
  widget.serialize = false;
  const onRemoved = node.onRemoved;
  node.onRemoved = function () {
    onRemoved?.call(this);
    chart.dispose();
  };
}

app.registerExtension({
  name: "fastsprites.memory",
  settings: settings(() => {
    feed.configure(chosen.isOn, chosen.rateHz);
    feed.redraw();
  }),
  setup() {
    app.extensionManager.registerSidebarTab({
      id: "fast-sprites",
      title: "Fast Sprites",
      tooltip: "Fast Sprites: memory",
      icon: "pi pi-chart-line",
      type: "custom",
      render(element) {
        if (sidebar && element.contains(sidebar.element)) return; // the page renders again at will
        sidebar?.dispose();
        sidebar = new MemorySidebar(feed, titleOf);
        element.style.height = "100%";
        element.replaceChildren(sidebar.element);
      },
      destroy() {
        sidebar?.dispose();
        sidebar = null;
      },
    });
  },
  nodeCreated(node) {
    if (node.comfyClass === "MemoryProbe") addChart(node);
  },
});
