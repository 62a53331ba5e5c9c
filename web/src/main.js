// The page of `cellscribe explore`: reads what it was given, and joins maps, legend and panels.

import { Column } from "./columns.js";
import { readPage } from "./data.js";
import { byId, element, own } from "./elements.js";
import { Legend } from "./legend.js";
import { aboutNeighbors, neighborFinder } from "./neighbors.js";
import { Panels } from "./panels.js";
import { State } from "./state.js";
import { Views } from "./views.js";

async function start() {
  const page = await readPage();
  const { about } = page;
  // a page without any column still has its cells, in one colour
  const described = about.columns.length ? about.columns : [{ name: "cells", kind: "classes", levels: ["all"], data: null }];
  if (!about.columns.length) page.array = blank(page.array, about.n);
  const columns = described.map((each) => new Column(each, page));
  const state = new State(about.n, columns);
  const frames = drawFrames(about);
  const views = new Views(page, state, frames);
  const panels = new Panels(page, state, neighborFinder(page));
  const legend = new Legend(state);
  drawColumns(columns, state);
  for (const note of about.notes) byId("notes").append(element("li", {}, own(note)));
  byId("near-how").textContent = aboutNeighbors(about.neighbors);
  state.listen(() => views.paint());
  const tools = joinTools(state, views, legend, panels);
  views.on({
    click: (cell) => panels.open(cell),
    lasso: (cells) => state.select(cells),
    hover: (cell, view) => showHint(cell, view, state, panels),
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => views.paint());
  state.changed("colour", "filter", "selection");
  await views.paint();
  document.body.dataset.ready = "yes";
  // for those who look in from the console, and for tests
  globalThis.explorer = { state, maps: views, views: views.all, panels, tools };
}

function blank(array, n) {
  return (data) => (data === null ? new Uint8Array(n) : array(data));
}

function drawFrames(about) {
  return about.views.map((view, i) => {
    const canvas = element("canvas", { tabindex: "0", role: "img", "aria-label": `Map ${i + 1}: ${view.name}. Arrows move it, plus and minus zoom.` });
    const frame = element("div", { class: "frame" }, canvas, element("p", { class: "hint", hidden: true }));
    const off = view.off ? `, ${view.off.toLocaleString("en")} cells without a place` : "";
    byId("maps").append(element("figure", { class: "view" }, element("figcaption", {}, own(view.name), off), frame));
    return frame;
  });
}

function drawColumns(columns, state) {
  const menu = byId("colour");
  const groups = [["Columns", (column) => !column.isGene], ["Genes", (column) => column.isGene]];
  for (const [label, belongs] of groups) {
    const options = columns.flatMap((column, i) => (belongs(column) ? [element("option", { value: String(i) }, column.name)] : []));
    if (options.length) menu.append(element("optgroup", { label }, ...options));
  }
  menu.addEventListener("change", () => state.colourBy(Number(menu.value)));
}

function showHint(cell, view, state, panels) {
  const hint = view.frame.querySelector(".hint");
  hint.hidden = cell < 0;
  if (cell < 0) return;
  const [x, y] = view.plot.getScreenPosition(cell);
  hint.replaceChildren(own(panels.ids[cell]), element("br"), own(state.coloured.shown(cell)));
  hint.classList.toggle("leftwards", x > view.frame.clientWidth / 2);
  hint.style.left = `${x}px`;
  hint.style.top = `${y}px`;
}

function joinTools(state, views, legend, panels) {
  const lasso = byId("lasso");
  const tools = {
    lasso(isOn = lasso.getAttribute("aria-pressed") !== "true") {
      lasso.setAttribute("aria-pressed", String(isOn));
      byId("maps").classList.toggle("lassoing", isOn);
      views.lassoMode(isOn);
    },
    zoom: (factor) => views.all.forEach((view) => view.zoom(factor)),
    fit: () => views.all.forEach((view) => view.fit()),
    help: () => (byId("help").open ? byId("help").close() : byId("help").showModal()),
  };
  lasso.addEventListener("click", () => tools.lasso());
  byId("zoom-in").addEventListener("click", () => tools.zoom(0.7));
  byId("zoom-out").addEventListener("click", () => tools.zoom(1 / 0.7));
  byId("fit").addEventListener("click", tools.fit);
  byId("show-help").addEventListener("click", tools.help);
  byId("hide-help").addEventListener("click", tools.help);
  byId("only-shown").addEventListener("click", () => legend.showAll());
  byId("find").addEventListener("submit", (event) => {
    event.preventDefault();
    const found = panels.find(byId("wanted").value);
    byId("not-found").hidden = found;
  });
  document.addEventListener("keydown", (event) => onKey(event, state, views, panels, tools));
  return tools;
}

function onKey(event, state, views, panels, tools) {
  if (event.ctrlKey || event.metaKey || event.altKey || byId("help").open) return;
  if (event.target.matches("input, select, textarea")) return;
  const view = views.all.find((each) => each.canvas === event.target);
  const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };
  const keys = {
    l: () => tools.lasso(),
    "+": () => tools.zoom(0.7),
    "=": () => tools.zoom(0.7),
    "-": () => tools.zoom(1 / 0.7),
    0: tools.fit,
    a: () => state.selectWhere(() => true, "replace"),
    i: () => state.selectWhere((cell) => !state.selected[cell], "replace"),
    Escape: () => state.select([], "replace"),
    e: () => panels.save(),
    c: () => byId("colour").focus(),
    f: () => byId("wanted").focus(),
    g: () => byId("legend").querySelector("[tabindex='0'], input")?.focus(),
    "?": tools.help,
  };
  if (view && event.key in moves) view.move(...moves[event.key]);
  else if (event.key in keys) keys[event.key]();
  else return;
  event.preventDefault();
}

start().catch((error) => {
  const said = byId("failed");
  said.hidden = false;
  said.textContent = `The map cannot be drawn: ${error.message}. It needs WebGL and a browser of 2023 or newer.`;
  throw error;
});
