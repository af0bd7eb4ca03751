/* From data to pixels. A painter takes p, the picture as it stands, and a mark. */
(() => {
  "use strict";

  const { make, SENTINEL } = PlaygroundLive;

  // Pixel coordinates of the mark being painted: one array that grows, none per frame.
  let scratch = new Float32Array(8192);

  const NEXT_TO = 1e-5; // the slider's steps are decimal, the keys are not

  const sizeOf = (shape) => shape.reduce((a, b) => a * b, 1);

  /** Where a keyframed mark stands: between which two frames, and how far. */
  function keyframe(keys, time) {
    if (time === null || time <= keys[0]) return [0, 0, 0];
    for (let i = 1; i < keys.length; i++) {
      if (time > keys[i]) continue;
      const mix = (time - keys[i - 1]) / (keys[i] - keys[i - 1] || 1);
      // on a keyframe its neighbour has no say, also where that one has no point
      if (mix < NEXT_TO) return [i - 1, i - 1, 0];
      return mix > 1 - NEXT_TO ? [i, i, 0] : [i - 1, i, mix];
    }
    return [keys.length - 1, keys.length - 1, 0];
  }

  /** A mark's (…, 2) coordinates as pixels, [x, y, x, y …]; NaN where there is no point. */
  function project(p, reference, keys, vector = false) {
    const codes = p.get(reference);
    let count = sizeOf(reference.shape);
    let [a, b, mix] = [0, 0, 0];
    if (keys) {
      [a, b, mix] = keyframe(p.get(keys), p.time);
      count /= reference.shape[0];
    }
    if (scratch.length < count) scratch = new Float32Array(count * 2);
    const out = scratch;
    const [sx, sy] = reference.scale;
    const kx = p.axes.kx * sx;
    const ky = -p.axes.ky * sy;
    const ox = vector
      ? p.axes.kx * reference.offset[0]
      : p.axes.left + p.axes.kx * (reference.offset[0] - p.axes.x0);
    const oy = vector
      ? -p.axes.ky * reference.offset[1]
      : p.axes.top + p.axes.ky * (p.axes.y1 - reference.offset[1]);
    const [from, to] = [a * count, b * count];
    for (let i = 0; i < count; i += 2) {
      let x = codes[from + i];
      let y = codes[from + i + 1];
      if (x === SENTINEL) {
        out[i] = out[i + 1] = NaN;
        continue;
      }
      if (mix) {
        const x2 = codes[to + i];
        if (x2 === SENTINEL) {
          out[i] = out[i + 1] = NaN;
          continue;
        }
        x += (x2 - x) * mix;
        y += (codes[to + i + 1] - y) * mix;
      }
      out[i] = ox + kx * x;
      out[i + 1] = oy + ky * y;
    }
    return out.subarray(0, count);
  }

  /** A small canvas of one pixel a cell, made again only for new values or a new theme. */
  function bitmap(p, mark, key, width, height, fill) {
    let kept = p.bitmaps.get(mark.index);
    if (!kept) p.bitmaps.set(mark.index, (kept = { key: null, canvas: make("canvas") }));
    if (kept.key !== key) {
      kept.key = key;
      if (kept.canvas.width !== width) kept.canvas.width = width;
      if (kept.canvas.height !== height) kept.canvas.height = height;
      const c = kept.canvas.getContext("2d");
      const image = c.createImageData(width, height);
      fill(new Uint32Array(image.data.buffer));
      c.putImageData(image, 0, 0);
    }
    return kept.canvas;
  }

  const boxOnScreen = (axes, [x0, x1, y0, y1]) => [
    axes.left + axes.kx * (x0 - axes.x0),
    axes.top + axes.ky * (axes.y1 - y1),
    axes.kx * (x1 - x0),
    axes.ky * (y1 - y0),
  ];

  const PAINTERS = {}; // by the mark's type, each with (p, mark)

  Object.assign(PlaygroundLive, { sizeOf, keyframe, project, bitmap, boxOnScreen, PAINTERS });
})();
