/* Where panels go. */
(() => {
  "use strict";

  const COLUMNS = 60; // divisible by 2, 3, 4, 5 and 6
  const WEIGHT = { large: 1, small: 1, wide: 1.35 };
  // height over width of a cell: large pictures are square, as their axes are
  const SHAPE = { large: 0.98, small: 0.84, wide: 0.55 };
  const CAPTION = 48; // pixels of a row beside its pictures, in a lecture's type
  const LEAST = 110; // pixels of a picture where there is next to no room
  const TALLEST = { large: 0.5, small: 0.36, wide: 0.3 };

  /** Rows of cells for a width: [{panels, enlarged, feature}]. Lanes stand side by side.

      together: the large pictures come before all others, in as few rows as may be. */
  function arrange(panels, width, enlarged, together) {
    const byId = new Map();
    for (const panel of panels) {
      if (!byId.has(panel.what.id)) byId.set(panel.what.id, []);
      byId.get(panel.what.id).push(panel);
    }
    const rows = [];
    if (byId.has(enlarged)) {
      rows.push({ panels: byId.get(enlarged), enlarged: true });
      byId.delete(enlarged);
    }
    const groups = [...byId.values()];
    const lanes = Math.max(1, ...groups.map((g) => g.length));
    const of = (size) => groups.filter((g) => g[0].what.size === size);
    if (width < 560) {
      const all = [...of("large"), ...of("small"), ...of("wide")].flat();
      return [...rows, ...all.map((panel) => ({ panels: [panel] }))];
    }
    const fits = (one) => Math.max(1, Math.floor(width / one));
    if (lanes > 1) {
      const most = (one) => Math.max(Math.min(lanes, fits(230)), fits(one));
      const single = (g) => g.length < lanes;
      const small = of("small");
      const shared = [...of("wide").filter(single), ...small.filter(single)];
      const [lone, sets] = [of("large").filter(single), of("large").filter((g) => !single(g))];
      if (together) rows.push(...filled([...sets, ...lone.splice(0)], most(270)));
      else rows.push(...filled(sets, most(430)));
      rows.push(...filled(small.filter((g) => !single(g)), most(225)));
      rows.push(...filled(of("wide").filter((g) => !single(g)), most(280)));
      rows.push(...filled([...lone, ...shared], Math.min(4, fits(260))));
      return rows;
    }
    const large = of("large").flat();
    const rest = [...of("small"), ...of("wide")].flat();
    const across = Math.max(2, Math.min(4, fits(228)));
    while (large.length > 1) rows.push({ panels: large.splice(0, across) });
    // a large panel that is left alone shares its row with the next two, one over the other
    if (large.length && rest.length > 1) {
      rows.push({ panels: [large[0], ...rest.splice(0, 2)], feature: true });
    } else if (large.length) rows.push({ panels: [large[0], ...rest.splice(0, 1)] });
    const count = Math.ceil(rest.length / Math.max(1, Math.min(5, fits(228))));
    for (let left = count; left > 0; left--) {
      rows.push({ panels: rest.splice(0, Math.ceil(rest.length / left)) });
    }
    return rows;
  }

  /** Groups in rows of at most `most` cells, a group never divided unless it must be. */
  function filled(groups, most) {
    const rows = [];
    let row = [];
    for (const group of groups) {
      if (row.length && row.length + group.length > most) {
        rows.push({ panels: row });
        row = [];
      }
      row = [...row, ...group];
      // four where three fit are two and two
      const even = Math.ceil(row.length / Math.ceil(row.length / most));
      while (row.length > most) rows.push({ panels: row.splice(0, even) });
    }
    if (row.length) rows.push({ panels: row });
    return rows;
  }

  function place(panel, order, span, height, { rowSpan = 1, large = false } = {}) {
    const style = panel.figure.style;
    style.order = order;
    style.gridColumn = `span ${span}`;
    style.gridRow = rowSpan > 1 ? `span ${rowSpan}` : "";
    style.setProperty("--gp-height", `${Math.round(height)}px`);
    panel.figure.classList.toggle("gp-large", !!large);
  }

  /** Give a row its place. most: the height that its pictures may have, in pixels. */
  function placeRow(row, order, width, filled, most) {
    const screen = Math.max(480, window.innerHeight);
    const tall = (size, cell) =>
      Math.max(Math.min(150, Math.max(LEAST, most)), Math.min(cell * SHAPE[size], screen * TALLEST[size], most));
    if (row.feature) {
      const [big, ...others] = row.panels;
      const height = Math.min(tall("small", (width * 24) / COLUMNS), screen * 0.25, most / 2 - 20);
      place(big, order, 36, 2 * height + 40, { rowSpan: 2 });
      others.forEach((panel, i) => place(panel, order + i + 1, 24, height));
      return;
    }
    const weights = row.panels.map((p) => WEIGHT[p.what.size]);
    const total = weights.reduce((a, b) => a + b, 0);
    const heights = row.panels.map((p, i) => {
      const cell = (width * weights[i]) / total;
      if (row.enlarged && filled) return screen - 90;
      if (row.enlarged) return Math.max(220, Math.min(cell * 0.8, screen * 0.74));
      return tall(p.what.size, cell);
    });
    // charts take the height of the pictures beside them
    const pictures = heights.filter((_, i) => row.panels[i].what.size !== "wide");
    const height = Math.max(...(pictures.length ? pictures : heights));
    // one small picture alone does not need the whole width
    const alone = row.panels.length === 1 && row.panels[0].what.size === "small";
    let left = alone && !row.enlarged && width >= 560 ? COLUMNS / 2 : COLUMNS;
    row.panels.forEach((panel, i) => {
      const last = i === row.panels.length - 1;
      const span = last ? left : Math.round((COLUMNS * weights[i]) / total);
      left -= span;
      place(panel, order + i, span, height, { large: row.enlarged });
    });
  }

  Object.assign(PlaygroundLive, { CAPTION, LEAST, arrange, placeRow });
})();
