/** @file The sidebar tab: live chart, nodes of the last run, models held, what was applied, and buttons. */

import { keepKeys } from "./keys.mjs";
import { MemoryChart } from "./memory_chart.mjs";
import { COLUMNS } from "./memory_data.mjs";
import { formatDuration, formatSize, toCsv } from "./memory_format.mjs";
import { chosen } from "./memory_settings.mjs";
import { parseReport, reportOf } from "./report_text.mjs";
import { ReportView } from "./report_view.mjs";

/** @typedef {import("./memory_data.mjs").Span} Span */
/** @typedef {import("./memory_feed.mjs").MemoryFeed} MemoryFeed */

/**
 * @typedef {object} NodeRow
 * @property {string} node_id
 * @property {string} class_type
 * @property {number} seconds
 * @property {number | null} peak_allocated_gib
 * @property {boolean} is_peak_exact
 * @property {number | null} allocated_growth_gib
 * @property {number} peak_process_gib
 * @property {number} process_growth_gib
 */
/** @typedef {{run: number | null, rows: NodeRow[], num_left_out: number, leak: string}} NodeTable */
/** @typedef {{name: string, device: string, size_gib: number, resident_gib: number}} HeldModel */
/** @typedef {{own_gib: number, captured_gib: number | null}} Graphs */
/** @typedef {{device: string, graphs: Graphs, comfyui: {models: HeldModel[]}, missing: string[]}} Reading */

const WINDOWS_S = { "1 minute": 60, "5 minutes": 300, "30 minutes": 1800 };
const LAST_RUN = "last run";
const READING_MS = 5000;
const NO_RUN = "No run yet.";

export class MemorySidebar {
  /** @type {(() => void)} */
  #unsubscribe;
  #numWaiting = Infinity; // not known before the first status
  #window = "1 minute";
  #unit = chosen.unit;
  /** @type {NodeTable | null} */
  #table = null;
  /** @type {Reading | null} */
  #reading = null;

