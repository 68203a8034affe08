// The chemical map: one picture, or small multiples where there are three states or more.

import { LUT, OKABE_ITO, drawBar, drawPlane, paint, paintLargest, paintPlane, quantiles } from "./colour.js";
import { page, remember, resized, sight, stale } from "./page.js";
import { Picture } from "./picture.js";
import { $, buttons, note, number, serial, text } from "./tools.js";

let actions = null, cells = [], shownMode = "", words = () => "";

export function makeMap(given) {
  actions = given;
  grid(1);
}

export function chooseMapMode(mode) {
  page.mapMode = mode;
  remember();
  drawMap();
}

export function nextMapMode() {
  const modes = page.results ? mapModes(page.results) : [];
  if (modes.length) chooseMapMode(modes[(modes.indexOf(shownMode) + 1) % modes.length]);
}

export const drawMap = serial(async () => {
  const results = page.results?.count ? page.results : null;
  const modes = results ? mapModes(results) : [];
  const mode = modes.includes(page.mapMode) ? page.mapMode : (modes[0] ?? "");
  shownMode = mode;
  buttons("map-modes", modes, mode, chooseMapMode);
  const names = results?.has("phase_map") ? stateNames(results) : [];
  stateChoice(names, mode);
  const shown = mode ? await pictures(results, mode, names) : null;
  if (results && results !== page.results) return;
  $("map-scale").hidden = !shown?.bar;
  swatches(shown?.swatches ?? []);
  text("map-caption", shown?.caption ?? "\u00a0");
  words = shown?.words ?? (() => "");
  if (!shown) {
    grid(1);
    cells[0].picture.clear();
    const status = page.results?.about.metadata.status;
    note("map", !results || status === "live" ? "waiting for the edge…" : "no chemical map");
    return;
  }
  note("map", "");
  const [height, width] = results.size();
  resized(height, width);
  grid(shown.cells.length);
  shown.cells.forEach((cell, i) => {
    cells[i].picture.show({ ...cell, height, width });
    cells[i].caption.textContent = cell.title ?? "";
    cells[i].canvas.setAttribute("aria-label", `${cell.title ?? shown.caption}; click a pixel, or draw a region, for its spectrum`);
  });
  $("map-scale").classList.toggle("plane", shown.bar === "plane");
  if (shown.bar === "plane") drawPlane($("map-bar"));
  else if (shown.bar) drawBar($("map-bar"), shown.bar);
  text("map-low", shown.low ?? "");
  text("map-high", shown.high ?? "");
  document.documentElement.dataset.mapped = String(results.version.map);
  hoverMap(sight.pointer);
}, stale);

const stateNames = (results) => Array.from({ length: results.about[results.part].phase_map.shape[0] }, (_, i) => results.states[i] ?? `state ${i + 1}`);

function mapModes(results) {
  const edge = results.has("edge50") ? ["edge"] : [];
  if (!results.has("phase_map")) return edge;
  const several = stateNames(results).length > 2;
  const first = several ? ["states", "largest"] : results.has("scale") ? ["2-D"] : [];
  return [...first, "state", ...(results.has("phase_sigma") ? ["σ"] : []), ...(results.has("scale") ? ["thickness"] : []), ...edge];
}

