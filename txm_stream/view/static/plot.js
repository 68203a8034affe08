// A small line plot on a canvas: points, lines, a marker, ticks of advised energies, residuals below on the same axis.

const TEXT = "#a3acb8", GRID = "#2b3038", ADVISED = "#ffd166";

export class Plot {
  constructor(canvas, { label = "", small = false, integers = false, choose = null, hover = null } = {}) {
    Object.assign(this, { canvas, label, small, integers, data: { series: [] }, pointer: null });
    new ResizeObserver(() => this.draw()).observe(canvas);
    if (choose) canvas.addEventListener("click", (event) => { const x = this.valueAt(event); if (x !== null) choose(x); });
    if (!hover) return;
    const point = (x) => { this.pointer = x; this.draw(); hover(x); };
    canvas.addEventListener("pointermove", (event) => point(this.valueAt(event)));
    canvas.addEventListener("pointerleave", () => point(null));
  }

  // series: [{x, y, kind: "points" | "line" | "dashed", colour, name}], label: what they show; below: {series, band, label}: residuals, ± band;
  // marker: x of the chosen energy; advised: [x], the newest last; integers of x are visits.
  show(data) {
    this.data = data;
    this.draw();
  }

  valueAt(event) {
    if (!this.frame) return null;
    const { left, right, xs } = this.frame;
    const share = (event.clientX - this.canvas.getBoundingClientRect().left - left) / (right - left);
    return xs[0] + Math.min(Math.max(share, 0), 1) * (xs[1] - xs[0]);
  }

  draw() {
    const ratio = window.devicePixelRatio || 1;
    const box = this.canvas.getBoundingClientRect();
    if (!box.width) return;
    this.canvas.width = Math.round(box.width * ratio);
    this.canvas.height = Math.round(box.height * ratio);
    const pen = this.canvas.getContext("2d");
    pen.scale(ratio, ratio);
    pen.font = `${this.small ? 10 : 11}px system-ui, sans-serif`;
    const { series, label, below, marker, advised = [] } = this.data;
    const shown = series.filter((one) => one.x.length);
    const xs = extent([...shown.flatMap((one) => Array.from(one.x)), ...advised], this.small ? 0.5 : 1, 0.02);
    const ys = extent(shown.flatMap((one) => Array.from(one.y)), this.integers ? 1 : 0, 0.08);
    if (!xs || !ys) { this.frame = null; return; }
    const bottom = box.height - (this.small ? 16 : 32), right = box.width - 8, top = this.small ? 6 : 20;
    const middle = below ? bottom - Math.round(0.27 * (bottom - top)) : bottom;
    const areas = [{ series: shown, label, ys, top, bottom: below ? middle - 8 : bottom, ticks: ticks(ys, this.small ? 4 : 5, this.integers) }];
    if (below) {
      const values = below.series.flatMap((one) => Array.from(one.y));
      const limit = Math.max(...values.filter(Number.isFinite).map(Math.abs), 3 * (below.band || 0)) || 1;
      areas.push({ ...below, ys: [-1.1 * limit, 1.1 * limit], top: middle, bottom, ticks: ticks([-limit, limit], 3) });
    }
    const left = 8 + Math.max(...areas.flatMap((area) => area.ticks.map((tick) => pen.measureText(tick.text).width)));
    const X = (value) => left + ((value - xs[0]) / (xs[1] - xs[0])) * (right - left);
    this.frame = { left, right, xs };
    pen.lineWidth = 1;
    pen.textBaseline = "top";
    for (const tick of ticks(xs, this.small ? 4 : 6, this.small)) {
      pen.strokeStyle = GRID;
      pen.fillStyle = TEXT;
      pen.textAlign = "center";
      for (const area of areas) line(pen, [[X(tick.value), area.top], [X(tick.value), area.bottom]]);
      pen.fillText(tick.text, Math.min(X(tick.value), right - 8), bottom + 3);
    }
    if (this.label) pen.fillText(this.label, (left + right) / 2, bottom + 17);
    for (const area of areas) this.area(pen, area, X, left, right);
    this.marks(pen, X, { marker, advised, top, bottom });
    if (!this.small) legend(pen, [...shown, ...(advised.length ? [{ name: "next", kind: "tick", colour: ADVISED }] : [])], left, right);
  }

  area(pen, { series, ys, top, bottom, band, label, ticks: marks }, X, left, right) {
    const Y = (value) => bottom - ((value - ys[0]) / (ys[1] - ys[0])) * (bottom - top);
    if (band) {
      pen.fillStyle = "rgba(163, 172, 184, 0.18)";
      pen.fillRect(left, Y(band), right - left, Y(-band) - Y(band));
    }
    pen.strokeStyle = GRID;
    pen.fillStyle = TEXT;
    pen.textAlign = "right";
    pen.textBaseline = "middle";
    for (const tick of marks) {
      line(pen, [[left, Y(tick.value)], [right, Y(tick.value)]]);
      pen.fillText(tick.text, left - 4, Y(tick.value));
    }
    for (const one of series) this.trace(pen, one, X, Y);
    if (!label) return;
    pen.fillStyle = TEXT;
    pen.textAlign = "left";
    pen.textBaseline = "top";
    pen.fillText(label, left + 4, top + 2);
  }

