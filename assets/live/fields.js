/* Marks on a grid: fields and sheets of images. */
(() => {
  "use strict";

  const { bitmap, boxOnScreen, PAINTERS } = PlaygroundLive;

  function paintHeat(p, mark) {
    const [rows, columns] = mark.values.shape;
    const key = `${mark.values.hash} ${p.theme.version}`;
    const picture = bitmap(p, mark, key, columns, rows, (pixels) => {
      const codes = p.get(mark.values);
      const table = p.theme.table(mark.scale, mark.role);
      for (let row = 0; row < rows; row++) {
        // row 0 is the bottom one, and a picture begins at its top
        const from = (rows - 1 - row) * columns;
        for (let i = 0; i < columns; i++) pixels[row * columns + i] = table[codes[from + i]];
      }
    });
    const place = boxOnScreen(p.axes, mark.box);
    // zoomed in far, a cell average is shown as the cell that it is
    p.c.imageSmoothingEnabled = place[2] / columns < 24 && !mark.crisp;
    p.c.drawImage(picture, ...place);
  }

  /** The value at a place of a field, back from its code; null outside and where it is NaN. */
  function heatAt(get, mark, x, y) {
    const [rows, columns] = mark.values.shape;
    const [x0, x1, y0, y1] = mark.box;
    const column = Math.floor(((x - x0) / (x1 - x0)) * columns);
    const row = Math.floor(((y - y0) / (y1 - y0)) * rows);
    if (!(column >= 0 && column < columns && row >= 0 && row < rows)) return null;
    const code = get(mark.values)[row * columns + column];
    if (code === 0) return null;
    const { lo, hi, gamma } = mark.values;
    if (mark.values.code === "diverging") return ((code - 128) / 127) * hi;
    return lo + (hi - lo) * ((code - 1) / 254) ** (1 / gamma);
  }

  function paintImages(p, mark) {
    const { count, height, width, columns, wide, high } = sheetOf(mark);
    const frame = mark.keys ? lastKey(p.get(mark.keys), p.time) : 0;
    const key = `${mark.pixels.hash} ${frame} ${p.theme.version}`;
    const picture = bitmap(p, mark, key, wide, high, (pixels) => {
      const codes = p.get(mark.pixels);
      const table = p.theme.table("sequential", "images");
      const first = frame * count * height * width;
      for (let n = 0; n < count; n++) {
        const left = (n % columns) * (width + 1);
        const top = Math.floor(n / columns) * (height + 1);
        for (let y = 0; y < height; y++) {
          const from = first + (n * height + y) * width;
          const to = (top + y) * wide + left;
          for (let x = 0; x < width; x++) pixels[to + x] = table[codes[from + x]];
        }
      }
    });
    p.c.imageSmoothingEnabled = false;
    const place = boxOnScreen(p.axes, sheetBox(mark));
    p.c.drawImage(picture, ...place);
    if (mark.tags) paintTags(p, mark, columns, place[2] / wide, width, height);
  }

  /** How a sheet of images is laid out, in pixels of theirs; one between neighbours is free. */
  function sheetOf(mark) {
    const [count, height, width] = mark.pixels.shape.slice(-3);
    const columns = Math.max(1, Math.min(mark.columns, count));
    const rows = Math.ceil(count / columns);
    const [wide, high] = [columns * (width + 1) - 1, rows * (height + 1) - 1];
    return { count, height, width, columns, wide, high };
  }

  /** The sheet's own axes: one unit a pixel, the first image at the top. */
  function sheetBox(mark) {
    const { wide, high } = sheetOf(mark);
    return [0, wide, 0, high];
  }

  /** Which keyframe was reached last: of pictures drawn one after the other, none is mixed. */
  function lastKey(keys, time) {
    let last = 0;
    if (time === null) return last;
    // the slider's own steps are decimal, the keys are not
    while (last + 1 < keys.length && keys[last + 1] <= time + 1e-6 * Math.abs(time)) last++;
    return last;
  }

  function paintTags(p, mark, columns, scale, width, height) {
    const size = Math.min(11, scale * height * 0.4);
    if (size < 6) return;
    const top = sheetBox(mark)[3];
    p.c.font = `600 ${size}px ${p.theme.font}`;
    p.c.textBaseline = "top";
    p.c.lineWidth = 2.5;
    p.c.strokeStyle = p.theme.paper;
    p.c.fillStyle = p.theme.role("model");
    mark.tags.forEach((tag, n) => {
      const x = p.axes.left + p.axes.kx * ((n % columns) * (width + 1) + 0.3 - p.axes.x0);
      const row = Math.floor(n / columns) * (height + 1) + 0.2;
      const y = p.axes.top + p.axes.ky * (p.axes.y1 - (top - row));
      p.c.strokeText(String(tag), x, y);
      p.c.fillText(String(tag), x, y);
    });
  }

  Object.assign(PAINTERS, { Heat: paintHeat, Images: paintImages });

  Object.assign(PlaygroundLive, { heatAt, sheetOf, sheetBox });
})();