// What a mode shows: cells {values, pixels, title}, bar (colours, or "plane"), low, high, caption, words(at) for the pointer.
async function pictures(results, mode, names) {
  const chosen = names.length === 2 ? 1 : Math.min(page.state, names.length - 1);
  const value = (i, digits = 2, unit = "") => (at) => (Number.isFinite(cells[i].picture.value(at)) ? number(cells[i].picture.value(at), digits) + unit : "");
  const flat = async (name, index, lut, [low, high], caption, digits, unit = "") => {
    const values = await results.image(name, index);
    const range = [low, high].map((end) => end ?? NaN);
    if (!Number.isFinite(range[1])) [range[0], range[1]] = quantiles(values, low === 0 ? 0 : 0.01, 0.995);
    if (low === 0) range[0] = 0;
    const ends = range.map((end) => (Number.isFinite(end) ? number(end, digits) + unit : ""));
    return { cells: [{ values, pixels: paint(values, lut, ...range) }], bar: lut, low: ends[0], high: ends[1], caption, words: value(0, 3, unit) };
  };
  if (mode === "2-D") { // state × thickness
    const [state, thick] = await Promise.all([results.image("phase_map", 1), results.image("scale")]);
    const [full] = quantiles(thick, 0.98);
    return {
      cells: [{ values: state, pixels: paintPlane(state, thick, full) }], bar: "plane", low: names[0], high: names[1],
      caption: `across: state; up: thickness, black 0 to ${number(full)} OD edge jump`, words: (at) => (value(0)(at) ? `${names[1]} ${value(0)(at)}` : ""),
    };
  }
  if (mode === "states" || mode === "largest") {
    const each = async (name) => { // in one request: Tiled takes longer to begin an answer than to send an image
      const all = results.has(name) ? await results.image(name) : [], size = all.length / names.length;
      return all.length ? names.map((_, i) => all.subarray(i * size, (i + 1) * size)) : [];
    };
    const [states, sigma] = await Promise.all([each("phase_map"), each("phase_sigma")]);
    const largest = { ...paintLargest(states, sigma), title: "largest share" };
    const marks = names.map((name, i) => [name, OKABE_ITO[i % OKABE_ITO.length]]);
    if (mode === "largest") {
      return {
        cells: [{ ...largest, title: "" }], swatches: marks, caption: "the state with the largest share; dark where it leads by less than its σ",
        words: (at) => names[cells[0].picture.value(at)] ?? "",
      };
    }
    return {
      cells: [...states.map((values, i) => ({ values, pixels: paint(values, LUT.viridis, 0, 1), title: names[i] })), largest],
      bar: LUT.viridis, low: "0", high: "1", swatches: marks, caption: "fraction of each state; last: the largest, dark where it leads by less than its σ",
      words: (at) => names.map((name, i) => `${name} ${value(i)(at)}`).filter(() => value(0)(at)).join(", "),
    };
  }
  const of = names[chosen];
  if (mode === "σ") return flat("phase_sigma", chosen, LUT.magma, [0], `standard deviation of the fraction of ${of}`, 3);
  if (mode === "thickness") return flat("scale", null, LUT.cividis, [0], "thickness: the edge jump of all states together", 2, " OD");
  if (mode === "edge") return flat("edge50", null, LUT.viridis, [], "energy of half the edge", 1, " eV");
  return flat("phase_map", chosen, names.length === 2 ? LUT.diverging : LUT.viridis, [0, 1], `fraction of ${of}`, 0);
}

// As many pictures as wanted; those that are there already stay.
function grid(count) {
  while (cells.length > count) {
    const cell = cells.pop();
    cell.picture.remove();
    cell.figure.remove();
  }
  while (cells.length < count) {
    const canvas = Object.assign(document.createElement("canvas"), { tabIndex: 0, id: cells.length ? `map-${cells.length + 1}` : "map" });
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", "chemical map");
    const figure = document.createElement("figure"), caption = document.createElement("figcaption");
    figure.append(canvas, caption);
    $("maps").append(figure);
    cells.push({ figure, caption, canvas, picture: new Picture(canvas, sight, actions) });
  }
  $("maps").dataset.columns = String(Math.ceil(Math.sqrt(count)));
}

function swatches(marks) {
  const list = $("map-swatches");
  list.hidden = !marks.length;
  list.replaceChildren(...marks.map(([name, colour]) => {
    const item = Object.assign(document.createElement("li"), { textContent: name });
    item.style.setProperty("--swatch", colour);
    return item;
  }));
}

function stateChoice(names, mode) {
  const select = $("state-choice");
  select.hidden = names.length < 3 || !["state", "σ"].includes(mode);
  if (Array.from(select.options, (option) => option.text).join() === names.join()) return;
  select.replaceChildren(...names.map((name, i) => new Option(name, String(i))));
  page.state = Math.min(page.state, Math.max(names.length - 1, 0));
  select.value = String(page.state);
}

export function hoverMap(at) {
  const said = at && cells[0].picture.values ? words(at) || "no state: too thin, or not certain enough" : "";
  text("map-hover", said || "\u00a0");
}
