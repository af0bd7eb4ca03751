/* Marks on a grid: fields and sheets of images. */
(() => {
  "use strict";

  const { bitmap, boxOnScreen, keyframe, PAINTERS } = PlaygroundLive;

  const between = new WeakMap(); // by mark: the field that was last asked for

  /** A field as it stands at the slider's value: its codes, their scale, and a name for it.

      What lies between two keyframes is a mixture of their values, not of their colours: halfway
      between two densities is a density. */
  function fieldAt(get, mark, time) {
    const codes = get(mark.values);
    const { lo, hi, gamma, shape } = mark.values;
    if (!mark.keys) return { codes, lo, hi, name: mark.values.hash };
    const [a, b, mix] = keyframe(get(mark.keys), time);
    const name = `${mark.values.hash} ${a} ${mix}`;
    const kept = between.get(mark);
    if (kept?.name === name) return kept;
    const [rows, columns] = shape.slice(-2);
    const frame = (k) => codes.subarray(k * rows * columns, (k + 1) * rows * columns);
    const top = (k) => (Array.isArray(hi) ? hi[k] : hi);
    const diverging = mark.values.code === "diverging";
    const present = top(a) + mix * (top(b) - top(a));
    const field = { codes: frame(a), lo: diverging ? -present : lo, hi: present, name };
    if (mix) {
      const base = diverging ? 0 : lo;
      const value = (code) => (diverging ? (code - 128) / 127 : ((code - 1) / 254) ** (1 / gamma));
      const table = (share, k) => Float32Array.from({ length: 256 }, (_, code) =>
        code ? (share * value(code) * (top(k) - base)) / (present - base) : NaN);
      field.codes = mixed(frame(a), frame(b), table(1 - mix, a), table(mix, b), gamma, diverging);
    }
    between.set(mark, field);
    return field;
  }

  /** The codes of two frames' weighted sum; nothing where one of them is nothing. */
  function mixed(one, two, tableOne, tableTwo, gamma, diverging) {
    const out = new Uint8Array(one.length);
    for (let i = 0; i < out.length; i++) {
      const v = tableOne[one[i]] + tableTwo[two[i]];
      if (v !== v) continue;
      if (diverging) out[i] = Math.round(128 + 127 * v);
      else out[i] = Math.round(1 + 254 * Math.min(1, v) ** gamma);
    }
    return out;
  }

  function paintHeat(p, mark) {
    const [rows, columns] = mark.values.shape.slice(-2);
    const { codes, name } = fieldAt(p.get, mark, p.time);
    const picture = bitmap(p, mark, `${name} ${p.theme.version}`, columns, rows, (pixels) => {
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
  function heatAt(get, mark, x, y, time) {
    const [rows, columns] = mark.values.shape.slice(-2);
    const [x0, x1, y0, y1] = mark.box;
    const column = Math.floor(((x - x0) / (x1 - x0)) * columns);
    const row = Math.floor(((y - y0) / (y1 - y0)) * rows);
    if (!(column >= 0 && column < columns && row >= 0 && row < rows)) return null;
    const { codes, lo, hi } = fieldAt(get, mark, time);
    const code = codes[row * columns + column];
    if (code === 0) return null;
    if (mark.values.code === "diverging") return ((code - 128) / 127) * hi;
    return lo + (hi - lo) * ((code - 1) / 254) ** (1 / mark.values.gamma);
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

  Object.assign(PlaygroundLive, { fieldAt, heatAt, sheetOf, sheetBox });
})();
