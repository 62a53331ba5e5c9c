// The selection as CSV. A text that a spreadsheet would take for a formula gets an apostrophe, as in
// every table that cellscribe writes (cellscribe/escaping.py).

const FORMULA = /^'*[=+\-@\t\r\n]/;
const NUMBER = /^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$/;

function field(text) {
  const safe = FORMULA.test(text) && !NUMBER.test(text) ? `'${text}` : text;
  const one = safe.replaceAll("\r", "\n");
  return /[",\n]/.test(one) ? `"${one.replaceAll('"', '""')}"` : one;
}

export function csvOf(cells, ids, columns) {
  const lines = [["cell_id", ...columns.map((column) => column.name)].map(field).join(",")];
  for (const cell of cells) {
    lines.push([ids[cell], ...columns.map((column) => column.text(cell))].map(field).join(","));
  }
  return lines.join("\n") + "\n";
}

export function download(text, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type: "text/csv" }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}
