// The arrays of one run, fetched when they are needed and again when their version has changed.

import { getImage } from "./api.js";

const K_MAX = 8;

export class Results {
  constructor(run) {
    this.run = run;
    this.about = { metadata: {}, live: {}, final: {}, attrs: {} };
    this.rows = [];
    this.part = "live";
    this.cache = new Map();
    this.trace = null;
  }

  update(about, rows) {
    this.about = about;
    this.rows = rows;
    const part = about.metadata.status !== "live" && "noisy" in about.final ? "final" : "live";
    if (part !== this.part || (part === "live" && this.version && this.version.rows > rows.length)) this.forget();
    this.part = part;
    const last = rows[rows.length - 1] ?? {};
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

  has(name) {
    return name in this.about[this.part];
  }

  size(name) {
    return this.about[this.part][name].shape.slice(-2);
  }

  versionOf(name) {
    if (this.part === "final") return 0;
    if (name === "components" || name === "loadings") return this.version.basis;
    return ["phase_map", "phase_sigma", "fit", "scale"].includes(name) ? this.version.map : this.version.rows;
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

  // One frame (y, x): {values, height, width}, or {note} where there is none.
  async frame(index, kind) {
    if (!this.has("noisy")) return { note: "waiting for the first energy…" };
    const [height, width] = this.size("noisy");
    let values;
    if (kind === "noisy") values = await this.get("noisy", `${index},:,:`);
    else if (this.part === "final") values = await this.get("denoised", `${index},:,:`);
    else values = await this.denoised(index);
    return values ? { values, height, width } : { note: "this energy is not denoised yet, or was rejected; see “noisy”" };
  }

  // Loadings (n, K_MAX) and the components that are in use, or null.
  async basis() {
    if (!this.has("loadings") || !this.has("components")) return null;
    const loadings = await this.get("loadings");
    let rank = 0; // components beyond it are zero
    for (let i = 0; i < loadings.length; i++) if (loadings[i]) rank = Math.max(rank, (i % K_MAX) + 1);
    if (!rank) return null;
    return { loadings, rank, components: await this.get("components", `0:${rank},:,:`) };
  }

  // Whether `preview` shows the newest visit: no preview was skipped with it.
  get previewIsNewest() {
    const [before, last] = [this.rows.at(-2), this.rows.at(-1)];
    return this.has("preview") && last !== undefined && last.previews_skipped === (before?.previews_skipped ?? 0);
  }

  async denoised(index) {
    if (index === this.count - 1 && this.previewIsNewest) return this.get("preview");
    const [basis, mask] = await Promise.all([this.basis(), this.has("preview") ? this.get("preview") : null]);
    if (!basis) return null;
    const { loadings, rank, components } = basis;
    const weights = loadings.subarray(index * K_MAX, index * K_MAX + rank);
    if (weights.every((weight) => weight === 0)) return null; // later than the basis, or rejected
    const size = components.length / rank;
    const out = new Float32Array(size);
    for (let k = 0; k < rank; k++) {
      const weight = weights[k], from = k * size;
      for (let i = 0; i < size; i++) out[i] += weight * components[from + i];
    }
    if (mask && mask.length === size) for (let i = 0; i < size; i++) if (mask[i] !== mask[i]) out[i] = NaN;
    return out;
  }

  // Images of the chemistry that are there: {states: [image, …], sigma: […], scale, fit, edge50}.
  async maps() {
    const shown = this.part === "final" || this.version.map > 0; // the row in the table says when maps are complete
    const split = async (name) => {
      if (!shown || !this.has(name)) return [];
      const all = await this.get(name), size = this.size(name)[0] * this.size(name)[1];
      return Array.from({ length: all.length / size }, (_, i) => all.subarray(i * size, (i + 1) * size));
    };
    const one = async (name) => (this.has(name) ? this.get(name) : null);
    const [height, width] = this.has("noisy") ? this.size("noisy") : [0, 0];
    const [states, sigma, scale, fit, edge50] = await Promise.all([
      split("phase_map"), split("phase_sigma"), shown ? one("scale") : null, shown ? one("fit") : null, one("edge50"),
    ]);
    return { height, width, states, sigma, scale, fit, edge50 };
  }

  // Everything about a pixel: noisy and denoised trace, fit of the references, state, error.
  async pixel(x, y) {
    const energies = await this.energies();
    const [height, width] = this.size("noisy");
    const at = y * width + x;
    const [noisy, basis, maps] = await Promise.all([this.noisyTrace(x, y, energies.length), this.basis(), this.maps()]);
    let denoised = [];
    if (basis) {
      const size = height * width, count = Math.min(basis.loadings.length / K_MAX, energies.length);
      denoised = Array.from({ length: count }, (_, t) => {
        let sum = 0;
        for (let k = 0; k < basis.rank; k++) sum += basis.loadings[t * K_MAX + k] * basis.components[k * size + at];
        return Number.isFinite(noisy[t]) ? sum : NaN;
      });
    }
    const value = (image) => (image ? image[at] : NaN);
    const abundances = maps.states.map(value);
    const fitted = await this.fitted(energies, denoised, abundances, value(maps.scale));
    return {
      energies, noisy, denoised, fitted, abundances, sigma: maps.sigma.map(value),
      scale: value(maps.scale), goodness: value(maps.fit), edge50: value(maps.edge50),
    };
  }

  async noisyTrace(x, y, count) {
    const here = this.trace?.x === x && this.trace.y === y ? this.trace.values : [];
    if (here.length < count) {
      const news = await getImage(this.run, this.part, "noisy", `${here.length}:${count},${y},${x}`, this.about[this.part].noisy.dtype);
      this.trace = { x, y, values: [...here, ...news] };
    }
    return this.trace.values.slice(0, count);
  }

  // scale · references · abundances plus the straight background that fits best; final results only.
  async fitted(energies, denoised, abundances, scale) {
    if (this.part !== "final" || !this.has("references") || !Number.isFinite(scale)) return [];
    const references = await this.get("references"), states = abundances.length;
    const edge = energies.map((_, t) => scale * abundances.reduce((sum, a, l) => sum + a * references[t * states + l], 0));
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
