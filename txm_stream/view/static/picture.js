// A canvas that shows one image, or two side by side, with crosshair and region; click, drag and wheel.

const DRAG_PX = 4;

export class Picture {
  // pick({x, y}): a pixel was clicked; select({x0, y0, x1, y1}): a region was drawn, its far edges not in it.
  constructor(canvas, sight, { pick, select }) {
    Object.assign(this, { canvas, sight, pick, select, values: null, second: null, from: null, drawn: null });
    this.image = document.createElement("canvas");
    sight.pictures.add(this);
    canvas.addEventListener("pointerdown", (event) => this.press(event));
    canvas.addEventListener("pointermove", (event) => this.move(event));
    canvas.addEventListener("pointerup", (event) => this.release(event));
    canvas.addEventListener("pointercancel", () => { this.from = this.drawn = null; this.draw(); });
    canvas.addEventListener("pointerleave", () => sight.point(null));
    canvas.addEventListener("dblclick", () => sight.all());
    canvas.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
    this.observer = new ResizeObserver(() => this.draw());
    this.observer.observe(canvas);
  }

  remove() {
    this.observer.disconnect();
    this.sight.pictures.delete(this);
  }

  // shown: {values (y, x) float, pixels ABGR, height, width, second: {values, pixels, names: [left, right]}}.
  show({ values, pixels, height, width, second = null }) {
    this.values = values;
    paintOn(this.image, pixels, height, width);
    if (second) {
      const image = this.second?.image ?? document.createElement("canvas");
      paintOn(image, second.pixels, height, width);
      this.second = { image, values: second.values, names: second.names };
    } else this.second = null;
    this.draw();
  }

  clear() {
    this.values = this.second = null;
    this.image.width = 0;
    this.draw();
  }

  place() {
    const { width, height } = this.image, { zoom, centre } = this.sight;
    const box = this.canvas.getBoundingClientRect();
    const scale = Math.min(box.width / width, box.height / height) * zoom;
    const start = (size, room, share) => (size <= room ? (room - size) / 2 : Math.min(Math.max(room / 2 - share * size, room - size), 0));
    return { scale, left: start(scale * width, box.width, centre[0]), top: start(scale * height, box.height, centre[1]), box };
  }

  // Pixel under the pointer; with `held` the nearest one where the pointer has left the image.
  pixel(event, held = false) {
    const { width, height } = this.image;
    if (!width) return null;
    const { scale, left, top, box } = this.place();
    let x = Math.floor((event.clientX - box.left - left) / scale), y = Math.floor((event.clientY - box.top - top) / scale);
    if (held) [x, y] = [Math.min(Math.max(x, 0), width - 1), Math.min(Math.max(y, 0), height - 1)];
    return x >= 0 && y >= 0 && x < width && y < height ? { x, y } : null;
  }

  value(at) {
    if (!at || !this.values || at.x >= this.image.width || at.y >= this.image.height) return NaN;
    const right = this.second && this.place().left + (at.x + 0.5) * this.place().scale > this.place().box.width / 2;
    return (right ? this.second.values : this.values)[at.y * this.image.width + at.x];
  }

  press(event) {
    const at = this.pixel(event);
    if (!at || event.button > 1) return;
    this.from = { at, x: event.clientX, y: event.clientY, centre: this.sight.centre, pan: event.shiftKey || event.button === 1 };
    this.canvas.setPointerCapture(event.pointerId);
    if (event.button === 1) event.preventDefault();
  }

  move(event) {
    this.sight.point(this.pixel(event));
    if (!this.from) return;
    const [dx, dy] = [event.clientX - this.from.x, event.clientY - this.from.y];
    if (!this.drawn && !this.from.moved && Math.hypot(dx, dy) < DRAG_PX) return;
    this.from.moved = true;
    if (this.from.pan) {
      const { scale } = this.place(), { width, height } = this.image;
      this.sight.look([this.from.centre[0] - dx / (scale * width), this.from.centre[1] - dy / (scale * height)]);
      return;
    }
    const to = this.pixel(event, true), { at } = this.from;
    this.drawn = { x0: Math.min(at.x, to.x), y0: Math.min(at.y, to.y), x1: Math.max(at.x, to.x) + 1, y1: Math.max(at.y, to.y) + 1 };
    this.draw();
  }

