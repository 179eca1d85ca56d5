/** @file Keys that are pressed in an element of the pack. */

const COMMANDS = ["Enter", "s"]; // with Ctrl or Cmd: queue, cancel and save

/**
 * Keeps keys from ComfyUI, which takes those of everything that is not an input: Delete would remove the selected node. Only what runs,
 * cancels or saves the workflow passes.
 * @param {HTMLElement} element
 */
export function keepKeys(element) {
  element.addEventListener("keydown", (event) => {
    if (!((event.ctrlKey || event.metaKey) && COMMANDS.includes(event.key))) event.stopPropagation();
  });
}
