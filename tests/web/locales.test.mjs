// The settings' words in locales/ against the settings themselves: the page finds a translation by the setting's id.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { settings } from "../../web/memory_settings.mjs";

/** @param {string} language @param {string} file */
const read = (language, file) => JSON.parse(readFileSync(new URL(`../../locales/${language}/${file}.json`, import.meta.url), "utf-8"));
const words = Object.fromEntries(
  settings(() => {}).map(({ id, name, tooltip }) => [id.replaceAll(".", "_"), tooltip ? { name, tooltip } : { name }]),
);

test("English is what the settings say", () => assert.deepEqual(read("en", "settings"), words));

for (const language of ["zh", "ja"]) {
  test(`${language} covers every setting and category`, () => {
    const translated = read(language, "settings");
    assert.deepEqual(Object.keys(translated).sort(), Object.keys(words).sort());
    for (const [id, english] of Object.entries(words)) {
      assert.deepEqual(Object.keys(translated[id]), Object.keys(english), id);
      for (const [key, text] of Object.entries(translated[id])) assert.notEqual(text, english[key], `${id}.${key}`);
    }
    const [main, english] = [read(language, "main"), read("en", "main")];
    for (const part of Object.keys(english)) {
      if (typeof english[part] === "object") assert.deepEqual(Object.keys(main[part]), Object.keys(english[part]), part);
    }
    assert.deepEqual(Object.keys(main), Object.keys(english));
  });
}
