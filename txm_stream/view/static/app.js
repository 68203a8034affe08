// The page: one loop asks for the metrics; whatever changed is fetched and drawn.

import { Problem, getRows, getRun, getRuns, recallToken, setToken } from "./api.js";
import { LUT, drawBar, drawPlane, endColours, paint, paintPlane, quantiles } from "./colour.js";
import { Picture } from "./picture.js";
import { Plot } from "./plot.js";
import { Results } from "./results.js";

const POLL_MS = 500, SLOW_MS = 3000, RUNS_MS = 3000;
const $ = (id) => document.getElementById(id);
const number = (value, digits = 2) => (Number.isFinite(value) ? value.toFixed(digits).replace(/^-(0\.?0*)$/, "$1").replace("-", "−") : "–");
const figure = (value) => (Number.isFinite(value) ? Number(value.toPrecision(2)).toString().replace("-", "−") : "–");

const page = {
  wanted: "latest", runs: [], runsAt: 0, results: null, index: -1, follow: true, pixel: null, size: null,
  frameMode: "denoised", mapMode: "", state: 1, failures: 0, stale: false, aboutAt: 0, seen: "", time: 0,
};

// ------------------------------------------------------------------------------------------------ drawing

const frame = new Picture($("frame"), { pick, hover: (at) => hover("frame", at) });
const map = new Picture($("map"), { pick, hover: (at) => hover("map", at) });
const spectrum = new Plot($("spectrum"), { label: "photon energy, eV", choose: chooseEnergy });
const plots = Object.fromEntries(["map_rmse", "sigma", "shift", "rank"].map((name) => [
  name, new Plot($(`plot-${name}`), { small: true, integers: name === "rank", choose: (seq) => choose(Math.round(seq) - 1) }),
]));

// Runs a task now, or once more after the run that is going on; never twice at once.
function serial(task) {
  let busy = false, again = false;
  return async () => {
    if (busy) { again = true; return; }
    busy = true;
    try {
      do {
        again = false;
        await task();
      } while (again);
    } catch (error) {
      page.stale = true; // the next poll says what is wrong, and draws again
      if (!(error instanceof Problem)) throw error;
    } finally {
      busy = false;
    }
  };
}

const drawFrame = serial(async () => {
  const results = page.results, index = page.index;
  if (!results || index < 0) { frame.clear(); note("frame", "waiting for the first energy…"); return; }
  const energies = await results.energies();
  const got = await results.frame(index, page.frameMode);
  if (results !== page.results) return;
  $("energy-label").textContent = `${number(energies[index])} eV (${index + 1} of ${energies.length})`;
  note("frame", got.note ?? "");
  if (got.note) { frame.clear(); return; }
  const [low, high] = quantiles(got.values, 0.005, 0.995);
  frame.show(got.values, paint(got.values, LUT.cividis, low, high), got.height, got.width);
  resized(got.height, got.width);
  drawBar($("frame-bar"), LUT.cividis);
  $("frame-low").textContent = number(low);
  $("frame-high").textContent = Number.isFinite(high) ? `${number(high)} OD` : "";
  document.documentElement.dataset.painted = String(index + 1);
});

const drawMap = serial(async () => {
  const results = page.results;
  const maps = results && results.count ? await results.maps() : { states: [] };
  if (results !== page.results) return;
  const modes = mapModes(maps);
  if (!modes.includes(page.mapMode)) page.mapMode = modes[0] ?? "";
  buttons("map-modes", modes, page.mapMode, (mode) => { page.mapMode = mode; drawMap(); });
  stateChoice(maps.states.length, results?.states ?? []);
  $("map-scale").hidden = !modes.length;
  if (!modes.length) {
    map.clear();
    const running = !results || results.about.metadata.status === "live" || !results.count;
    note("map", running ? "waiting for the edge…" : "no chemical map");
    $("map-caption").textContent = "\u00a0";
    return;
  }
  note("map", "");
  const shown = mapShown(maps, results.states);
  map.show(shown.values, shown.pixels, maps.height, maps.width);
  resized(maps.height, maps.width);
  $("map-scale").classList.toggle("plane", shown.plane);
  if (shown.plane) drawPlane($("map-bar")); else drawBar($("map-bar"), shown.lut);
  $("map-low").textContent = shown.low;
  $("map-high").textContent = shown.high;
  $("map-caption").textContent = shown.caption;
});

