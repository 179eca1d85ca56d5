import assert from "node:assert/strict";
import { test } from "node:test";

import { intoLanes, MAX_ROWS, MemoryStore, timeOf } from "../../web/memory_data.mjs";

/** @param {number} seq @param {number} time @param {number} [gib] */
const row = (seq, time, gib = 1) => [seq, time, gib, gib, null, 8, 2];
/** @param {string} id @param {number} start @param {number | null} end */
const span = (id, start, end) => ({ node_id: id, class_type: `Node${id}`, start_s: start, end_s: end });
/** @param {number} number @param {number} start @param {number | null} end */
const run = (number, start, end, spans = [span("1", start, end)]) => ({ run: number, start_s: start, end_s: end, num_left_out: 0, spans });

test("rows that come twice are kept once, and the oldest go", () => {
  const store = new MemoryStore();
  store.merge({ rows: [row(1, 10), row(2, 11)] });
  store.merge({ rows: [row(2, 11), row(3, 12)] });
  assert.deepEqual(store.rows.map(timeOf), [10, 11, 12]);
  store.merge({ rows: Array.from({ length: 20_000 }, (_, i) => row(4 + i, 13 + i)) });
  assert.equal(store.rows.length, MAX_ROWS);
  assert.equal(store.seq, 20_003);
});

test("an event that overtakes the history does not hide it", () => {
  const store = new MemoryStore();
  store.merge({ rows: [row(4, 13), row(5, 14)], runs: [run(3, 12, null)] });
  store.merge({ rows: [row(1, 10), row(2, 11), row(3, 12), row(4, 13)], runs: [run(1, 1, 2), run(2, 3, 4)] });
  assert.deepEqual(store.rows.map(timeOf), [10, 11, 12, 13, 14]);
  assert.deepEqual(store.runs.map(({ run: number }) => number), [1, 2, 3]);
});

test("a run is replaced by its newer state, and the oldest go", () => {
  const store = new MemoryStore();
  store.merge({ rows: [], runs: [run(1, 10, null)] });
  store.merge({ rows: [], runs: [run(1, 10, 12)], marks: [{ time_s: 11, node_id: "1", workflow_id: null }] });
  assert.equal(store.runs.length, 1);
  assert.equal(store.lastRun?.end_s, 12);
  for (let number = 2; number < 100; number++) store.merge({ rows: [], runs: [run(number, number, number)] });
  assert.equal(store.runs.length, 20);
  assert.equal(store.marks.length, 1); // news without marks leave them
});

test("times between rows find their neighbours", () => {
  const store = new MemoryStore();
  assert.deepEqual([store.rowsBetween(0, 100), store.rowAt(5), store.spanAt(5), store.lastTime, store.seq], [[], undefined, undefined, 0, 0]);
  store.merge({ rows: [row(1, 10), row(2, 20), row(3, 30), row(4, 40)] });
  assert.deepEqual(store.rowsBetween(15, 25).map(timeOf), [10, 20, 30]);
  assert.deepEqual(store.rowsBetween(0, 5).map(timeOf), [10]);
  assert.deepEqual(store.rowsBetween(50, 60).map(timeOf), [40]);
  assert.deepEqual([14, 16, 99].map((time) => timeOf(/** @type {any} */ (store.rowAt(time)))), [10, 20, 40]);
});

test("the node at a time is the one that started last", () => {
  const store = new MemoryStore();
  store.merge({ rows: [], runs: [run(1, 0, 10, [span("outer", 1, 9), span("inner", 3, 5)]), run(2, 20, null, [span("now", 21, null)])] });
  const names = [0.5, 2, 4, 6, 9.5, 15, 22, 99].map((time) => store.spanAt(time)?.node_id);
  assert.deepEqual([-1, 4, 15, 99].map((time) => store.runAt(time)?.run), [undefined, 1, undefined, 2]);
  assert.deepEqual(names, [undefined, "outer", "inner", "outer", undefined, undefined, "now", "now"]);
});

test("nodes one after another share a lane, overlapping ones do not", () => {
  const lanes = intoLanes([span("a", 0, 2), span("b", 2, 4), span("c", 3, 5), span("d", 3.5, null), span("e", 4, 6)], 3);
  assert.deepEqual(lanes.map(({ span: { node_id }, lane }) => [node_id, lane]), [["a", 0], ["b", 0], ["c", 1], ["d", 2], ["e", 0]]);
  assert.deepEqual(intoLanes([span("a", 0, 9), span("b", 1, 9), span("c", 2, 9)], 2).map(({ lane }) => lane), [0, 1, 1]);
});

test("what was known is forgotten for a new server", () => {
  const store = new MemoryStore();
  store.merge({ rows: [row(900, 10)], runs: [run(7, 1, 2)], marks: [{ time_s: 1, node_id: "1", workflow_id: null }], problem: "lost" });
  store.clear();
  store.merge({ rows: [row(1, 3)] });
  assert.deepEqual([store.seq, store.runs, store.marks, store.problem], [1, [], [], ""]);
});