  /**
   * @param {MemoryFeed} feed
   * @param {(span: {node_id: string, class_type: string}) => string} titleOf
   */
  constructor(feed, titleOf) {
    this.feed = feed;
    this.titleOf = titleOf;
    this.element = document.createElement("div");
    this.element.className = "fastsprites-memory-sidebar";
    this.root = this.element.attachShadow({ mode: "open" });
    this.root.innerHTML = `
      <link rel="stylesheet" href="${new URL("memory_sidebar.css", import.meta.url).href}">
      <header><h2>Memory</h2><span id="device"></span>
        <label>Show <select id="window"></select></label></header>
      <div id="chart"></div>
      <p id="leak" role="alert" hidden></p>
      <div id="buttons" role="group" aria-label="Actions">
        <button id="free" title="Unload the models and drop cached results, once no prompt runs">Free memory</button>
        <button id="reset" title="Start torch's peak anew">Reset peak</button>
        <button id="json">Save JSON</button><button id="csv">Save CSV</button><button id="png">Save PNG</button>
      </div>
      <p id="status" role="status"></p>
      <section aria-labelledby="nodes-title"><h3 id="nodes-title">Nodes of the last run</h3>
        <div id="nodes" tabindex="0" role="region" aria-labelledby="nodes-title"></div></section>
      <section aria-labelledby="models-title"><h3 id="models-title">Models and CUDA graphs held</h3><ul id="models"></ul></section>
      <section aria-labelledby="applied-title"><h3 id="applied-title">Applied and refused in the last run</h3>
        <div id="applied"></div></section>`;
    this.chart = new MemoryChart(feed, { range: () => this.#range(), marks: () => this.#marks(), titleOf, maxLanes: 3 });
    this.#part("chart").replaceWith(this.chart.element);
    this.report = new ReportView(NO_RUN);
    this.#part("applied").append(this.report.element);
    const select = /** @type {HTMLSelectElement} */ (this.#part("window"));
    select.append(...[...Object.keys(WINDOWS_S), LAST_RUN].map((name) => new Option(name)));
    select.addEventListener("change", () => {
      this.#window = select.value;
      this.feed.redraw();
    });
    for (const [name, action] of Object.entries(this.#actions())) this.#part(name).addEventListener("click", action);
    keepKeys(this.element);
    this.#unsubscribe = feed.subscribe(() => this.#follow());
    feed.server.addEventListener("status", this.#hearStatus);
    this.timer = setInterval(() => this.#readModels(), READING_MS);
    this.#readRun();
  }

  /** Lets go of the page and the server. */
  dispose() {
    this.#unsubscribe();
    this.feed.server.removeEventListener("status", this.#hearStatus);
    clearInterval(this.timer);
    this.chart.dispose();
    this.element.remove();
  }

  /** @param {string} id */
  #part(id) {
    return /** @type {HTMLElement} */ (this.root.getElementById(id));
  }

  #range() {
    const { store } = this.feed;
    const run = store.lastRun;
    if (this.#window !== LAST_RUN || !run) {
      const seconds = WINDOWS_S[/** @type {keyof typeof WINDOWS_S} */ (this.#window)] ?? WINDOWS_S["1 minute"];
      return { from: store.lastTime - seconds, to: store.lastTime };
    }
    const end = run.end_s ?? store.lastTime;
    const margin = Math.max((end - run.start_s) * 0.03, 0.05);
    return { from: run.start_s - margin, to: end + margin };
  }

  #marks() {
    return this.feed.store.marks.map((mark) => mark.time_s);
  }

  /** Shows all in another unit where that was chosen. */
  #follow() {
    if (chosen.unit === this.#unit) return;
    this.#unit = chosen.unit;
    if (this.#table) this.#showTable(this.#table);
    if (this.#reading) this.#showReading(this.#reading);
  }

  /** Hears that ComfyUI has filed a job, a moment after its run. A lost connection has no detail: after it may come another server. */
  #hearStatus = (/** @type {CustomEvent} */ { detail }) => {
    const numWaiting = detail?.exec_info.queue_remaining ?? Infinity;
    if (numWaiting < this.#numWaiting) this.#readRun();
    this.#numWaiting = numWaiting;
  };

  /** Asks for all that a run changes. */
  #readRun() {
    this.#readTable();
    this.#readModels();
    this.#readApplied();
  }

  /**
   * @param {string} route
   * @param {object} [body] makes it a POST
   * @returns {Promise<any>} null where the server does not answer
   */
  async #ask(route, body) {
    const post = { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) };
    try {
      const response = await this.feed.server.fetchApi(route, body && post);
      return response.ok ? await response.json() : null;
    } catch {
      return null;
    }
  }

  async #readTable() {
    this.#table = await this.#ask("/fast-sprites/table");
    if (this.#table) this.#showTable(this.#table);
  }

  async #readModels() {
    if (document.hidden) return;
    this.#reading = await this.#ask("/fast-sprites/readings");
    if (this.#reading) this.#showReading(this.#reading);
  }

  /** Shows the plans that nodes reported in the last job that is over, whoever queued it. */
  async #readApplied() {
    const jobs = await this.#ask("/jobs?status=completed,failed,cancelled&limit=1");
    if (!jobs) return;
    if (jobs.jobs.length === 0) return this.report.showPlaceholder(NO_RUN);
    const job = await this.#ask(`/jobs/${jobs.jobs[0].id}`);
    if (!job) return;
    const reports = Object.entries(job.outputs)
      .map(([node_id, output]) => ({ node_id, report: reportOf(output) }))
      .filter(({ report }) => parseReport(report ?? "").some(({ kind }) => ["applied", "refused", "kept"].includes(kind)))
      .map(({ node_id, report }) => {
        const class_type = job.workflow.prompt[node_id]?.class_type; // not there for a node that another one made
        return class_type ? `${this.titleOf({ node_id, class_type })}, ${report}` : /** @type {string} */ (report);
      });
    if (reports.length) this.report.show(...reports);
    else if (job.status === "completed") this.report.showPlaceholder("It used neither Optimize Model nor Optimize VAE.");
    else this.report.showPlaceholder("It ended before a node reported anything.");
  }

  /** @param {NodeTable} table */
  #showTable({ run, rows, num_left_out, leak }) {
    const leakLine = this.#part("leak");
    leakLine.hidden = leak === "";
    leakLine.textContent = leak;
    if (run === null) return this.#part("nodes").replaceChildren(NO_RUN);
    if (rows.length === 0) return this.#part("nodes").replaceChildren("No node ran: every result was there from earlier runs.");
    const isDevice = rows.some((row) => row.peak_allocated_gib !== null);
    const head = document.createElement("tr");
    const where = isDevice ? "torch" : "process";
    const titles = ["Node", "Time", `Peak ${where}, ${chosen.unit}`, `Growth, ${chosen.unit}`];
    head.append(...titles.map((title) => Object.assign(document.createElement("th"), { textContent: title, scope: "col" })));
    const body = rows.map((row) => {
      const peak = isDevice ? row.peak_allocated_gib : row.peak_process_gib;
      const growth = isDevice ? row.allocated_growth_gib : row.process_growth_gib;
      const line = document.createElement("tr");
      const title = this.titleOf(row);
      const name = Object.assign(document.createElement("th"), { textContent: title, scope: "row", title: `${title} (${row.node_id})` });
      const cells = [
        formatDuration(row.seconds),
        `${row.is_peak_exact ? "" : "\u2265 "}${formatSize(peak, chosen.unit)}`,
        formatSize(growth, chosen.unit, { signed: true }),
      ].map((text) => Object.assign(document.createElement("td"), { textContent: text }));
      if (!row.is_peak_exact) cells[1].title = "Highest sample: what lay between two samples is not seen";
      line.append(name, ...cells);
      return line;
    });
    const table = document.createElement("table");
    table.append(head, ...body);
    const rest = num_left_out ? [`${num_left_out} more executions are left out.`] : [];
    return this.#part("nodes").replaceChildren(table, ...rest);
  }

  /** @param {Reading} reading */
  #showReading({ device, graphs, comfyui, missing }) {
    setText(this.#part("device"), device === "cpu" ? "CPU" : device);
    this.#part("device").title = missing.join("\n");
    const lines = comfyui.models.map(
      ({ name, device: place, size_gib, resident_gib }) =>
        `${name}: ${formatSize(resident_gib, chosen.unit)} of ${formatSize(size_gib, chosen.unit)} ${chosen.unit} on ${place}`,
    );
    if (graphs.own_gib + (graphs.captured_gib ?? 0) >= 0.05) {
      const captured = graphs.captured_gib === null ? "" : `, ${formatSize(graphs.captured_gib, chosen.unit)} allocated in captures`;
      lines.push(`CUDA graphs, ${chosen.unit}: ${formatSize(graphs.own_gib, chosen.unit)} in torch (this pack's)${captured}`);
    }
    const list = this.#part("models");
    const shown = lines.length ? lines : ["None."];
    if (list.textContent === shown.join("")) return;
    list.replaceChildren(...shown.map((text) => Object.assign(document.createElement("li"), { textContent: text })));
  }

  /** @returns {Record<string, () => void>} by button */
  #actions() {
    return {
      free: async () => {
        const answer = await this.#ask("/fast-sprites/free", {});
        this.#say(answer ? "ComfyUI frees the memory once no prompt runs." : "The server did not answer.");
        if (answer) setTimeout(() => this.#readModels(), 1000);
      },
      reset: async () => {
        const answer = await this.#ask("/fast-sprites/reset", {});
        if (!answer) this.#say("The server did not answer.");
        else this.#say(answer.reset.includes("peak") ? "The peak counts from now." : "Nothing to reset: torch keeps no peak on this device.");
      },
      json: () => {
        const { rows, runs, marks } = this.feed.store;
        const document = { columns: COLUMNS, rows, runs, marks, table: this.#table, reading: this.#reading };
        this.#save(new Blob([JSON.stringify(document)], { type: "application/json" }), "json");
      },
      csv: () => this.#save(new Blob([toCsv(this.feed.store)], { type: "text/csv" }), "csv"),
      png: () => this.chart.toBlob().then((blob) => blob && this.#save(blob, "png")),
    };
  }

  /**
   * @param {Blob} content
   * @param {string} ending
   */
  #save(content, ending) {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(content);
    const time = new Date(this.feed.store.lastTime * 1000).toISOString().slice(0, 19).replaceAll(":", "");
    link.download = `memory-${time}.${ending}`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10_000); // the browser reads it after the click
    this.#say(`Saved ${link.download}.`);
  }

  /** @param {string} text */
  #say(text) {
    this.#part("status").textContent = text;
  }
}

/**
 * @param {HTMLElement} element
 * @param {string} text
 */
function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}
