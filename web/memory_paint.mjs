/** @file Draws the memory's history into a canvas. */

import { COLUMN, COLUMNS, intoLanes, timeOf } from "./memory_data.mjs";
import { formatDuration, formatSize, niceMaximum } from "./memory_format.mjs";

/** @typedef {import("./memory_data.mjs").CurveName} CurveName */
/** @typedef {import("./memory_data.mjs").MemoryStore} MemoryStore */
/** @typedef {import("./memory_data.mjs").Row} Row */
/** @typedef {import("./memory_data.mjs").Span} Span */
/** @typedef {import("./memory_format.mjs").Unit} Unit */

/**
 * @typedef {object} Curve
 * @property {string} label
 * @property {boolean} isHost drawn on the right axis where the device has memory of its own
 * @property {number[]} dash told apart without colours too
 */

/** @type {Record<CurveName, Curve>} */
export const CURVES = {
  active: { label: "active", isHost: false, dash: [] },
  reserved: { label: "reserved", isHost: false, dash: [6, 3] },
  driver: { label: "driver", isHost: false, dash: [2, 2] },
  ram: { label: "RAM", isHost: true, dash: [8, 2, 2, 2] },
  process: { label: "process", isHost: true, dash: [1, 3] },
};

/**
 * @typedef {object} Scene
 * @property {MemoryStore} store
 * @property {number} from seconds, left edge
 * @property {number} to seconds, right edge
 * @property {CurveName[]} curves
 * @property {Unit} unit
 * @property {number} maxLanes of node spans, 0 to leave them out
 * @property {number | null} cursor time that is pointed at
 * @property {number[]} marks times of this node's own readings
 * @property {(span: Span) => string} titleOf
 * @property {Record<CurveName | "text" | "quiet" | "grid" | "span" | "edge" | "mark" | "surface", string>} colors
 */

/** Only whole samples have this figure, not those of a node's start and end, which never have the driver's. */
const GRAPHS = COLUMNS.indexOf("graphs_gib");
const LANE_PX = 15;
const AXIS_PX = 14;
/** As wide as a digit is in the widest of the usual fonts. */
const DIGIT_PX = 6.4;
const FONT = "10px sans-serif";
/** A longer time without a sample is a gap, not a straight line. */
const GAP_S = 5;

/**
 * @param {Scene} scene
 * @returns {{span: Span, lane: number}[]} the nodes that ran in the shown time
 */
function shownSpans(scene) {
  const runs = scene.store.runs.filter((run) => (run.end_s ?? Infinity) >= scene.from && run.start_s <= scene.to);
  return scene.maxLanes ? runs.flatMap((run) => intoLanes(run.spans, scene.maxLanes)) : [];
}

/**
 * @param {Scene} scene
 * @param {number} width CSS pixels
 * @param {number} height CSS pixels
 */
export function layout(scene, width, height) {
  const shown = scene.store.rowsBetween(scene.from, scene.to);
  const curves = scene.curves.filter((name) => shown.some((row) => row[COLUMN[name]] !== null));
  // The server leaves the driver's figure out where the GPU shares the system's RAM: all curves are parts of one pool, on one axis.
  const isOnePool = shown.some((row) => typeof row[GRAPHS] === "number" && row[COLUMN.driver] === null);
  const hasBoth = !isOnePool && curves.some((name) => CURVES[name].isHost) && curves.some((name) => !CURVES[name].isHost);
  const spans = shownSpans(scene);
  const stripHeight = spans.length ? (Math.max(...spans.map(({ lane }) => lane)) + 1) * LANE_PX + 3 : 0;
  const highestOf = (/** @type {boolean} */ isHost) => {
    const sharing = curves.filter((name) => !hasBoth || CURVES[name].isHost === isHost);
    let highest = 0;
    for (const row of shown) for (const name of sharing) highest = Math.max(highest, row[COLUMN[name]] ?? 0);
    return niceMaximum(highest, scene.unit);
  };
  const [deviceMaximum, hostMaximum] = [highestOf(false), highestOf(true)];
  const widthOf = (/** @type {number} */ maximum) => Math.max(formatSize(maximum, scene.unit).length * DIGIT_PX + 5, 34);
  const plot = {
    left: widthOf(deviceMaximum),
    top: 6,
    right: width - (hasBoth ? widthOf(hostMaximum) : 8),
    bottom: height - AXIS_PX - stripHeight,
  };
  const seconds = Math.max(scene.to - scene.from, 1e-3);
  return {
    rows: shown,
    curves,
    hasBoth,
    plot,
    spans,
    stripHeight,
    /** @param {number} time */
    x: (time) => plot.left + ((time - scene.from) / seconds) * (plot.right - plot.left),
    /** @param {number} x */
    time: (x) => scene.from + ((x - plot.left) / (plot.right - plot.left)) * seconds,
    /** @param {boolean} isHost */
    maximum: (isHost) => (isHost ? hostMaximum : deviceMaximum),
  };
}

