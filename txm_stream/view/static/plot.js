// A small line plot on a canvas: points, lines, a marker, ticks.

const TEXT = "#a3acb8", GRID = "#2b3038";

export class Plot {
  constructor(canvas, { label = "", small = false, integers = false, choose = null } = {}) {
    Object.assign(this, { canvas, label, small, integers, data: { series: [] } });
    new ResizeObserver(() => this.draw()).observe(canvas);
    if (choose) canvas.addEventListener("click", (event) => { const x = this.valueAt(event); if (x !== null) choose(x); });
  }

  // series: [{x, y, kind: "points" | "line" | "dashed", colour, name}]; marker: x of the chosen energy; advised: [x].
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
    const { series, marker, advised = [] } = this.data;
    const shown = series.filter((one) => one.x.length);
    const xs = extent(shown.flatMap((one) => Array.from(one.x)), this.small ? 0.5 : 1, 0.02);
    const ys = extent(shown.flatMap((one) => Array.from(one.y)), this.integers ? 1 : 0, 0.08);
    if (!xs || !ys) { this.frame = null; return; }
    const top = this.small ? 6 : 20, bottom = box.height - (this.small ? 16 : 32), right = box.width - 8;
    const yTicks = ticks(ys, this.small ? 4 : 5, this.integers);
    const left = 8 + Math.max(...yTicks.map((tick) => pen.measureText(tick.text).width));
    const X = (value) => left + ((value - xs[0]) / (xs[1] - xs[0])) * (right - left);
    const Y = (value) => bottom - ((value - ys[0]) / (ys[1] - ys[0])) * (bottom - top);
    this.frame = { left, right, xs };

    pen.lineWidth = 1;
    pen.strokeStyle = GRID;
    pen.fillStyle = TEXT;
    pen.textAlign = "right";
    pen.textBaseline = "middle";
    for (const tick of yTicks) {
      line(pen, [[left, Y(tick.value)], [right, Y(tick.value)]]);
      pen.fillText(tick.text, left - 4, Y(tick.value));
    }
    pen.textAlign = "center";
    pen.textBaseline = "top";
    for (const tick of ticks(xs, this.small ? 4 : 6, this.small)) {
      line(pen, [[X(tick.value), top], [X(tick.value), bottom]]);
      pen.fillText(tick.text, Math.min(X(tick.value), right - 8), bottom + 3);
    }
    if (this.label) pen.fillText(this.label, (left + right) / 2, bottom + 17);
    for (const x of advised) {
      pen.fillStyle = "#ffd166";
      pen.beginPath();
      pen.moveTo(X(x), bottom);
      pen.lineTo(X(x) - 5, bottom + 8);
      pen.lineTo(X(x) + 5, bottom + 8);
      pen.fill();
    }
    if (marker !== undefined && marker !== null) {
      pen.strokeStyle = "#8b95a3";
      pen.setLineDash([2, 3]);
      line(pen, [[X(marker), top], [X(marker), bottom]]);
      pen.setLineDash([]);
    }
    for (const one of shown) this.trace(pen, one, X, Y);
    if (!this.small) legend(pen, shown, left, right);
  }

  trace(pen, { x, y, kind, colour }, X, Y) {
    pen.strokeStyle = pen.fillStyle = colour;
    if (kind === "points") {
      for (let i = 0; i < x.length; i++) {
        if (!Number.isFinite(y[i])) continue;
        pen.beginPath();
        pen.arc(X(x[i]), Y(y[i]), this.small ? 1.6 : 2.6, 0, 7);
        pen.fill();
      }
      return;
    }
    pen.lineWidth = this.small ? 1.2 : 1.8;
    pen.setLineDash(kind === "dashed" ? [6, 4] : []);
    const order = Array.from(x.keys()).filter((i) => Number.isFinite(y[i])).sort((a, b) => x[a] - x[b]);
    line(pen, order.map((i) => [X(x[i]), Y(y[i])]));
    pen.setLineDash([]);
    if (order.length === 1) { pen.beginPath(); pen.arc(X(x[order[0]]), Y(y[order[0]]), 2, 0, 7); pen.fill(); }
  }
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
    if (!name || x > right - 60) continue;
    pen.strokeStyle = pen.fillStyle = colour;
    pen.lineWidth = 2;
    if (kind === "points") { pen.beginPath(); pen.arc(x + 8, 9, 2.6, 0, 7); pen.fill(); } else {
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
