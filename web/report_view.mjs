/** @file The element on the node that shows a report. */

import { keepKeys } from "./keys.mjs";
import { parseReport } from "./report_text.mjs";

/** @typedef {import("./report_text.mjs").LineKind} LineKind */

/** @type {Record<LineKind, string>} */
const MARKS = { summary: "", applied: "\u2713", refused: "\u2715", kept: "\u2013", note: "\u2139", plain: "" };

export class ReportView {
  /** @param {string} placeholder shown until the first report */
  constructor(placeholder) {
    this.element = document.createElement("div");
    this.element.className = "fastsprites-report";
    this.element.tabIndex = 0; // arrow and page keys scroll it
    this.element.setAttribute("role", "status");
    this.element.setAttribute("aria-label", "Report");
    this.element.dataset.captureWheel = "true"; // once focused, the wheel scrolls it and does not zoom the canvas
    keepKeys(this.element);

    const style = document.createElement("link");
    style.rel = "stylesheet";
    style.href = new URL("report.css", import.meta.url).href;
    this.lines = document.createElement("div");
    this.element.attachShadow({ mode: "open" }).append(style, this.lines);

    this.isEmpty = true;
    this.showPlaceholder(placeholder);
  }

  /** @param {...string} reports each with its own summary */
  show(...reports) {
    this.isEmpty = false;
    this.lines.replaceChildren(...reports.flatMap(parseReport).map(({ kind, text }) => lineElement(kind, text)));
    this.element.scrollTop = 0;
  }

  /** @param {string} text said instead of a report */
  showPlaceholder(text) {
    const line = lineElement("plain", text);
    line.classList.add("placeholder");
    this.lines.replaceChildren(line);
  }
}

/**
 * @param {LineKind} kind
 * @param {string} text
 */
function lineElement(kind, text) {
  const line = document.createElement("p");
  line.className = kind;
  if (MARKS[kind]) {
    const mark = document.createElement("span");
    mark.className = "mark";
    mark.textContent = MARKS[kind];
    mark.ariaHidden = "true";
    const label = document.createElement("span");
    label.className = "label"; // read aloud and copied, not drawn
    label.textContent = `${kind}: `;
    line.append(mark, label);
  }
  line.append(text);
  return line;
}
