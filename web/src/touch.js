// Fingers as a mouse, which is all that regl-scatterplot knows: one drags, two zoom.

const TAP = 10;
const FRAMES = 2;

export function mouseByTouch(canvas) {
  let start = null;
  let isDown = false;
  let moved = false;
  let apart = 0;

  function fire(kind, target, { clientX, clientY }, buttons) {
    target.dispatchEvent(new MouseEvent(kind, { clientX, clientY, buttons, bubbles: true, cancelable: true }));
  }

  function press(touch) {
    isDown = true;
    fire("mousedown", canvas, touch, 1);
  }

  function listen(kind, handle) {
    const handler = (event) => {
      event.preventDefault();
      handle(event);
    };
    canvas.addEventListener(kind, handler, { passive: false });
  }

  listen("touchstart", (event) => {
    const [first, second] = event.touches;
    if (second) {
      if (isDown) fire("mouseup", window, first, 0);
      start = null;
      isDown = false;
      apart = distance(first, second);
      return;
    }
    start = first;
    moved = false;
    fire("mouseenter", canvas, first, 0);
    fire("mousemove", window, first, 0);
    // the camera takes the place of the mouse once a frame: pressed before, the map would jump there
    const wait = (frames) => requestAnimationFrame(() => (frames ? wait(frames - 1) : start === first && !isDown && press(first)));
    wait(FRAMES);
  });

  listen("touchmove", (event) => {
    const [first, second] = event.touches;
    if (second) {
      const now = distance(first, second);
      const middle = { clientX: (first.clientX + second.clientX) / 2, clientY: (first.clientY + second.clientY) / 2 };
      fire("mousemove", window, middle, 0);
      canvas.dispatchEvent(new WheelEvent("wheel", { deltaY: 3 * (apart - now), ...middle, bubbles: true, cancelable: true }));
      apart = now;
    } else if (start) {
      moved ||= distance(start, first) > TAP;
      if (isDown) fire("mousemove", window, first, 1);
    }
  });

  listen("touchend", (event) => {
    if (!start) return;
    const last = event.changedTouches[0];
    if (!isDown && !moved) press(start);
    if (isDown) fire("mouseup", window, last, 0);
    if (!moved) fire("click", canvas, last, 0);
    start = null;
    isDown = false;
  });
}

function distance(a, b) {
  return Math.hypot(a.clientX - b.clientX, a.clientY - b.clientY);
}
