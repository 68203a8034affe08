// A canvas that shows one image with a crosshair, and says which pixel is pointed at.

export class Picture {
  constructor(canvas, { pick, hover }) {
    this.canvas = canvas;
    this.image = document.createElement("canvas");
    this.values = null;
    this.cross = null;
    canvas.addEventListener("click", (event) => { const at = this.pixel(event); if (at) pick(at); });
    canvas.addEventListener("mousemove", (event) => hover(this.pixel(event)));
    canvas.addEventListener("mouseleave", () => hover(null));
    new ResizeObserver(() => this.draw()).observe(canvas);
  }

  // values: (y, x) float; pixels: ABGR, or null for an empty picture.
  show(values, pixels, height, width) {
    this.values = values;
    this.image.width = width;
    this.image.height = height;
    if (pixels) {
      const data = new ImageData(new Uint8ClampedArray(pixels.buffer), width, height);
      this.image.getContext("2d").putImageData(data, 0, 0);
    }
    this.draw();
  }

  clear() {
    this.values = null;
    this.image.width = 0;
    this.draw();
  }

  place() {
    const { width, height } = this.image;
    const box = this.canvas.getBoundingClientRect();
    const scale = Math.min(box.width / width, box.height / height);
    return { scale, left: (box.width - scale * width) / 2, top: (box.height - scale * height) / 2, box };
  }

  pixel(event) {
    if (!this.image.width) return null;
    const { scale, left, top, box } = this.place();
    const x = Math.floor((event.clientX - box.left - left) / scale);
    const y = Math.floor((event.clientY - box.top - top) / scale);
    return x >= 0 && y >= 0 && x < this.image.width && y < this.image.height ? { x, y } : null;
  }

  value(at) {
    return this.values && at ? this.values[at.y * this.image.width + at.x] : NaN;
  }

  draw() {
    const ratio = window.devicePixelRatio || 1;
    const box = this.canvas.getBoundingClientRect();
    this.canvas.width = Math.round(box.width * ratio);
    this.canvas.height = Math.round(box.height * ratio);
    const { width, height } = this.image;
    if (!width || !box.width) return;
    const pen = this.canvas.getContext("2d");
    const { scale, left, top } = this.place();
    pen.scale(ratio, ratio);
    pen.imageSmoothingEnabled = scale < 1;
    pen.drawImage(this.image, left, top, scale * width, scale * height);
    if (!this.cross) return;
    const x = left + (this.cross.x + 0.5) * scale, y = top + (this.cross.y + 0.5) * scale;
    for (const [colour, thick] of [["rgba(0,0,0,0.7)", 3], ["#ffffff", 1]]) {
      pen.strokeStyle = colour;
      pen.lineWidth = thick;
      pen.beginPath();
      for (const [dx, dy] of [[1, 0], [-1, 0], [0, 1], [0, -1]]) {
        pen.moveTo(x + 5 * dx, y + 5 * dy);
        pen.lineTo(x + 13 * dx, y + 13 * dy);
      }
      pen.stroke();
    }
  }
}
