/** @file The memory's history as a page keeps it: plain data, no page and no ComfyUI. */

/** @typedef {(number | null)[]} Row seq, time_s, then GiB: active, reserved, driver, RAM, process, CUDA graphs */
/** @typedef {{node_id: string, class_type: string, start_s: number, end_s: number | null}} Span */
/** @typedef {{run: number, start_s: number, end_s: number | null, num_left_out: number, spans: Span[]}} Run */
/** @typedef {{time_s: number, node_id: string, workflow_id: string | null}} Mark */
/** @typedef {{rows: Row[], runs?: Run[], marks?: Mark[], problem?: string}} News */
/** @typedef {"active" | "reserved" | "driver" | "ram" | "process"} CurveName */

export const MAX_ROWS = 7200;
const MAX_RUNS = 20;
const SEQ = 0;
const TIME = 1;

/** What the server calls the numbers of a row. */
export const COLUMNS = ["seq", "time_s", "active_gib", "reserved_gib", "driver_gib", "ram_gib", "process_gib", "graphs_gib"];
/** @type {Record<CurveName, number>} */
export const COLUMN = { active: 2, reserved: 3, driver: 4, ram: 5, process: 6 };

/**
 * @param {Row} row
 * @returns {number} seconds since 1970 by the server's clock
 */
export const timeOf = (row) => /** @type {number} */ (row[TIME]);

export class MemoryStore {
  constructor() {
    /** @type {Row[]} oldest first */
    this.rows = [];
    /** @type {Run[]} oldest first */
    this.runs = [];
    /** @type {Mark[]} */
    this.marks = [];
    this.problem = "";
  }

  /** The number of the newest row, 0 without any. */
  get seq() {
    return /** @type {number} */ (this.rows.at(-1)?.[SEQ] ?? 0);
  }

  /** The time of the newest row or run. */
  get lastTime() {
    const run = this.lastRun;
    return Math.max(this.rows.length ? timeOf(/** @type {Row} */ (this.rows.at(-1))) : 0, run?.end_s ?? run?.start_s ?? 0);
  }

  /** @returns {Run | undefined} the newest, perhaps not over */
  get lastRun() {
    return this.runs.at(-1);
  }

  /** Forgets everything: what comes next is of a server that may have started anew. */
  clear() {
    this.rows = [];
    this.runs = [];
    this.marks = [];
    this.problem = "";
  }

  /**
   * Takes over what is new; rows that are known already, as from a second answer, are left out.
   * @param {News} news
   */
  merge(news) {
    const seqOf = (/** @type {Row} */ row) => /** @type {number} */ (row[SEQ]);
    const [first, last] = [this.rows.length ? seqOf(this.rows[0]) : 0, this.seq];
    // An event may overtake the answer with the history before it.
    this.rows.unshift(...news.rows.filter((row) => seqOf(row) < first));
    this.rows.push(...news.rows.filter((row) => seqOf(row) > last));
    if (this.rows.length > MAX_ROWS) this.rows.splice(0, this.rows.length - MAX_ROWS);
    for (const run of news.runs ?? []) {
      const place = this.runs.findIndex((known) => known.run === run.run);
      if (place >= 0) this.runs[place] = run;
      else this.runs.push(run);
    }
    this.runs.sort((a, b) => a.run - b.run);
    if (this.runs.length > MAX_RUNS) this.runs.splice(0, this.runs.length - MAX_RUNS);
    if (news.marks) this.marks = news.marks;
    if (news.problem !== undefined) this.problem = news.problem;
  }

  /**
   * The rows from one time to another, with the one before and the one after, so that a curve reaches the edges.
   * @param {number} from seconds
   * @param {number} to seconds
   */
  rowsBetween(from, to) {
    const first = Math.max(firstAtOrAfter(this.rows, from) - 1, 0);
    return this.rows.slice(first, firstAtOrAfter(this.rows, to) + 1);
  }

  /**
   * @param {number} time seconds
   * @returns {Row | undefined} the row nearest to a time
   */
  rowAt(time) {
    const after = firstAtOrAfter(this.rows, time);
    const [left, right] = [this.rows[after - 1], this.rows[after]];
    if (!left || !right) return left ?? right;
    return time - timeOf(left) <= timeOf(right) - time ? left : right;
  }

  /**
   * @param {number} time seconds
   * @returns {Run | undefined} the run that was going on
   */
  runAt(time) {
    const run = this.runs.findLast((candidate) => candidate.start_s <= time);
    return run && time <= (run.end_s ?? Infinity) ? run : undefined;
  }

  /**
   * @param {number} time seconds
   * @returns {Span | undefined} the node that ran; of several the one that started last
   */
  spanAt(time) {
    return this.runAt(time)?.spans.findLast((span) => span.start_s <= time && time <= (span.end_s ?? Infinity));
  }
}

/**
 * @param {Row[]} rows
 * @param {number} time
 * @returns {number} index of the first row at or after a time, the number of rows if there is none
 */
function firstAtOrAfter(rows, time) {
  let [low, high] = [0, rows.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (timeOf(rows[middle]) < time) low = middle + 1;
    else high = middle;
  }
  return low;
}

/**
 * Puts spans that overlap, as of nodes that expand into others, into lanes below each other.
 * @param {Span[]} spans in the order in which they started
 * @param {number} numLanes the last one takes the rest
 * @returns {{span: Span, lane: number}[]}
 */
export function intoLanes(spans, numLanes) {
  /** @type {number[]} */
  const ends = [];
  return [...spans]
    .sort((a, b) => a.start_s - b.start_s)
    .map((span) => {
      let lane = ends.findIndex((end) => end <= span.start_s);
      if (lane < 0) lane = Math.min(ends.length, numLanes - 1);
      ends[lane] = Math.max(ends[lane] ?? -Infinity, span.end_s ?? Infinity);
      return { span, lane };
    });
}
