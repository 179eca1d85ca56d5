/** @file What the user may choose about the live readings, in ComfyUI's settings. */

/** @typedef {import("./memory_data.mjs").CurveName} CurveName */
/** @typedef {import("./memory_format.mjs").Unit} Unit */

/** @type {{isOn: boolean, rateHz: number, unit: Unit, curves: Set<CurveName>}} */
export const chosen = { isOn: true, rateHz: 4, unit: "GiB", curves: new Set(["active", "reserved", "driver", "ram", "process"]) };

/** @type {[CurveName, string, string][]} */
const CURVES = [
  ["active", "Curve: torch active", "Memory of tensors on the device."],
  ["reserved", "Curve: torch reserved", "What torch has taken from the driver: tensors and its cache."],
  ["driver", "Curve: driver", "Everything in use on the device, other processes included."],
  ["ram", "Curve: RAM", "Everything in use in the system."],
  ["process", "Curve: this process", "RAM of ComfyUI alone."],
];

/**
 * The settings in the form that ComfyUI registers.
 * @param {() => void} onChange after `chosen` has the new values; at the start too
 */
export function settings(onChange) {
  let isDue = false;
  /**
   * @template T
   * @param {(value: T) => void} keep
   * @returns {(value: T) => void}
   */
  const changed = (keep) => (value) => {
    keep(value);
    if (isDue) return;
    isDue = true;
    // At the start ComfyUI tells the stored values one by one: only together they say what to ask the server for.
    queueMicrotask(() => {
      isDue = false;
      onChange();
    });
  };
  return [
    ...CURVES.toReversed().map(([curve, name, tooltip]) => ({
      id: `FastSprites.Memory.Curve.${curve}`,
      category: ["Fast Sprites", "Memory", `Curve ${curve}`],
      name,
      tooltip,
      type: "boolean",
      defaultValue: true,
      onChange: changed((/** @type {boolean} */ isShown) => {
        if (isShown) chosen.curves.add(curve);
        else chosen.curves.delete(curve);
      }),
    })),
    {
      id: "FastSprites.Memory.Unit",
      category: ["Fast Sprites", "Memory", "Unit"],
      name: "Unit of sizes",
      type: "combo",
      options: ["GiB", "GB", "MiB"],
      defaultValue: "GiB",
      onChange: changed((/** @type {Unit} */ unit) => (chosen.unit = unit)),
    },
    {
      id: "FastSprites.Memory.Rate",
      category: ["Fast Sprites", "Memory", "Rate"],
      name: "Readings per second",
      tooltip: "While a prompt runs it is five times as many.",
      type: "combo",
      options: ["1", "2", "4", "10"],
      defaultValue: "4",
      onChange: changed((/** @type {string} */ rate) => (chosen.rateHz = Number(rate))),
    },
    {
      id: "FastSprites.Memory.Live",
      category: ["Fast Sprites", "Memory", "Live"],
      name: "Live memory readings",
      tooltip: "Off: the server takes no samples for this page and the charts stay empty.",
      type: "boolean",
      defaultValue: true,
      onChange: changed((/** @type {boolean} */ isOn) => (chosen.isOn = isOn)),
    },
  ];
}