function mapModes(maps) {
  if (maps.states.length) {
    const both = maps.states.length === 2 && maps.scale ? "2-D" : "";
    return [both, "state", maps.sigma.length ? "σ" : "", maps.scale ? "thickness" : "", maps.edge50 ? "edge" : ""].filter(Boolean);
  }
  return maps.edge50 ? ["edge"] : [];
}

function mapShown(maps, names) {
  const two = maps.states.length === 2;
  const chosen = two ? 1 : Math.min(page.state, maps.states.length - 1);
  const name = (i) => names[i] ?? `state ${i + 1}`;
  const flat = (values, lut, low, high, unit, caption, digits = 2) => ({
    values, lut, caption, plane: false, pixels: paint(values, lut, low, high), low: number(low, digits), high: `${number(high, digits)}${unit}`,
  });
  if (page.mapMode === "2-D") { // state × thickness
    const [full] = quantiles(maps.scale, 0.98);
    return {
      values: maps.states[1], plane: true, pixels: paintPlane(maps.states[1], maps.scale, full), low: name(0), high: name(1),
      caption: `colour: state; brightness: thickness, black 0 to ${number(full)} OD edge jump`,
    };
  }
  if (page.mapMode === "σ") {
    const [high] = quantiles(maps.sigma[chosen], 0.995);
    return flat(maps.sigma[chosen], LUT.magma, 0, high, "", `standard deviation of the fraction of ${name(chosen)}`, 3);
  }
  if (page.mapMode === "thickness") {
    const [high] = quantiles(maps.scale, 0.995);
    return flat(maps.scale, LUT.cividis, 0, high, " OD", "edge jump of the whole element");
  }
  if (page.mapMode === "edge") {
    const [low, high] = quantiles(maps.edge50, 0.01, 0.99);
    return flat(maps.edge50, LUT.viridis, low, high, " eV", "energy of half the edge", 1);
  }
  return flat(maps.states[chosen], two ? LUT.diverging : LUT.viridis, 0, 1, "", `fraction of ${name(chosen)}`);
}

const drawSpectrum = serial(async () => {
  const { results, pixel } = page;
  if (!results || !pixel || !results.has("noisy")) { spectrum.show({ series: [] }); return; }
  const got = await results.pixel(pixel.x, pixel.y);
  if (results !== page.results) return;
  const next = results.rows[results.rows.length - 1]?.next_energy_eV;
  spectrum.show({
    marker: got.energies[page.index],
    advised: results.part === "live" && Number.isFinite(next) ? [next] : [],
    series: [
      { x: got.energies, y: got.noisy, kind: "points", colour: "#c3cad4", name: "noisy" },
      { x: got.energies.slice(0, got.denoised.length), y: got.denoised, kind: "line", colour: endColours[0], name: "denoised" },
      { x: got.energies.slice(0, got.fitted.length), y: got.fitted, kind: "dashed", colour: endColours[2], name: "fit of the references" },
    ],
  });
  $("pixel").textContent = `pixel x ${pixel.x}, y ${pixel.y}`;
  const words = got.abundances
    .map((a, i) => (Number.isFinite(a) ? `${results.states[i] ?? `state ${i + 1}`} ${number(a)} ± ${number(got.sigma[i])}` : ""))
    .filter(Boolean);
  if (Number.isFinite(got.scale)) words.push(`thickness ${number(got.scale)} OD`);
  if (Number.isFinite(got.edge50)) words.push(`half the edge at ${number(got.edge50, 1)} eV`);
  if (Number.isFinite(got.goodness) && words.length) words.push(`goodness of fit ${number(got.goodness)} (1 is perfect)`);
  const none = results.has("phase_map") ? "no state here: too thin, or not certain enough" : "no state yet";
  $("pixel-state").textContent = words.join(" · ") || none;
});

