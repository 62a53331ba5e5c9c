// The nearest cells of a cell, from the lists of the page.

export function neighborFinder(page) {
  const about = page.about.neighbors;
  if (!about) return () => [];
  const { k, base } = about;
  const [low, high] = [page.array(about.low), page.array(about.high)];
  return (cell) => {
    const places = Array.from({ length: k }, (_, i) => low[cell * k + i] + base * high[cell * k + i]);
    return places.filter((place) => place < page.about.n);
  };
}

export function aboutNeighbors(about) {
  if (!about) return "The file has no vectors, so no neighbors are known.";
  const how = `by cosine of the standardised vectors ${about.of}`;
  if (about.recall === undefined) return `${about.k} nearest cells on this page, exact, ${how}.`;
  const share = Math.round(100 * about.recall);
  return `${about.k} nearest cells on this page, ${how}. The search is not exact: it found ${share}% of the nearest of ${about.tried} cells that were tried.`;
}
