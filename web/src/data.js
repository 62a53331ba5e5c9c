// What the page was given: JSON about it, and the packed columns, which the browser inflates.

const KINDS = {
  u1: Uint8Array, i1: Int8Array, u2: Uint16Array, i2: Int16Array,
  u4: Uint32Array, i4: Int32Array, f4: Float32Array,
};

/** Read both; `array` and `texts` then give what lies at a place. */
export async function readPage() {
  const about = JSON.parse(document.getElementById("about").textContent);
  const packed = document.getElementById("cells");
  const bytes = fromBase64(packed.textContent.trim());
  packed.remove();
  const inflated = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  const buffer = await new Response(inflated).arrayBuffer();
  const array = ({ at, n, type }) => new KINDS[type](buffer, at, n);
  const texts = ({ at, n }) => JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, at, n)));
  return { about, array, texts };
}

function fromBase64(text) {
  if (Uint8Array.fromBase64) return Uint8Array.fromBase64(text);
  const letters = atob(text);
  const bytes = new Uint8Array(letters.length);
  for (let i = 0; i < letters.length; i++) bytes[i] = letters.charCodeAt(i);
  return bytes;
}
