// Spectrum of the chosen pixel or region: noisy, denoised, fit of the references, residual; state, σ, goodness of fit.

import { endColours } from "./colour.js";
import { page, sight, stale } from "./page.js";
import { Plot } from "./plot.js";
import { $, number, serial, text } from "./tools.js";

let plot = null, shown = null, drawn = "";

export function makeSpectrum(choose) {
  plot = new Plot($("spectrum"), { label: "photon energy, eV", choose: (energy) => choose(nearest(energy)), hover: readOut });
}

const nearest = (energy) => {
  const away = (e) => Math.abs(e - energy);
  return shown?.energies.length ? shown.energies.reduce((best, e, i) => (away(e) < away(shown.energies[best]) ? i : best), 0) : -1;
};

export const boxOf = ({ cross, region }) => region ?? (cross ? { x0: cross.x, y0: cross.y, x1: cross.x + 1, y1: cross.y + 1 } : null);

export function nameOf({ cross, region }) {
  if (region) return `ROI x ${region.x0}–${region.x1 - 1}, y ${region.y0}–${region.y1 - 1}`;
  return cross ? `pixel x ${cross.x}, y ${cross.y}` : "of a pixel or a region";
}

// Says at once what was chosen, with dots until its spectrum is there.
export function named() {
  const name = nameOf(sight), there = !boxOf(sight) || drawn === `${page.results?.run} ${name}`;
  text("pixel", there ? name : `${name} …`);
  $("no-region").hidden = !sight.region;
}

export const drawSpectrum = serial(async () => {
  named();
  const { results } = page, box = boxOf(sight), name = nameOf(sight);
  if (!box || !results?.has("noisy")) {
    shown = null;
    plot.show({ series: [] });
    text("pixel-state", "\u00a0");
    return;
  }
  const current = () => results === page.results && name === nameOf(sight);
  const news = `${results.run} ${name}` !== drawn;
  const got = await results.region(box, (early) => {
    if (!news || !current()) return; // else the fit would go and come
    text("pixel-state", "…");
    draw(results, early, name);
  });
  if (!current()) return;
  draw(results, got, name);
  text("pixel-state", chemistry(results, got));
  document.documentElement.dataset.chemistry = name;
}, stale);

function draw(results, got, name) {
  shown = got;
  drawn = `${results.run} ${name}`;
  named();
  const { energies, noisy, denoised, fitted } = got;
  const model = fitted.length ? fitted : denoised;
  const level = (results.part === "final" ? results.about.attrs.sigma : results.rows.at(-1)?.sigma) / Math.sqrt(got.pixels);
  const x = (values) => energies.slice(0, values.length);
  const colour = "#c3cad4";
  plot.show({
    marker: energies[page.index],
    advised: results.part === "live" ? advised(results) : [],
    series: [
      { x: energies, y: noisy, kind: "points", colour, name: "noisy" },
      { x: x(denoised), y: denoised, kind: "line", colour: endColours[0], name: "denoised" },
      { x: x(fitted), y: fitted, kind: "dashed", colour: endColours[2], name: "fit of the references" },
    ],
    label: "optical density",
    below: model.length ? {
      series: [{ x: x(model), y: model.map((value, t) => noisy[t] - value), kind: "points", colour }],
      band: Number.isFinite(level) ? level : 0,
      label: `noisy − ${fitted.length ? "fit" : "denoised"}, band ±σ`,
    } : null,
  });
  document.documentElement.dataset.spectrum = `${name} ${noisy.length}`;
}

// Energies advised so far, the newest last.
function advised(results) {
  const news = results.rows.at(-1)?.next_energy_eV;
  const before = results.advice.filter((row) => !row.stop).map((row) => row.next_energy_eV).filter((energy) => energy > 0);
  return [...before.slice(-6, -1), ...(news > 0 ? [news] : before.slice(-1))];
}

function chemistry(results, got) {
  const name = (i) => results.states[i] ?? `state ${i + 1}`;
  const one = got.pixels === 1;
  const digits = (i) => (got.sigma[i] < 0.00995 ? 3 : 2);
  const words = got.abundances.map((a, i) => (Number.isFinite(a) ? `${name(i)} ${number(a, digits(i))} ${one ? `± ${number(got.sigma[i], digits(i))}` : `(each pixel ± ${number(got.sigma[i], digits(i))}, spread ${number(got.spread[i] ?? NaN)})`}` : "")).filter(Boolean);
  if (!words.length && !Number.isFinite(got.edge50)) return results.has("phase_map") ? "no state here: too thin, or not certain enough" : "no state yet";
  if (Number.isFinite(got.scale)) words.push(`thickness ${number(got.scale)} OD`);
  if (Number.isFinite(got.edge50)) words.push(`half the edge at ${number(got.edge50, 1)} eV`);
  if (Number.isFinite(got.goodness)) words.push(`goodness of fit ${number(got.goodness)} (χ² per energy; noise alone: 1${one ? ` ± ${number(Math.sqrt(2 / got.energies.length), 1)}` : ""})`);
  if (!one) {
    const of = got.pixels < got.total ? ` (every ${Math.round(got.total / got.pixels)}th of ${got.total})` : "";
    words.push(`mean of ${got.pixels} pixels${of}, ${got.valid} with a state`);
    if (results.part === "final" && results.has("references") && !got.fitted.length) words.push("no fit: too many pixels have no state");
  }
  return words.join(" · ");
}

function readOut(energy) {
  const at = energy === null ? -1 : nearest(energy);
  if (at < 0) { text("spectrum-hover", "\u00a0"); return; }
  const words = [["noisy", shown.noisy], ["denoised", shown.denoised], ["fit", shown.fitted]].filter(([, values]) => Number.isFinite(values[at])).map(([name, values]) => `${name} ${number(values[at], 3)}`);
  text("spectrum-hover", `${number(shown.energies[at])} eV: ${words.join(", ")}`);
}
