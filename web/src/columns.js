// Columns that cells are coloured by. Each has bins: a bin has a colour, a name and its cells.

const STEPS = 48;
const NO_VALUE = "no value";

// Anchors of viridis (van der Walt and Smith, CC0), without the ends that fade on a white or a dark page.
const SCALE = [
  [70, 30, 111], [65, 68, 135], [51, 99, 141], [38, 130, 142], [31, 158, 137], [62, 188, 116],
  [128, 211, 76], [203, 225, 50],
];

/** A column of classes or numbers, or a gene. */
export class Column {
  constructor(described, page) {
    Object.assign(this, described);
    this.page = page;
    this.values = page.array(described.data);
    this.isGene = Boolean(described.gene);
  }

  get title() {
    return this.isGene ? `${this.name}, ${this.unit}` : this.name;
  }

  /** Number of a cell; NaN without one. */
  number(cell) {
    return this.step ? this.values[cell] * this.step : this.values[cell];
  }

  /** Text of a cell, as it is exported; "" without a value. */
  text(cell) {
    if (this.kind === "classes") return this.levels[this.values[cell]] ?? "";
    const value = this.number(cell);
    if (Number.isNaN(value)) return "";
    if (this.whole) return String(value);
    if (this.step) return String(Number(value.toPrecision(5)));
    return String(Number(value.toPrecision(7)));
  }

  /** Text of a cell for a reader. */
  shown(cell) {
    if (this.kind === "classes") return this.text(cell) || (this.values[cell] < this.levels.length ? "(empty)" : NO_VALUE);
    const value = this.number(cell);
    return Number.isNaN(value) ? NO_VALUE : readable(value);
  }

  /** Bins: `of[cell]` is the bin of a cell, `rows` are their colours, names and counts. */
  get bins() {
    this.made ??= this.kind === "classes" ? this.classBins() : this.numberBins();
    return this.made;
  }

  classBins() {
    const { palette, folded, unlabelled } = this.page.about;
    const kept = Math.min(this.levels.length, palette.length);
    const others = this.levels.length - kept;
    const rows = this.levels.slice(0, kept).map((name, i) => ({ name: name || "(empty)", colour: palette[i], count: 0 }));
    if (others) rows.push({ name: `${others.toLocaleString("en")} other`, colour: folded, count: 0, isFold: true });
    const none = rows.length;
    const of = new Uint16Array(this.values.length);
    let missing = 0;
    this.values.forEach((code, cell) => {
      const bin = code < kept ? code : code < this.levels.length ? kept : none;
      of[cell] = bin;
      if (bin === none) missing++;
      else rows[bin].count++;
    });
    if (missing) rows.push({ name: NO_VALUE, colour: unlabelled, count: missing, isMissing: true });
    return { of, rows };
  }

  numberBins() {
    const rows = Array.from({ length: STEPS }, (_, i) => ({ colour: shade(i / (STEPS - 1)) }));
    rows.push({ colour: this.page.about.unlabelled, isMissing: true });
    const span = this.to - this.from || 1;
    const of = new Uint16Array(this.values.length);
    for (let cell = 0; cell < of.length; cell++) {
      const share = (this.number(cell) - this.from) / span;
      of[cell] = Number.isNaN(share) ? STEPS : Math.min(STEPS - 1, Math.max(0, Math.floor(share * STEPS)));
    }
    return { of, rows };
  }
}

export function readable(value) {
  if (!Number.isFinite(value)) return String(value);
  const size = Math.abs(value);
  return size >= 1000 || Number.isInteger(value)
    ? Math.round(value).toLocaleString("en")
    : String(Number(value.toPrecision(3)));
}

function shade(share) {
  const place = share * (SCALE.length - 1);
  const low = Math.min(Math.floor(place), SCALE.length - 2);
  const mixed = SCALE[low].map((part, i) => Math.round(part + (SCALE[low + 1][i] - part) * (place - low)));
  return "#" + mixed.map((part) => part.toString(16).padStart(2, "0")).join("");
}

export function gradient() {
  return `linear-gradient(to right, ${Array.from({ length: 9 }, (_, i) => shade(i / 8)).join(", ")})`;
}