  marks(pen, X, { marker, advised, top, bottom }) {
    advised.forEach((x, i) => { // the newest is solid
      const newest = i === advised.length - 1;
      pen.fillStyle = newest ? ADVISED : "rgba(255, 209, 102, 0.4)";
      pen.beginPath();
      pen.moveTo(X(x), bottom - (newest ? 2 : 0));
      pen.lineTo(X(x) - (newest ? 5 : 3), bottom + (newest ? 8 : 5));
      pen.lineTo(X(x) + (newest ? 5 : 3), bottom + (newest ? 8 : 5));
      pen.fill();
    });
    for (const [x, dash] of [[marker, [2, 3]], [this.pointer, []]]) {
      if (x === undefined || x === null || !Number.isFinite(x)) continue;
      pen.lineWidth = 1;
      pen.strokeStyle = "#8b95a3";
      pen.setLineDash(dash);
      line(pen, [[X(x), top], [X(x), bottom]]);
      pen.setLineDash([]);
    }
  }

  trace(pen, { x, y, kind, colour }, X, Y) {
    pen.strokeStyle = pen.fillStyle = colour;
    if (kind === "points") {
      for (let i = 0; i < x.length; i++) if (Number.isFinite(y[i])) dot(pen, X(x[i]), Y(y[i]), this.small ? 1.6 : 2.6);
      return;
    }
    pen.lineWidth = this.small ? 1.2 : 1.8;
    pen.setLineDash(kind === "dashed" ? [6, 4] : []);
    const order = Array.from(x.keys()).filter((i) => Number.isFinite(y[i])).sort((a, b) => x[a] - x[b]);
    line(pen, order.map((i) => [X(x[i]), Y(y[i])]));
    pen.setLineDash([]);
    if (order.length === 1) dot(pen, X(x[order[0]]), Y(y[order[0]]), 2);
  }
}

function dot(pen, x, y, radius) {
  pen.beginPath();
  pen.arc(x, y, radius, 0, 7);
  pen.fill();
}

function line(pen, points) {
  pen.beginPath();
  points.forEach(([x, y], i) => (i ? pen.lineTo(x, y) : pen.moveTo(x, y)));
  pen.stroke();
}

function legend(pen, series, left, right) {
  pen.textAlign = "left";
  pen.textBaseline = "middle";
  let x = left + 4;
  for (const { name, colour, kind } of series) {
    if (!name || x + 30 + pen.measureText(name).width > right) continue;
    pen.strokeStyle = pen.fillStyle = colour;
    pen.lineWidth = 2;
    if (kind === "points") dot(pen, x + 8, 9, 2.6);
    else if (kind === "tick") {
      pen.beginPath();
      pen.moveTo(x + 8, 4);
      pen.lineTo(x + 3, 14);
      pen.lineTo(x + 13, 14);
      pen.fill();
    } else {
      pen.setLineDash(kind === "dashed" ? [5, 3] : []);
      line(pen, [[x, 9], [x + 16, 9]]);
      pen.setLineDash([]);
    }
    pen.fillStyle = TEXT;
    pen.fillText(name, x + 21, 9);
    x += 34 + pen.measureText(name).width;
  }
}

function extent(values, least, margin) {
  let low = Infinity, high = -Infinity;
  for (const value of values) {
    if (!Number.isFinite(value)) continue;
    if (value < low) low = value;
    if (value > high) high = value;
  }
  if (low > high) return null;
  const grow = Math.max(margin * (high - low), high === low ? Math.abs(high) * 0.1 || 1 : 0, (least - (high - low)) / 2);
  return [low - grow, high + grow];
}

function ticks([low, high], about, integers) {
  const raw = (high - low) / about;
  const power = 10 ** Math.floor(Math.log10(raw));
  let step = [1, 2, 5, 10].map((factor) => factor * power).find((size) => size >= 0.7 * raw);
  if (integers) step = Math.max(1, Math.round(step));
  const digits = Math.min(Math.max(0, -Math.floor(Math.log10(step) + 1e-9)), 8);
  const out = [];
  for (let value = Math.ceil(low / step) * step; value <= high + 1e-9 * step; value += step) {
    out.push({ value, text: (Math.abs(value) < step * 1e-6 ? 0 : value).toFixed(digits).replace("-", "−") });
  }
  return out;
}
