// The legend: classes with their counts, which hide, isolate and select; or a scale with a range.

import { gradient, readable } from "./columns.js";
import { byId, count, element, own } from "./elements.js";

export class Legend {
  constructor(state) {
    this.state = state;
    this.list = byId("legend");
    this.list.addEventListener("keydown", (event) => this.onKey(event));
    state.listen((what) => this.update(what));
  }

  update(what) {
    if (what.has("colour")) this.draw();
    else this.refresh();
  }

  draw() {
    const column = this.state.coloured;
    byId("legend-title").replaceChildren(own(column.title));
    this.list.replaceChildren();
    byId("legend-help").hidden = column.kind !== "classes";
    byId("only-shown").hidden = column.kind !== "classes";
    if (column.kind === "classes") this.drawClasses(column);
    else this.drawScale(column);
    this.refresh();
  }

  drawClasses(column) {
    this.rows = column.bins.rows.map((row, bin) => {
      const toggle = element(
        "button",
        { type: "button", class: "class", tabindex: bin ? "-1" : "0", onclick: () => this.toggle(bin) },
        element("span", { class: "dot", style: `background:${row.colour}`, "aria-hidden": "true" }),
        element("span", { class: "label" }, own(row.name)),
        element("span", { class: "number" }),
      );
      const only = element("button", { type: "button", class: "small", tabindex: "-1", onclick: () => this.isolate(bin) }, "only");
      const select = element("button", { type: "button", class: "small", tabindex: "-1", onclick: () => this.select(bin) }, "select");
      const item = element("li", {}, toggle, only, select);
      this.list.append(item);
      return { item, toggle, number: toggle.querySelector(".number"), only, select, ...row };
    });
    this.rows.forEach(({ name, only, select }) => {
      only.setAttribute("aria-label", `Show only ${name}`);
      select.setAttribute("aria-label", `Select ${name}`);
    });
  }

  drawScale(column) {
    this.rows = null;
    const filter = this.state.filters.get(this.state.column);
    const bound = (name, at) =>
      element("label", {}, name, " ", element("input", {
        type: "number", step: "any", inputmode: "decimal", placeholder: readable(at),
        value: Number.isFinite(filter?.[name]) ? String(filter[name]) : "",
        onchange: () => this.keepRange(),
      }));
    this.low = bound("from", column.low);
    this.high = bound("to", column.high);
    const below = column.from > column.low ? "≤ " : "";
    const above = column.to < column.high ? "≥ " : "";
    this.list.append(
      element("li", { class: "scale" },
        element("div", { class: "ramp", style: `background:${gradient()}`, role: "img", "aria-label": `Colours from ${readable(column.from)} to ${readable(column.to)}` }),
        element("p", {}, element("span", {}, below + readable(column.from)), element("span", {}, above + readable(column.to))),
        element("fieldset", {}, element("legend", {}, "Show cells"), this.low, this.high),
      ),
    );
  }

  keepRange() {
    const [low, high] = [this.low, this.high].map((label) => {
      const { value } = label.querySelector("input");
      return value === "" ? null : Number(value);
    });
    this.state.keepRange(low, high);
  }

  refresh() {
    if (!this.rows) return;
    const { state } = this;
    const hidden = state.hidden();
    const { of } = state.coloured.bins;
    const chosen = new Array(this.rows.length).fill(0);
    if (state.n_selected) for (let i = 0; i < state.n; i++) if (state.selected[i]) chosen[of[i]]++;
    this.rows.forEach((row, bin) => {
      const isHidden = hidden.has(bin);
      row.item.classList.toggle("off", isHidden);
      row.toggle.setAttribute("aria-pressed", String(!isHidden));
      row.number.textContent = state.n_selected ? `${count(chosen[bin])} / ${count(row.count)}` : count(row.count);
    });
    byId("only-shown").disabled = hidden.size === 0;
  }

  toggle(bin) {
    const hidden = new Set(this.state.hidden());
    if (!hidden.delete(bin)) hidden.add(bin);
    this.state.hide(hidden);
  }

  /** Show one class alone; all again if it is alone already. */
  isolate(bin) {
    const hidden = this.state.hidden();
    const others = new Set(this.rows.keys());
    others.delete(bin);
    const isAlone = hidden.size === others.size && !hidden.has(bin);
    this.state.hide(isAlone ? new Set() : others);
  }

  select(bin) {
    const { of } = this.state.coloured.bins;
    this.state.selectWhere((cell) => of[cell] === bin);
  }

  showAll() {
    this.state.hide(new Set());
  }

  /** Arrows move through the classes; o isolates, s selects. */
  onKey(event) {
    if (!this.rows || event.ctrlKey || event.metaKey || event.altKey) return;
    const at = this.rows.findIndex((row) => row.item.contains(document.activeElement));
    if (at < 0) return;
    const moves = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: this.rows.length - 1 };
    if (event.key in moves) {
      const to = Math.min(this.rows.length - 1, Math.max(0, moves[event.key]));
      this.rows[at].toggle.tabIndex = -1;
      this.rows[to].toggle.tabIndex = 0;
      this.rows[to].toggle.focus();
    } else if (event.key === "o") this.isolate(at);
    else if (event.key === "s") this.select(at);
    else return;
    event.preventDefault();
    event.stopPropagation();
  }
}
