/** @file The chart of the memory: curves, node spans, a cursor for mouse and keyboard, and a legend with values. */

import { keepKeys } from "./keys.mjs";
import { COLUMN, timeOf } from "./memory_data.mjs";
import { formatDuration, formatSize } from "./memory_format.mjs";
import { CURVES, layout, paint } from "./memory_paint.mjs";
import { chosen } from "./memory_settings.mjs";

/** @typedef {import("./memory_data.mjs").CurveName} CurveName */
/** @typedef {import("./memory_data.mjs").Span} Span */
/** @typedef {import("./memory_feed.mjs").MemoryFeed} MemoryFeed */
/** @typedef {import("./memory_paint.mjs").Scene} Scene */

/**
 * @typedef {object} ChartOptions
 * @property {() => {from: number, to: number}} range times to show
 * @property {() => number[]} marks times of own readings
 * @property {(span: Span) => string} titleOf
 * @property {number} maxLanes
 */

const LEGEND_FONT = "11px sans-serif";

export class MemoryChart {
  /** @type {number | null} */
  #cursor = null;
  /** @type {(() => void) | null} */
  #unsubscribe = null;

  /**
   * @param {MemoryFeed} feed
   * @param {ChartOptions} options
   */
  constructor(feed, options) {
    this.feed = feed;
    this.options = options;
    this.element = document.createElement("div");
    this.element.className = "fastsprites-memory-chart";
    const style = document.createElement("link");
    style.rel = "stylesheet";
    style.href = new URL("memory_chart.css", import.meta.url).href;
    this.canvas = document.createElement("canvas");
    this.canvas.tabIndex = 0;
    this.canvas.setAttribute("role", "img");
    this.legend = document.createElement("div");
    this.legend.className = "legend";
    this.legend.ariaHidden = "true"; // the canvas's label says the same
    this.where = document.createElement("div");
    this.where.className = "where";
    const frame = document.createElement("div");
    frame.className = "frame";
    frame.append(this.canvas);
    this.element.attachShadow({ mode: "open" }).append(style, this.where, frame, this.legend);
    this.frame = frame;
    this.#listen();
  }

