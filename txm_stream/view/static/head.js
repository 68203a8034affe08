// The head of the page: run, status, progress, time left, how far behind; and its messages.

import { page } from "./page.js";
import { $, duration, figure, text } from "./tools.js";

const STALLED_S = 20;

// What the badge says: live, replay, done, failed, lost, or that there is no run.
export function statusOf({ results, failures }) {
  if (failures > 1) return "lost";
  if (!results) return "no run";
  const { status, replay } = results.about.metadata;
  return { live: replay ? "replay" : "live", final: "done" }[status] ?? status ?? "connecting";
}

export function drawHead() {
  const { results } = page, count = results?.count ?? 0, rows = results?.rows ?? [], last = rows.at(-1);
  const status = statusOf(page), running = status === "live" || status === "replay";
  const planned = results?.about.metadata.planned_visits ?? 0;
  text("state", status);
  $("state").dataset.state = status;
  text("count", String(count));
  text("planned", planned ? `/${planned}` : "");
  $("progress").hidden = !planned;
  if (planned) Object.assign($("progress"), { max: planned, value: Math.min(count, planned) });
  text("remaining", running ? remaining(results, planned, count) : "");
  text("latency", running && last && !results.about.metadata.reason ? behind(last) : "");
  const slider = $("energy");
  slider.max = String(Math.max(count - 1, 0));
  slider.disabled = count < 1;
  slider.value = String(Math.max(page.index, 0));
  $("follow").setAttribute("aria-pressed", String(page.follow));
  warnings((results?.part === "final" && results.about.attrs.warnings) || []);
  document.title = results ? `${status} ${count}${planned ? `/${planned}` : ""} – txm-stream` : "txm-stream";
}

// Time left: of a planned scan from its pace so far, of a steered one as its advisor says.
function remaining({ rows, advice }, planned, count) {
  const left = planned > count && count > 2 ? ((planned - count) * (rows.at(-1).time - rows[0].time)) / (count - 1) : 0;
  const steered = planned ? 0 : (advice.at(-1)?.seconds_left ?? 0);
  const seconds = left || steered;
  if (!(seconds > 0)) return "";
  return seconds < 90 ? `${Math.round(seconds)} s left` : `${duration(seconds)} left`;
}

function behind({ latency_s: latency, time }) {
  const words = Number.isFinite(latency) ? [`${latency < 1 ? `${Math.round(latency * 1000)} ms` : `${figure(latency)} s`} behind`] : [];
  const age = page.time - time;
  if (age > STALLED_S && !page.results.about.metadata.replay) words.push(`last energy ${duration(age)} ago`);
  return words.join(" · ");
}

function warnings(list) {
  $("warnings").hidden = !list.length;
  text("warnings-count", `${list.length} warning${list.length === 1 ? "" : "s"}`);
  const items = $("warnings").querySelector("ul");
  if (Array.from(items.children, (item) => item.textContent).join() === list.join()) return;
  items.replaceChildren(...list.map((textContent) => Object.assign(document.createElement("li"), { textContent })));
}

export function message(words, kind = "error") {
  $("message").hidden = !words;
  $("message").dataset.kind = kind;
  text("message", words);
}

export function runChoice() {
  const label = (run) => [run.scan_id === null ? "" : `scan ${run.scan_id}`, run.sample, run.id.slice(0, 8), run.id.split("/")[1]].filter(Boolean).join(" ");
  const latest = page.wanted === "latest" && page.runs.find((run) => run.id === page.results?.run);
  const options = [["latest", latest ? `latest (${label(latest)}), and new ones` : "latest run, and new ones"],
    ...page.runs.map((run) => [run.id, `${label(run)} (${run.status === "final" ? "done" : run.status})`])];
  const select = $("run");
  if (Array.from(select.options, (option) => option.text).join() !== options.map((one) => one[1]).join()) {
    select.replaceChildren(...options.map(([value, words]) => new Option(words, value)));
  }
  select.value = page.wanted === "latest" ? "latest" : (page.results?.run ?? "");
}
