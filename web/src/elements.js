// Elements of the page, made with text only: no text of the input is ever read as HTML.

export const byId = (id) => document.getElementById(id);

export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (name === "style") made.style.cssText = value;
    else if (typeof value === "boolean") made.toggleAttribute(name, value);
    else made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

/** A text of the input: its direction does not turn round what stands next to it. */
export const own = (text) => element("bdi", {}, text);

export const count = (n) => n.toLocaleString("en");

export const cells = (n) => `${count(n)} ${n === 1 ? "cell" : "cells"}`;
