/** @file Reads what the nodes report: plain functions, no page and no ComfyUI. */

/** @typedef {"summary" | "applied" | "refused" | "kept" | "note" | "plain"} LineKind */
/** @typedef {{kind: LineKind, text: string}} ReportLine */

const LABELLED_LINE = /^(applied|refused|kept|note):\s*(.*)$/;

/**
 * Splits a report into lines of a kind: the first is the summary, the others say it by their label.
 * @param {string} report
 * @returns {ReportLine[]}
 */
export function parseReport(report) {
  return report
    .split("\n")
    .map((line) => line.trimEnd())
    .filter((line) => line !== "")
    .map((line, index) => {
      const labelled = LABELLED_LINE.exec(line);
      if (labelled) return { kind: /** @type {LineKind} */ (labelled[1]), text: labelled[2] };
      return { kind: index === 0 ? "summary" : "plain", text: line };
    });
}

/**
 * The report in a node's output, or null where the node sent none.
 * @param {{text?: string | string[]} | null | undefined} output
 * @returns {string | null}
 */
export function reportOf(output) {
  const text = output?.text;
  if (text === undefined) return null;
  return typeof text === "string" ? text : text.join("\n");
}

/**
 * The node that an execution id such as "2:1" names: node 1 in the graph inside subgraph node 2.
 * @template {{subgraph?: {getNodeById: (id: string) => any}}} NodeType
 * @param {{getNodeById: (id: string) => NodeType | null | undefined}} rootGraph
 * @param {string} executionId
 * @returns {NodeType | null}
 */
export function nodeByExecutionId(rootGraph, executionId) {
  /** @type {{getNodeById: (id: string) => NodeType | null | undefined} | undefined} */
  let graph = rootGraph;
  /** @type {NodeType | null} */
  let node = null;
  for (const id of executionId.split(":")) {
    node = graph?.getNodeById(id) ?? null;
    graph = node?.subgraph;
  }
  return node;
}
