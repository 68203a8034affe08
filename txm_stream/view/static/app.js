// The page: one loop asks for the metrics; whatever changed is fetched and drawn. Keys, and what the reader does.

import { Problem, getAdvice, getNews, getRows, getRun, getRuns, recallToken, setToken } from "./api.js";
import { makeExport } from "./export.js";
import { chooseFrameMode, drawFrame, hoverFrame, makeFrame, nextFrameMode } from "./frame_panel.js";
import { drawHead, message, runChoice } from "./head.js";
import { drawMap, hoverMap, makeMap, nextMapMode } from "./map_panel.js";
import { drawMetrics, makeMetrics } from "./metrics_panel.js";
import { page, recall, remember, sight } from "./page.js";
import { Results } from "./results.js";
import { drawSpectrum, makeSpectrum, named } from "./spectrum_panel.js";
import { $ } from "./tools.js";

const POLL_MS = 300, SOON_MS = 60, SOON = 8, SLOW_MS = 3000, IDLE_MS = 1000, RUNS_MS = 3000, ABOUT_MS = 1500, ABOUT_HEARD_MS = 4000;
const loop = { runsAt: 0, aboutAt: 0, about: null, problem: null, seen: "", timer: 0, running: false, listening: null, soon: 0, soonRuns: 0, askingRuns: null,
  heard: { run: "", seen: -1, runs: -1, works: false } };

async function drawAll() {
  await drawFrame(); // first, what the reader waits for
  drawMap();
  drawSpectrum();
  drawMetrics();
}

function drawChosen() {
  drawHead();
  drawFrame();
  drawSpectrum();
  drawMetrics();
  remember();
}

// ------------------------------------------------------------------------------------------------ what the reader does

function look({ cross = sight.cross, region = null }) {
  Object.assign(sight, { cross, region });
  sight.changed();
  named();
  drawSpectrum();
  remember();
}

function choose(index) {
  const count = page.results?.count ?? 0;
  if (!count || !(index >= 0)) return;
  page.follow = false;
  page.index = Math.min(index, count - 1);
  drawChosen();
}

function follow(on) {
  page.follow = on;
  if (on && page.results) page.index = page.results.count - 1;
  drawChosen();
}

// Grow or shrink the square region around the crosshair.
function grow(by) {
  const { size } = page;
  if (!size) return;
  const { cross, region } = sight;
  const at = region ? { x: (region.x0 + region.x1 - 1) / 2, y: (region.y0 + region.y1 - 1) / 2 } : (cross ?? { x: size.width >> 1, y: size.height >> 1 });
  const half = (region ? (region.x1 - region.x0 - 1) / 2 : 0) + by;
  if (half < 1) { look({}); return; }
  look({ region: {
    x0: Math.max(Math.ceil(at.x - half), 0), x1: Math.min(Math.floor(at.x + half) + 1, size.width),
    y0: Math.max(Math.ceil(at.y - half), 0), y1: Math.min(Math.floor(at.y + half) + 1, size.height),
  } });
}

function step(dx, dy) {
  const { size } = page;
  if (!size) return;
  const from = sight.cross ?? { x: size.width >> 1, y: size.height >> 1 }, to = { x: from.x + dx, y: from.y + dy };
  if (to.x >= 0 && to.y >= 0 && to.x < size.width && to.y < size.height) look({ cross: to });
}

const KEYS = {
  ArrowLeft: () => choose(Math.max(page.index - 1, 0)), ArrowRight: () => choose(page.index + 1),
  f: () => follow(!page.follow), v: nextFrameMode, m: nextMapMode,
  "+": () => sight.scale(1.25), "-": () => sight.scale(0.8), 0: () => sight.all(),
  "]": () => grow(2), "[": () => grow(-2), Escape: () => look({}),
};
const STEPS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey || ["INPUT", "SELECT"].includes(event.target.tagName)) return;
  if (event.key === "Escape" && $("export").open) { $("export").open = false; $("export").querySelector("summary").focus(); return; }
  if (event.shiftKey && STEPS[event.key]) step(...STEPS[event.key]);
  else if (KEYS[event.key]) KEYS[event.key]();
  else return;
  event.preventDefault();
});
$("energy").addEventListener("input", () => choose(Number($("energy").value)));
$("follow").addEventListener("click", () => follow(!page.follow));
$("no-region").addEventListener("click", () => look({}));
$("state-choice").addEventListener("change", () => { page.state = Number($("state-choice").value); drawMap(); });
$("run").addEventListener("change", () => { page.wanted = $("run").value; page.follow = true; remember(); wake(); });
$("ask").addEventListener("submit", (event) => { event.preventDefault(); setToken($("token").value); $("token").value = ""; wake(); });
window.addEventListener("hashchange", () => { recall(); sight.changed(); chooseFrameMode(page.frameMode); drawMap(); wake(); });
document.addEventListener("visibilitychange", () => { if (!document.hidden) wake(); });
sight.observers.add(hoverFrame).add(hoverMap);

// ------------------------------------------------------------------------------------------------ the loop

function findRun() {
  if (page.wanted === "latest") return page.runs[0];
  const exact = page.runs.find((run) => run.id === page.wanted || String(run.scan_id) === page.wanted);
  return exact ?? page.runs.find((run) => run.id.startsWith(page.wanted));
}

// Asks for something that may come later than the rows do; what went wrong is said by the next turn.
function aside(name, every, ask, take) {
  if (loop[name] && Date.now() - loop[name] < every) return null;
  loop[name] = Date.now();
  const asked = ask().then(take);
  asked.catch((error) => { loop.problem = error; });
  return asked;
}

