// Colours: sequential maps for frames and single quantities, isoluminant OKLab hues for state × thickness.

const STOPS = {
  cividis: "00224e 002e6a 1a386f 32436d 434e6c 535a6d 61656f 6f7073 7d7c78 8c8878 9b9476 aba072 bcae6c cdbb63 dec958 f0d846 fee838",
  viridis: "440154 48186a 472d7b 424086 3b528b 33638d 2c728e 26828e 21918c 1fa088 28ae80 3fbc73 5ec962 84d44b addc30 d8e219 fde725",
  magma: "000004 0a0822 1d1147 36106b 51127c 6a1c81 832681 9c2e7f b73779 d0416f e75263 f56b5c fc8961 fea772 fec488 fde2a3 fcfdbf",
};
const STATES = ["7bb1f5", "aeaeae", "ef9710"];
// Okabe and Ito 2008, the order by which neighbours differ most in lightness as well.
export const OKABE_ITO = ["#e69f00", "#56b4e9", "#009e73", "#f0e442", "#0072b2", "#d55e00", "#cc79a7", "#ffffff"];
const UNCERTAIN = 0.35;
const N = 256;
const THICK = 64;

const rgb = (hex) => hex.replace("#", "").match(/../g).map((pair) => parseInt(pair, 16));
const toLinear = (c) => (c <= 10.31475 ? c / 255 / 12.92 : ((c / 255 + 0.055) / 1.055) ** 2.4);
const fromLinear = (c) => Math.round(255 * (c <= 0.0031308 ? 12.92 * Math.max(c, 0) : Math.min(1.055 * c ** (1 / 2.4) - 0.055, 1)));

// OKLab, B. Ottosson 2020.
export function toOklab(colour) {
  const [r, g, b] = colour.map(toLinear);
  const l = Math.cbrt(0.4122214708 * r + 0.5363325363 * g + 0.0514459929 * b);
  const m = Math.cbrt(0.2119034982 * r + 0.6806995451 * g + 0.1073969566 * b);
  const s = Math.cbrt(0.0883024619 * r + 0.2817188376 * g + 0.6299787005 * b);
  return [
    0.2104542553 * l + 0.793617785 * m - 0.0040720468 * s,
    1.9779984951 * l - 2.428592205 * m + 0.4505937099 * s,
    0.0259040371 * l + 0.7827717662 * m - 0.808675766 * s,
  ];
}

export function fromOklab([L, a, b]) {
  const l = (L + 0.3963377774 * a + 0.2158037573 * b) ** 3;
  const m = (L - 0.1055613458 * a - 0.0638541728 * b) ** 3;
  const s = (L - 0.0894841775 * a - 1.291485548 * b) ** 3;
  return [
    4.0767416621 * l - 3.3077115913 * m + 0.2309699292 * s,
    -1.2684380046 * l + 2.6097574011 * m - 0.3413193965 * s,
    -0.0041960863 * l - 0.7034186147 * m + 1.707614701 * s,
  ].map(fromLinear);
}

function between(stops, at) {
  const place = Math.min(Math.max(at, 0), 1) * (stops.length - 1);
  const low = Math.min(Math.floor(place), stops.length - 2);
  return stops[low].map((value, i) => value + (place - low) * (stops[low + 1][i] - value));
}

const packed = ([r, g, b]) => (0xff000000 | (Math.round(b) << 16) | (Math.round(g) << 8) | Math.round(r)) >>> 0;

function table(stops, convert) {
  return Uint32Array.from({ length: N }, (_, i) => packed(convert(between(stops, i / (N - 1)))));
}

const LAB = STATES.map(rgb).map(toOklab);
export const LUT = Object.fromEntries(Object.entries(STOPS).map(([name, text]) => [name, table(text.split(" ").map(rgb), (c) => c)]));
// State alone: the same two hues, from dark to a light middle, even steps of lightness on both sides.
LUT.diverging = table([[0.5, LAB[0][1] * 1.2, LAB[0][2] * 1.2], [0.93, 0, 0], [0.5, LAB[2][1] * 0.85, LAB[2][2] * 0.85]], fromOklab);