/**
 * A curve's corners: of all rows that fall on one pixel only the lowest and the highest; null starts a new line.
 * @param {Row[]} rows
 * @param {number} column
 * @param {(time: number) => number} x
 * @returns {([number, number] | null)[]} pixel and GiB
 */
export function corners(rows, column, x) {
  /** @type {([number, number] | null)[]} */
  const points = [];
  let lastTime = -Infinity;
  let [pixel, low, high] = [NaN, 0, 0];
  const flush = () => {
    if (Number.isNaN(pixel)) return;
    points.push([pixel, low]);
    if (high !== low) points.push([pixel, high]);
  };
  for (const row of rows) {
    const value = row[column];
    if (value === null) continue;
    const place = Math.round(x(timeOf(row)) * 2) / 2;
    if (timeOf(row) - lastTime > GAP_S && points.length + Number(!Number.isNaN(pixel)) > 0) {
      flush();
      points.push(null);
      pixel = NaN;
    }
    lastTime = timeOf(row);
    if (place === pixel) {
      low = Math.min(low, value);
      high = Math.max(high, value);
    } else {
      flush();
      [pixel, low, high] = [place, value, value];
    }
  }
  flush();
  return points;
}

/**
 * @param {CanvasRenderingContext2D | OffscreenCanvasRenderingContext2D} context scaled so that one unit is a CSS pixel
 * @param {Scene} scene
 * @param {number} width
 * @param {number} height
 */
export function paint(context, scene, width, height) {
  const { rows, curves, hasBoth, plot, spans, stripHeight, x, maximum } = layout(scene, width, height);
  context.clearRect(0, 0, width, height);
  context.font = FONT;
  context.lineJoin = "round";
  context.setLineDash([]);
  paintAxis(context, scene, plot, maximum(false), "left", hasBoth ? scene.colors.text : scene.colors.quiet);
  if (hasBoth) paintAxis(context, scene, plot, maximum(true), "right", scene.colors.ram);
  paintTime(context, scene, plot, height);

  context.save();
  context.beginPath();
  context.rect(plot.left, 0, plot.right - plot.left, height);
  context.clip();
  for (const name of curves) {
    const highest = maximum(CURVES[name].isHost);
    context.beginPath();
    let isNew = true;
    for (const corner of corners(rows, COLUMN[name], x)) {
      if (corner === null) {
        isNew = true;
        continue;
      }
      const y = plot.bottom - (corner[1] / highest) * (plot.bottom - plot.top);
      if (isNew) {
        context.moveTo(corner[0], y);
        context.lineTo(corner[0] + 0.5, y); // a sample that stands alone is a dot
      } else context.lineTo(corner[0], y);
      isNew = false;
    }
    context.strokeStyle = scene.colors[name];
    context.lineWidth = 1.5;
    context.setLineDash(CURVES[name].dash);
    context.stroke();
  }
  context.setLineDash([]);
  paintSpans(context, scene, plot, x, spans);
  context.restore();
  /** @param {number} time */
  const isShown = (time) => scene.from <= time && time <= scene.to;
  // Not clipped: at an edge a mark is drawn whole or not at all.
  for (const mark of scene.marks.filter(isShown)) paintMark(context, scene, plot, x(mark));
  if (scene.cursor !== null && isShown(scene.cursor)) {
    context.strokeStyle = scene.colors.text;
    context.lineWidth = 1;
    context.beginPath();
    context.moveTo(x(scene.cursor), plot.top);
    context.lineTo(x(scene.cursor), plot.bottom + stripHeight);
    context.stroke();
  }
}

