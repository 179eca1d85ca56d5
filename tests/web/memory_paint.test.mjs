import assert from "node:assert/strict";
import { test } from "node:test";

import { MemoryStore } from "../../web/memory_data.mjs";
import { corners, layout, paint } from "../../web/memory_paint.mjs";

/** @param {Partial<import("../../web/memory_paint.mjs").Scene>} [given] */
function scene(given = {}) {
  const store = new MemoryStore();
  return /** @type {import("../../web/memory_paint.mjs").Scene} */ ({
    store, from: 0, to: 10, unit: "GiB", maxLanes: 3, cursor: null, marks: [],
    curves: ["active", "reserved", "driver", "ram", "process"],
    titleOf: ({ class_type }) => class_type,
    colors: new Proxy({}, { get: (_, name) => `color of ${String(name)}` }),
    ...given,
  });
}

/** A canvas context that notes what is drawn. */
function recorder() {
  /** @type {[string, ...unknown[]][]} */
  const calls = [];
  const target = /** @type {any} */ ({ calls, measureText: (/** @type {string} */ text) => ({ width: text.length * 5 }) });
  return new Proxy(target, {
    get: (object, name) => (name in object ? object[name] : (/** @type {unknown[]} */ ...values) => void calls.push([String(name), ...values])),
    set: (object, name, value) => {
      calls.push([`set ${String(name)}`, value]);
      object[name] = value;
      return true;
    },
  });
}

test("rows of one pixel keep their extremes", () => {
  const rows = [[1, 0, 5], [2, 0.1, 9], [3, 0.2, 1], [4, 1, 4]];
  assert.deepEqual(corners(rows, 2, (time) => time), [[0, 1], [0, 9], [1, 4]].map(([x, y]) => [x, y]));
});

test("a long time without rows is a gap, a missing figure is not", () => {
  const rows = [[1, 0, 5], [2, 1, null], [3, 2, 6], [4, 20, 7]];
  assert.deepEqual(corners(rows, 2, (time) => time), [[0, 5], [2, 6], null, [20, 7]]);
  assert.deepEqual(corners([[1, 0, null]], 2, (time) => time), []);
});

test("ten thousand rows are as many corners as pixels", () => {
  const rows = Array.from({ length: 10_000 }, (_, i) => [i, i / 1000, Math.sin(i)]);
  assert.ok(corners(rows, 2, (time) => time * 30).length <= 2 * 2 * 301);
});

test("the host has the right axis only beside a device", () => {
  const device = scene();
  device.store.merge({ rows: [[1, 1, 3, 4, 5, 60, 7]] });
  const both = layout(device, 300, 100);
  assert.deepEqual([both.hasBoth, both.maximum(false), both.maximum(true)], [true, 5, 100]);
  const cpu = scene();
  cpu.store.merge({ rows: [[1, 1, null, null, null, 60, 7]] });
  const one = layout(cpu, 300, 100);
  assert.deepEqual([one.hasBoth, one.curves, one.maximum(false)], [false, ["ram", "process"], 100]);
});

test("a GPU that shares the RAM has one axis with it", () => {
  const one = scene();
  one.store.merge({ rows: [[1, 1, 3, 4, null, 60, 7, 0], [2, 2, 3, 4, null, 60, 7, null]] });
  assert.deepEqual([layout(one, 300, 100).hasBoth, layout(one, 300, 100).maximum(false)], [false, 100]);
  const own = scene(); // at a node's start and end the driver is not asked
  own.store.merge({ rows: [[1, 1, 3, 4, null, 60, 7, null], [2, 2, 3, 4, 5, 60, 7, 0]] });
  assert.equal(layout(own, 300, 100).hasBoth, true);
});

test("long numbers have room beside the chart", () => {
  const device = scene({ unit: "MiB" });
  device.store.merge({ rows: [[1, 1, 3, 4, 5, 900, 7]] });
  const { plot, maximum } = layout(device, 300, 100);
  assert.deepEqual([maximum(false), maximum(true)].map((gib) => gib * 1024), [10_000, 1_000_000]);
  assert.ok(plot.left >= 5 * 6.4 + 4 && 300 - plot.right >= 7 * 6.4 + 4, JSON.stringify(plot));
});

test("time and pixel are each other's inverse", () => {
  const { x, time } = layout(scene({ from: 100, to: 160 }), 300, 100);
  for (const at of [100, 131.5, 160]) assert.ok(Math.abs(time(x(at)) - at) < 1e-9);
});

test("nodes, marks and the cursor are drawn, and titles fit", () => {
  const described = scene({ marks: [4], cursor: 5 });
  const spans = [{ node_id: "1", class_type: "KSampler", start_s: 1, end_s: 6 }, { node_id: "2", class_type: "A".repeat(200), start_s: 6, end_s: null }];
  described.store.merge({ rows: [[1, 1, 3, 4, 5, 60, 7], [2, 9, 3, 4, 5, 60, 7]], runs: [{ run: 1, start_s: 1, end_s: null, num_left_out: 0, spans }] });
  const context = recorder();
  paint(context, described, 400, 120);
  const texts = context.calls.filter(([name]) => name === "fillText").map(([, text]) => String(text));
  assert.ok(texts.includes("KSampler"));
  assert.ok(texts.some((text) => /^A+\u2026$/.test(text)));
  const used = new Set(context.calls.filter(([name]) => name.startsWith("set ")).map(([, value]) => value));
  for (const color of ["active", "reserved", "driver", "ram", "process", "span", "edge", "mark", "text"]) assert.ok(used.has(`color of ${color}`), color);
  assert.equal(context.calls.filter(([name]) => name === "fillRect").length, 2);
});

test("a title of wide and narrow letters stays within its node, and no letter is halved", () => {
  const title = "\u52c7\u8005\u306e\u5263\u{1f5e1}\u52c7\u8005\u306e\u5263 in front of a castle";
  const described = scene({ titleOf: () => title });
  const spans = [{ node_id: "1", class_type: "K", start_s: 0, end_s: 2 }];
  described.store.merge({ rows: [], runs: [{ run: 1, start_s: 0, end_s: 10, num_left_out: 0, spans }] });
  const context = recorder();
  const widthOf = (/** @type {string} */ text) => [...text].reduce((sum, letter) => sum + (letter > "\u2fff" ? 12 : 4), 0);
  context.measureText = (/** @type {string} */ text) => ({ width: widthOf(text) });
  paint(context, described, 400, 120);
  const [, , , room] = /** @type {any[]} */ (context.calls.find(([name]) => name === "fillRect"));
  const drawn = context.calls.flatMap(([name, text]) => (name === "fillText" && /\u52c7/.test(String(text)) ? [String(text)] : []));
  assert.equal(drawn.length, 1);
  assert.ok(widthOf(drawn[0]) <= room, `${widthOf(drawn[0])} in ${room}`);
  assert.ok(title.startsWith(drawn[0].slice(0, -1)) && drawn[0].isWellFormed());
});

test("a mark at an edge is drawn whole, one outside not at all", () => {
  const context = recorder();
  paint(context, scene({ marks: [-0.01, 0, 10, 10.01], cursor: 11 }), 300, 100);
  const names = context.calls.map(([name]) => name);
  assert.equal(names.filter((name) => name === "fill").length, 2);
  assert.ok(names.indexOf("fill") > names.indexOf("restore"), "clipped");
});

test("an empty history is drawn too", () => {
  const context = recorder();
  paint(context, scene(), 300, 100);
  assert.ok(context.calls.some(([name, text]) => name === "fillText" && text === "1.0"));
});