// Row t of this table: the state colours scaled towards black to thickness t.
const PLANE = new Uint32Array(N * THICK);
for (let t = 0; t < THICK; t++) {
  for (let i = 0; i < N; i++) {
    PLANE[t * N + i] = packed(fromOklab(between(LAB, i / (N - 1)).map((value) => (value * t) / (THICK - 1))));
  }
}
export const endColours = STATES.map((hex) => `#${hex}`);

// Pixels (ABGR, 0 = transparent) of an image; NaN pixels stay uncoloured.
export function paint(values, lut, low, high) {
  const out = new Uint32Array(values.length);
  const factor = (N - 1) / (high - low || 1);
  for (let i = 0; i < values.length; i++) {
    const value = values[i];
    if (value === value) out[i] = lut[Math.min(Math.max(Math.round((value - low) * factor), 0), N - 1)];
  }
  return out;
}

// State (0 … 1) × thickness (0 … full), both per pixel.
export function paintPlane(state, thickness, full) {
  const out = new Uint32Array(state.length);
  const factor = (THICK - 1) / (full || 1);
  for (let i = 0; i < state.length; i++) {
    const a = state[i], t = thickness[i];
    if (a === a && t === t) {
      const row = Math.min(Math.max(Math.round(t * factor), 0), THICK - 1);
      out[i] = PLANE[row * N + Math.min(Math.max(Math.round(a * (N - 1)), 0), N - 1)];
    }
  }
  return out;
}

// The state with the largest share of each pixel; dark where its lead is within one standard deviation of the difference.
export function paintLargest(states, sigma) {
  const strong = OKABE_ITO.map((hex) => packed(rgb(hex)));
  const weak = OKABE_ITO.map((hex) => packed(rgb(hex).map((value) => value * UNCERTAIN)));
  const values = new Float32Array(states[0].length).fill(NaN), pixels = new Uint32Array(values.length);
  for (let i = 0; i < values.length; i++) {
    if (states[0][i] !== states[0][i]) continue;
    let first = 0, second = -1;
    for (let l = 1; l < states.length; l++) {
      if (states[l][i] > states[first][i]) [first, second] = [l, first];
      else if (second < 0 || states[l][i] > states[second][i]) second = l;
    }
    const lead = states[first][i] - states[second][i];
    const sure = !sigma.length || lead > Math.hypot(sigma[first][i], sigma[second][i]);
    values[i] = first;
    pixels[i] = (sure ? strong : weak)[first % strong.length];
  }
  return { values, pixels };
}

export function drawBar(canvas, lut) {
  blit(canvas, Uint32Array.from({ length: N }, (_, i) => lut[i]), N, 1);
}

export function drawPlane(canvas) {
  const flipped = new Uint32Array(PLANE.length);
  for (let t = 0; t < THICK; t++) flipped.set(PLANE.subarray(t * N, (t + 1) * N), (THICK - 1 - t) * N);
  blit(canvas, flipped, N, THICK);
}

function blit(canvas, pixels, width, height) {
  canvas.width = width;
  canvas.height = height;
  canvas.getContext("2d").putImageData(new ImageData(new Uint8ClampedArray(pixels.buffer), width, height), 0, 0);
}

// Quantiles of the valid values, from at most 40 000 of them.
export function quantiles(values, ...shares) {
  const step = Math.max(1, Math.floor(values.length / 40000));
  const sample = [];
  for (let i = 0; i < values.length; i += step) if (Number.isFinite(values[i])) sample.push(values[i]);
  if (!sample.length) return shares.map(() => NaN);
  const sorted = Float64Array.from(sample).sort();
  return shares.map((share) => sorted[Math.round(share * (sorted.length - 1))]);
}
