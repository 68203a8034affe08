// What all pictures share: the part of the image that is shown, crosshair, region, pointer.

const ZOOM_MAX = 64;

export class Sight {
  constructor() {
    Object.assign(this, { zoom: 1, centre: [0.5, 0.5], cross: null, region: null, pointer: null });
    this.pictures = new Set();
    this.observers = new Set(); // called with the pointer's pixel, or null
  }

  changed() {
    for (const picture of this.pictures) picture.draw();
  }

  point(at) {
    if (at?.x === this.pointer?.x && at?.y === this.pointer?.y) return;
    this.pointer = at;
    for (const observer of this.observers) observer(at);
    this.changed();
  }

  // Zoom so that the place `at` (shares of the image) stays where it is; says whether anything changed.
  scale(factor, at = this.centre) {
    const zoom = Math.min(Math.max(this.zoom * factor, 1), ZOOM_MAX);
    if (zoom === this.zoom) return false;
    const kept = this.zoom / zoom;
    this.zoom = zoom;
    this.look([0, 1].map((axis) => at[axis] + (this.centre[axis] - at[axis]) * kept));
    return true;
  }

  // Move the middle of what is shown, not beyond the image's border.
  look(centre) {
    const half = 0.5 / this.zoom;
    this.centre = centre.map((value) => Math.min(Math.max(value, half), 1 - half));
    this.changed();
  }

  all() {
    this.zoom = 1;
    this.look([0.5, 0.5]);
  }
}
