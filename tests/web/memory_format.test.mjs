import assert from "node:assert/strict";
import { test } from "node:test";

import { MemoryStore } from "../../web/memory_data.mjs";
import { formatDuration, formatSize, niceMaximum, toCsv } from "../../web/memory_format.mjs";

test("sizes have the chosen unit", () => {
  assert.deepEqual([formatSize(1.25, "GiB"), formatSize(1, "GB"), formatSize(1.5, "MiB"), formatSize(null, "GiB")], ["1.3", "1.1", "1536", "\u2013"]);
});

test("growth has a sign, and nothing has none", () => {
  const signed = (/** @type {number} */ gib) => formatSize(gib, "GiB", { signed: true });
  assert.deepEqual([signed(0.5), signed(-0.5), signed(0.01), signed(-0.01), signed(0)], ["+0.5", "\u22120.5", "0.0", "0.0", "0.0"]);
});

test("durations are short", () => {
  const texts = [0.0004, 0.35, 0.999, 1, 59.94, 59.96, 61, 3600].map(formatDuration);
  assert.deepEqual(texts, ["0 ms", "350 ms", "1.0 s", "1.0 s", "59.9 s", "1 min 0 s", "1 min 1 s", "60 min 0 s"]);
});

test("an axis ends at a round number that holds everything", () => {
  const maxima = (/** @type {number[]} */ ...gib) => gib.map((size) => niceMaximum(size, "GiB"));
  assert.deepEqual(maxima(0, 0.07, 0.45, 1, 1.2, 2.5, 4.6, 8, 23.5, 78, 139), [1, 1, 1, 1, 2, 4, 5, 10, 40, 100, 200]);
});

test("an axis is round in the unit that was chosen", () => {
  const ends = (/** @type {"GB" | "MiB"} */ unit) => [0, 0.45, 23.5, 78].map((gib) => formatSize(niceMaximum(gib, unit), unit));
  assert.deepEqual(ends("GB"), ["1.0", "1.0", "40.0", "100.0"]);
  assert.deepEqual(ends("MiB"), ["10", "500", "40000", "100000"]);
});

test("the CSV names the node, quotes what must be, and starts no formula", () => {
  const store = new MemoryStore();
  const spans = [
    { node_id: "2:1", class_type: 'Load, "it"', start_s: 1, end_s: 2 },
    { node_id: "=1+1", class_type: "K", start_s: 3, end_s: 4 },
  ];
  store.merge({ rows: [[1, 1.5, 2, 3, null, 8, 1, null], [2, 2.5, 2, 3, 4, 8, 1, 0.5], [3, 3.5, 2, 3, 4, 8, 1, 0.5]], runs: [{ run: 1, start_s: 1, end_s: 5, num_left_out: 0, spans }] });
  assert.deepEqual(toCsv(store).split("\r\n"), [
    "time_s,active_gib,reserved_gib,driver_gib,ram_gib,process_gib,graphs_gib,node_id,class_type",
    '1.5,2,3,,8,1,,2:1,"Load, ""it"""',
    "2.5,2,3,4,8,1,0.5,,",
    "3.5,2,3,4,8,1,0.5,'=1+1,K",
    "",
  ]);
});
