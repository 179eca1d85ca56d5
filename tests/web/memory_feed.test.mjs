import assert from "node:assert/strict";
import { test } from "node:test";

import { MemoryFeed } from "../../web/memory_feed.mjs";

const NEWS = { seq: 1, points: [], server: "one" };

/** A server whose answers come when `answer` is called. */
function slowServer() {
  const answers = [];
  return {
    addEventListener: () => {},
    fetchApi: async () => ({ ok: true, json: () => new Promise((resolve) => answers.push(() => resolve(NEWS))) }),
    answers,
  };
}

async function settled() {
  await new Promise((resolve) => setImmediate(resolve));
}

test("an answer that comes after the readings were turned off is left alone", async (t) => {
  const server = slowServer();
  const feed = new MemoryFeed(server);
  t.after(() => feed.configure(false, 4));
  const merged = [];
  feed.store.merge = (news) => merged.push(news);
  feed.configure(true, 4);
  await settled();
  feed.configure(true, 10);
  await settled();
  server.answers[0]();
  await settled();
  assert.deepEqual(merged, []);
  server.answers[1]();
  await settled();
  assert.deepEqual(merged, [NEWS]);
  feed.configure(false, 10);
  feed.configure(true, 10);
  await settled();
  feed.configure(false, 10);
  server.answers[2]();
  await settled();
  assert.deepEqual(merged, [NEWS]);
});
