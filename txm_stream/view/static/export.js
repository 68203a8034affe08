// What can be taken along: pictures of the page made in the browser, the spectrum as text, exports of the server.

import { getExport } from "./api.js";
import { page, sight } from "./page.js";
import { boxOf, nameOf } from "./spectrum_panel.js";
import { $ } from "./tools.js";

const SCALE = 2;

const LABELS = {
  report: "report (HTML)", nexus: "all results (NeXus/HDF5)", tiff: "stacks (TIFF)", pyxas: "stacks (PyXAS)",
  xdi: "mean spectrum of the particles (XDI)",
};
const WITH_REGION = { xdi: "mean spectra of particles and ROI (XDI)" };

export function makeExport(failed) {
  const act = (id, task) => $(id).addEventListener("click", () => { $("export").open = false; task().catch(failed); });
  act("export-view", async () => save(`${stem()}.png`, await picture(document.body)));
  act("export-frame", async () => save(`${stem()}-frame.png`, await picture($("frame-panel"))));
  act("export-map", async () => save(`${stem()}-map.png`, await picture($("map-panel"))));
  act("export-spectrum", async () => save(`${stem()}-spectrum.csv`, await spectrum()));
  $("export").addEventListener("toggle", () => {
    $("export-spectrum").disabled = !boxOf(sight);
    const formats = page.results?.about.exports ?? [];
    $("export-server").replaceChildren(...formats.map((format) => {
      const button = Object.assign(document.createElement("button"), { type: "button", textContent: labelOf(format) });
      button.addEventListener("click", () => { $("export").open = false; fetched(format).catch(failed); });
      return button;
    }));
  });
  document.addEventListener("click", (event) => { if (!$("export").contains(event.target)) $("export").open = false; });
}

const labelOf = (format) => (sight.region && WITH_REGION[format]) || (LABELS[format] ?? format);

function stem() {
  const about = page.results?.about.metadata ?? {};
  const parts = ["txm-stream", about.scan_id ?? "", page.results?.run.slice(0, 8) ?? "", page.index + 1];
  return parts.filter((part) => part !== "").join("-");
}

function save(name, content) {
  const address = URL.createObjectURL(content);
  Object.assign(document.createElement("a"), { href: address, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(address), 10000);
}

async function fetched(format) {
  const words = $("export").querySelector("summary");
  words.textContent = `Export: ${labelOf(format)} …`;
  try {
    const { name, content } = await getExport(page.results.run, format, sight.region);
    save(name, content);
  } finally {
    words.textContent = "Export";
  }
}

async function spectrum() {
  const { energies, noisy, denoised, fitted } = await page.results.region(boxOf(sight));
  const cell = (value) => (Number.isFinite(value) ? String(value) : "");
  const lines = energies.map((energy, t) => [energy, noisy[t], denoised[t], fitted[t]].map(cell).join());
  const about = `# run ${page.results.run}, ${nameOf(sight)}, optical density (${page.results.part})`;
  return new Blob([[about, "energy_eV,noisy,denoised,fit", ...lines, ""].join("\n")], { type: "text/csv" });
}

// A picture of a part of the page, drawn from its boxes, canvases and words.
async function picture(root) {
  const area = root.getBoundingClientRect(), canvas = document.createElement("canvas");
  Object.assign(canvas, { width: Math.ceil(area.width * SCALE), height: Math.ceil(area.height * SCALE) });
  const pen = canvas.getContext("2d");
  pen.scale(SCALE, SCALE);
  pen.translate(-area.left, -area.top);
  pen.fillStyle = getComputedStyle(document.body).backgroundColor;
  pen.fillRect(area.left, area.top, area.width, area.height);
  for (const element of [root, ...root.querySelectorAll("*")]) {
    const box = element.getBoundingClientRect(), style = getComputedStyle(element);
    if (!box.width || style.visibility === "hidden" || $("export").contains(element)) continue;
    pen.fillStyle = style.backgroundColor;
    if (!["INPUT", "PROGRESS"].includes(element.tagName)) pen.fillRect(box.left, box.top, box.width, box.height);
    if (element.tagName === "CANVAS") pen.drawImage(element, box.left, box.top, box.width, box.height);
    else if (element.tagName === "SELECT") write(pen, element.selectedOptions[0]?.text ?? "", style, box.left + 8, box.top + box.height / 2);
    else if (["INPUT", "PROGRESS"].includes(element.tagName)) gauge(pen, element, box, style);
    else for (const node of element.childNodes) if (node.nodeType === Node.TEXT_NODE) words(pen, node, style);
  }
  return new Promise((done) => canvas.toBlob(done, "image/png"));
}

function words(pen, node, style) {
  const range = document.createRange();
  for (const { 0: word, index } of node.data.matchAll(/\S+/g)) { // one by one: lines may be broken between them
    range.setStart(node, index);
    range.setEnd(node, index + word.length);
    const box = range.getBoundingClientRect();
    if (box.width) write(pen, word, style, box.left, box.top + box.height / 2);
  }
}

function write(pen, word, style, x, y) {
  pen.font = `${style.fontWeight} ${style.fontSize} ${style.fontFamily}`;
  pen.fillStyle = style.color;
  pen.textBaseline = "middle";
  pen.fillText(word, x, y);
}

function gauge(pen, element, box, style) {
  const least = Number(element.min || 0), share = (element.value - least) / (element.max - least || 1);
  const y = box.top + box.height / 2;
  pen.fillStyle = "#4a5260";
  pen.fillRect(box.left, y - 2, box.width, 4);
  pen.fillStyle = style.accentColor === "auto" ? "#7bb1f5" : style.accentColor;
  pen.fillRect(box.left, y - 2, box.width * Math.min(Math.max(share, 0), 1), 4);
}
