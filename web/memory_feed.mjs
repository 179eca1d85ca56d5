/** @file Brings the server's memory history into the page and tells the views that it grew. */

import { MemoryStore } from "./memory_data.mjs";

/** @typedef {import("./memory_data.mjs").News} News */
/** @typedef {() => void} View called once per drawn frame in which something is new */

const EVENT = "fast-sprites.memory";
/** The server samples 90 s for each time that it is asked; hidden tabs come round once a minute. */
const RENEW_MS = 20_000;

/**
 * @typedef {object} Server
 * @property {(event: string, listener: (event: CustomEvent) => void) => void} addEventListener
 * @property {(event: string, listener: (event: CustomEvent) => void) => void} removeEventListener
 * @property {(route: string, options?: RequestInit) => Promise<Response>} fetchApi
 */

export class MemoryFeed {
  /** @type {Set<View>} */
  #views = new Set();
  /** @type {ReturnType<typeof setInterval> | undefined} */
  #timer;
  #isDrawing = false;
  #rateHz = 4;

  /** @param {Server} server */
  constructor(server) {
    this.server = server;
    this.store = new MemoryStore();
    this.isOn = false;
    this.isAway = false;
    // From the start on: ComfyUI's page complains about events that nobody listens to.
    server.addEventListener(EVENT, ({ detail }) => this.isOn && this.#take(detail));
    server.addEventListener("reconnecting", () => {
      this.isAway = true;
      this.redraw();
    });
    server.addEventListener("reconnected", () => this.restart());
  }

  /**
   * Starts or stops watching, or changes how often the server samples.
   * @param {boolean} isOn
   * @param {number} rateHz
   */
  configure(isOn, rateHz) {
    if (isOn === this.isOn && rateHz === this.#rateHz) return;
    this.isOn = isOn;
    this.#rateHz = rateHz;
    this.restart();
  }

  /** Forgets what is known and asks anew: after a reconnection the server may be another one. */
  restart() {
    clearInterval(this.#timer);
    this.#timer = undefined;
    this.isAway = false;
    this.store.clear();
    this.redraw();
    if (!this.isOn) return;
    this.#timer = setInterval(() => this.#renew(), RENEW_MS);
    this.#renew();
  }

  async #renew() {
    const { seq } = this.store;
    const timer = this.#timer;
    try {
      const response = await this.server.fetchApi(`/fast-sprites/history?since=${seq}&rate_hz=${this.#rateHz}`);
      const news = response.ok && (await response.json());
      if (news && timer === this.#timer) this.#take(news); // else it was asked for before a restart
    } catch {
      // The server is away; "reconnected" follows.
    }
  }

  /**
   * Calls a view from now on, until the returned function is called.
   * @param {View} view
   * @returns {() => void}
   */
  subscribe(view) {
    this.#views.add(view);
    this.redraw();
    return () => this.#views.delete(view);
  }

  get numViews() {
    return this.#views.size;
  }

  /** @param {News} news */
  #take(news) {
    this.store.merge(news);
    this.redraw();
  }

  /** Calls every view in the next frame. */
  redraw() {
    if (this.#isDrawing || this.#views.size === 0) return;
    this.#isDrawing = true;
    requestAnimationFrame(() => {
      this.#isDrawing = false;
      for (const view of this.#views) view();
    });
  }
}
