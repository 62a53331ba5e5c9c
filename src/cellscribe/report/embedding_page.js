
"use strict";
// Draws the map on a canvas, names the cell under the pointer, and lifts out a class whose legend
// entry is hovered, focused or pressed. Without this script the page shows a picture instead.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const canvas = document.getElementById("points");
  const hint = document.getElementById("hint");
  const pen = canvas.getContext("2d");
  const buttons = [...document.querySelectorAll(".legend button")];
  let pinned = null;
  let lifted = null;

  function dots(keep, alpha, radius) {
    pen.globalAlpha = alpha;
    for (let i = 0; i < data.x.length; i++) {
      if (!keep(data.code[i])) continue;
      pen.fillStyle = data.colours[data.code[i]];
      pen.beginPath();
      pen.arc((data.x[i] / data.grid) * canvas.width, (data.y[i] / data.grid) * canvas.height, radius, 0, 7);
      pen.fill();
    }
  }

  function draw() {
    const box = canvas.parentElement.getBoundingClientRect();
    const sharp = window.devicePixelRatio || 1;
    canvas.width = Math.round(box.width * sharp);
    canvas.height = Math.round(box.height * sharp);
    const radius = Math.max(data.radius * canvas.width, 1.1 * sharp);
    if (lifted === null) {
      dots(() => true, 0.85, radius);
    } else {
      dots((code) => code !== lifted, 0.1, radius);
      dots((code) => code === lifted, 1, radius * 1.15);
    }
    canvas.dataset.drawn = data.x.length;
    canvas.dataset.lifted = lifted === null ? "" : lifted;
  }

  function lift(code) {
    if (code === lifted) return;
    lifted = code;
    draw();
  }

  for (const button of buttons) {
    const code = Number(button.dataset.code);
    for (const type of ["mouseenter", "focus"]) button.addEventListener(type, () => lift(code));
    for (const type of ["mouseleave", "blur"]) button.addEventListener(type, () => lift(pinned));
    button.addEventListener("click", () => {
      pinned = pinned === code ? null : code;
      for (const other of buttons) other.setAttribute("aria-pressed", String(other === button && pinned !== null));
      lift(pinned);
    });
  }

  function nearest(x, y, reach) {
    let best = -1;
    let least = reach * reach;
    for (let i = 0; i < data.x.length; i++) {
      const dx = (data.x[i] / data.grid) * canvas.clientWidth - x;
      const dy = (data.y[i] / data.grid) * canvas.clientHeight - y;
      if (dx * dx + dy * dy < least) {
        least = dx * dx + dy * dy;
        best = i;
      }
    }
    return best;
  }

  canvas.addEventListener("pointermove", (event) => {
    const i = nearest(event.offsetX, event.offsetY, 8);
    hint.hidden = i < 0;
    if (i < 0) return;
    const name = data.names.length ? data.names[data.code[i]] + " · " : "";
    hint.textContent = name + data.umis[i].toLocaleString("en") + " UMIs · row " + data.row[i];
    hint.style.left = (data.x[i] / data.grid) * 100 + "%";
    hint.style.top = (data.y[i] / data.grid) * 100 + "%";
    hint.classList.toggle("leftwards", data.x[i] > data.grid / 2);
  });
  canvas.addEventListener("pointerleave", () => { hint.hidden = true; });

  canvas.hidden = false;
  new ResizeObserver(draw).observe(canvas.parentElement);
  draw();
})();
