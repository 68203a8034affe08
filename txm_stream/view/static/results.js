// The arrays of one run, fetched when they are needed and again when their version has changed.

import { getImage, getRegion } from "./api.js";

const K_MAX = 8, ANEW = 10;
const OF_MAP = ["phase_map", "phase_sigma", "fit", "scale"];

export class Results {
  constructor(run) {
    this.run = run;
    this.about = { metadata: {}, live: {}, final: {}, attrs: {}, exports: [] };
    this.rows = [];
    this.advice = [];
    this.part = "live";
    this.cache = new Map();
    this.trace = null;
  }

  update(about, rows, advice = []) {
    Object.assign(this, { about, rows, advice });
    const part = about.metadata.status !== "live" && "noisy" in about.final ? "final" : "live";
    if (part !== this.part || (part === "live" && this.version && this.version.rows > rows.length)) this.forget();
    this.part = part;
    const last = rows.at(-1) ?? {};
    this.version = { rows: rows.length, basis: last.basis_version ?? 0, map: last.map_version ?? 0 };
  }

  forget() {
    this.cache = new Map(); // what is still on its way goes to the old one
    this.trace = null;
  }

  get count() {
    return this.rows.length || (this.about.final.energies_eV?.shape[0] ?? 0);
  }

  get states() {
    return (this.part === "final" && this.about.attrs.states) || this.about.metadata.states || [];
  }

  // Whether the array is there; the row in the table says when maps are complete.
  has(name) {
    return name in this.about[this.part] && (this.part === "final" || !OF_MAP.includes(name) || this.version.map > 0);
  }

  size(name = "noisy") {
    return this.about[this.part][name].shape.slice(-2);
  }

  versionOf(name) {
    if (this.part === "final") return 0;
    if (name === "components" || name === "loadings") return this.version.basis;
    if (name === "preview") return this.previewIndex;
    return OF_MAP.includes(name) ? this.version.map : this.version.rows;
  }

  // An array or a slice of it; panels that ask for the same one share the request.
  get(name, slice = "") {
    const key = `${name}[${slice}]`, version = this.versionOf(name), cache = this.cache;
    const known = cache.get(key);
    if (known?.version === version) return known.data;
    const data = getImage(this.run, this.part, name, slice, this.about[this.part][name].dtype);
    cache.delete(key);
    cache.set(key, { version, data });
    data.catch(() => { if (cache.get(key)?.data === data) cache.delete(key); });
    while (cache.size > 24) cache.delete(cache.keys().next().value);
    return data;
  }

  // Energies of all visits in eV.
  async energies() {
    if (this.part === "final" && this.has("energies_eV")) return Array.from(await this.get("energies_eV"));
    return this.rows.map((row) => row.energy_eV);
  }

  // Shifts (y, x) in px that each visit was moved by.
  async shifts() {
    const shifts = this.part === "final" && this.has("shifts_px") ? await this.get("shifts_px") : [];
    if (shifts.length === 2 * this.rows.length) return [0, 1].map((axis) => this.rows.map((_, i) => shifts[2 * i + axis]));
    return ["shift_y_px", "shift_x_px"].map((name) => this.rows.map((row) => row[name] ?? NaN));
  }

  // One frame (y, x), noisy or denoised, or null where there is none.
  async frame(index, kind) {
    if (!this.has("noisy")) return null;
    if (kind === "noisy" || this.part === "final") return this.get(kind, `${index},:,:`);
    return this.denoised(index);
  }

  // Loadings (n, K_MAX) and how many components are in use, or null.
  async basis() {
    if (!this.has("loadings") || !this.has("components")) return null;
    const loadings = await this.get("loadings");
    let rank = 0; // components beyond it are zero
    for (let i = 0; i < loadings.length; i++) if (loadings[i]) rank = Math.max(rank, (i % K_MAX) + 1);
    return rank ? { loadings, rank } : null;
  }

  // Index of the newest visit that was denoised when it came, or −1: on a busy machine previews are skipped.
  get previewIndex() {
    const skipped = (i) => this.rows[i]?.previews_skipped ?? 0;
    return this.has("preview") ? this.rows.findLastIndex((_, i) => skipped(i) === skipped(i - 1)) : -1;
  }

  async denoised(index) {
    if (index === this.previewIndex) return this.get("preview");
    const [basis, mask] = await Promise.all([this.basis(), this.has("preview") ? this.get("preview") : null]);
    if (!basis) return null;
    const { loadings, rank } = basis;
    const weights = loadings.subarray(index * K_MAX, index * K_MAX + rank);
    if (weights.every((weight) => weight === 0)) return null; // later than the basis, or rejected
    const components = await this.get("components", `0:${rank},:,:`);
    const size = components.length / rank;
    const out = new Float32Array(size);
    for (let k = 0; k < rank; k++) {
      const weight = weights[k], from = k * size;
      for (let i = 0; i < size; i++) out[i] += weight * components[from + i];
    }
    if (mask && mask.length === size) for (let i = 0; i < size; i++) if (mask[i] !== mask[i]) out[i] = NaN;
    return out;
  }

