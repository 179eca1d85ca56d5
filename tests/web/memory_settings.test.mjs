import assert from "node:assert/strict";
import { test } from "node:test";

import { chosen, settings } from "../../web/memory_settings.mjs";

test("stored settings are heard of together, later changes one by one", async () => {
  /** @type {[boolean, number][]} */
  const heard = [];
  const all = settings(() => heard.push([chosen.isOn, chosen.rateHz]));
  /** @type {Record<string, unknown>} */
  const stored = { "FastSprites.Memory.Live": false, "FastSprites.Memory.Rate": "1" };
  for (const { id, defaultValue, onChange } of /** @type {any[]} */ (all)) onChange(stored[id] ?? defaultValue);
  await null;
  assert.deepEqual(heard, [[false, 1]]);
  /** @type {any} */ (all.find(({ id }) => id === "FastSprites.Memory.Live")).onChange(true);
  await null;
  assert.deepEqual(heard.slice(1), [[true, 1]]);
});
