// The two maps. regl-scatterplot draws, pans, zooms and finds what lies in a lasso; both maps show
// the same colours, filters and selection.

import createScatterplot, { createRenderer } from "regl-scatterplot";

import { mouseByTouch } from "./touch.js";

const FULL = 65_534; // largest coordinate; one more means no place
const MARGIN = 0.94;
const AWAY = 50;
const FAINT = 0.12;
const AFTER_LASSO = 300; // ms in which the click that ends a lasso is no click on a cell

export class Views {
  constructor(page, state, frames) {
    this.state = state;
    const renderer = createRenderer();
    const size = Math.min(7, Math.max(1.5, 260 / Math.sqrt(state.n)));
    this.all = page.about.views.map((view, i) => new View(page, state, view, frames[i], renderer, size));
    this.busy = false;
    this.again = false;
  }

  /** Draw colours, filters and selection as they are. */
  async paint() {
    if (this.busy) {
      this.again = true;
      return;
    }
    this.busy = true;
    do {
      this.again = false;
      for (const view of this.all) await view.paint();
    } while (this.again);
    this.busy = false;
  }

  lassoMode(isOn) {
    for (const view of this.all) view.plot.set({ mouseMode: isOn ? "lasso" : "panZoom" });
  }

  on(handlers) {
    for (const view of this.all) view.on(handlers);
  }
}

export class View {
  constructor(page, state, described, frame, renderer, pointSize) {
    this.state = state;
    this.frame = frame;
    this.canvas = frame.querySelector("canvas");
    const places = page.array(described.data);
    this.hasPlace = new Uint8Array(state.n);
    this.points = new Array(state.n);
    for (let i = 0; i < state.n; i++) {
      const [x, y] = [places[i], places[state.n + i]];
      this.hasPlace[i] = x <= FULL;
      this.points[i] = x <= FULL ? [MARGIN * (2 * x / FULL - 1), MARGIN * (2 * y / FULL - 1), 0, 1] : [AWAY, AWAY, 0, 1];
    }
    this.plot = createScatterplot({
      renderer,
      canvas: this.canvas,
      pointSize,
      colorBy: "valueA",
      opacityBy: "valueB",
      opacity: [FAINT, state.n > 50_000 ? 0.7 : 0.9],
      pointOutlineWidth: 2,
      pointSizeSelected: 5,
      lassoMinDelay: 0,
      lassoMinDist: 2,
      lassoLineWidth: 2,
      deselectOnDblClick: false,
      deselectOnEscape: false,
      spatialIndexUseWorker: false,
      cameraDistance: this.fitted,
    });
    mouseByTouch(this.canvas);
  }

  /** Distance of the camera from which the whole map is seen. */
  get fitted() {
    const { clientWidth, clientHeight } = this.frame;
    return Math.max(1, clientHeight / Math.max(1, clientWidth));
  }

  async paint() {
    const { state, plot } = this;
    const { of, rows } = state.coloured.bins;
    const anySelected = state.n_selected > 0;
    for (let i = 0; i < state.n; i++) {
      this.points[i][2] = of[i];
      this.points[i][3] = anySelected && !state.selected[i] ? 0 : 1;
    }
    const colours = rows.map((row) => row.colour);
    const ink = getComputedStyle(document.body).color.match(/\d+/g).slice(0, 3).map((part) => part / 255);
    // one colour would be taken for the colour of all, whatever their bin
    if (colours.length === 1) colours.push(colours[0]);
    plot.set({ pointColor: colours, pointColorActive: [...ink, 1], pointColorHover: [...ink, 1], lassoColor: [...ink, 1] });
    plot.deselect({ preventEvent: true });
    // before the first drawing there is nothing to filter
    const isFirst = !this.filtered;
    const isFiltered = this.filterChanged();
    if (isFiltered && !isFirst) this.filter();
    await plot.draw(this.points, {
      spatialIndex: plot.get("spatialIndex"),
      preventFilterReset: true,
      zDataType: "categorical",
      wDataType: "categorical",
    });
    if (isFirst) await this.filter();
    if (state.cell >= 0 && this.shows(state.cell)) plot.select([state.cell], { preventEvent: true });
  }

  shows(cell) {
    return this.state.visible[cell] && this.hasPlace[cell];
  }

  filterChanged() {
    const now = this.state.visible;
    if (this.filtered && now.every((value, i) => value === this.filtered[i])) return false;
    this.filtered = now.slice();
    return true;
  }

  filter() {
    const shown = [];
    for (let i = 0; i < this.state.n; i++) if (this.shows(i)) shown.push(i);
    return shown.length === this.state.n
      ? this.plot.unfilter({ preventEvent: true })
      : this.plot.filter(shown, { preventEvent: true });
  }

  on({ click, lasso, hover }) {
    let isLasso = false;
    let found = [];
    let ended = -Infinity;
    this.plot.subscribe("lassoStart", () => {
      this.plot.deselect({ preventEvent: true });
      isLasso = true;
      found = [];
    });
    this.plot.subscribe("select", ({ points }) => {
      if (isLasso) found = points.slice();
      else if (performance.now() - ended > AFTER_LASSO && points.length) click(points[points.length - 1]);
    });
    this.plot.subscribe("lassoEnd", ({ coordinates }) => {
      isLasso = false;
      if (coordinates.length < 3) return;
      ended = performance.now();
      lasso(found);
    });
    this.plot.subscribe("pointOver", (cell) => hover(cell, this));
    this.plot.subscribe("pointOut", () => hover(-1, this));
  }

  /** Place of a cell in the window. */
  position(cell) {
    const [x, y] = this.plot.getScreenPosition(cell);
    const box = this.canvas.getBoundingClientRect();
    return [box.left + x, box.top + y];
  }

  move(dx, dy) {
    const [x, y] = this.plot.get("cameraTarget");
    const step = 0.2 * this.plot.get("cameraDistance");
    this.plot.set({ cameraTarget: [x + dx * step, y + dy * step] });
  }

  zoom(factor) {
    this.plot.set({ cameraDistance: this.plot.get("cameraDistance") * factor });
  }

  fit() {
    this.plot.set({ cameraTarget: [0, 0], cameraDistance: this.fitted });
  }
}