/** @typedef {{left: number, top: number, right: number, bottom: number}} Plot */
/** @typedef {CanvasRenderingContext2D | OffscreenCanvasRenderingContext2D} Context */

/**
 * @param {Context} context
 * @param {Scene} scene
 * @param {Plot} plot
 * @param {number} highest GiB
 * @param {"left" | "right"} side
 * @param {string} color
 */
function paintAxis(context, scene, plot, highest, side, color) {
  context.textBaseline = "middle";
  context.textAlign = side === "left" ? "right" : "left";
  for (const part of [0, 0.5, 1]) {
    const y = Math.round(plot.bottom - part * (plot.bottom - plot.top)) + 0.5;
    if (side === "left") {
      context.strokeStyle = scene.colors.grid;
      context.lineWidth = 1;
      context.beginPath();
      context.moveTo(plot.left, y);
      context.lineTo(plot.right, y);
      context.stroke();
    }
    context.fillStyle = color;
    context.fillText(formatSize(highest * part, scene.unit), side === "left" ? plot.left - 4 : plot.right + 4, y);
  }
}

/**
 * @param {Context} context
 * @param {Scene} scene
 * @param {Plot} plot
 * @param {number} height
 */
function paintTime(context, scene, plot, height) {
  context.fillStyle = scene.colors.quiet;
  context.textBaseline = "bottom";
  context.textAlign = "left";
  context.fillText(`\u2212${formatDuration(Math.max(scene.store.lastTime - scene.from, 0))}`, plot.left, height - 1);
  context.textAlign = "right";
  const behind = scene.store.lastTime - scene.to;
  context.fillText(behind < 1 ? "now" : `\u2212${formatDuration(behind)}`, plot.right, height - 1);
}

/**
 * @param {Context} context
 * @param {Scene} scene
 * @param {Plot} plot
 * @param {(time: number) => number} x
 * @param {{span: Span, lane: number}[]} spans
 */
function paintSpans(context, scene, plot, x, spans) {
  context.textBaseline = "middle";
  context.textAlign = "left";
  for (const { span, lane } of spans) {
    const left = Math.max(x(span.start_s), plot.left);
    const right = Math.min(x(Math.min(span.end_s ?? Infinity, scene.to)), plot.right);
    if (right < plot.left || left > plot.right) continue;
    const width = Math.max(right - left - 1, 1);
    const top = plot.bottom + 3 + lane * LANE_PX;
    context.fillStyle = width > 2 ? scene.colors.span : scene.colors.edge;
    context.fillRect(left, top, width, LANE_PX - 2);
    if (width > 2) {
      context.strokeStyle = scene.colors.edge;
      context.lineWidth = 1;
      context.strokeRect(left + 0.5, top + 0.5, width - 1, LANE_PX - 3);
    }
    const title = width > 16 ? fitted(context, scene.titleOf(span), width - 6) : "";
    context.fillStyle = scene.colors.text;
    context.fillText(title, left + 3, top + LANE_PX / 2 - 0.5);
  }
}

/**
 * @param {Context} context
 * @param {string} text
 * @param {number} width
 * @returns {string} the text, shortened to a width; empty if only a few letters would fit
 */
function fitted(context, text, width) {
  const whole = context.measureText(text).width;
  if (whole <= width) return text;
  const letters = [...text];
  letters.length = Math.floor((letters.length * width) / whole);
  while (letters.length >= 3 && context.measureText(`${letters.join("")}\u2026`).width > width) letters.pop();
  return letters.length < 3 ? "" : `${letters.join("")}\u2026`;
}

/**
 * @param {Context} context
 * @param {Scene} scene
 * @param {Plot} plot
 * @param {number} at pixel
 */
function paintMark(context, scene, plot, at) {
  context.strokeStyle = scene.colors.mark;
  context.fillStyle = scene.colors.mark;
  context.lineWidth = 1.5;
  context.beginPath();
  context.moveTo(at, plot.top);
  context.lineTo(at, plot.bottom);
  context.stroke();
  context.beginPath();
  context.moveTo(at - 5, plot.top - 5);
  context.lineTo(at + 5, plot.top - 5);
  context.lineTo(at, plot.top + 4);
  context.fill();
}
