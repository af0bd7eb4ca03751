/* Marks of lines: paths, arrows and warped grids. */
(() => {
  "use strict";

  const { keyframe, PAINTERS, project } = PlaygroundLive;

  function paintPaths(p, mark) {
    const count = mark.xy.shape[0];
    const [xy, length] = travelled(p, mark);
    p.c.strokeStyle = p.c.fillStyle = p.theme.role(mark.role);
    p.c.lineWidth = mark.width * p.zoom;
    p.c.lineJoin = p.c.lineCap = "round";
    if (mark.fill) fillDown(p, mark, xy, count, length);
    if (!mark.tail) {
      p.c.globalAlpha = mark.opacity;
      p.c.beginPath();
      for (let n = 0; n < count; n++) line(p.c, xy, n * length * 2, 2, length);
      p.c.stroke();
      return;
    }
    // all paths' first segments in one stroke, then all second ones: as many strokes as
    // vertices, however many paths there are
    for (let k = 1; k < length; k++) {
      p.c.globalAlpha = (mark.opacity * k) / (length - 1);
      p.c.beginPath();
      for (let n = 0; n < count; n++) line(p.c, xy, (n * length + k - 1) * 2, 2, 2);
      p.c.stroke();
    }
    p.c.globalAlpha = mark.opacity;
    const radius = mark.width * p.zoom + 0.6;
    for (let n = 0; n < count; n++) {
      const i = (n * length + length - 1) * 2;
      if (xy[i] === xy[i]) p.c.fillRect(xy[i] - radius, xy[i + 1] - radius, 2 * radius, 2 * radius);
    }
  }

  /** Pixels of the paths' vertices, and how many of each: with keys those that are reached. */
  function travelled(p, mark) {
    const [count, length] = mark.xy.shape;
    const all = project(p, mark.xy, null);
    if (!mark.keys || p.time === null) return [all, length];
    const keys = p.get(mark.keys);
    const way = keys[0] > keys[length - 1] ? -1 : 1; // falling keys: against the slider
    const [a, b, mix] = keyframe(keys.map((key) => way * key), way * p.time);
    const last = mix ? b : a;
    const xy = new Float32Array(count * (last + 1) * 2);
    for (let n = 0; n < count; n++) {
      const from = n * length * 2;
      xy.set(all.subarray(from, from + (last + 1) * 2), n * (last + 1) * 2);
      for (const c of [0, 1]) {
        const [u, v] = [all[from + 2 * a + c], all[from + 2 * b + c]];
        if (mix) xy[(n * (last + 1) + last) * 2 + c] = u + (v - u) * mix;
      }
    }
    return [xy, last + 1];
  }

  /** Shade what lies between each polyline and y = 0. */
  function fillDown(p, mark, xy, count, length) {
    const ground = p.axes.top + p.axes.ky * p.axes.y1;
    p.c.globalAlpha = 0.28 * mark.opacity;
    for (let n = 0; n < count; n++) {
      const [first, last] = [n * length * 2, ((n + 1) * length - 1) * 2];
      p.c.beginPath();
      line(p.c, xy, first, 2, length);
      p.c.lineTo(xy[last], ground);
      p.c.lineTo(xy[first], ground);
      p.c.fill();
    }
  }

  /** Add a polyline to the path; a missing vertex breaks it. */
  function line(c, xy, start, stride, count) {
    let pen = false;
    for (let k = 0, i = start; k < count; k++, i += stride) {
      const x = xy[i];
      if (x !== x) pen = false;
      else if (pen) c.lineTo(x, xy[i + 1]);
      else {
        c.moveTo(x, xy[i + 1]);
        pen = true;
      }
    }
  }

  function paintArrows(p, mark) {
    const keysOf = ({ shape }) => (shape.length === 3 ? mark.keys : null);
    const feet = project(p, mark.xy, keysOf(mark.xy)).slice();
    const vectors = project(p, mark.vectors, keysOf(mark.vectors), true);
    p.c.strokeStyle = p.theme.role(mark.role);
    p.c.lineWidth = 1.2 * p.zoom;
    p.c.lineCap = p.c.lineJoin = "round";
    p.c.globalAlpha = mark.opacity;
    p.c.beginPath();
    for (let i = 0; i < feet.length; i += 2) {
      const [x, y, dx, dy] = [feet[i], feet[i + 1], vectors[i], vectors[i + 1]];
      const length = Math.hypot(dx, dy);
      if (!(length > 0.3) || x !== x) continue;
      const head = Math.min(5 * p.zoom, length * 0.45) / length;
      p.c.moveTo(x, y);
      p.c.lineTo(x + dx, y + dy);
      // the head's two strokes, 25 degrees to either side
      const [hx, hy] = [dx * head * 0.906, dy * head * 0.906];
      const [nx, ny] = [-dy * head * 0.423, dx * head * 0.423];
      p.c.moveTo(x + dx - hx + nx, y + dy - hy + ny);
      p.c.lineTo(x + dx, y + dy);
      p.c.lineTo(x + dx - hx - nx, y + dy - hy - ny);
    }
    p.c.stroke();
  }

  const FADES = 6;

  function paintMesh(p, mark) {
    const [rows, columns] = mark.xy.shape.slice(-3);
    const every = mark.every || 1;
    const xy = project(p, mark.xy, mark.keys);
    const faint = mark.fade ? cellOpacity(xy, rows, columns) : null;
    const at = (r, k) => (r * columns + k) * 2;
    const bucket = (r1, k1, r2, k2) => {
      if (!faint) return FADES - 1;
      const n = columns - 1;
      const one = faint[Math.min(r1, rows - 2) * n + Math.min(k1, n - 1)];
      const two = faint[Math.min(r2, rows - 2) * n + Math.min(k2, n - 1)];
      return Math.max(one, two);
    };
    p.c.strokeStyle = p.theme.role(mark.role);
    p.c.lineWidth = p.zoom;
    // one stroke for each degree of opacity, not one for each of thousands of segments
    const paths = Array.from({ length: FADES }, () => new Path2D());
    const segment = (path, i, j) => {
      if (xy[i] !== xy[i] || xy[j] !== xy[j]) return;
      path.moveTo(xy[i], xy[i + 1]);
      path.lineTo(xy[j], xy[j + 1]);
    };
    for (let r = 0; r < rows; r++) {
      for (let k = 0; k < columns; k++) {
        if (k + 1 < columns && r % every === 0) {
          segment(paths[bucket(Math.max(r - 1, 0), k, r, k)], at(r, k), at(r, k + 1));
        }
        if (r + 1 < rows && k % every === 0) {
          segment(paths[bucket(r, Math.max(k - 1, 0), r, k)], at(r, k), at(r + 1, k));
        }
      }
    }
    paths.forEach((path, i) => {
      p.c.globalAlpha = 0.08 + (0.74 * i) / (FADES - 1);
      p.c.stroke(path);
    });
  }

  /** How visible each cell is, 0 … FADES − 1: the larger against the median, the fainter. */
  function cellOpacity(xy, rows, columns) {
    const areas = new Float32Array((rows - 1) * (columns - 1));
    for (let r = 0, n = 0; r + 1 < rows; r++) {
      for (let k = 0; k + 1 < columns; k++, n++) {
        const a = (r * columns + k) * 2;
        const b = a + columns * 2;
        const [x1, y1, x2, y2] = [xy[b + 2] - xy[a], xy[b + 3] - xy[a + 1],
          xy[b] - xy[a + 2], xy[b + 1] - xy[a + 3]]; // the two diagonals
        areas[n] = Math.abs(x1 * y2 - x2 * y1) / 2;
      }
    }
    const sorted = areas.filter((v) => v === v).sort();
    const median = sorted[sorted.length >> 1] || 1;
    return areas.map((v) => {
      const fade = Math.min(1, Math.sqrt(median / (v || 1e-9)) * 1.1);
      return v === v ? Math.round(fade * (FADES - 1)) : 0;
    });
  }

  Object.assign(PAINTERS, { Paths: paintPaths, Arrows: paintArrows, Mesh: paintMesh });
})();
