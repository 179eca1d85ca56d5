import assert from "node:assert/strict";
import { test } from "node:test";

import { nodeByExecutionId, parseReport, reportOf } from "../../web/report_text.mjs";

test("a plan's report has a summary, and a kind for each labelled line", () => {
  const report = "CPU: 1 applied, 1 refused\napplied: channels-last: NHWC\nrefused: engine: needs CUDA\nkept: precision: fp32\nnote: slow";
  assert.deepEqual(parseReport(report), [
    { kind: "summary", text: "CPU: 1 applied, 1 refused" },
    { kind: "applied", text: "channels-last: NHWC" },
    { kind: "refused", text: "engine: needs CUDA" },
    { kind: "kept", text: "precision: fp32" },
    { kind: "note", text: "slow" },
  ]);
});

test("lines without a label are plain after the first", () => {
  assert.deepEqual(parseReport("after sampling\nallocated 5.1 GiB"), [
    { kind: "summary", text: "after sampling" },
    { kind: "plain", text: "allocated 5.1 GiB" },
  ]);
});

test("a label counts only at the start of a line, and whole", () => {
  assert.deepEqual(
    parseReport("x\nwas applied: no\nappliedly: no\n  refused: indented").map(({ kind }) => kind),
    ["summary", "plain", "plain", "plain"],
  );
});

test("a labelled first line keeps its kind", () => {
  assert.equal(parseReport("refused: not an SDXL model")[0].kind, "refused");
});

test("empty lines and carriage returns are dropped", () => {
  assert.deepEqual(parseReport("a\r\n\r\n\nb\n"), [
    { kind: "summary", text: "a" },
    { kind: "plain", text: "b" },
  ]);
  assert.deepEqual(parseReport(""), []);
});

test("markup stays text", () => {
  assert.equal(parseReport("<b>x</b>")[0].text, "<b>x</b>");
});

test("a node's output holds its report as text or as a list of texts", () => {
  assert.equal(reportOf({ text: ["a", "b"] }), "a\nb");
  assert.equal(reportOf({ text: "a" }), "a");
  assert.equal(reportOf({}), null);
  assert.equal(reportOf(null), null); // a cached node without ui sends null
  assert.equal(reportOf(undefined), null);
});

/** @param {Record<string, object>} nodes */
const graphOf = (nodes) => ({ getNodeById: (/** @type {string} */ id) => nodes[id] ?? null });

test("execution ids lead into subgraphs", () => {
  const inner = { name: "inner" };
  const middle = { name: "middle", subgraph: graphOf({ 7: inner }) };
  const outer = { name: "outer", subgraph: graphOf({ 1: middle }) };
  const graph = graphOf({ 2: outer });
  assert.equal(nodeByExecutionId(graph, "2"), outer);
  assert.equal(nodeByExecutionId(graph, "2:1"), middle);
  assert.equal(nodeByExecutionId(graph, "2:1:7"), inner);
});

test("an execution id of a node that is gone leads nowhere", () => {
  const graph = graphOf({ 2: {} });
  assert.equal(nodeByExecutionId(graph, "3"), null);
  assert.equal(nodeByExecutionId(graph, "2:1"), null);
  assert.equal(nodeByExecutionId(graph, "3:1:2"), null);
});
