// Metrics per energy, and which energy comes next and why.

import { endColours } from "./colour.js";
import { page, stale } from "./page.js";
import { Plot } from "./plot.js";
import { $, duration, figure, number, serial, text } from "./tools.js";

const LATEST = 4;
let plots = {};

export function makeMetrics(choose) {
  plots = Object.fromEntries(["map_rmse", "sigma", "shift", "rank"].map((name) => [
    name, new Plot($(`plot-${name}`), { small: true, integers: name === "rank", choose: (seq) => choose(Math.round(seq) - 1) }),
  ]));
}

export const drawMetrics = serial(async () => {
  const { results } = page, rows = results?.rows ?? [];
  const [shiftY, shiftX] = results ? await results.shifts() : [[], []];
  if (results !== page.results) return;
  const x = rows.map((row) => row.seq);
  const marker = page.index >= 0 && rows.length ? page.index + 1 : null;
  const rank = (row) => (row.rank > 0 || Number.isFinite(row.risk) ? row.rank : NaN); // none where the preview was skipped
  const value = (name) => (name === "rank" ? rank : (row) => row[name] ?? NaN);
  const one = (name) => [{ x, y: rows.map(value(name)), kind: "line", colour: endColours[0] }];
  for (const name of ["map_rmse", "sigma", "rank"]) plots[name].show({ marker, series: one(name) });
  plots.shift.show({ marker, series: [
    { x, y: shiftY, kind: "line", colour: endColours[0] }, { x, y: shiftX, kind: "line", colour: endColours[2] },
  ] });
  const attrs = results?.part === "final" ? results.about.attrs : {}, far = rows.slice(0, page.index + 1);
  const newest = (name, write) => write(far.map(value(name)).findLast(Number.isFinite) ?? NaN);
  const say = (name, final, write) => text(`value-${name}`, final === undefined ? newest(name, write) : `${write(final)} final`);
  say("map_rmse", attrs.predicted_rmse, figure);
  say("sigma", attrs.sigma, figure);
  say("rank", attrs.rank, (number) => (Number.isFinite(number) ? String(number) : "–"));
  const shift = (name, values) => `${name} ${number(values.slice(0, page.index + 1).findLast(Number.isFinite) ?? NaN, 1)}`;
  text("value-shift-y", rows.length ? shift("y", shiftY) : "–");
  text("value-shift-x", rows.length ? shift("x", shiftX) : "");
  $("value-shift-y").style.color = endColours[0];
  $("value-shift-x").style.color = endColours[2];
  drawAdvice(results);
}, stale);

function drawAdvice(results) {
  const advice = results?.advice ?? [], live = results?.part === "live";
  const last = advice.at(-1), next = results?.rows.at(-1)?.next_energy_eV;
  const ahead = last?.stop ? "stop" : `${number(next > 0 ? next : last?.next_energy_eV)} eV`;
  $("advice-panel").hidden = results !== null && !live;
  text("next-title", results?.about.metadata.planned_visits ? "Advice: next energy (this scan keeps to its list)" : "Next energies");
  text("next", live && (last || next > 0) ? ahead : "");
  const list = $("advice");
  const turns = advice.filter((row, i) => row.next_energy_eV !== advice[i + 1]?.next_energy_eV || row.stop !== advice[i + 1].stop);
  const words = turns.slice(-LATEST).reverse().map(sentence); // the last row of those that advise the same
  if (!words.length) words.push("no advice yet");
  if (Array.from(list.children, (item) => item.textContent).join() === words.join()) return;
  list.replaceChildren(...words.map((textContent) => Object.assign(document.createElement("li"), { textContent })));
}

function sentence(row) {
  const to = row.stop ? "stop" : `${number(row.next_energy_eV)} eV`;
  const left = row.visits_left > 0 ? `; ${Math.ceil(row.visits_left)} visits left${row.seconds_left > 0 ? ` (${duration(row.seconds_left)})` : ""}` : "";
  return `${row.seq ? `after ${row.seq}` : "first"}: ${to} – ${row.reason}${left}`;
}
