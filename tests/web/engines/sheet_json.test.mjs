// The saved JSON in the engines' own parsers. The two .json files here are what the engine writes for three 16x8 frames with padding 2
// and extrude 1; tests/unit/pixel/test_engine_fixtures.py keeps them so.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { test } from "node:test";

const require = createRequire(import.meta.url);
const read = (name) => JSON.parse(readFileSync(new URL(name, import.meta.url), "utf8"));
const RECTS = [
  [1, 1, 16, 8],
  [21, 1, 16, 8],
  [1, 13, 16, 8],
];

/** What Phaser's JSONHash parser needs of a Texture: its first source and `add`. */
function phaserTexture(json) {
  const Frame = require("./node_modules/phaser/src/textures/Frame.js");
  const source = { width: json.meta.size.w, height: json.meta.size.h };
  const texture = { source: [source], frames: {}, customData: {} };
  texture.add = (name, index, x, y, w, h) => (texture.frames[name] = new Frame(texture, name, index, x, y, w, h));
  return texture;
}

for (const [file, names] of [
  ["knight_name_index.json", ["knight_0", "knight_1", "knight_2"]],
  ["knight_index.json", ["0", "1", "2"]],
]) {
  test(`Phaser's atlas loader cuts the frames of ${file}`, () => {
    const json = read(file);
    const texture = require("./node_modules/phaser/src/textures/parsers/JSONHash.js")(phaserTexture(json), 0, json);
    assert.deepEqual(Object.keys(texture.frames).sort(), ["__BASE", ...names].sort());
    const cuts = names.map((name) => texture.frames[name]);
    assert.deepEqual(cuts.map((f) => [f.cutX, f.cutY, f.cutWidth, f.cutHeight]), RECTS);
    assert.deepEqual(texture.customData.meta.sprite.seeds, [1, 2, 3]);
  });

  test(`PixiJS resolves frames and animations of ${file}`, async () => {
    globalThis.navigator ??= { userAgent: "" }; // Node has one from version 21 on
    const { Spritesheet, Texture, TextureSource } = await import("pixi.js");
    const json = read(file);
    const source = new TextureSource({ width: json.meta.size.w, height: json.meta.size.h });
    const sheet = new Spritesheet(new Texture({ source }), json);
    await sheet.parse();
    assert.deepEqual(Object.keys(sheet.textures).sort(), [...names].sort());
    assert.deepEqual(names.map((name) => sheet.textures[name].frame).map((f) => [f.x, f.y, f.width, f.height]), RECTS);
    assert.deepEqual(sheet.animations.knight, names.map((name) => sheet.textures[name]));
  });
}

test("Phaser's Aseprite loader makes the animation from frames named by index", () => {
  const AnimationManager = require("./node_modules/phaser/src/animations/AnimationManager.js");
  const json = read("knight_index.json");
  const created = [];
  const manager = {
    game: { cache: { json: { get: () => json } } },
    create: (config) => created.push(config),
  };
  AnimationManager.prototype.createFromAseprite.call(manager, "knight");
  assert.equal(created.length, 1);
  assert.equal(created[0].key, "knight");
  assert.equal(created[0].duration, 360);
  assert.deepEqual(created[0].frames.map((frame) => frame.frame), ["0", "1", "2"]);
});