const drawMetrics = serial(async () => {
  const results = page.results;
  const rows = results?.rows ?? [];
  const x = rows.map((row) => row.seq);
  const column = (name) => rows.map((row) => row[name] ?? NaN);
  let shiftY = column("shift_y_px"), shiftX = column("shift_x_px");
  if (results?.part === "final" && results.has("shifts_px")) {
    const shifts = await results.get("shifts_px");
    if (shifts.length === 2 * rows.length) [shiftY, shiftX] = [0, 1].map((axis) => rows.map((_, i) => shifts[2 * i + axis]));
  }
  if (results !== page.results) return;
  const marker = page.index >= 0 && rows.length ? page.index + 1 : null;
  const one = (name, kind) => [{ x, y: column(name), kind, colour: endColours[0] }];
  plots.map_rmse.show({ marker, series: one("map_rmse", "line") });
  plots.sigma.show({ marker, series: one("sigma", "line") });
  plots.rank.show({ marker, series: one("rank", "line") });
  plots.shift.show({ marker, series: [
    { x, y: shiftY, kind: "line", colour: endColours[0] }, { x, y: shiftX, kind: "line", colour: endColours[2] },
  ] });
  const row = rows[page.index] ?? {};
  const final = results?.part === "final" ? results.about.attrs : {};
  $("value-map_rmse").textContent = figure(final.predicted_rmse ?? row.map_rmse);
  $("value-sigma").textContent = figure(final.sigma ?? row.sigma);
  $("value-rank").textContent = final.rank ?? row.rank ?? "–";
  $("value-shift").textContent = rows.length ? `y ${number(shiftY[page.index], 1)} x ${number(shiftX[page.index], 1)}` : "–";
  const next = rows[rows.length - 1]?.next_energy_eV;
  $("next").textContent = results?.part === "live" && Number.isFinite(next) ? `next advised: ${number(next)} eV` : "";
});

function drawAll() {
  drawFrame();
  drawMap();
  drawSpectrum();
  drawMetrics();
}

// ------------------------------------------------------------------------------------------------ head of the page

function drawHead() {
  const { results } = page;
  const about = results?.about.metadata ?? {};
  const count = results?.count ?? 0;
  $("count").textContent = String(count);
  const planned = about.planned_visits ?? 0;
  $("planned").textContent = planned ? ` of ${planned}` : "";
  $("progress").hidden = !planned;
  if (planned) Object.assign($("progress"), { max: planned, value: Math.min(count, planned) });
  const status = page.failures > 1 ? "lost" : results ? (about.status === "live" && about.replay ? "replay" : about.status) : "no run";
  $("state").textContent = status ?? "unknown";
  $("state").dataset.state = status;
  const rows = results?.rows ?? [], last = rows[rows.length - 1], live = status === "live" || status === "replay";
  const remaining = live && planned > count && count > 2 ? ((planned - count) * (last.time - rows[0].time)) / (count - 1) : 0;
  $("remaining").textContent = remaining > 0 ? `${duration(remaining)} left` : "";
  const age = page.time - (last?.time || NaN);
  const words = live && Number.isFinite(last?.latency_s) ? [`${figure(last.latency_s * 1000 < 1000 ? Math.round(last.latency_s * 1000) : last.latency_s)} ${last.latency_s < 1 ? "ms" : "s"} behind`] : [];
  if (live && age > 20) words.push(`last energy ${duration(age)} ago`);
  $("latency").textContent = words.join(" · ");
  const slider = $("energy");
  slider.max = String(Math.max(count - 1, 0));
  slider.disabled = count < 1;
  slider.value = String(Math.max(page.index, 0));
  $("follow").setAttribute("aria-pressed", String(page.follow));
  buttons("frame-modes", ["denoised", "noisy"], page.frameMode, (mode) => { page.frameMode = mode; drawFrame(); });
  const warnings = (results?.part === "final" && results.about.attrs.warnings) || [];
  $("warnings").hidden = !warnings.length;
  $("warnings").querySelector("summary").textContent = `${warnings.length} warning${warnings.length === 1 ? "" : "s"}`;
  $("warnings").querySelector("ul").replaceChildren(...warnings.map((text) => Object.assign(document.createElement("li"), { textContent: text })));
  document.title = results ? `${status} ${count}${planned ? `/${planned}` : ""} – txm-stream` : "txm-stream";
}

const duration = (s) => (s < 90 ? `${Math.round(s)} s` : s < 5400 ? `${Math.round(s / 60)} min` : `${Math.round(s / 360) / 10} h`);

function message(text, kind = "error") {
  $("message").hidden = !text;
  $("message").dataset.kind = kind;
  if ($("message").textContent !== text) $("message").textContent = text;
}

function note(panel, text) {
  $(`${panel}-note`).textContent = text;
  $(`${panel}-note`).hidden = !text;
}

function buttons(id, names, chosen, act) {
  const group = $(id);
  if (Array.from(group.children, (button) => button.textContent).join() !== names.join()) {
    group.replaceChildren(...names.map((name) => {
      const button = Object.assign(document.createElement("button"), { type: "button", textContent: name });
      button.addEventListener("click", () => { act(name); mark(group, name); });
      return button;
    }));
  }
  mark(group, chosen);
}

