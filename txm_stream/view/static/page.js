// What the page shows now, and its address: run, pixel or region, energy and modes.

import { setToken } from "./api.js";
import { Sight } from "./sight.js";

export const page = {
  wanted: "latest", runs: [], results: null, index: -1, follow: true, size: null,
  frameMode: "denoised", mapMode: "", state: 1, failures: 0, stale: false, time: 0,
};
export const sight = new Sight();

export const stale = () => { page.stale = true; };

export function remember() {
  const parts = new URLSearchParams({ run: page.wanted });
  if (sight.cross) { parts.set("x", sight.cross.x); parts.set("y", sight.cross.y); }
  if (sight.region) parts.set("roi", ["x0", "y0", "x1", "y1"].map((name) => sight.region[name]).join());
  if (!page.follow && page.index >= 0) parts.set("visit", page.index + 1);
  if (page.frameMode !== "denoised") parts.set("frame", page.frameMode);
  if (page.mapMode) parts.set("map", page.mapMode);
  history.replaceState(null, "", `#${parts}`);
}

export function recall() {
  const parts = new URLSearchParams(location.hash.slice(1));
  const whole = (name) => (/^\d{1,6}$/.test(parts.get(name) ?? "") ? Number(parts.get(name)) : NaN);
  if (parts.has("token")) setToken(parts.get("token"));
  page.wanted = parts.get("run") || "latest";
  if (whole("x") >= 0 && whole("y") >= 0) sight.cross = { x: whole("x"), y: whole("y") };
  const [x0, y0, x1, y1] = (parts.get("roi") ?? "").split(",").map(Number);
  sight.region = x0 >= 0 && y0 >= 0 && x1 > x0 && y1 > y0 ? { x0, y0, x1, y1 } : null;
  page.follow = !(whole("visit") > 0);
  page.index = page.follow ? -1 : whole("visit") - 1;
  page.frameMode = ["noisy", "split"].find((mode) => mode === parts.get("frame")) ?? "denoised";
  page.mapMode = parts.get("map") ?? "";
  remember(); // and the token is gone from the address
}

// The final images may be larger than the live ones: crosshair and region stay at their place on the sample.
// The crosshair begins in the middle.
export function resized(height, width) {
  const before = page.size;
  if (before?.height === height && before.width === width) return false;
  page.size = { height, width };
  const move = (value, from, to) => Math.min(Math.floor(((value + 0.5) * to) / from), to - 1);
  const edge = (value, from, to) => Math.min(Math.round((value * to) / from), to);
  let { cross, region } = sight;
  if (before && cross) cross = { x: move(cross.x, before.width, width), y: move(cross.y, before.height, height) };
  if (before && region) {
    region = {
      x0: edge(region.x0, before.width, width), x1: edge(region.x1, before.width, width),
      y0: edge(region.y0, before.height, height), y1: edge(region.y1, before.height, height),
    };
  }
  if (cross && (cross.x >= width || cross.y >= height)) cross = null; // the page's address named what is not there
  if (region && (region.x1 > width || region.y1 > height || region.x0 >= region.x1 || region.y0 >= region.y1)) region = null;
  cross ??= { x: width >> 1, y: height >> 1 };
  Object.assign(sight, { cross, region });
  sight.changed();
  return true;
}
