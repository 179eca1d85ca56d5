/** @file Sizes, times and files of the memory's history: plain functions. */

import { COLUMNS, timeOf } from "./memory_data.mjs";

/** @typedef {import("./memory_data.mjs").MemoryStore} MemoryStore */
/** @typedef {import("./memory_data.mjs").Row} Row */
/** @typedef {"GiB" | "GB" | "MiB"} Unit */

/** @type {Record<Unit, {perGib: number, decimals: number}>} */
const UNITS = {
  GiB: { perGib: 1, decimals: 1 },
  GB: { perGib: 1.073741824, decimals: 1 },
  MiB: { perGib: 1024, decimals: 0 },
};

/**
 * @param {number | null | undefined} gib
 * @param {Unit} unit
 * @param {{signed?: boolean}} [options]
 * @returns {string} the number alone; a dash where there is no figure
 */
export function formatSize(gib, unit, { signed = false } = {}) {
  if (gib === null || gib === undefined) return "\u2013";
  const { perGib, decimals } = UNITS[unit];
  const text = (gib * perGib).toFixed(decimals);
  const number = Number(text) === 0 ? text.replace("-", "") : text.replace("-", "\u2212");
  return signed && Number(text) > 0 ? `+${number}` : number;
}

/**
 * @param {number} seconds
 * @returns {string}
 */
export function formatDuration(seconds) {
  if (seconds < 0.995) return `${Math.round(seconds * 1000)} ms`;
  if (seconds < 59.95) return `${seconds.toFixed(1)} s`;
  const whole = Math.round(seconds);
  return `${Math.floor(whole / 60)} min ${whole % 60} s`;
}

/**
 * The end of an axis in GiB: in the unit the next of 1, 2, 4, 5 and 10 times a power of ten, of which half can be written exactly.
 * @param {number} gib at least 0
 * @param {Unit} unit
 */
export function niceMaximum(gib, unit) {
  const { perGib, decimals } = UNITS[unit];
  const value = Math.max(gib * perGib, 10 ** (1 - decimals));
  const power = 10 ** Math.floor(Math.log10(value));
  const step = [1, 2, 4, 5, 10].find((candidate) => candidate * power >= value * 0.9999) ?? 10;
  return (step * power) / perGib;
}

/**
 * The history as a table for a spreadsheet: one line a sample, with the node that ran.
 * @param {MemoryStore} store
 */
export function toCsv(store) {
  const names = COLUMNS.slice(1);
  const lines = store.rows.map((row) => {
    const span = store.spanAt(timeOf(row));
    const figures = names.map((_, index) => row[index + 1] ?? "");
    return [...figures, span?.node_id ?? "", span?.class_type ?? ""].map(csvField).join(",");
  });
  return [[...names, "node_id", "class_type"].join(","), ...lines, ""].join("\r\n");
}

/** @param {string | number} value */
function csvField(value) {
  if (typeof value === "number") return String(value);
  // A spreadsheet would take a text that starts like this for a formula.
  const text = /^[=+\-@\t\r]/.test(value) ? `'${value}` : value;
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}
