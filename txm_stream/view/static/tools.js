// Small helpers of all panels: elements, numbers as text, tasks that never run twice at once.

import { Problem } from "./api.js";

export const $ = (id) => document.getElementById(id);
export const text = (id, words) => { if ($(id).textContent !== words) $(id).textContent = words; };
const minus = (words) => words.replace(/^-(0\.?0*)$/, "$1").replace("-", "−");
export const number = (value, digits = 2) => (Number.isFinite(value) ? minus(value.toFixed(digits)) : "–");
export const figure = (value) => (Number.isFinite(value) ? minus(Number(value.toPrecision(2)).toString()) : "–");
export const duration = (s) => (s < 90 ? `${Math.round(s)} s` : s < 5400 ? `${Math.round(s / 60)} min` : `${Math.round(s / 360) / 10} h`);

// Runs a task now, or once more after the run that is going on; never twice at once.
export function serial(task, failed) {
  let running = null, again = false;
  const run = async () => {
    try {
      do {
        again = false;
        await task();
      } while (again);
    } catch (error) {
      if (!(error instanceof Problem)) throw error;
      failed(); // the next poll says what is wrong, and draws again
    } finally {
      running = null;
    }
  };
  return () => {
    if (running) again = true; else running = run();
    return running;
  };
}

// A group of buttons of which one is pressed.
export function buttons(id, names, chosen, act) {
  const group = $(id);
  if (Array.from(group.children, (button) => button.textContent).join() !== names.join()) {
    group.replaceChildren(...names.map((name) => {
      const button = Object.assign(document.createElement("button"), { type: "button", textContent: name });
      button.addEventListener("click", () => act(name));
      return button;
    }));
  }
  for (const button of group.children) button.setAttribute("aria-pressed", String(button.textContent === chosen));
}

export function note(panel, words) {
  text(`${panel}-note`, words);
  $(`${panel}-note`).hidden = !words;
}