const isLive = () => Boolean(page.results) && ["live", undefined].includes(page.results.about.metadata.status);

function askRuns() {
  if (loop.askingRuns) return loop.askingRuns;
  if (loop.soonRuns > 0) { loop.soonRuns -= 1; loop.runsAt = 0; }
  const asked = aside("runsAt", isLive() || loop.heard.works ? RUNS_MS : IDLE_MS, getRuns, (runs) => { page.runs = runs; });
  loop.askingRuns = asked;
  asked?.finally(() => { loop.askingRuns = null; }).catch(() => {});
  return asked;
}

async function poll() {
  const asked = askRuns();
  if (!loop.seen) await asked;
  const found = findRun();
  if (found?.id !== page.results?.run) {
    if (page.results) { page.index = -1; page.size = null; }
    page.results = found ? new Results(found.id) : null;
    Object.assign(loop, { seen: "", about: null, aboutAt: 0 });
    drawHead();
    drawAll(); // nothing of another run stays
  }
  runChoice();
  const results = page.results;
  if (!results) {
    loop.seen = "none";
    drawHead();
    return false;
  }
  const askAbout = () => aside("aboutAt", loop.heard.works ? ABOUT_HEARD_MS : ABOUT_MS, () => getRun(results.run), (about) => { if (results === page.results) loop.about = about; });
  const first = askAbout(), { rows, time } = await getRows(results.run);
  const last = rows.at(-1) ?? {};
  let seen = `${rows.length} ${last.basis_version} ${last.map_version} ${last.latency_s}`;
  const there = loop.about?.live ?? {};
  const told = [...(rows.length ? ["preview"] : []), ...(last.map_version ? ["phase_map", "phase_sigma", "scale"] : [])];
  if (!told.every((name) => name in there)) { // the row tells of images that were not there before
    await first;
    if (loop.seen.split("|")[0] !== seen) { loop.aboutAt = 0; await askAbout(); }
  }
  if (loop.problem) { const { problem } = loop; loop.problem = null; throw problem; }
  if (!loop.about) await first;
  const { about } = loop;
  if (results !== page.results || !about) return false;
  page.time = time;
  seen += `|${about.metadata.status} ${Object.keys(about.live).join()} ${Object.keys(about.final).join()}`;
  const changed = seen !== loop.seen || page.stale;
  loop.seen = seen;
  page.stale = false;
  results.update(about, rows, results.advice);
  if (page.follow || page.index < 0) page.index = results.count - 1;
  page.index = Math.min(page.index, results.count - 1);
  drawHead();
  if (!changed) return false;
  await drawAll();
  results.advice = await getAdvice(results.run);
  drawMetrics();
  return true;
}

function words() {
  const about = page.results?.about.metadata ?? {};
  if (!page.results && page.wanted !== "latest") return `there is no run “${page.wanted}” here; choose one above`;
  if (!page.results) return "there are no results here yet; this page shows the first run as soon as it begins";
  return about.reason ?? "";
}

async function turn() {
  if (loop.running) return;
  loop.running = true;
  clearTimeout(loop.timer);
  loop.listening = null;
  let wait = POLL_MS;
  try {
    if (await poll()) loop.soon = 0;
    if (page.failures > 1) page.stale = true;
    page.failures = 0;
    $("ask").hidden = true;
    message(words(), page.results?.about.metadata.status === "failed" ? "error" : "note");
    if (document.hidden) wait = SLOW_MS;
    if (page.stale) wait = POLL_MS;
    if (loop.soon > 0) { loop.soon -= 1; wait = SOON_MS; }
    drawHead();
  } catch (error) {
    if (!(error instanceof Problem)) { loop.running = false; throw error; }
    page.failures += 1;
    loop.problem = null;
    if (error.status === 401) { $("ask").hidden = false; page.failures = 2; }
    if (page.failures > 1) { message(error.message); drawHead(); }
    loop.runsAt = loop.aboutAt = 0;
    wait = 2 * POLL_MS;
  }
  loop.running = false;
  if (wait === POLL_MS && !page.stale) listen(isLive() ? page.results.run : "");
  else loop.timer = setTimeout(turn, wait);
}

// Waits for news of a live run, and of runs that begin; they come a moment before what they tell of can be read.
async function listen(run) {
  const mine = (loop.listening = {});
  if (loop.heard.run !== run) loop.heard = { ...loop.heard, run, seen: -1, works: false };
  const before = loop.heard;
  let { seen, runs, works } = before;
  try { ({ seen, runs, works } = await getNews(run, seen, runs)); } catch { works = false; }
  if (mine !== loop.listening) return; // the page went on meanwhile
  if (works && seen !== before.seen) loop.soon = SOON;
  if (runs !== before.runs) { loop.soonRuns = 3; loop.soon = Math.max(loop.soon, 3); }
  if (!works && before.works) loop.aboutAt = 0; // the run may be over
  loop.heard = { run, seen, runs, works };
  loop.timer = setTimeout(turn, works ? 0 : run ? POLL_MS : IDLE_MS);
}

function wake() {
  loop.listening = null;
  clearTimeout(loop.timer);
  loop.seen = "";
  loop.timer = setTimeout(turn, 0);
}

const reader = { pick: (cross) => look({ cross }), select: (region) => look({ region }) };
recallToken();
recall();
makeFrame(reader);
makeMap(reader);
makeSpectrum(choose);
makeMetrics(choose);
makeExport((error) => message(`nothing was exported: ${error.message}`));
drawHead();
turn();