  release(event) {
    const { from, drawn } = this;
    this.from = this.drawn = null;
    if (!from || from.pan) return;
    if (drawn) this.select(drawn);
    else if (!from.moved && this.pixel(event)) this.pick(from.at);
  }

  wheel(event) {
    const { width, height } = this.image;
    if (!width) return;
    const { scale, left, top, box } = this.place();
    const at = [(event.clientX - box.left - left) / (scale * width), (event.clientY - box.top - top) / (scale * height)];
    if (this.sight.scale(Math.exp(-Math.sign(event.deltaY) * 0.25), at.map((value) => Math.min(Math.max(value, 0), 1)))) event.preventDefault();
  }

  draw() {
    const ratio = window.devicePixelRatio || 1;
    const box = this.canvas.getBoundingClientRect();
    const [wide, high] = [Math.round(box.width * ratio), Math.round(box.height * ratio)];
    if (this.canvas.width !== wide || this.canvas.height !== high) Object.assign(this.canvas, { width: wide, height: high });
    const pen = this.canvas.getContext("2d");
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.clearRect(0, 0, box.width, box.height);
    const { width, height } = this.image;
    if (!width || !box.width) return;
    const { scale, left, top } = this.place();
    pen.imageSmoothingEnabled = scale < 1;
    pen.drawImage(this.image, left, top, scale * width, scale * height);
    if (this.second) this.drawSecond(pen, box, { scale, left, top });
    const { cross, pointer, region } = this.sight;
    const shown = this.drawn ?? region;
    if (shown) {
      const corner = [left + shown.x0 * scale, top + shown.y0 * scale, (shown.x1 - shown.x0) * scale, (shown.y1 - shown.y0) * scale];
      for (const [colour, thick] of LINES) { pen.strokeStyle = colour; pen.lineWidth = thick; pen.strokeRect(...corner); }
    } else if (cross) this.hair(pen, left + (cross.x + 0.5) * scale, top + (cross.y + 0.5) * scale, 5, 13);
    if (pointer && !this.drawn) this.hair(pen, left + (pointer.x + 0.5) * scale, top + (pointer.y + 0.5) * scale, 2, 6);
  }

  drawSecond(pen, box, { scale, left, top }) {
    const middle = box.width / 2, { width, height } = this.image;
    pen.save();
    pen.beginPath();
    pen.rect(middle, 0, middle, box.height);
    pen.clip();
    pen.clearRect(middle, 0, middle, box.height);
    pen.drawImage(this.second.image, left, top, scale * width, scale * height);
    pen.restore();
    pen.fillStyle = "#ffffff";
    pen.fillRect(middle - 0.5, 0, 1, box.height);
    pen.font = "12px system-ui, sans-serif";
    pen.textBaseline = "top";
    for (const [i, name] of this.second.names.entries()) {
      const width = pen.measureText(name).width, x = i ? middle + 6 : middle - 6 - width;
      pen.fillStyle = "rgba(0,0,0,0.65)";
      pen.fillRect(x - 3, 3, width + 6, 17);
      pen.fillStyle = "#ffffff";
      pen.fillText(name, x, 6);
    }
  }

  hair(pen, x, y, from, to) {
    for (const [colour, thick] of LINES) {
      pen.strokeStyle = colour;
      pen.lineWidth = thick;
      pen.beginPath();
      for (const [dx, dy] of [[1, 0], [-1, 0], [0, 1], [0, -1]]) {
        pen.moveTo(x + from * dx, y + from * dy);
        pen.lineTo(x + to * dx, y + to * dy);
      }
      pen.stroke();
    }
  }
}

const LINES = [["rgba(0,0,0,0.7)", 3], ["#ffffff", 1]];

function paintOn(image, pixels, height, width) {
  if (image.width !== width || image.height !== height) Object.assign(image, { width, height });
  image.getContext("2d").putImageData(new ImageData(new Uint8ClampedArray(pixels.buffer), width, height), 0, 0);
}
