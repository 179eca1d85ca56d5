/**
 * @file The one place that imports ComfyUI's frontend. ComfyUI serves these two modules for extensions; an import of
 * any other logs a deprecation warning on the server.
 */
// @ts-expect-error served by ComfyUI, not in this repository
import { api as comfyApi } from "../../scripts/api.js";
// @ts-expect-error served by ComfyUI, not in this repository
import { app as comfyApp } from "../../scripts/app.js";

/**
 * @typedef {object} DomWidget
 * @property {boolean} serialize false keeps the widget out of the workflow file
 */

/**
 * @typedef {object} DomWidgetOptions
 * @property {boolean} serialize false keeps the widget out of the prompt
 * @property {boolean} hideOnZoom whether a grey box stands for the element when the canvas is zoomed out
 * @property {boolean} hideInPanel whether the side panel leaves the widget out
 * @property {() => number} getMinHeight height in pixels that the node reserves
 * @property {() => string} getValue
 */

/**
 * @typedef {object} ComfyNode
 * @property {string} title
 * @property {Graph | undefined} subgraph the graph inside a subgraph node
 * @property {string} comfyClass the node's id in Python
 * @property {((output: NodeOutput | null) => void) | undefined} onExecuted
 * @property {(() => void) | undefined} onRemoved
 * @property {(name: string, type: string, element: HTMLElement, options: DomWidgetOptions) => DomWidget} addDOMWidget
 */

/**
 * @typedef {object} Graph
 * @property {string} id
 * @property {(id: string) => ComfyNode | null | undefined} getNodeById
 */

/** @typedef {{text?: string | string[]}} NodeOutput what a node's `ui` sent */

/**
 * @typedef {object} SidebarTab
 * @property {string} id
 * @property {string} title
 * @property {string} tooltip
 * @property {string} icon
 * @property {"custom"} type
 * @property {(element: HTMLElement) => void} render called again whenever the page renders the tab
 * @property {() => void} destroy
 */

/**
 * @typedef {object} Extension
 * @property {string} name unique in the page
 * @property {object[]} [settings]
 * @property {() => void} [setup]
 * @property {(node: ComfyNode) => void} [nodeCreated]
 * @property {() => void} [afterConfigureGraph]
 */

/**
 * @type {{
 *   rootGraph: Graph,
 *   canvas: Record<"processMouseWheel" | "processMouseDown" | "processMouseMove" | "processMouseUp", (event: Event) => void>,
 *   registerExtension: (extension: Extension) => void,
 *   extensionManager: {registerSidebarTab: (tab: SidebarTab) => void},
 * }}
 */
export const app = comfyApp;

/** @type {import("./memory_feed.mjs").Server} */
export const api = comfyApi;

/**
 * Lets the wheel zoom and the middle button drag the canvas over a widget's element, as over ComfyUI's own text boxes: Vue nodes see to it
 * themselves, the legacy canvas does not.
 * @param {HTMLElement} element
 */
export function forwardToCanvas(element) {
  /** @type {(type: string, forward: (event: any) => void, isMeant: (event: any) => boolean) => void} */
  const listen = (type, forward, isMeant) =>
    element.addEventListener(type, (event) => {
      if (!isMeant(event)) return;
      event.preventDefault();
      event.stopPropagation();
      forward(event);
    });
  listen("wheel", (event) => app.canvas.processMouseWheel(event), () => element.scrollHeight <= element.clientHeight);
  listen("pointerdown", (event) => app.canvas.processMouseDown(event), ({ button }) => button === 1);
  listen("pointermove", (event) => app.canvas.processMouseMove(event), ({ buttons }) => (buttons & 4) === 4);
  listen("pointerup", (event) => app.canvas.processMouseUp(event), ({ button }) => button === 1);
}