function mark(group, chosen) {
  for (const button of group.children) button.setAttribute("aria-pressed", String(button.textContent === chosen));
}

function stateChoice(count, names) {
  $("state-label").hidden = count < 3;
  const select = $("state-choice");
  const wanted = Array.from({ length: count }, (_, i) => names[i] ?? `state ${i + 1}`);
  if (Array.from(select.options, (option) => option.text).join() === wanted.join()) return;
  select.replaceChildren(...wanted.map((name, i) => new Option(name, String(i))));
  page.state = Math.min(page.state, Math.max(count - 1, 0));
  select.value = String(page.state);
}

function runChoice() {
  const label = (run) => [run.scan_id === null ? "" : `scan ${run.scan_id}`, run.sample, run.id.slice(0, 8), run.id.split("/")[1], `(${run.status})`];
  const options = [["latest", "latest run, and new ones"], ...page.runs.map((run) => [run.id, label(run).filter(Boolean).join(" ")])];
  const select = $("run");
  if (Array.from(select.options, (option) => option.text).join() !== options.map((one) => one[1]).join()) {
    select.replaceChildren(...options.map(([value, text]) => new Option(text, value)));
  }
  select.value = page.wanted === "latest" ? "latest" : (page.results?.run ?? "");
}

function hover(panel, at) {
  const picture = panel === "frame" ? frame : map;
  const value = picture.value(at);
  $(`${panel}-hover`).textContent = at ? `x ${at.x}, y ${at.y}: ${Number.isFinite(value) ? number(value, 3) : "no value"}` : "\u00a0";
}

// ------------------------------------------------------------------------------------------------ what the reader does

function pick(at) {
  page.pixel = at;
  frame.cross = map.cross = at;
  frame.draw();
  map.draw();
  $("pixel").textContent = `pixel x ${at.x}, y ${at.y}`;
  drawSpectrum();
  remember();
}

// The final images may be larger than the live ones: the crosshair stays at its place on the sample.
function resized(height, width) {
  const { size, pixel } = page;
  page.size = { height, width };
  if (pixel && !size && !(pixel.x >= 0 && pixel.y >= 0 && pixel.x < width && pixel.y < height)) {
    page.pixel = frame.cross = map.cross = null; // the page's address named a pixel that is not there
    return;
  }
  if (!pixel || !size || (size.height === height && size.width === width)) return;
  const move = (value, from, to) => Math.min(Math.floor(((value + 0.5) * to) / from), to - 1);
  pick({ x: move(pixel.x, size.width, width), y: move(pixel.y, size.height, height) });
}

function choose(index) {
  const count = page.results?.count ?? 0;
  if (!count) return;
  page.follow = false;
  page.index = Math.min(Math.max(index, 0), count - 1);
  drawHead();
  drawFrame();
  drawSpectrum();
  drawMetrics();
  remember();
}

async function chooseEnergy(energy) {
  const energies = page.results ? await page.results.energies() : [];
  let best = -1;
  energies.forEach((e, i) => { if (best < 0 || Math.abs(e - energy) < Math.abs(energies[best] - energy)) best = i; });
  if (best >= 0) choose(best);
}

function follow(on) {
  page.follow = on;
  if (on && page.results) page.index = page.results.count - 1;
  drawHead();
  drawFrame();
  drawSpectrum();
  drawMetrics();
  remember();
}

$("energy").addEventListener("input", () => choose(Number($("energy").value)));
$("follow").addEventListener("click", () => follow(!page.follow));
$("state-choice").addEventListener("change", () => { page.state = Number($("state-choice").value); drawMap(); });
$("run").addEventListener("change", () => { page.wanted = $("run").value; page.follow = true; page.seen = ""; remember(); wake(); });
$("ask").addEventListener("submit", (event) => { event.preventDefault(); setToken($("token").value); $("token").value = ""; wake(); });
window.addEventListener("hashchange", () => { recall(); wake(); });
document.addEventListener("visibilitychange", () => { if (!document.hidden) wake(); });
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey || ["INPUT", "SELECT"].includes(event.target.tagName)) return;
  const move = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
  if (event.shiftKey && move && page.size) {
    const from = page.pixel ?? { x: page.size.width >> 1, y: page.size.height >> 1 };
    const to = { x: from.x + move[0], y: from.y + move[1] };
    if (to.x >= 0 && to.y >= 0 && to.x < page.size.width && to.y < page.size.height) pick(to);
  } else if (move && move[0]) choose(page.index + move[0]);
  else if (event.key === "f") follow(!page.follow);
  else return;
  event.preventDefault();
});

