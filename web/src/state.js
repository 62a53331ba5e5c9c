// What is seen and what is chosen: filters, selection, the clicked cell. Views and panels listen.

export class State {
  constructor(n, columns) {
    this.n = n;
    this.columns = columns;
    this.column = 0;
    this.filters = new Map();
    this.visible = new Uint8Array(n).fill(1);
    this.selected = new Uint8Array(n);
    this.n_visible = n;
    this.n_selected = 0;
    this.cell = -1;
    this.how = "replace";
    this.listeners = [];
  }

  listen(listener) {
    this.listeners.push(listener);
  }

  /** Tell what changed: "colour", "filter", "selection". */
  changed(...what) {
    for (const listener of this.listeners) listener(new Set(what));
  }

  colourBy(index) {
    this.column = index;
    this.changed("colour");
  }

  get coloured() {
    return this.columns[this.column];
  }

  /** Hidden bins of a column of classes. */
  hidden(index = this.column) {
    return this.filters.get(index)?.hidden ?? new Set();
  }

  hide(hidden, index = this.column) {
    if (hidden.size) this.filters.set(index, { hidden });
    else this.filters.delete(index);
    this.refilter();
  }

  /** Keep numbers from `low` to `high`; null takes that bound away. */
  keepRange(low, high, index = this.column) {
    if (low === null && high === null) this.filters.delete(index);
    else this.filters.set(index, { low: low ?? -Infinity, high: high ?? Infinity });
    this.refilter();
  }

  clearFilters() {
    this.filters.clear();
    this.refilter();
  }

  refilter() {
    this.visible.fill(1);
    for (const [index, filter] of this.filters) {
      const column = this.columns[index];
      if (filter.hidden) {
        const { of } = column.bins;
        for (let cell = 0; cell < this.n; cell++) if (filter.hidden.has(of[cell])) this.visible[cell] = 0;
      } else {
        for (let cell = 0; cell < this.n; cell++) {
          const value = column.number(cell);
          if (!(value >= filter.low && value <= filter.high)) this.visible[cell] = 0;
        }
      }
    }
    // what is out of sight is not chosen
    for (let cell = 0; cell < this.n; cell++) if (!this.visible[cell]) this.selected[cell] = 0;
    if (this.cell >= 0 && !this.visible[this.cell]) this.cell = -1;
    this.count();
    this.changed("filter", "selection");
  }

  count() {
    this.n_visible = this.n_selected = 0;
    for (let cell = 0; cell < this.n; cell++) {
      this.n_visible += this.visible[cell];
      this.n_selected += this.selected[cell];
    }
  }

  /** Choose cells: in place of those chosen, with them, or out of them. Hidden ones stay out. */
  select(cells, how = this.how) {
    if (how === "replace") this.selected.fill(0);
    const value = how === "remove" ? 0 : 1;
    for (const cell of cells) if (this.visible[cell]) this.selected[cell] = value;
    this.cell = -1;
    this.count();
    this.changed("selection");
  }

  selectWhere(test, how) {
    const cells = [];
    for (let cell = 0; cell < this.n; cell++) if (this.visible[cell] && test(cell)) cells.push(cell);
    this.select(cells, how);
  }

  /** A cell with its neighbors. */
  selectCell(cell, near) {
    this.select([cell, ...near], "replace");
    this.cell = cell;
    this.changed("selection");
  }

  selection() {
    const cells = [];
    for (let cell = 0; cell < this.n; cell++) if (this.selected[cell]) cells.push(cell);
    return cells;
  }
}