  #listen() {
    this.canvas.addEventListener("pointermove", (event) => this.#pointAt(event.clientX));
    this.canvas.addEventListener("pointerleave", () => this.#setCursor(null));
    this.canvas.addEventListener("blur", () => this.#setCursor(null));
    this.canvas.addEventListener("keydown", (event) => this.#onKey(event));
    keepKeys(this.canvas);
    // Only what is seen is drawn. What has left the page, with its node or tab, is not seen and holds on to nothing.
    this.visibility = new IntersectionObserver((entries) => this.#setVisible(Boolean(entries.at(-1)?.isIntersecting)));
    this.visibility.observe(this.element);
    this.resize = new ResizeObserver(() => this.draw());
    this.resize.observe(this.frame);
  }

  /** Lets go of the page. */
  dispose() {
    this.#setVisible(false);
    this.visibility?.disconnect();
    this.resize?.disconnect();
  }

  /** @param {boolean} isVisible */
  #setVisible(isVisible) {
    if (isVisible && !this.#unsubscribe) this.#unsubscribe = this.feed.subscribe(() => this.draw());
    if (!isVisible && this.#unsubscribe) {
      this.#unsubscribe();
      this.#unsubscribe = null;
    }
  }

  /** @param {number | null} time */
  #setCursor(time) {
    if (time === this.#cursor) return;
    this.#cursor = time;
    this.feed.redraw();
  }

  /** @param {number} clientX */
  #pointAt(clientX) {
    const box = this.canvas.getBoundingClientRect(); // the canvas of the graph is zoomed, so this is not clientWidth
    const x = ((clientX - box.left) / box.width) * this.canvas.clientWidth;
    const time = layout(this.#scene(), this.canvas.clientWidth, this.canvas.clientHeight).time(x);
    const row = this.feed.store.rowAt(time);
    this.#setCursor(row ? timeOf(row) : null);
  }

  /** @param {KeyboardEvent} event */
  #onKey(event) {
    const { from, to } = this.options.range();
    const shown = this.feed.store.rowsBetween(from, to).map(timeOf);
    // A node ends and the next one starts at the same time: one step, not two.
    const times = [...new Set(shown)].filter((time) => from <= time && time <= to).sort((a, b) => a - b);
    if (times.length === 0) return;
    const cursor = this.#cursor;
    const now = cursor === null ? times.length - 1 : Math.max(times.findLastIndex((time) => time <= cursor), 0);
    const step = event.shiftKey ? 10 : 1;
    /** @type {Record<string, number>} */
    const places = { ArrowLeft: now - step, ArrowRight: now + step, Home: 0, End: times.length - 1 };
    if (event.key === "Escape") this.#setCursor(null);
    else if (event.key in places) {
      event.preventDefault();
      this.#setCursor(times[Math.min(Math.max(places[event.key], 0), times.length - 1)]);
      this.where.ariaLive = "polite"; // read aloud what the keys point at, not what the mouse does
    }
  }

  /** @returns {Scene} */
  #scene() {
    const style = getComputedStyle(this.element);
    /** @param {string} name */
    const color = (name) => style.getPropertyValue(`--${name}`);
    const range = this.options.range();
    // The chart moves on under a mouse that rests, and a new run takes the place of the one that was pointed at.
    const cursor = this.#cursor !== null && range.from <= this.#cursor && this.#cursor <= range.to ? this.#cursor : null;
    const names = /** @type {const} */ ([...Object.keys(CURVES), "text", "quiet", "grid", "span", "edge", "mark", "surface"]);
    return {
      store: this.feed.store,
      ...range,
      curves: /** @type {CurveName[]} */ (Object.keys(CURVES)).filter((name) => chosen.curves.has(name)),
      unit: chosen.unit,
      maxLanes: this.options.maxLanes,
      cursor,
      marks: this.options.marks(),
      titleOf: this.options.titleOf,
      colors: /** @type {any} */ (Object.fromEntries(names.map((name) => [name, color(name)]))),
    };
  }

  /** Draws what the feed holds now. */
  draw() {
    const width = this.frame.clientWidth;
    const height = this.frame.clientHeight;
    if (width === 0 || height === 0) return; // collapsed or not in the page
    const zoom = Math.min(Math.max(this.frame.getBoundingClientRect().width / width, 1), 3);
    const ratio = devicePixelRatio * zoom;
    const [pixelWidth, pixelHeight] = [Math.round(width * ratio), Math.round(height * ratio)];
    if (this.canvas.width !== pixelWidth || this.canvas.height !== pixelHeight) {
      this.canvas.width = pixelWidth;
      this.canvas.height = pixelHeight;
    }
    const context = this.canvas.getContext("2d");
    if (!context) return;
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    const scene = this.#scene();
    paint(context, scene, width, height);
    this.#write(scene, layout(scene, width, height).curves);
  }

  /** @returns {Promise<Blob | null>} the chart as a PNG, twice as large, with background and legend */
  async toBlob() {
    const [width, height] = [Math.max(this.frame.clientWidth, 320), Math.max(this.frame.clientHeight, 160)];
    const scene = this.#scene();
    const chart = new OffscreenCanvas(width * 2, height * 2);
    const chartContext = chart.getContext("2d");
    if (!chartContext) return null;
    chartContext.scale(2, 2);
    paint(chartContext, scene, width, height);
    chartContext.font = LEGEND_FONT;
    let [x, y] = [8, height + 14];
    const items = layout(scene, width, height).curves.map((name) => {
      const text = `${CURVES[name].label} ${formatSize(valueAt(scene, name, scene.to), scene.unit)} ${scene.unit}`;
      const itemWidth = 22 + chartContext.measureText(text).width;
      if (x > 8 && x + itemWidth > width - 8) [x, y] = [8, y + 16];
      x += itemWidth + 12;
      return { name, text, left: x - itemWidth - 12, base: y };
    });
    const picture = new OffscreenCanvas(width * 2, (y + 6) * 2);
    const context = /** @type {OffscreenCanvasRenderingContext2D} */ (picture.getContext("2d"));
    context.fillStyle = scene.colors.surface;
    context.fillRect(0, 0, picture.width, picture.height);
    context.drawImage(chart, 0, 0);
    context.scale(2, 2);
    context.font = LEGEND_FONT;
    context.fillStyle = scene.colors.text;
    context.lineWidth = 2;
    for (const { name, text, left, base } of items) {
      context.strokeStyle = scene.colors[name];
      context.setLineDash(CURVES[name].dash);
      context.beginPath();
      context.moveTo(left, base - 4);
      context.lineTo(left + 18, base - 4);
      context.stroke();
      context.fillText(text, left + 22, base);
    }
    return picture.convertToBlob({ type: "image/png" });
  }

  /**
   * Writes the values at the cursor, or the newest, into the legend.
   * @param {Scene} scene
   * @param {CurveName[]} curves
   */
  #write(scene, curves) {
    const { store } = scene;
    const time = scene.cursor ?? Math.min(scene.to, store.lastTime);
    const values = curves.map((name) => `${CURVES[name].label} ${formatSize(valueAt(scene, name, time), scene.unit)}`);
    if (this.legend.children.length !== curves.length || this.legend.dataset.curves !== curves.join()) {
      this.legend.replaceChildren(...curves.map((name) => legendItem(name)));
      this.legend.dataset.curves = curves.join();
    }
    curves.forEach((name, index) => setText(this.legend.children[index].lastChild, values[index]));
    setText(this.where, this.#place(scene, time, curves.length > 0));
    const label = curves.length ? `Memory in ${scene.unit}: ${values.join(", ")}` : "Memory: no readings yet";
    if (this.canvas.ariaLabel !== label) this.canvas.ariaLabel = label;
  }

  /**
   * @param {Scene} scene
   * @param {number} time
   * @param {boolean} hasCurves
   * @returns {string} when, and which node ran
   */
  #place(scene, time, hasCurves) {
    const { store } = scene;
    if (!this.feed.isOn) return "Live memory readings are off (Settings, Fast Sprites)";
    if (!hasCurves) return store.rows.length ? "Every curve is off (Settings, Fast Sprites)" : "No readings yet";
    const span = store.spanAt(time);
    const run = store.runAt(time);
    const when = run ? `${formatDuration(time - run.start_s)} into the run` : `${formatDuration(Math.max(store.lastTime - time, 0))} ago`;
    const away = this.feed.isAway && "the server is away";
    return [scene.unit, away, scene.cursor !== null && when, span && scene.titleOf(span), store.problem].filter(Boolean).join(" \u00b7 ");
  }
}

/**
 * A curve's value at a time: rows taken at the start and end of nodes have no driver figure, so the last one counts.
 * @param {Scene} scene
 * @param {CurveName} name
 * @param {number} time
 */
function valueAt(scene, name, time) {
  const rows = scene.store.rowsBetween(scene.from, time);
  const row = rows.findLast((candidate) => timeOf(candidate) <= time + 1e-3 && candidate[COLUMN[name]] !== null);
  return row?.[COLUMN[name]] ?? null;
}

/** @param {CurveName} name */
function legendItem(name) {
  const item = document.createElement("span");
  item.className = "item";
  item.style.setProperty("--curve", `var(--${name})`);
  const line = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  line.setAttribute("viewBox", "0 0 18 4");
  const stroke = document.createElementNS("http://www.w3.org/2000/svg", "line");
  for (const [attribute, value] of Object.entries({ x1: 0, y1: 2, x2: 18, y2: 2, "stroke-dasharray": CURVES[name].dash.join(" ") }))
    stroke.setAttribute(attribute, String(value));
  line.append(stroke);
  const text = document.createElement("span");
  item.append(line, text);
  return item;
}

/**
 * @param {ChildNode | null} element
 * @param {string} text
 */
function setText(element, text) {
  if (element && element.textContent !== text) element.textContent = text;
}