// ------------------------------------------------------------------------------------------------ address of the page

function remember() {
  const parts = new URLSearchParams({ run: page.wanted });
  if (page.pixel) { parts.set("x", page.pixel.x); parts.set("y", page.pixel.y); }
  if (!page.follow && page.index >= 0) parts.set("visit", page.index + 1);
  history.replaceState(null, "", `#${parts}`);
}

function recall() {
  const parts = new URLSearchParams(location.hash.slice(1));
  if (parts.has("token")) setToken(parts.get("token"));
  page.wanted = parts.get("run") || "latest";
  page.seen = "";
  if (parts.has("x") && parts.has("y")) frame.cross = map.cross = page.pixel = { x: Number(parts.get("x")), y: Number(parts.get("y")) };
  page.follow = !parts.has("visit");
  page.index = parts.has("visit") ? Number(parts.get("visit")) - 1 : -1;
  remember(); // and the token is gone from the address
}

// ------------------------------------------------------------------------------------------------ the loop

function findRun() {
  if (page.wanted === "latest") return page.runs[0];
  const exact = page.runs.find((run) => run.id === page.wanted || String(run.scan_id) === page.wanted);
  return exact ?? page.runs.find((run) => run.id.startsWith(page.wanted));
}

async function poll() {
  if (Date.now() - page.runsAt > RUNS_MS || !page.seen) {
    page.runs = await getRuns();
    page.runsAt = Date.now();
  }
  const found = findRun();
  if (found?.id !== page.results?.run) {
    if (page.results) page.index = -1;
    page.results = found ? new Results(found.id) : null;
    page.seen = "";
  }
  runChoice();
  const results = page.results;
  if (!results) { page.seen = "none"; drawHead(); drawAll(); return; }
  const { rows, time } = await getRows(results.run);
  const last = rows[rows.length - 1] ?? {};
  let seen = `${rows.length} ${last.basis_version} ${last.map_version} ${last.latency_s}`;
  let about = results.about;
  if (page.seen.split("|")[0] !== seen || Date.now() - page.aboutAt > 2 * POLL_MS) {
    about = await getRun(results.run);
    page.aboutAt = Date.now();
  }
  if (results !== page.results) return;
  page.time = time;
  seen += `|${about.metadata.status} ${Object.keys(about.live).join()} ${Object.keys(about.final).join()}`;
  const changed = seen !== page.seen || page.stale;
  page.seen = seen;
  page.stale = false;
  results.update(about, rows);
  if (page.follow || page.index < 0) page.index = results.count - 1;
  page.index = Math.min(page.index, results.count - 1);
  drawHead();
  if (changed) drawAll();
}

function words() {
  const about = page.results?.about.metadata ?? {};
  if (!page.results && page.wanted !== "latest") return `there is no run “${page.wanted}” here; choose one above`;
  if (!page.results) return "there are no results here yet; this page shows the first run as soon as it begins";
  return about.reason ?? "";
}

let timer = 0, running = false;

async function turn() {
  if (running) return;
  running = true;
  clearTimeout(timer);
  let wait = POLL_MS;
  try {
    await poll();
    if (page.failures > 1) page.stale = true;
    page.failures = 0;
    $("ask").hidden = true;
    message(words(), page.results?.about.metadata.status === "failed" ? "error" : "note");
    if (document.hidden || !["live", undefined].includes(page.results?.about.metadata.status)) wait = SLOW_MS;
    if (page.stale) wait = POLL_MS;
    drawHead();
  } catch (error) {
    if (!(error instanceof Problem)) { running = false; throw error; }
    page.failures += 1;
    if (error.status === 401) { $("ask").hidden = false; page.failures = 2; }
    if (page.failures > 1) { message(error.message); drawHead(); }
    if (error.status === 404) page.runsAt = 0;
    wait = page.failures > 4 ? 2 * POLL_MS : POLL_MS;
  }
  running = false;
  timer = setTimeout(turn, wait);
}

function wake() {
  clearTimeout(timer);
  timer = setTimeout(turn, 0);
}

recallToken();
recall();
drawHead();
turn();