  // One image (y, x) of the chemistry; `index` where there is one for each state.
  image(name, index = null) {
    return this.get(name, index === null ? "" : `${index},:,:`);
  }

  // Spectra and chemistry averaged over a box of pixels: noisy, denoised, fit of the references, states, errors.
  // The spectra come first: `early` is called with what is known then.
  async region(box, early = () => {}) {
    const energies = await this.energies();
    const key = [box.x0, box.y0, box.x1, box.y1].join();
    const anew = this.part === "live" && this.count % ANEW === 0; // earlier visits may have been normalised again
    if (this.trace?.key !== key || anew) this.trace = { key, noisy: [], arrays: {}, versions: {} };
    const trace = this.trace, model = this.part === "final" ? "denoised" : "components";
    const mean = (name) => (this.has(name) ? (trace.arrays[name]?.mean.map((value) => value ?? NaN) ?? []) : []);
    const basis = this.part === "live" ? this.basis() : null;
    const { pixels, total } = await this.means(trace, [model], box);
    const noisy = trace.noisy.slice(0, energies.length);
    const denoised = this.part === "final" ? mean(model) : composed(mean(model), await basis, noisy);
    const spectra = { energies, noisy, denoised, pixels, total };
    early({ ...spectra, fitted: [], abundances: [], sigma: [], spread: [] });
    await this.means(trace, [...OF_MAP, "edge50"], box, false);
    const states = this.has("phase_map") ? trace.arrays.phase_map : { count: [0], spread: [] };
    return {
      ...spectra, fitted: await this.fitted(energies, denoised, trace.arrays.amounts, pixels),
      abundances: mean("phase_map"), sigma: mean("phase_sigma"), spread: states.spread, valid: states.count[0],
      scale: mean("scale")[0] ?? NaN, goodness: mean("fit")[0] ?? NaN, edge50: mean("edge50")[0] ?? NaN,
    };
  }

  // Bring the means of a box up to date: what has a new version, and the visits that are not there yet.
  async means(trace, names, box, stack = true) {
    const news = names.filter((name) => this.has(name) && trace.versions[name] !== this.versionOf(name));
    const versions = news.map((name) => [name, this.versionOf(name)]), from = trace.noisy.length;
    if (!stack && !news.length) return {};
    const found = await getRegion(this.run, this.part, [...(stack ? ["noisy"] : []), ...news], box, stack ? from : 0);
    Object.assign(trace.arrays, found.arrays);
    for (const [name, version] of versions) trace.versions[name] = version;
    if (stack && trace.noisy.length === from) trace.noisy.push(...found.arrays.noisy.mean.map((value) => value ?? NaN));
    return found;
  }

  // Mean of scale · references · abundances plus the straight background that fits best; final results only,
  // and not where more than a tenth of the pixels have no map.
  async fitted(energies, denoised, amounts, pixels) {
    if (this.part !== "final" || !this.has("references") || !amounts || amounts.count[0] < 0.9 * pixels) return [];
    const references = await this.get("references"), states = amounts.mean.length;
    const edge = energies.map((_, t) => amounts.mean.reduce((sum, a, l) => sum + a * references[t * states + l], 0));
    const used = [...energies.keys()].filter((t) => Number.isFinite(edge[t]) && Number.isFinite(denoised[t]));
    if (used.length < 3) return [];
    const mean = (list) => list.reduce((sum, value) => sum + value, 0) / list.length;
    const e0 = mean(used.map((t) => energies[t])), r0 = mean(used.map((t) => denoised[t] - edge[t]));
    let above = 0, below = 0;
    for (const t of used) {
      above += (energies[t] - e0) * (denoised[t] - edge[t] - r0);
      below += (energies[t] - e0) ** 2;
    }
    return energies.map((e, t) => edge[t] + r0 + (below ? above / below : 0) * (e - e0));
  }
}

// Spectrum of the model: loadings · components, where there is data and the visit is part of the basis.
function composed(components, basis, noisy) {
  if (!basis || !components.length) return [];
  return Array.from({ length: Math.min(basis.loadings.length / K_MAX, noisy.length) }, (_, t) => {
    const weights = basis.loadings.subarray(t * K_MAX, t * K_MAX + basis.rank);
    if (!Number.isFinite(noisy[t]) || weights.every((weight) => weight === 0)) return NaN;
    return weights.reduce((sum, weight, k) => sum + weight * components[k], 0);
  });
}
