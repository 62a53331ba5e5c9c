// What stands next to the maps besides the legend: filters, the selection and its export, one cell.

import { readable } from "./columns.js";
import { csvOf, download } from "./csv.js";
import { byId, cells, count, element, own } from "./elements.js";

const VALUES = 14;

export class Panels {
  constructor(page, state, near) {
    Object.assign(this, { page, state, near });
    byId("save").addEventListener("click", () => this.save());
    byId("clear").addEventListener("click", () => state.select([], "replace"));
    byId("all").addEventListener("click", () => state.selectWhere(() => true, "replace"));
    byId("invert").addEventListener("click", () => state.selectWhere((cell) => !state.selected[cell], "replace"));
    byId("unfilter").addEventListener("click", () => {
      state.clearFilters();
      state.changed("colour");
    });
    for (const choice of document.querySelectorAll("input[name=how]")) {
      choice.addEventListener("change", () => (state.how = choice.value));
    }
    this.drawChoices();
    state.listen((what) => this.update(what));
  }

  /** Names of all cells, read when first needed. */
  get ids() {
    return (this.read ??= this.page.texts(this.page.about.ids));
  }

  drawChoices() {
    this.choices = this.state.columns.map((column) => {
      const box = element("input", { type: "checkbox", checked: true });
      byId("export").append(element("label", {}, box, " ", own(column.name)));
      return box;
    });
  }

  csv() {
    const chosen = this.state.columns.filter((_, i) => this.choices[i].checked);
    return csvOf(this.state.selection(), this.ids, chosen);
  }

  save() {
    if (this.state.n_selected) download(this.csv(), "selection.csv");
  }

  update(what) {
    const { state } = this;
    const shown = state.n_visible < state.n ? `${cells(state.n_visible)} shown of ${count(state.n)}` : cells(state.n);
    byId("status").textContent = state.n_selected ? `${count(state.n_selected)} selected of ${shown}` : shown;
    byId("selected").textContent = state.n_selected ? `${cells(state.n_selected)} selected` : "No cell is selected.";
    for (const id of ["save", "clear", "invert"]) byId(id).disabled = !state.n_selected;
    if (what.has("filter")) this.drawFilters();
    if (what.has("selection") || what.has("colour")) this.drawCell();
  }

  drawFilters() {
    const { state } = this;
    const chips = [...state.filters].map(([index, filter]) => {
      const column = state.columns[index];
      const bound = (value) => (Number.isFinite(value) ? readable(value) : "…");
      const what = filter.hidden ? `${filter.hidden.size} hidden` : `${bound(filter.low)} to ${bound(filter.high)}`;
      const away = () => {
        state.filters.delete(index);
        state.refilter();
        state.changed("colour");
        byId("colour").focus();
      };
      return element("li", {}, element("button", { type: "button", "aria-label": `Remove the filter of ${column.name}`, onclick: away }, own(column.name), `: ${what} ×`));
    });
    byId("filters").replaceChildren(...chips);
    byId("filtering").hidden = chips.length === 0;
  }

  drawCell() {
    const { state } = this;
    const { cell } = state;
    byId("cell").hidden = cell < 0;
    if (cell < 0) return;
    byId("cell-name").replaceChildren(own(this.ids[cell]));
    const values = state.columns.slice(0, VALUES).flatMap((column) => [
      element("dt", {}, own(column.name)),
      element("dd", {}, own(column.shown(cell))),
    ]);
    byId("cell-values").replaceChildren(...values);
    const { bins } = state.coloured;
    byId("near").replaceChildren(...this.near(cell).map((other) =>
      element("li", {}, element("button", { type: "button", onclick: () => this.open(other) },
        element("span", { class: "dot", style: `background:${bins.rows[bins.of[other]].colour}`, "aria-hidden": "true" }),
        element("span", { class: "label" }, own(this.ids[other])),
        element("span", { class: "number" }, own(state.coloured.shown(other))),
      )),
    ));
  }

  /** Show a cell and its neighbors. */
  open(cell) {
    this.state.selectCell(cell, this.near(cell));
  }

  /** Find a cell by its name; false if there is none that is shown. */
  find(name) {
    const wanted = name.trim();
    let cell = this.ids.indexOf(wanted);
    if (cell < 0) cell = this.ids.findIndex((each) => each.startsWith(wanted));
    if (cell < 0 || !wanted || !this.state.visible[cell]) return false;
    this.open(cell);
    return true;
  }
}
