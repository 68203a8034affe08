// The frame: denoised, noisy or both, at one energy.

import { LUT, drawBar, paint, quantiles } from "./colour.js";
import { page, remember, resized, sight, stale } from "./page.js";
import { Picture } from "./picture.js";
import { $, buttons, note, number, serial, text } from "./tools.js";

const MODES = ["denoised", "noisy", "split"];
export let frame = null;

export function makeFrame(actions) {
  frame = new Picture($("frame"), sight, actions);
}

export function chooseFrameMode(mode) {
  page.frameMode = mode;
  remember();
  drawFrame();
}

export const nextFrameMode = () => chooseFrameMode(MODES[(MODES.indexOf(page.frameMode) + 1) % MODES.length]);

export const drawFrame = serial(async () => {
  buttons("frame-modes", MODES, page.frameMode, chooseFrameMode);
  const { results, frameMode, follow } = page;
  const wanted = frameMode === "split" ? ["noisy", "denoised"] : [frameMode];
  const energies = results ? await results.energies() : [];
  const frames = (at) => Promise.all(wanted.map((kind) => results.frame(at, kind)));
  let { index } = page, images = results && index >= 0 ? await frames(index) : [null];
  const newest = results?.part === "live" ? results.previewIndex : -1, late = index > newest;
  if (follow && images.includes(null) && newest >= 0) images = await frames((index = newest));
  if (results !== page.results) return;
  const label = `${number(energies[index])} eV (${index + 1} of ${energies.length})`;
  text("energy-label", index >= 0 && index < energies.length ? `${label}${index < page.index ? ", newest denoised" : ""}` : "–");
  $("frame-scale").hidden = images.includes(null);
  if (images.includes(null)) {
    frame.clear();
    const none = index < 0 || !results.has("noisy");
    const why = late ? "this energy is not denoised yet" : "this energy was left out: its frame does not fit the others";
    note("frame", none ? "waiting for the first energy…" : `${why}; see “noisy”`);
    return;
  }
  note("frame", "");
  const [height, width] = results.size();
  const [low, high] = quantiles(images.at(-1), 0.005, 0.995);
  const painted = images.map((values) => ({ values, pixels: paint(values, LUT.cividis, low, high) }));
  const second = painted.length > 1 ? { ...painted[1], names: wanted } : null;
  resized(height, width);
  frame.show({ ...painted[0], height, width, second });
  drawBar($("frame-bar"), LUT.cividis);
  text("frame-low", number(low));
  text("frame-high", Number.isFinite(high) ? `${number(high)} OD` : "");
  hoverFrame(sight.pointer);
  document.documentElement.dataset.painted = String(index + 1);
  document.documentElement.dataset.paintedOf = String(energies.length);
}, stale);

export function hoverFrame(at) {
  const value = frame.value(at);
  text("frame-hover", at && frame.values ? `x ${at.x}, y ${at.y}: ${Number.isFinite(value) ? `${number(value, 3)} OD` : "no value"}` : "\u00a0");
}
