/* The one renderer: paints the frames that app/view.py packs.

   The page uses it live, inside a Gradio component; an exported run uses it alone:

       const view = PlaygroundView(element, { trigger: (name, data) => {} });
       view.show(base64OfOneFrame);

   What is dense (fields, points, paths, arrows, meshes, images) is painted on a canvas.
   Over it lies a transparent Plotly graph that brings axes, zoom, pan and its toolbar.
   Curves, bars and surfaces are Plotly's own, renewed at most four times a second: its
   drawing is far more costly than a canvas. Only the newest frame is painted, once per
   animation frame, and a panel whose content has not changed is left alone. */
(() => {
  "use strict";

  // Taken now: a gr.Plot that is mounted later replaces window.Plotly with an older one.
  const Plotly = window.Plotly;

  const KEPT_BLOCKS = 512; // twice what the server assumes, see Known in app/view.py
  const SENTINEL = -32768; // int16 code of a point that is not finite
  const CHART_MS = 250; // at least, between two renewals of a Plotly chart
  const CHART_SHARE = 0.1; // of the time may go into one chart: slow machines renew it less
  const CHART_MAX_MS = 1000; // often, but at least this often
  const ACK_MS = 300;
  const HIDDEN_ACK_MS = 1000;
  const DRAG_MS = 50;
  const SWEEP_MS = 3500;
  const CLEAR = "rgba(0,0,0,0)";

  // What tests and benchmarks read; replaced by the visible view's own.
  window.playground ||= { ready: false, drawn: 0, step: 0, ages: [], error: null };

  // ================================================================ reading a frame

  const ARRAYS = {
    uint8: Uint8Array,
    int16: Int16Array,
    float32: Float32Array,
  };

  function bytesOf(base64) {
    if (Uint8Array.fromBase64) return Uint8Array.fromBase64(base64);
    const text = atob(base64);
    const bytes = new Uint8Array(text.length);
    for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
    return bytes;
  }

  const isReference = (v) => v !== null && typeof v === "object" && "hash" in v && "dtype" in v;

  /** Blocks by name, the least recently used forgotten first, in step with the server. */
  class Blocks {
    constructor() {
      this.held = new Map();
    }

    put(name, bytes) {
      // a copy, or the whole frame would stay in memory for its smallest block
      this.held.set(name, { bytes: bytes.slice(), value: undefined, inner: null });
    }

    /** Whether a block is held with everything inside it; marks all of it as used. */
    touch(reference) {
      const block = this.held.get(reference.hash);
      if (!block) return false;
      this.held.delete(reference.hash);
      this.held.set(reference.hash, block);
      if (reference.dtype !== "json") return true;
      if (!block.inner) block.inner = references(this.get(reference));
      let all = true;
      for (const inner of block.inner) all = this.touch(inner) && all;
      return all;
    }

    /** Names of all blocks within some references, which must be held. */
    within(list, names = new Set()) {
      for (const reference of list) {
        if (names.has(reference.hash)) continue;
        names.add(reference.hash);
        const block = this.held.get(reference.hash);
        if (reference.dtype !== "json") continue;
        block.inner ||= references(this.get(reference));
        this.within(block.inner, names);
      }
      return names;
    }

    /** The typed array or the object that a reference names; the same one every time. */
    get(reference) {
      // what the timeline shows may be long gone from what is held for the stream
      const kept = this.tape && this.tape.find(reference.hash);
      const block = this.held.get(reference.hash) || (kept && kept.block);
      if (!block) throw new Error(`block ${reference.hash} is missing`);
      if (block.value === undefined) {
        block.value =
          reference.dtype === "json"
            ? JSON.parse(new TextDecoder().decode(block.bytes))
            : new ARRAYS[reference.dtype](block.bytes.buffer);
      }
      return block.value;
    }

    trim() {
      for (const name of this.held.keys()) {
        if (this.held.size <= KEPT_BLOCKS) break;
        this.held.delete(name);
      }
    }
  }

  function references(value, found = []) {
    if (isReference(value)) found.push(value);
    else if (value && typeof value === "object") {
      for (const key of Object.keys(value)) references(value[key], found);
    }
    return found;
  }

  /** One packed frame: its header, with `missing` when it names a block that is not held. */
  function readFrame(base64, blocks) {
    const bytes = bytesOf(base64);
    const length = new DataView(bytes.buffer).getUint32(0, true);
    const frame = JSON.parse(new TextDecoder().decode(bytes.subarray(4, 4 + length)));
    const start = 4 + length;
    for (const [name, offset, size] of frame.blocks) {
      blocks.put(name, bytes.subarray(start + offset, start + offset + size));
    }
    frame.missing = false;
    for (const reference of [frame.about, frame.metrics.what, ...frame.panels]) {
      if (!blocks.touch(reference)) frame.missing = true;
    }
    blocks.trim();
    return frame;
  }

  // ================================================================ words and numbers

  function make(tag, className, ...children) {
    const element = document.createElement(tag);
    if (className) element.className = className;
    element.append(...children);
    return element;
  }

  /** Everything that comes from the server is text. Touch the page only when it changes. */
  function setText(element, text) {
    if (element.textContent !== text) element.textContent = text;
  }

  const minus = (text) => text.replace(/-/g, "\u2212");

  /** A number as a person would write it: about three digits, ∞ for infinity. */
  function shown(x, digits = 3) {
    if (x === null || x === undefined || Number.isNaN(x)) return "–";
    if (x === "Infinity" || x === Infinity) return "∞";
    if (x === "-Infinity" || x === -Infinity) return "−∞";
    const size = Math.abs(x);
    if (size >= 1e6) return minus(x.toExponential(2));
    if (size >= 1000) return minus(Math.round(x).toLocaleString("en-US"));
    if (size !== 0 && size < 10 ** -digits) return minus(x.toExponential(1));
    const places = size >= 100 ? 1 : size >= 10 ? 2 : digits;
    return minus(x.toFixed(Math.min(places, digits)));
  }

  /** Plotly reads some HTML in its texts: hand it entities instead. */
  const escaped = (text) =>
    String(text).replace(/[&<>]/g, (c) => ({ "&": "&amp;", "<": "&lt;", ">": "&gt;" })[c]);

  /** An equation with x_i, x_{ij}, x^2 and x^{…}, as elements: never as HTML. */
  function setEquation(element, text) {
    element.replaceChildren();
    let plain = "";
    const flush = () => {
      if (plain) element.append(plain);
      plain = "";
    };
    for (let i = 0; i < text.length; i++) {
      const c = text[i];
      if ((c !== "_" && c !== "^") || i + 1 >= text.length || text[i + 1] === " ") {
        plain += c;
        continue;
      }
      flush();
      const script = make(c === "_" ? "sub" : "sup");
      if (text[i + 1] === "{") {
        const end = closing(text, i + 1);
        setEquation(script, text.slice(i + 2, end));
        i = end;
      } else {
        const symbol = String.fromCodePoint(text.codePointAt(i + 1));
        script.append(symbol);
        i += symbol.length;
      }
      element.append(script);
    }
    flush();
  }

  function closing(text, open) {
    let depth = 0;
    for (let i = open; i < text.length; i++) {
      if (text[i] === "{") depth++;
      if (text[i] === "}" && --depth === 0) return i;
    }
    return text.length;
  }

  const stored = {
    get(key) {
      try {
        return JSON.parse(window.localStorage.getItem(key));
      } catch {
        return null; // storage may be forbidden, or hold something else
      }
    },
    set(key, value) {
      try {
        window.localStorage.setItem(key, JSON.stringify(value));
      } catch {
        /* it is only a convenience */
      }
    },
  };

  // ================================================================ colours

  const rgb = (hex) => [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16));
  const mixed = (a, b, t) => a.map((v, i) => v + (b[i] - v) * t);

  /** One opaque pixel of a canvas, as its memory holds it. */
  function pixelOf(colour) {
    const [r, g, b] = colour.map(Math.round);
    return ((255 << 24) | (b << 16) | (g << 8) | r) >>> 0;
  }

  /** The colours of live.css, read again whenever light and dark change places. */
  class Theme {
    constructor(element) {
      this.version = (Theme.count = (Theme.count || 0) + 1);
      const style = getComputedStyle(element);
      this.value = (name) => style.getPropertyValue(`--gp-${name}`).trim();
      this.dark = !!element.closest(".dark");
      this.groups = this.value("groups").split(/\s+/);
      this.font = this.value("font");
      this.tables = new Map();
      this.discs = new Map();
      this.roles = {};
      for (const name of ["ink", "mute", "line", "card", "paper", "accent"]) {
        this[name] = this.value(name);
      }
      const type = parseFloat(this.value("type")) || 1; // larger in a lecture
      this.size = (points) => points * type;
      this.type = type;
      this.rim = this.dark ? [10, 10, 20, 0.6] : [255, 255, 255, 0.4];
    }

    role(name) {
      return (this.roles[name] ||= this.value(name) || this.ink);
    }

    group(index) {
      return index === 255 ? this.role("noise") : this.groups[index % this.groups.length];
    }

    stops(scale, role) {
      if (scale === "diverging") return this.value("diverging").split(/\s+/).map(rgb);
      if (role === "density" || role === "plain") {
        return this.value("sequential").split(/\s+/).map(rgb);
      }
      if (role === "images") return [rgb(this.paper), rgb(this.ink)];
      const [paper, hue] = [rgb(this.paper), rgb(this.role(role))];
      const end = mixed(hue, this.dark ? [255, 255, 255] : [0, 0, 0], 0.35);
      return [paper, mixed(paper, hue, 0.55), hue, end];
    }

    /** Colour of each uint8 code, as canvas pixels; 0 is nothing. */
    table(scale, role) {
      const key = `${scale} ${role}`;
      let table = this.tables.get(key);
      if (!table) {
        const stops = this.stops(scale, role);
        table = new Uint32Array(256);
        for (let code = 1; code < 256; code++) {
          const at = ((code - 1) / 254) * (stops.length - 1);
          const i = Math.min(Math.floor(at), stops.length - 2);
          table[code] = pixelOf(mixed(stops[i], stops[i + 1], at - i));
        }
        // an image's pixel that is not there yet is no white one
        if (role === "images") table[0] = pixelOf(mixed(rgb(this.paper), rgb(this.role("noise")), 0.22));
        this.tables.set(key, table);
      }
      return table;
    }

    gradient(scale, role) {
      const key = `ramp ${scale} ${role}`;
      let ramp = this.tables.get(key);
      if (!ramp) {
        const stops = this.stops(scale, role).map((c) => `rgb(${c.map(Math.round).join(",")})`);
        ramp = `linear-gradient(90deg, ${stops.join(",")})`;
        this.tables.set(key, ramp);
      }
      return ramp;
    }

    /** Ready-made pixels of a disc, for each of 4 × 4 places within a pixel. */
    stamps(colour, radius) {
      const key = `${colour} ${radius.toFixed(2)}`;
      let stamps = this.discs.get(key);
      if (!stamps) this.discs.set(key, (stamps = discStamps(rgb(colour), this.rim, radius)));
      return stamps;
    }
  }

  const PLACES = 4;

  /** A disc with a thin rim, so that points stay visible on a field of their own colour. */
  function discStamps(colour, rim, radius) {
    const reach = Math.ceil(radius + 1.5);
    const size = 2 * reach + 1;
    const stamps = [];
    for (let place = 0; place < PLACES * PLACES; place++) {
      const cx = reach + ((place % PLACES) + 0.5) / PLACES;
      const cy = reach + (Math.floor(place / PLACES) + 0.5) / PLACES;
      const stamp = new Uint8Array(size * size * 4);
      for (let y = 0; y < size; y++) {
        for (let x = 0; x < size; x++) {
          const far = Math.hypot(x + 0.5 - cx, y + 0.5 - cy);
          const core = Math.min(1, Math.max(0, radius + 0.5 - far));
          const edge = Math.min(1, Math.max(0, radius + 1.2 - far)) * rim[3] * (1 - core);
          const alpha = core + edge;
          const i = (y * size + x) * 4;
          for (let c = 0; c < 3; c++) stamp[i + c] = (colour[c] * core + rim[c] * edge) / (alpha || 1);
          stamp[i + 3] = alpha * 255;
        }
      }
      stamps.push(stamp);
    }
    return { reach, size, stamps };
  }

  // ================================================================ painting marks

  // Pixel coordinates of the mark being painted: one array that grows, none per frame.
  let scratch = new Float32Array(8192);

  const sizeOf = (shape) => shape.reduce((a, b) => a * b, 1);

  /** Where a keyframed mark stands: between which two frames, and how far. */
  function keyframe(keys, time) {
    if (time === null || time <= keys[0]) return [0, 0, 0];
    for (let i = 1; i < keys.length; i++) {
      if (time <= keys[i]) return [i - 1, i, (time - keys[i - 1]) / (keys[i] - keys[i - 1] || 1)];
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
    p.c.imageSmoothingEnabled = place[2] / columns < 24;
    p.c.drawImage(picture, ...place);
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

  /** Points are stamped into pixels by hand: a thousand drawImage calls cost five times more. */
  function paintPoints(p, mark) {
    const xy = project(p, mark.xy, mark.keys);
    const radius = mark.size * 0.75 * p.zoom * p.ratio;
    const groups = mark.group && p.get(mark.group);
    const alphas = mark.alpha && p.get(mark.alpha);
    const layer = p.layer();
    layer.clear();
    let disc = p.theme.stamps(p.theme.role(mark.role), radius);
    for (let i = 0, n = xy.length / 2; i < n; i++) {
      const [x, y] = [xy[2 * i] * p.ratio, xy[2 * i + 1] * p.ratio];
      if (x !== x) continue;
      if (groups) disc = p.theme.stamps(p.theme.group(groups[i]), radius);
      layer.stamp(disc, x, y, alphas ? (mark.opacity * alphas[i]) / 255 : mark.opacity);
    }
    layer.paint(p.c, p.width, p.height);
  }

  /** Pixels of the canvas's own size, composed by hand and painted in one go. */
  class Layer {
    constructor(width, height) {
      Object.assign(this, { width, height, canvas: make("canvas") });
      [this.canvas.width, this.canvas.height] = [width, height];
      this.context = this.canvas.getContext("2d", { willReadFrequently: true });
      this.image = this.context.createImageData(width, height);
      this.bytes = this.image.data;
      this.words = new Uint32Array(this.bytes.buffer);
    }

    clear() {
      this.words.fill(0);
    }

    /** Lay a disc over what is there: straight alpha, "over". */
    stamp({ reach, size, stamps }, x, y, opacity) {
      const [px, py] = [Math.floor(x), Math.floor(y)];
      const [left, top] = [px - reach, py - reach];
      const { width, height, bytes } = this;
      if (left >= width || top >= height || left + size <= 0 || top + size <= 0) return;
      const place = Math.floor((y - py) * PLACES) * PLACES + Math.floor((x - px) * PLACES);
      const stamp = stamps[place];
      const [x0, x1] = [Math.max(0, -left), Math.min(size, width - left)];
      const [y0, y1] = [Math.max(0, -top), Math.min(size, height - top)];
      for (let v = y0; v < y1; v++) {
        let from = (v * size + x0) * 4;
        let to = ((top + v) * width + left + x0) * 4;
        for (let u = x0; u < x1; u++, from += 4, to += 4) {
          const over = stamp[from + 3] * opacity;
          if (over === 0) continue;
          const under = bytes[to + 3];
          if (under === 0) {
            bytes[to] = stamp[from];
            bytes[to + 1] = stamp[from + 1];
            bytes[to + 2] = stamp[from + 2];
            bytes[to + 3] = over;
            continue;
          }
          const rest = under * (1 - over / 255);
          const share = over / (over + rest);
          bytes[to] += (stamp[from] - bytes[to]) * share;
          bytes[to + 1] += (stamp[from + 1] - bytes[to + 1]) * share;
          bytes[to + 2] += (stamp[from + 2] - bytes[to + 2]) * share;
          bytes[to + 3] = over + rest;
        }
      }
    }

    paint(c, width, height) {
      this.context.putImageData(this.image, 0, 0);
      c.globalAlpha = 1;
      c.drawImage(this.canvas, 0, 0, width, height);
    }
  }

  function paintPaths(p, mark) {
    const [count, length] = mark.xy.shape;
    const xy = project(p, mark.xy, null);
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
    const feet = project(p, mark.xy, null).slice();
    const vectors = project(p, mark.vectors, null, true);
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

  function paintEllipses(p, mark) {
    const [means, covs] = [p.get(mark.mean), p.get(mark.cov)];
    const weights = mark.weight && p.get(mark.weight);
    const groups = mark.group && p.get(mark.group);
    const count = mark.mean.shape[0];
    for (let k = 0; k < count; k++) {
      const [a, b, d] = [covs[4 * k], (covs[4 * k + 1] + covs[4 * k + 2]) / 2, covs[4 * k + 3]];
      // eigenvalues of [[a, b], [b, d]]
      const middle = (a + d) / 2;
      const spread = Math.hypot((a - d) / 2, b);
      const [big, small] = [Math.sqrt(middle + spread), Math.sqrt(Math.max(middle - spread, 0))];
      const x = p.axes.left + p.axes.kx * (means[2 * k] - p.axes.x0);
      const y = p.axes.top + p.axes.ky * (p.axes.y1 - means[2 * k + 1]);
      if (!Number.isFinite(x + y + big + small)) continue;
      const turn = -0.5 * Math.atan2(2 * b, a - d); // the screen's y points down
      const share = weights ? Math.min(1, weights[k] * count) : 1;
      const group = groups ? groups[k] : k;
      const colour = groups || mark.grouped ? p.theme.group(group) : p.theme.role(mark.role);
      p.c.fillStyle = p.c.strokeStyle = colour;
      for (const sigma of [2, 1]) {
        p.c.beginPath();
        p.c.ellipse(x, y, p.axes.kx * big * sigma, p.axes.kx * small * sigma, turn, 0, 2 * Math.PI);
        p.c.globalAlpha = (sigma === 2 ? 0.1 : 0.18) * (0.3 + 0.7 * share);
        p.c.fill();
        p.c.globalAlpha = (sigma === 2 ? 0.45 : 0.95) * (0.35 + 0.65 * share);
        p.c.lineWidth = (sigma === 2 ? 1 : 1.8) * p.zoom;
        p.c.stroke();
      }
    }
  }

  const PAINTERS = {
    Heat: paintHeat,
    Images: paintImages,
    Points: paintPoints,
    Paths: paintPaths,
    Arrows: paintArrows,
    Mesh: paintMesh,
    Ellipses: paintEllipses,
  };

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

  /** The smallest box around everything that a panel without one of its own shows. */
  function boxAround(marks) {
    let [x0, x1, y0, y1] = [Infinity, -Infinity, Infinity, -Infinity];
    const add = (a, b, c, d) => {
      [x0, x1] = [Math.min(x0, a), Math.max(x1, b)];
      [y0, y1] = [Math.min(y0, c), Math.max(y1, d)];
    };
    for (const mark of marks) {
      if (mark.type === "Images") add(...sheetBox(mark));
      else if (mark.type === "Heat") add(...mark.box);
      else if (mark.xy && sizeOf(mark.xy.shape)) {
        const [ox, oy] = mark.xy.offset;
        const [rx, ry] = mark.xy.scale.map((s) => s * 32767);
        add(ox - rx, ox + rx, oy - ry, oy + ry);
      }
    }
    if (!(x1 > x0)) [x0, x1] = Number.isFinite(x0) ? [x0 - 1, x0 + 1] : [-1, 1];
    if (!(y1 > y0)) [y0, y1] = Number.isFinite(y0) ? [y0 - 1, y0 + 1] : [-1, 1];
    return [x0, x1, y0, y1];
  }

  // ================================================================ Plotly's pictures

  /** Plotly wants plain arrays, and null for a gap. */
  const finite = (array) => Array.from(array, (v) => (Number.isFinite(v) ? v : null));

  function chartTraces(get, marks, theme) {
    const traces = [];
    for (const mark of marks) {
      if (mark.type === "Curves") traces.push(...mark.lines.map((l) => curve(get, mark, l, theme)));
      if (mark.type === "Bars") traces.push(...bars(get, mark, theme));
    }
    return traces;
  }

  function curve(get, mark, one, theme) {
    const colour = one.ghost ? theme.role("noise") : theme.role(one.role);
    return {
      type: "scatter",
      // a single point has no line: show it all the same
      mode: one.x.shape[0] === 1 ? "markers" : "lines",
      name: escaped(one.name),
      x: finite(get(one.x)),
      y: finite(get(one.y)),
      opacity: one.ghost ? 0.45 : 1,
      line: { color: colour, width: one.ghost ? 1.2 : 1.8, dash: one.dash ? "dash" : "solid" },
      fill: mark.fill ? "tozeroy" : "none",
      hovertemplate: `%{y:.4~g} ${escaped(mark.y_label)}`,
    };
  }

  function bars(get, mark, theme) {
    const names = mark.names.map(escaped);
    const traces = [
      {
        type: "bar",
        name: "now",
        x: names,
        y: finite(get(mark.values)),
        marker: { color: theme.role(mark.role), opacity: 0.85 },
        hovertemplate: `%{y:.4~g} ${escaped(mark.y_label)}`,
        texttemplate: mark.numbers ? "%{y:.3~g}" : undefined,
        textposition: "auto",
        textangle: 0,
        cliponaxis: false,
      },
    ];
    if (mark.truth) {
      traces.push({
        type: "scatter",
        mode: "markers",
        name: "should be",
        x: names,
        y: finite(get(mark.truth)),
        marker: {
          symbol: "line-ew",
          size: 18,
          line: { color: theme.role("truth"), width: 2.2 },
        },
        hovertemplate: "%{y:.4~g}",
      });
    }
    return traces;
  }

  /**
   * Leave a few wild values out of sight: one spike at the beginning would flatten a whole
   * loss curve. Rounded, so that the axis stands still while the curve grows.
   */
  function calm(layout, traces) {
    if (layout.yaxis.type !== "linear" || traces.some((t) => t.type === "bar")) return;
    const y = traces.flatMap((t) => t.y.filter((v) => v !== null)).sort((a, b) => a - b);
    if (y.length < 20) return;
    const at = (q) => y[Math.floor(q * (y.length - 1))];
    const [low, high] = [at(0.02), at(0.96)];
    const span = high - low;
    const wild = y[y.length - 1] > high + 1.5 * span || y[0] < low - 1.5 * span;
    if (!(span > 0) || !wild) return;
    const levels = layout.shapes.map((s) => s.y0);
    const unit = 10 ** Math.floor(Math.log10(span)) / 2;
    const edge = (f, v) => unit * f(v / unit);
    layout.yaxis.range = [
      edge(Math.floor, Math.min(...levels, Math.max(y[0], low - 0.1 * span)) - 0.05 * span),
      edge(Math.ceil, Math.max(...levels, Math.min(y[y.length - 1], high + 0.4 * span))),
    ];
  }

  /** A logarithmic axis over a hair's breadth would name its marks with all their digits. */
  function brief(layout, traces) {
    if (layout.yaxis.type !== "log") return;
    const y = traces.flatMap((t) => t.y.filter((v) => v > 0));
    if (y.length && Math.max(...y) < 2 * Math.min(...y)) layout.yaxis.tickformat = ".3~g";
  }

  /** A logarithmic axis of a few values is marked at these, not at 2, 3, … 9 of each decade. */
  function rungs(layout, traces) {
    if (layout.xaxis.type !== "log") return;
    const x = [...new Set(traces.flatMap((t) => [...t.x]))];
    if (x.length <= 8) Object.assign(layout.xaxis, { tickmode: "array", tickvals: x, ticktext: x.map(String) });
  }

  function chartLayout(marks, theme, size) {
    const curves = marks.find((m) => m.type === "Curves");
    const only = marks.find((m) => m.type === "Bars");
    const axis = (title, type) => ({
      title: title ? { text: escaped(title), font: { size: theme.size(10.5) }, standoff: 4 } : undefined,
      type,
      color: theme.mute,
      gridcolor: theme.line,
      linecolor: theme.line,
      zeroline: false,
      nticks: 5,
      tickfont: { size: theme.size(10) },
      automargin: false,
      exponentformat: type === "log" ? "power" : "SI",
    });
    const levels = (curves && curves.levels) || [];
    const log = curves && curves.log_y;
    return {
      ...common(theme, size),
      margin: { l: theme.size(40), r: 8, t: 8, b: theme.size(30) },
      xaxis: curves
        ? axis(curves.x_label, curves.log_x ? "log" : "linear")
        : {
            ...axis("", "category"),
            showgrid: false,
            nticks: 0,
            // in the order given, also when it changes: Plotly keeps the first one it saw
            categoryorder: "array",
            categoryarray: only ? only.names.map(escaped) : undefined,
          },
      yaxis: { ...axis("", log ? "log" : "linear"), rangemode: only ? "tozero" : "normal" },
      bargap: 0.25,
      hovermode: "x unified",
      shapes: levels
        .filter(([, y]) => typeof y === "number" && (!log || y > 0))
        .map(([, y]) => ({
          type: "line",
          xref: "paper",
          x0: 0,
          x1: 1,
          y0: y,
          y1: y,
          line: { color: theme.mute, width: 1.2, dash: "dash" },
        })),
      annotations: levels
        .filter(([, y]) => typeof y === "number" && (!log || y > 0))
        .map(([name, y]) => ({
          text: escaped(name),
          xref: "paper",
          x: 1,
          y: log ? Math.log10(y) : y,
          xanchor: "right",
          yanchor: "top", // what comes down to the level comes from above
          showarrow: false,
          font: { size: theme.size(10), color: theme.mute },
        })),
    };
  }

  function common(theme, { width, height }) {
    return {
      width,
      height,
      paper_bgcolor: CLEAR,
      plot_bgcolor: CLEAR,
      font: { family: theme.font, size: 11, color: theme.mute },
      showlegend: false,
      dragmode: dragMode(),
      uirevision: "keep",
      modebar: { bgcolor: CLEAR, color: theme.mute, activecolor: theme.accent },
      hoverlabel: {
        bgcolor: theme.card,
        bordercolor: theme.line,
        font: { color: theme.ink, size: theme.size(11) },
      },
    };
  }

  // A finger that swipes over a picture means to scroll the page.
  const dragMode = () => (window.matchMedia("(pointer: coarse)").matches ? false : "pan");

  function planeLayout(theme, size, range, bare, equal) {
    const axis = {
      showgrid: false,
      zeroline: false,
      showline: false,
      showticklabels: !bare,
      ticks: "",
      tickfont: { size: theme.size(9), color: theme.mute },
      ticklabelposition: "inside",
      nticks: 6,
    };
    return {
      ...common(theme, size),
      margin: { l: 0, r: 0, t: 0, b: 0 },
      hovermode: false,
      xaxis: { ...axis, range: [range.x0, range.x1] },
      yaxis: {
        ...axis,
        range: [range.y0, range.y1],
        ...(equal ? { scaleanchor: "x" } : { fixedrange: true }),
      },
    };
  }

  function surfaceTraces(get, mark, theme) {
    const [rows, columns] = mark.values.shape;
    const codes = get(mark.values);
    const { scale, offset } = mark.values;
    const [x0, x1, y0, y1] = mark.box;
    const z = Array.from({ length: rows }, (_, r) =>
      Array.from({ length: columns }, (_, k) => {
        const code = codes[r * columns + k];
        return code === SENTINEL ? null : offset[0] + scale[0] * code;
      }),
    );
    const centres = (a, b, n) => Array.from({ length: n }, (_, i) => a + ((i + 0.5) * (b - a)) / n);
    const stops = theme.stops("sequential", "density");
    return [
      {
        type: "surface",
        x: centres(x0, x1, columns),
        y: centres(y0, y1, rows),
        z,
        showscale: false,
        colorscale: stops.map((c, i) => [
          i / (stops.length - 1),
          `rgb(${c.map(Math.round).join(",")})`,
        ]),
        hovertemplate: `x %{x:.3g}, y %{y:.3g}<br>%{z:.4g} ${escaped(mark.unit)}<extra></extra>`,
      },
    ];
  }

  function surfaceLayout(mark, theme, size) {
    const axis = (title) => ({
      title: { text: escaped(title), font: { size: theme.size(10) } },
      color: theme.mute,
      gridcolor: theme.line,
      showbackground: false,
      tickfont: { size: theme.size(9) },
    });
    return {
      ...common(theme, size),
      margin: { l: 0, r: 0, t: 0, b: 0 },
      dragmode: "orbit",
      scene: {
        xaxis: axis("x"),
        yaxis: axis("y"),
        zaxis: axis(mark.label),
        aspectratio: { x: 1, y: 1, z: 0.6 },
        camera: { eye: { x: 1.25, y: -1.35, z: 0.95 } },
      },
    };
  }

  // ================================================================ one panel

  function kindOf(marks) {
    const types = new Set(marks.map((m) => m.type));
    if (types.has("Surface")) return "surface";
    if (types.has("Text")) return "text";
    if (types.has("Curves") || types.has("Bars")) return "chart";
    return "plane";
  }

  /** One picture: a figure with its caption, a canvas, a Plotly graph over it, a slider. */
  class Panel {
    constructor(view, key) {
      Object.assign(this, { view, key, name: null, what: null, marks: [], kind: null });
      Object.assign(this, { dirty: true, painted: 0, onScreen: true, shift: null, range: null });
      Object.assign(this, { graph: null, quiet: 0, pointer: null, time: null, sweepFrom: 0 });
      Object.assign(this, { cost: 0, charted: false, layer: null });
      this.bitmaps = new Map();
      this.handles = [];
      this.size = { width: 0, height: 0 };
      this.get = (reference) => view.blocks.get(reference);
      this.build();
    }

    build() {
      this.title = make("b");
      this.setting = make("i"); // of several side by side, which one
      this.subtitle = make("em");
      this.caption = make("span", "gp-caption", this.title, this.setting, this.subtitle);
      this.caption.addEventListener("dblclick", () => this.view.enlarge(this.what.id));
      this.badge = make("span", "gp-badge", "estimate");
      this.badge.title = "An estimate from samples, not an exact quantity.";
      this.grow = make("button", "", "⤢");
      this.grow.type = "button";
      this.grow.addEventListener("click", () => this.view.enlarge(this.what.id));
      this.away = make("button", "", "×");
      this.away.type = "button";
      this.away.addEventListener("click", () => this.view.hide(this.what.id, true));
      const tools = make("span", "gp-tools", this.grow, this.away);
      this.plot = make("div", "gp-plot");
      this.figure = make(
        "figure",
        "gp-panel",
        make("figcaption", "", this.caption, this.badge, tools),
        this.plot,
      );
      this.plot.addEventListener("pointermove", (event) => this.point(event));
      this.plot.addEventListener("pointerleave", () => this.point(null));
      this.plot.addEventListener("pointerdown", (event) => {
        this.pressed = { x: event.clientX, y: event.clientY };
      }, true);
      this.plot.addEventListener("click", (event) => this.click(event));
    }

    /** Take over a new content; what has the same name as before is the same. */
    update(name, content) {
      if (name === this.name) return;
      this.name = name;
      const what = this.get(content.what);
      this.marks = content.marks;
      this.marks.forEach((mark, index) => (mark.index = index));
      const kind = kindOf(this.marks);
      // the graph over the canvas keeps the axes that it was made with
      const turned = this.what && (what.equal !== false) !== this.equal;
      if (kind !== this.kind || turned) this.rebuild(kind);
      if (what !== this.what) this.describe(what);
      this.placeHandles();
      this.dirty = true;
    }

    describe(what) {
      const moved = this.what && String(this.what.box) !== String(what.box);
      this.what = what;
      if (moved) {
        // other data: what was zoomed to there means nothing here
        this.around = null;
        this.setShift(null, true);
      }
      const [title, ...setting] = what.title.split(" · ");
      setText(this.title, title);
      setText(this.setting, setting.join(" · "));
      setText(this.subtitle, what.subtitle);
      this.caption.title = [what.title, what.subtitle, what.help].filter(Boolean).join("\n");
      this.badge.hidden = !what.estimate;
      this.grow.setAttribute("aria-label", `Enlarge: ${what.title}`);
      this.grow.title = "Enlarge (double click on the title; Esc closes)";
      this.away.setAttribute("aria-label", `Hide: ${what.title}`);
      this.away.title = "Hide this panel";
      if (this.canvas) {
        const labels = this.marks.map((m) => m.label).filter(Boolean);
        const text = [what.title, what.subtitle, ...labels, what.help].filter(Boolean).join(". ");
        this.canvas.setAttribute("aria-label", text);
      }
      this.buildSlider(what.slider);
    }

    /** The body for another kind of picture. */
    rebuild(kind) {
      this.drop();
      this.kind = kind;
      this.what = null; // so that labels are set again
      this.figure.className = `gp-panel gp-is-${kind}`;
      this.plot.replaceChildren();
      this.canvas = this.axesBox = this.textBox = null;
      if (kind === "text") {
        this.plot.append((this.textBox = make("div", "gp-text")));
        return;
      }
      this.canvas = make("canvas");
      this.canvas.setAttribute("role", "img");
      this.axesBox = make("div", "gp-axes");
      this.readout = make("div", "gp-readout");
      this.scale = make("div", "gp-scale");
      this.legend = make("div", "gp-legend");
      this.plot.append(this.canvas, this.axesBox, this.readout, this.scale, this.legend);
    }

    /** Free what Plotly holds. */
    drop() {
      if (this.graph) Plotly.purge(this.graph);
      this.graph = null;
      for (const handle of this.handles) handle.element.remove();
      this.handles = [];
      this.bitmaps.clear();
      this.layer = null;
    }

    remove() {
      this.drop();
      this.view.observer.unobserve(this.plot);
      this.view.watcher.unobserve(this.plot);
      this.figure.remove();
    }

    // ------------------------------------------------------------ size and range

    resize(width, height) {
      if (!width || !height) return;
      if (width === this.size.width && height === this.size.height) return;
      this.size = { width, height };
      this.range = null;
      this.dirty = true;
      if (this.graph) this.relayout({ width, height, ...this.ranges() });
    }

    get box() {
      if (this.what.box) return this.what.box;
      const now = boxAround(this.marks);
      const kept = this.around;
      // grow at once, shrink only when much too large: a range that follows every frame
      // makes the picture tremble
      const fits =
        kept &&
        now[0] >= kept[0] && now[1] <= kept[1] && now[2] >= kept[2] && now[3] <= kept[3] &&
        now[1] - now[0] > 0.5 * (kept[1] - kept[0]) && now[3] - now[2] > 0.5 * (kept[3] - kept[2]);
      if (!fits) {
        const sheet = this.marks.some((m) => m.type === "Images");
        const [px, py] = sheet ? [0, 0] : [0.08 * (now[1] - now[0]), 0.08 * (now[3] - now[2])];
        this.around = [now[0] - px, now[1] + px, now[2] - py, now[3] + py];
        this.range = null;
      }
      return this.around;
    }

    /** Whether one unit of x is as long as one of y. */
    get equal() {
      return this.what.equal !== false;
    }

    /** The range that shows the whole box with equal axes, or what was zoomed to. */
    view2d() {
      const box = this.box; // may reset the range
      if (!this.range) {
        const { width, height } = this.size;
        const [x0, x1, y0, y1] = box;
        if (!this.equal) {
          // heights over a line: the box fills the panel, and only x is zoomed
          const { x, k } = this.shift || { x: 0, k: 1 };
          const [cx, rx, air] = [(x0 + x1) / 2 + x, 0.505 * k * (x1 - x0), 0.01 * (y1 - y0)];
          this.range = { x0: cx - rx, x1: cx + rx, y0: y0 - 4 * air, y1: y1 + air };
          return this.range;
        }
        const unit = Math.max((x1 - x0) / width, (y1 - y0) / height) * 1.01;
        const shift = this.shift || { x: 0, y: 0, k: 1 };
        const [cx, cy] = [(x0 + x1) / 2 + shift.x, (y0 + y1) / 2 + shift.y];
        const [rx, ry] = [(unit * shift.k * width) / 2, (unit * shift.k * height) / 2];
        this.range = { x0: cx - rx, x1: cx + rx, y0: cy - ry, y1: cy + ry };
      }
      return this.range;
    }

    ranges() {
      if (this.kind !== "plane") return {};
      const r = this.view2d();
      return { "xaxis.range": [r.x0, r.x1], "yaxis.range": [r.y0, r.y1] };
    }

    /** Our own change of the graph: its event must not be taken for the visitor's. */
    relayout(change) {
      this.quiet++;
      Promise.resolve(Plotly.relayout(this.graph, change)).finally(() => this.quiet--);
    }

    /** The visitor has zoomed or moved the graph: so do the canvas and the panels beside it. */
    follow(final) {
      if (this.quiet || this.kind !== "plane") return;
      const { xaxis, yaxis } = this.graph._fullLayout;
      const [x0, x1, y0, y1] = this.box;
      const wide = (x1 - x0) / this.size.width;
      const fit = (this.equal ? Math.max(wide, (y1 - y0) / this.size.height) : wide) * 1.01;
      const shift = {
        x: (xaxis.range[0] + xaxis.range[1]) / 2 - (x0 + x1) / 2,
        y: this.equal ? (yaxis.range[0] + yaxis.range[1]) / 2 - (y0 + y1) / 2 : 0,
        k: (xaxis.range[1] - xaxis.range[0]) / this.size.width / fit,
      };
      this.view.zoom(this, shift, final);
    }

    setShift(shift, relayout) {
      this.shift = shift;
      this.range = null;
      this.dirty = true;
      if (relayout && this.graph) this.relayout(this.ranges());
    }

    // ------------------------------------------------------------ painting

    /** Milliseconds until the panel may be painted: charts are renewed at a lower rate. */
    wait(now) {
      if (!this.dirty || !this.onScreen) return Infinity;
      if (this.kind !== "chart" && this.kind !== "surface") return 0;
      const rest = Math.min(CHART_MAX_MS, Math.max(CHART_MS, this.cost / CHART_SHARE));
      return Math.max(0, this.painted + rest - now);
    }

    paint(now) {
      if (!this.size.width) this.resize(this.plot.clientWidth, this.plot.clientHeight);
      if (!this.size.width) return;
      this.dirty = false;
      this.painted = now;
      if (this.kind === "text") return this.paintText();
      if (this.kind === "chart" || this.kind === "surface") {
        const began = performance.now();
        if (this.kind === "chart") this.paintChart();
        else this.paintSurface();
        // the first drawing is no measure of those that follow
        if (this.charted) this.cost = Math.min(100, performance.now() - began);
        this.charted = true;
      } else {
        if (!this.graph) this.view.later(this);
        this.paintCanvas();
      }
    }

    paintCanvas() {
      const { width, height } = this.size;
      const ratio = Math.min(window.devicePixelRatio || 1, 2);
      const [w, h] = [Math.round(width * ratio), Math.round(height * ratio)];
      if (this.canvas.width !== w || this.canvas.height !== h) {
        [this.canvas.width, this.canvas.height] = [w, h];
      }
      const theme = this.view.theme;
      const c = this.canvas.getContext("2d");
      const axes = this.axes();
      c.setTransform(ratio, 0, 0, ratio, 0, 0);
      c.globalAlpha = 1;
      this.paintGround(c, theme);
      // marks were drawn for a panel of about 440 pixels; larger ones get larger points
      const zoom = Math.min(2, Math.max(0.8, Math.sqrt(Math.min(width, height) / 320)));
      const p = { c, axes, theme, ratio, width, height, zoom, get: this.get,
        time: this.time, bitmaps: this.bitmaps, layer: () => this.layerOf(w, h) };
      for (const mark of this.marks) {
        const painter = PAINTERS[mark.type];
        if (!painter) continue;
        c.globalAlpha = 1;
        painter(p, mark);
      }
      this.moveHandles(axes);
      this.showScale(theme);
      this.showLegend(this.legendOfMarks(), theme);
      if (this.pointer) this.read();
      if (this.view.editor) this.view.editor.over(this);
    }

    layerOf(width, height) {
      if (!this.layer || this.layer.width !== width || this.layer.height !== height) {
        this.layer = new Layer(width, height);
      }
      return this.layer;
    }

    /** Beyond its box a field is nothing: its ground goes on to the panel's edge. */
    paintGround(c, theme) {
      const heat = this.marks.find((m) => m.type === "Heat");
      const { width, height } = this.size;
      let ground = theme.paper;
      if (heat) {
        const code = heat.scale === "diverging" ? 128 : 1;
        const pixel = theme.table(heat.scale, heat.role)[code];
        ground = `rgb(${pixel & 255},${(pixel >> 8) & 255},${(pixel >> 16) & 255})`;
      }
      c.fillStyle = ground;
      c.fillRect(0, 0, width, height);
      if (ground !== this.ground) {
        this.ground = ground;
        this.plot.style.setProperty("--gp-ground", ground);
      }
    }

    /** From data to pixels. */
    axes() {
      const r = this.view2d();
      const { width, height } = this.size;
      return {
        left: 0,
        top: 0,
        x0: r.x0,
        y1: r.y1,
        kx: width / (r.x1 - r.x0),
        ky: height / (r.y1 - r.y0),
      };
    }

    paintText() {
      const spans = this.marks
        .filter((m) => m.type === "Text")
        .flatMap((mark) => {
          const values = mark.values && this.get(mark.values);
          return mark.tokens.map((token, i) => {
            const span = make("span", "", String(token));
            if (values && Number.isFinite(values[i])) {
              const share = Math.round(Math.min(1, Math.max(0, values[i])) * 70);
              span.style.backgroundColor =
                `color-mix(in srgb, var(--gp-model) ${share}%, transparent)`;
              span.title = shown(values[i]);
            }
            return span;
          });
        });
      this.textBox.replaceChildren(...spans);
    }

    paintChart() {
      const theme = this.view.theme;
      if (!Plotly) return;
      const traces = chartTraces(this.get, this.marks, theme);
      const layout = chartLayout(this.marks, theme, this.size);
      calm(layout, traces);
      brief(layout, traces);
      rungs(layout, traces);
      this.draw(traces, layout, theme);
      this.showLegend(this.legendOfLines(), theme);
    }

    paintSurface() {
      const theme = this.view.theme;
      const mark = this.marks.find((m) => m.type === "Surface");
      if (!Plotly) return;
      this.draw(surfaceTraces(this.get, mark, theme), surfaceLayout(mark, theme, this.size), theme);
    }

    /** Plotly's first drawing, or the cheapest one that shows the change. */
    draw(traces, layout, theme) {
      const look = JSON.stringify([
        theme.version,
        this.size,
        traces.map((t) => [t.type, t.name, t.mode]),
        layout.shapes,
        layout.xaxis,
        layout.yaxis,
      ]);
      if (!this.graph) {
        this.graph = this.axesBox;
        Plotly.newPlot(this.graph, traces, layout, config(this));
        this.graph.on("plotly_doubleclick", () => this.unzoomOrFill());
        this.graph.on("plotly_relayout", (change) => {
          if (Object.keys(change).some((key) => key.endsWith("axis.range[0]"))) this.zoomed = true;
          if (change["xaxis.autorange"]) this.zoomed = false;
        });
      } else if (look === this.look && this.kind === "chart") {
        const change = { x: traces.map((t) => t.x), y: traces.map((t) => t.y) };
        Plotly.restyle(this.graph, change, traces.map((_, i) => i));
      } else {
        Plotly.react(this.graph, traces, layout, config(this));
      }
      this.look = look;
    }

    /** A double click first brings back what was zoomed; else the picture fills the screen. */
    unzoomOrFill() {
      if (!this.zoomed) return this.view.fill(this.what.id);
      Plotly.relayout(this.graph, { "xaxis.autorange": true, "yaxis.autorange": true });
    }

    /** The graph over the canvas is made after the first paint: it takes far longer. */
    mount() {
      if (this.graph || !Plotly || this.kind !== "plane" || !this.size.width) return;
      const bare = this.marks.some((m) => m.type === "Images");
      const layout = planeLayout(this.view.theme, this.size, this.view2d(), bare, this.equal);
      const nothing = { x: [null], y: [null], mode: "markers", hoverinfo: "skip" };
      this.graph = this.axesBox;
      Plotly.newPlot(this.graph, [nothing], layout, config(this));
      this.graph.on("plotly_relayouting", () => this.follow(false));
      this.graph.on("plotly_relayout", () => this.follow(true));
      // first what was zoomed comes back; a picture that shows everything fills the screen
      this.graph.on("plotly_doubleclick", () =>
        this.shift ? this.view.zoom(this, null, true) : this.view.fill(this.what.id));
    }

    recolour() {
      this.dirty = true;
      this.painted = 0;
      if (!this.graph || this.kind !== "plane") return;
      const { mute, accent } = this.view.theme;
      this.relayout({
        "xaxis.tickfont.color": mute,
        "yaxis.tickfont.color": mute,
        "xaxis.tickfont.size": this.view.theme.size(9),
        "yaxis.tickfont.size": this.view.theme.size(9),
        "modebar.color": mute,
        "modebar.activecolor": accent,
      });
    }

    /** Which colour is what: lines, dashes and dots with their names. */
    showLegend(entries, theme) {
      const key = JSON.stringify([theme.version, entries]);
      if (key === this.legendKey) return;
      this.legendKey = key;
      this.legend.replaceChildren(
        ...entries.map(({ name, role, dash, dot }) => {
          const swatch = make("i", dot ? "gp-dot" : "");
          swatch.style.color = theme.role(role);
          if (dash) swatch.style.borderTopStyle = "dashed";
          return make("span", "", swatch, name);
        }),
      );
    }

    legendOfLines() {
      const lines = this.marks.flatMap((m) => (m.type === "Curves" ? m.lines : []));
      if (lines.length < 2) return [];
      return lines.map((l) => ({ name: l.name, role: l.ghost ? "noise" : l.role, dash: l.dash }));
    }

    legendOfMarks() {
      return this.marks
        .filter((m) => m.label && m.role && m.type !== "Heat" && !m.group && !m.grouped)
        .filter((m) => !m.xy || sizeOf(m.xy.shape))
        .map((m) => ({ name: m.label, role: m.role, dot: m.type === "Points" }));
    }

    /** What the field's colours mean, in a corner. */
    showScale(theme) {
      const heat = this.marks.filter((m) => m.type === "Heat").pop();
      const key = heat && `${theme.version} ${heat.values.lo} ${heat.values.hi} ${heat.unit}`;
      if (key === this.scaleKey) return;
      this.scaleKey = key;
      if (!heat) return this.scale.replaceChildren();
      const { lo, hi } = heat.values;
      if (!this.scale.children.length) this.scale.append(make("span"), make("i"), make("span"));
      const [low, ramp, high] = this.scale.children;
      const unit = heat.scale === "diverging" && heat.unit ? ` ${heat.unit}` : "";
      setText(low, shown(lo, 2));
      setText(high, shown(hi, 2) + unit);
      const colours = theme.gradient(heat.scale, heat.role);
      if (this.ramp !== colours) ramp.style.background = this.ramp = colours;
    }

    // ------------------------------------------------------------ the pointer

    point(event) {
      if (this.kind !== "plane") return;
      if (!event) {
        this.pointer = null;
        setText(this.readout, "");
        return;
      }
      const place = this.plot.getBoundingClientRect();
      this.pointer = { x: event.clientX - place.left, y: event.clientY - place.top };
      this.read();
    }

    /** Say what is under the pointer. */
    read() {
      const a = this.axes();
      const x = a.x0 + (this.pointer.x - a.left) / a.kx;
      const y = a.y1 - (this.pointer.y - a.top) / a.ky;
      const images = this.marks.find((m) => m.type === "Images");
      if (images) return setText(this.readout, this.readImage(images, x, y));
      const places = Math.max(0, Math.min(6, 2 - Math.floor(Math.log10(this.size.width / a.kx / 4))));
      const at = (v) => minus((Math.abs(v) < 0.5 * 10 ** -places ? 0 : v).toFixed(places));
      const parts = [`x ${at(x)}, y ${at(y)}`];
      for (const mark of this.marks) {
        if (mark.type !== "Heat") continue;
        const value = heatAt(this.get, mark, x, y);
        const unit = mark.unit ? ` ${mark.unit}` : "";
        if (value !== null) parts.push(`${mark.label} = ${shown(value)}${unit}`);
      }
      setText(this.readout, parts.join(" · "));
    }

    readImage(mark, x, y) {
      const { count, height, width, columns } = sheetOf(mark);
      const column = Math.floor(x / (width + 1));
      const row = Math.floor((sheetBox(mark)[3] - y) / (height + 1));
      const n = row * columns + column;
      if (!(column >= 0 && column < columns && row >= 0 && n < count)) return "";
      const tag = mark.tags && mark.tags[n] ? ` · ${mark.tags[n]}` : "";
      return `${mark.label || "image"} ${n + 1}${tag}`;
    }

    /** A click on the picture, where the page names an action for it. */
    click(event) {
      const name = this.view.extra.click;
      if (!name || this.kind !== "plane" || event.target.closest("button, .modebar")) return;
      const from = this.pressed;
      // the end of a drag is no click
      if (from && Math.hypot(event.clientX - from.x, event.clientY - from.y) > 4) return;
      this.point(event);
      const a = this.axes();
      const x = a.x0 + (this.pointer.x - a.left) / a.kx;
      const y = a.y1 - (this.pointer.y - a.top) / a.ky;
      this.view.send("act", { name, args: { x, y } });
    }

    // ------------------------------------------------------------ handles

    placeHandles() {
      const wanted = [];
      for (const mark of this.marks) {
        if (mark.type !== "Handles") continue;
        for (let i = 0; i < mark.xy.shape[0]; i++) wanted.push({ mark, i });
      }
      while (this.handles.length > wanted.length) this.handles.pop().element.remove();
      while (this.handles.length < wanted.length) this.addHandle();
      wanted.forEach(({ mark, i }, n) => {
        const handle = this.handles[n];
        const codes = this.get(mark.xy);
        const { offset, scale } = mark.xy;
        Object.assign(handle, { mark, i });
        handle.missing = codes[2 * i] === SENTINEL;
        // for a moment after a drag the server still reports where it was before
        if (!handle.held && performance.now() > handle.until) {
          handle.x = offset[0] + scale[0] * codes[2 * i];
          handle.y = offset[1] + scale[1] * codes[2 * i + 1];
        }
        const name = (mark.names && mark.names[i]) || "";
        setText(handle.label, name);
        handle.label.hidden = !name;
        handle.element.setAttribute("aria-label", name || `Handle ${i + 1}`);
        handle.element.style.setProperty("--gp-role", `var(--gp-${mark.role})`);
      });
    }

    addHandle() {
      const label = make("span");
      const element = make("button", "gp-handle", label);
      element.type = "button";
      const handle = { element, label, x: 0, y: 0, held: false, until: 0, sent: 0, timer: 0,
        dragging: false };
      element.addEventListener("pointerdown", (event) => {
        event.preventDefault();
        element.focus({ preventScroll: true });
        element.setPointerCapture(event.pointerId);
        handle.held = true;
      });
      element.addEventListener("pointermove", (event) => {
        if (!handle.held) return;
        const place = this.plot.getBoundingClientRect();
        const a = this.axes();
        const x = Math.min(Math.max(event.clientX - place.left, 0), this.size.width);
        const y = Math.min(Math.max(event.clientY - place.top, 0), this.size.height);
        this.dragTo(handle, a.x0 + (x - a.left) / a.kx, a.y1 - (y - a.top) / a.ky);
      });
      const release = () => {
        if (!handle.held) return;
        handle.held = false;
        handle.until = performance.now() + 600;
        this.tellDrag(handle, true);
      };
      element.addEventListener("pointerup", release);
      element.addEventListener("lostpointercapture", release);
      element.addEventListener("keydown", (event) => {
        const way = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };
        if (!(event.key in way)) return;
        event.preventDefault();
        event.stopPropagation();
        const r = this.view2d();
        const part = (event.shiftKey ? 5 : 1) / 100;
        const ux = (r.x1 - r.x0) * part;
        const uy = this.equal ? ux : (r.y1 - r.y0) * part;
        handle.until = performance.now() + 600;
        this.dragTo(handle, handle.x + way[event.key][0] * ux, handle.y + way[event.key][1] * uy);
      });
      element.addEventListener("keyup", () => this.tellDrag(handle, true));
      this.plot.append(element);
      this.handles.push(handle);
    }

    /** Move a handle now and tell the server soon: at most twenty times a second. */
    dragTo(handle, x, y) {
      Object.assign(handle, { x, y });
      this.moveHandles(this.axes());
      if (handle.timer) return;
      const due = handle.sent + DRAG_MS - performance.now();
      if (due <= 0) this.tellDrag(handle, false);
      else handle.timer = setTimeout(() => this.tellDrag(handle, false), due);
    }

    /** Tell the server where a handle is; the first and the last word of a drag say so. */
    tellDrag(handle, end) {
      clearTimeout(handle.timer);
      handle.timer = 0;
      if (end && !handle.dragging) return;
      const begin = !handle.dragging;
      handle.dragging = !end;
      handle.sent = performance.now();
      this.view.send("act", {
        name: handle.mark.action,
        args: { x: handle.x, y: handle.y, index: handle.i },
        turn: performance.timeOrigin + handle.sent,
        begin,
        end,
      });
    }

    moveHandles(a) {
      for (const handle of this.handles) {
        const x = a.left + a.kx * (handle.x - a.x0);
        const y = a.top + a.ky * (a.y1 - handle.y);
        handle.element.hidden = handle.missing;
        // 11 pixels are half of its size
        handle.element.style.transform = `translate(${x - 11}px, ${y - 11}px)`;
      }
    }

    // ------------------------------------------------------------ the slider

    buildSlider(slider) {
      const key = JSON.stringify(slider);
      if (key === this.sliderKey) return;
      this.sliderKey = key;
      if (this.sliderBox) this.sliderBox.remove();
      this.sliderBox = null;
      this.sweepFrom = 0;
      if (!slider) {
        this.time = null;
        return;
      }
      const input = make("input");
      Object.assign(input, { type: "range", min: slider.low, max: slider.high, step: "any" });
      this.time = Math.min(Math.max(this.time ?? slider.value, slider.low), slider.high);
      input.value = this.time;
      input.setAttribute("aria-label", `${slider.label}: ${this.what.title}`);
      const output = make("output", "", shown(this.time, 1));
      const sweep = make("button", "gp-sweep", "⟳");
      sweep.type = "button";
      sweep.title = `Sweep ${slider.label}`;
      sweep.setAttribute("aria-label", `Sweep ${slider.label}: ${this.what.title}`);
      const end = (text) => make("span", "gp-end", text || "");
      this.sliderBox = make("div", "gp-slider", sweep, make("span", "gp-end", slider.label),
        end(slider.ends[0]), input, end(slider.ends[1]), output);
      this.figure.append(this.sliderBox);
      this.moveSlider = (value) => {
        this.time = value;
        setText(output, shown(value, 1));
        this.dirty = true;
        this.view.schedule();
      };
      const stop = () => {
        this.sweepFrom = 0;
        sweep.setAttribute("aria-pressed", "false");
      };
      input.addEventListener("input", () => {
        stop();
        this.moveSlider(Number(input.value));
      });
      sweep.addEventListener("click", () => {
        if (this.sweepFrom) return stop();
        sweep.setAttribute("aria-pressed", "true");
        this.sweepFrom = performance.now();
        const tick = (now) => {
          if (!this.sweepFrom || !this.figure.isConnected) return;
          // once through, a short rest at the end, and again
          const share = Math.min(1, ((now - this.sweepFrom) % (SWEEP_MS * 1.25)) / SWEEP_MS);
          const value = slider.low + Math.max(0, share) * (slider.high - slider.low);
          input.value = value;
          this.moveSlider(value);
          requestAnimationFrame(tick);
        };
        requestAnimationFrame(tick);
      });
    }

    // ------------------------------------------------------------ a picture to keep

    /** Draw title, canvas and graph on another canvas, with the plot's corner at (left, top). */
    async drawOn(c, left, top, kept = new Map()) {
      const { width, height } = this.size;
      const theme = this.view.theme;
      c.fillStyle = theme.ink;
      c.font = `600 13px ${theme.font}`;
      const words = [this.what.title, this.what.subtitle].filter(Boolean).join(" — ");
      c.fillText(words, left + 6, top - 8, width - 12);
      if (this.kind === "plane") c.drawImage(this.canvas, left, top, width, height);
      if (this.graph) c.drawImage(await this.graphImage(kept), left, top, width, height);
      this.saveLegend(c, left, top, width, theme);
      for (const handle of this.handles) {
        const a = this.axes();
        c.fillStyle = theme.role(handle.mark.role);
        c.beginPath();
        c.arc(left + a.kx * (handle.x - a.x0), top + a.ky * (a.y1 - handle.y), 6, 0, 7);
        c.fill();
      }
    }

    /** The graph as an image; over a canvas it is but axes, which are made once a range. */
    async graphImage(kept) {
      const { width, height } = this.size;
      const key = this.kind === "plane" &&
        JSON.stringify([this.view2d(), width, height, this.view.theme.version]);
      if (key && kept.has(key)) return kept.get(key);
      const image = new Image();
      image.src = await Plotly.toImage(this.graph, { format: "svg", width, height });
      await image.decode();
      if (key) kept.set(key, image);
      return image;
    }

    /** Save canvas and graph as one PNG, twice as fine as the screen. */
    async save() {
      const [width, height, scale, top] = [this.size.width, this.size.height, 2, 26];
      const theme = this.view.theme;
      const sheet = make("canvas");
      [sheet.width, sheet.height] = [width * scale, (height + top) * scale];
      const c = sheet.getContext("2d");
      c.scale(scale, scale);
      c.fillStyle = theme.card;
      c.fillRect(0, 0, width, height + top);
      await this.drawOn(c, 0, top);
      this.download(sheet.toDataURL("image/png"), "png");
    }

    /** Save a chart as a vector drawing. */
    async saveVector() {
      const { width, height } = this.size;
      this.download(await Plotly.toImage(this.graph, { format: "svg", width, height }), "svg");
    }

    download(url, ending) {
      const link = make("a");
      link.href = url;
      const name = this.what.title.replace(/[^\w]+/g, "-").toLowerCase();
      link.download = `${name || "panel"}.${ending}`;
      link.click();
    }

    saveLegend(c, left, top, width, theme) {
      c.font = `11px ${theme.font}`;
      c.textAlign = "right";
      let right = left + width - 8;
      for (const { name, role } of this.legendOfLines().reverse()) {
        c.fillStyle = theme.role(role);
        c.fillText(name, right, top - 8);
        right -= c.measureText(name).width + 12;
      }
      c.textAlign = "left";
    }
  }

  /** Plotly's toolbar: our own list, since its default would also send data to a cloud. */
  function config(panel) {
    const { kind } = panel;
    const reset = {
      name: "reset",
      title: "Reset view",
      icon: Plotly.Icons.home,
      click: (graph) =>
        kind === "plane"
          ? panel.view.zoom(panel, null, true)
          : Plotly.relayout(graph, { "xaxis.autorange": true, "yaxis.autorange": true }),
    };
    const download = {
      name: "download",
      title: "Download picture as a PNG",
      icon: Plotly.Icons.camera,
      click: () => panel.save().catch((error) => panel.view.fail(error)),
    };
    const vector = {
      name: "vector",
      title: "Download drawing as an SVG",
      icon: Plotly.Icons.disk,
      click: () => panel.saveVector().catch((error) => panel.view.fail(error)),
    };
    const keep = kind === "chart" ? [download, vector] : [download];
    const flat = ["zoom2d", "pan2d", "zoomIn2d", "zoomOut2d", reset];
    const solid = ["zoom3d", "pan3d", "orbitRotation", "resetCameraDefault3d"];
    return {
      displaylogo: false,
      scrollZoom: kind === "plane",
      doubleClick: false,
      modeBarButtons: [[...(kind === "surface" ? solid : flat), ...keep]],
    };
  }

  // ================================================================ where panels go

  const COLUMNS = 60; // divisible by 2, 3, 4, 5 and 6
  const WEIGHT = { large: 1, small: 1, wide: 1.35 };
  // height over width of a cell: large pictures are square, as their axes are
  const SHAPE = { large: 0.98, small: 0.84, wide: 0.55 };
  const CAPTION = 46; // pixels of a row beside its pictures, in a lecture's type
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
      while (row.length > most) rows.push({ panels: row.splice(0, most) });
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
      Math.max(150, Math.min(cell * SHAPE[size], screen * TALLEST[size], most));
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

  // ================================================================ numbers beside the stage

  /** The table of metrics: built when names change, and only its numbers touched after. */
  class Metrics {
    constructor() {
      this.element = make("table", "gp-metrics");
      this.what = null;
      this.now = "";
      this.rows = [];
    }

    show(what, fields, now) {
      const key = JSON.stringify(now);
      if (what === this.what && key === this.now) return;
      if (what !== this.what) this.build(what);
      this.what = what;
      this.now = key;
      const at = Object.fromEntries(fields.map((name, i) => [name, i]));
      this.rows.forEach((row, i) => {
        const get = (name) => now[i][at[name]];
        row.element.dataset.step = get("step");
        setText(row.kind, { estimate: "≈ ", bound: "≤ " }[row.metric.kind] || "");
        setText(row.value, metricValue(row.metric, get("value")));
        setText(row.floor, metricFloor(row.metric, get("se"), get("floor")));
        row.name.title = metricHelp(row.metric, get("se"), get("floor"));
        setText(row.note, get("note") || "");
        row.note.hidden = !get("note");
        showRival(row, numeric(get("value")), numeric(get("rival")));
      });
    }

    build(what) {
      const head = make("tr", "gp-unseen");
      for (const name of ["Metric", "Value", "Standard error or floor"]) {
        const cell = make("th", "", name);
        cell.scope = "col";
        head.append(cell);
      }
      const body = make("tbody");
      const lanes = new Set(what.map((m) => m.lane));
      let lane = null;
      const order = what.map((metric, i) => ({ metric, i }));
      order.sort((a, b) => a.metric.lane - b.metric.lane || a.i - b.i);
      this.rows = new Array(what.length);
      for (const { metric, i } of order) {
        if (lanes.size > 1 && metric.lane !== lane) {
          const cell = make("th", "", this.laneName(metric.lane));
          cell.colSpan = 3;
          body.append(make("tr", "gp-lane", cell));
          lane = metric.lane;
        }
        this.rows[i] = metricRow(metric);
        body.append(this.rows[i].element);
      }
      this.element.replaceChildren(make("thead", "", head), body);
    }

    /** Dim what was measured long before the step that is shown, and say when it was. */
    age(step) {
      for (const row of this.rows) {
        const at = Number(row.element.dataset.step);
        const old = at >= 0 && step - at > Math.max(30, 0.2 * step);
        if (row.element.classList.contains("gp-stale") !== old) {
          row.element.classList.toggle("gp-stale", old);
        }
        const text = old ? `Measured at step ${at.toLocaleString("en-US")}.` : "";
        if (row.value.title !== text) row.value.title = text;
      }
    }

    laneName(lane) {
      return (this.laneNames && this.laneNames[lane]) || `Run ${lane + 1}`;
    }
  }

  const KINDS = { exact: "exact", bound: "a bound", estimate: "an estimate" };

  function metricRow(metric) {
    const [kind, value, floor] = [make("span", "gp-kind"), make("span"), make("td", "gp-floor")];
    const [note, rival] = [make("small"), make("small", "gp-rival")];
    const name = make("th", "", metric.label || metric.name);
    name.scope = "row";
    if (metric.unit && !(metric.unit in CLOSE_UNITS)) name.append(make("span", "gp-unit", `, ${metric.unit}`));
    name.append(note, rival);
    rival.hidden = true;
    rival.title = RIVAL;
    const element = make("tr", "", name, make("td", "gp-value", kind, value), floor);
    return { metric, element, name, kind, value, floor, note, rival };
  }

  const RIVAL =
    "The same number for a Gaussian kernel on each of 20,000 true samples, its width chosen by " +
    "leave-one-out likelihood: the oldest density estimate there is. A model that is further from " +
    "the data than that has not earned its keep yet.";

  /** JSON has no infinities: they travel as texts. */
  const numeric = (x) => (typeof x === "string" ? Number(x) : x);

  /** Beside a divergence, what a kernel estimate achieves; said plainly when the model loses. */
  function showRival(row, value, rival) {
    row.rival.hidden = typeof rival !== "number";
    if (row.rival.hidden) return;
    const loses = typeof value === "number" && value > rival;
    const number = metricNumber(row.metric, rival);
    setText(row.rival, loses ? `loses to a kernel estimate: ${number}` : `kernel estimate: ${number}`);
    row.rival.classList.toggle("gp-loses", loses);
  }

  /** Units that are written with the number; the others stand beside the name. */
  const CLOSE_UNITS = { "%": " %", "×": " ×" };

  function metricNumber(metric, x) {
    if (typeof x === "number" && metric.of !== null && Number.isInteger(x)) return minus(String(x));
    const size = Math.abs(x);
    const percent = size >= 99.95 || size === 0 ? 0 : size >= 10 ? 1 : 2;
    const text = x === 0 ? "0" : shown(x, metric.unit === "%" ? percent : 3);
    return text + (CLOSE_UNITS[metric.unit] || "");
  }

  function metricValue(metric, value) {
    const text = metricNumber(metric, value);
    return metric.of !== null && typeof value === "number" ? `${text} / ${metric.of}` : text;
  }

  /** Of an exact number its standard error, of an estimate what perfect samples would give. */
  function metricFloor(metric, se, floor) {
    const error = typeof se === "number" && se > 0 ? `± ${metricNumber(metric, se)}` : "";
    const best = typeof floor === "number" ? metricNumber(metric, floor) : "";
    return metric.kind === "exact" ? error || best : best || error;
  }

  function metricHelp(metric, se, floor) {
    const parts = [metric.help, `This is ${KINDS[metric.kind] || metric.kind}.`];
    if (typeof se === "number") parts.push(`Standard error ${metricNumber(metric, se)}.`);
    if (typeof floor === "number") parts.push(`Ideal, or its floor: ${metricNumber(metric, floor)}.`);
    return parts.filter(Boolean).join(" ");
  }

  // ================================================================ the view

  class View {
    constructor(root, { trigger } = {}) {
      Object.assign(this, { root, trigger: trigger || (() => {}), next: null, queued: false });
      Object.assign(this, { about: null, extra: {}, enlarged: null, panelNames: "", timer: 0 });
      Object.assign(this, { ackedAt: -Infinity, sinceAck: 0, ackTimer: 0, paintedSeq: 0 });
      Object.assign(this, { hiddenAt: -Infinity, missedAt: -1e9 });
      this.wasVisible = true;
      this.blocks = new Blocks();
      this.tape = this.blocks.tape = window.PlaygroundTape ? window.PlaygroundTape() : null;
      this.past = null; // the entry of the tape that is shown in place of the present
      this.present = null; // the newest frame
      this.panels = new Map();
      this.hidden = new Map(); // id → title, of the panels put away
      this.toMount = [];
      this.slots = new Map();
      this.searched = new Map();
      this.metrics = new Metrics();
      this.stats = { ready: false, drawn: 0, step: 0, ages: [], error: null };
      this.build();
      this.theme = new Theme(root);
      this.listen();
    }

    build() {
      this.heading = make("h2");
      this.tagline = make("span", "gp-tagline");
      this.equation = make("span", "gp-equation");
      this.head = make("div", "gp-head", this.heading, this.tagline, this.equation);
      this.grid = make("div", "gp-grid");
      this.chips = make("div", "gp-hidden");
      this.look = make("div", "gp-look");
      this.note = make("div", "gp-note");
      this.note.setAttribute("role", "status");
      this.progress = make("div", "gp-progress");
      this.root.classList.add("gp-view");
      this.root.replaceChildren(this.head, this.grid, this.chips);
    }

    listen() {
      this.observer = new ResizeObserver((entries) => this.resized(entries));
      this.observer.observe(this.grid);
      // what is far outside the window is painted once it comes near
      this.watcher = new IntersectionObserver(
        (entries) => {
          for (const { target, isIntersecting } of entries) {
            if (target.panel) target.panel.onScreen = isIntersecting;
          }
          this.schedule();
        },
        { rootMargin: "60%" },
      );
      this.onVisible = () => this.looked();
      document.addEventListener("visibilitychange", this.onVisible);
      this.onKey = (event) => {
        if (event.key !== "Escape" || this.enlarged === null) return;
        if (this.root.classList.contains("gp-filled")) {
          event.stopImmediatePropagation(); // one thing at a time: what is past stays in view
          this.fill(this.enlarged);
        } else if (!this.past) this.enlarge(null);
      };
      // the browser's own Esc leaves the full screen: so does the panel
      this.onFull = () => {
        if (!document.fullscreenElement && this.root.classList.contains("gp-filled")) {
          this.fill(this.enlarged);
        }
      };
      document.addEventListener("fullscreenchange", this.onFull);
      document.addEventListener("keydown", this.onKey);
      this.themes = new MutationObserver(() => this.recolour());
      for (const element of [document.body, document.documentElement]) {
        this.themes.observe(element, { attributes: true, attributeFilter: ["class"] });
      }
    }

    send(name, data) {
      if (this.past && name === "act") return; // the past cannot be changed, only branched from
      try {
        this.trigger(name, data);
      } catch (error) {
        this.fail(error);
      }
    }

    fail(error) {
      this.stats.error = String((error && error.message) || error);
      console.error(error);
    }

    get visible() {
      // not offsetParent: what fills the window is fixed, and has none
      return !document.hidden && this.root.getClientRects().length > 0;
    }

    /** Tell the page when the view goes out of sight or comes back, and catch up. */
    looked() {
      const visible = this.visible;
      if (visible !== this.wasVisible) this.send("view", { visible });
      this.wasVisible = visible;
      this.schedule();
    }

    // ------------------------------------------------------------ frames

    /** Take one packed frame. It is painted soon, unless a newer one arrives before that. */
    show(base64) {
      try {
        const frame = readFrame(base64, this.blocks);
        if (frame.missing) return this.missed(frame);
        // an answer that was overtaken on its way; a restarted server counts from 1 again
        const last = this.present;
        if (last && frame.seq < last.seq && frame.t < last.t) return;
        this.present = frame;
        if (this.tape) {
          this.tape.add(frame, this.blocks);
          // another run has begun, or a branch before what was looked at
          if (!this.tape.holds(this.past)) this.past = null;
        }
        if (!this.past) this.next = frame;
        if (!this.visible) this.unseen(frame);
        else if (this.past) {
          this.consumed(frame);
          this.announce(frame);
        } else this.schedule();
        if (this.timeline) this.timeline.refresh();
      } catch (error) {
        this.fail(error);
      }
    }

    /** Show an entry of the tape, or with null the present again. */
    rewind(entry) {
      if (entry === this.past) return;
      this.past = this.tape.pinned = entry;
      this.next = entry ? entry.frame : this.present;
      this.schedule();
    }

    /** Paint what waits, charts too, at once: for a film. */
    paintNow() {
      this.paint();
      for (const panel of this.panels.values()) if (panel.dirty) panel.paint(performance.now());
    }

    /** A frame was lost on the way: ask for everything, but not for every frame. */
    missed(frame) {
      const now = performance.now();
      if (now - this.missedAt < 500) return;
      this.missedAt = now;
      this.send("ack", { seq: frame.seq, missing: true });
    }

    unseen(frame) {
      const now = performance.now();
      if (now - this.hiddenAt < HIDDEN_ACK_MS) return;
      this.hiddenAt = now;
      this.send("ack", { seq: frame.seq, hidden: true });
    }

    schedule() {
      if (this.queued) return;
      this.queued = true;
      requestAnimationFrame((now) => {
        this.queued = false;
        try {
          this.paint(now);
        } catch (error) {
          this.fail(error);
        }
      });
    }

    paint() {
      if (!this.visible || !this.styled()) return;
      const frame = this.next;
      this.next = null;
      if (frame) this.apply(frame);
      const now = performance.now();
      let soonest = Infinity;
      for (const panel of this.panels.values()) {
        const wait = panel.wait(now);
        if (wait <= 0) panel.paint(now);
        else soonest = Math.min(soonest, wait);
      }
      if (frame) {
        this.account(frame);
        if (!this.past) this.announce(frame);
        else document.dispatchEvent(new CustomEvent("playground:past", { detail: frame.extra }));
      }
      // one graph a turn, so that the page never stands still for all of them
      const panel = this.toMount.shift();
      if (panel && this.panels.get(panel.key) === panel) panel.mount();
      if (this.toMount.length) this.schedule();
      else if (this.stats.drawn) this.stats.ready = true;
      if (soonest < Infinity && !this.timer) {
        this.timer = setTimeout(() => {
          this.timer = 0;
          this.schedule();
        }, soonest + 1);
      }
    }

    /** Whether the style sheet with the colours has arrived; else look again soon. */
    styled() {
      if (this.theme.ink) return true;
      this.theme = new Theme(this.root);
      if (this.theme.ink) return true;
      setTimeout(() => this.schedule(), 30);
      return false;
    }

    later(panel) {
      if (!this.toMount.includes(panel)) this.toMount.push(panel);
    }

    /** Tell the page what a frame says beside its pictures. */
    announce(frame) {
      const detail = { ...frame.extra, about: this.blocks.get(frame.about), step: frame.step };
      document.dispatchEvent(new CustomEvent("playground:frame", { detail }));
    }

    /** Count a painted frame. */
    account(frame) {
      window.playground = this.stats;
      this.stats.step = frame.step;
      if (frame.consumed) return; // of the past: it was counted when it came
      this.stats.drawn++;
      if (this.past) {
        frame.consumed = true; // a frame that was overtaken when it came: nobody waits for it
        return;
      }
      this.stats.ages.push(Date.now() - frame.t);
      if (this.stats.ages.length > 1000) this.stats.ages.splice(0, 100);
      this.consumed(frame);
    }

    /** Acknowledge a frame: the server waits for what nobody has seen. */
    consumed(frame) {
      frame.consumed = true;
      const wait = this.ackedAt + ACK_MS - performance.now();
      this.sinceAck++;
      this.paintedSeq = frame.seq;
      this.hiddenAt = -Infinity;
      if (this.sinceAck >= 5 || wait <= 0 || frame.extra.playing === false) this.acknowledge();
      // later, if no frame comes before: it may be the last that the server dares to send
      else if (!this.ackTimer) this.ackTimer = setTimeout(() => this.acknowledge(), wait);
    }

    acknowledge() {
      clearTimeout(this.ackTimer);
      this.ackTimer = this.sinceAck = 0;
      this.ackedAt = performance.now();
      this.send("ack", { seq: this.paintedSeq });
    }

    apply(frame) {
      this.extra = frame.extra || {};
      const about = this.blocks.get(frame.about);
      if (about !== this.about) this.describe(about);
      this.showNote(frame.note);
      this.note.classList.toggle("gp-notice", !!this.extra.notice);
      this.showProgress(frame);
      this.metrics.laneNames = this.extra.lanes;
      const { what, fields, now } = frame.metrics;
      this.metrics.show(this.blocks.get(what), fields, now);
      this.metrics.age(frame.step);
      this.put("metrics", this.metrics.element);
      this.showPanels(frame.panels);
    }

    describe(about) {
      this.about = about;
      const text = (key) => (about[key] === undefined || about[key] === null ? "" : `${about[key]}`);
      setText(this.heading, text("title"));
      setText(this.tagline, text("tagline"));
      setEquation(this.equation, text("objective"));
      this.head.hidden = !text("title");
      this.look.replaceChildren();
      if (text("look_for")) this.look.append(make("b", "", "What to look for. "), text("look_for"));
      if (text("paper")) this.look.append(make("cite", "", text("paper")));
      this.put("look", this.look);
      this.recall(`gp-hidden ${text("title")}`);
    }

    showNote(text) {
      setText(this.note, text || "");
      this.put("note", this.note);
    }

    showProgress(frame) {
      const rate = frame.rate > 0 ? (frame.rate < 10 ? frame.rate.toFixed(1) : Math.round(frame.rate)) : 0;
      const parts = [frame.step, rate, frame.seconds.toFixed(1)];
      if (!this.progressParts) {
        this.progressParts = parts.map(() => make("b"));
        const [step, speed, time] = this.progressParts;
        // each in a box of its own: what does not fit is left out as a whole, see the style
        this.progress.append(make("span", "", "step ", step), make("span", "", "· ", speed, " steps/s"),
          make("span", "", "· ", time, " s"));
      }
      setText(this.progressParts[0], parts[0].toLocaleString("en-US"));
      setText(this.progressParts[1], parts[1].toLocaleString("en-US"));
      setText(this.progressParts[2], Number(parts[2]).toLocaleString("en-US",
        { minimumFractionDigits: 1 }));
      this.put("progress", this.progress);
    }

    /** Put an element into the nearest [data-slot=name] of the page, else into the view. */
    put(name, element) {
      const slot = this.slots.get(name);
      if (slot && slot.isConnected && element.parentNode === slot) return;
      const now = performance.now();
      // without a slot the page may still be building: look again, but not at every frame
      if (element.parentNode === this.root && now - (this.searched.get(name) || 0) < 1000) return;
      this.searched.set(name, now);
      const found = nearestSlot(this.root, name);
      if (found) {
        this.slots.set(name, found);
        found.classList.add("gp-slot");
        found.replaceChildren(element);
      } else if (element.parentNode !== this.root) {
        if (name === "note") this.root.insertBefore(element, this.grid);
        else this.root.append(element);
      }
    }

    // ------------------------------------------------------------ panels

    showPanels(references) {
      const seen = new Set();
      let changed = false;
      for (const reference of references) {
        const content = this.blocks.get(reference);
        const what = this.blocks.get(content.what);
        if (this.hidden.has(what.id)) continue; // the server has not heard of it yet
        const key = `${what.lane}:${what.id}`;
        seen.add(key);
        let panel = this.panels.get(key);
        if (!panel) {
          panel = new Panel(this, key);
          panel.plot.panel = panel;
          this.panels.set(key, panel);
          this.grid.append(panel.figure);
          this.observer.observe(panel.plot);
          this.watcher.observe(panel.plot);
          changed = true;
        }
        const size = panel.what && panel.what.size;
        panel.update(reference.hash, content);
        changed ||= size !== panel.what.size;
      }
      for (const [key, panel] of this.panels) {
        if (seen.has(key)) continue;
        panel.remove();
        this.panels.delete(key);
        changed = true;
      }
      this.order = [...seen];
      const names = this.order.join("\n");
      if (changed || names !== this.panelNames) this.layout();
      this.panelNames = names;
    }

    layout() {
      const width = this.grid.clientWidth;
      if (!width || !this.order) return;
      this.laidOut = width;
      const panels = this.order.map((key) => this.panels.get(key)).filter(Boolean);
      let order = 1;
      const filled = this.root.classList.contains("gp-filled");
      // a lecture's page says what stands around the pictures: the main ones share the rest
      const around = parseFloat(getComputedStyle(this.root).getPropertyValue("--gp-around"));
      const rows = arrange(panels, width, this.enlarged, around > 0);
      const main = rows.filter((row) => row.panels[0].what.size === "large");
      const room = (window.innerHeight - around) / main.length - CAPTION;
      for (const row of rows) {
        placeRow(row, order, width, filled, main.includes(row) && room > 0 ? room : Infinity);
        order += row.panels.length;
      }
      for (const panel of panels) panel.resize(panel.plot.clientWidth, panel.plot.clientHeight);
    }

    resized(entries) {
      for (const { target, contentRect } of entries) {
        if (target === this.grid) {
          if (contentRect.width && contentRect.width !== this.laidOut) this.layout();
        } else if (target.panel) {
          target.panel.resize(Math.round(contentRect.width), Math.round(contentRect.height));
        }
      }
      this.looked(); // a tab that was hidden may have come back
    }

    recolour() {
      const before = this.theme;
      this.theme = new Theme(this.root);
      if (before.dark === this.theme.dark && before.ink === this.theme.ink && before.type === this.theme.type) {
        this.theme = before;
        return;
      }
      for (const panel of this.panels.values()) panel.recolour();
      this.schedule();
    }

    /** Zoom one panel, and with it all that show the same box: eyes compare. */
    zoom(panel, shift, final) {
      const box = panel.what.box && String(panel.what.box);
      for (const other of this.panels.values()) {
        if (other !== panel && !(box && other.kind === "plane" && String(other.what.box) === box)) {
          continue;
        }
        other.setShift(shift, final && (other !== panel || shift === null));
      }
      this.schedule();
    }

    enlarge(id) {
      this.enlarged = id === this.enlarged ? null : id;
      this.layout();
      const panel = [...this.panels.values()].find((p) => p.what.id === this.enlarged);
      if (panel) panel.figure.scrollIntoView({ block: "nearest" });
      this.tell();
      this.schedule();
    }

    /** One panel over the whole window, and back again. */
    fill(id) {
      const on = !this.root.classList.contains("gp-filled");
      if (on && this.enlarged !== id) this.enlarge(id);
      this.root.classList.toggle("gp-filled", on);
      this.recolour(); // larger type
      const full = document.fullscreenElement;
      // a frame may not be allowed the screen: then the window is what it fills
      if (on && !full) this.root.requestFullscreen?.().catch(() => {});
      if (!on) {
        if (full === this.root) document.exitFullscreen().catch(() => {});
        this.enlarge(id);
      }
      this.layout();
    }

    hide(id, away) {
      const panel = [...this.panels.values()].find((p) => p.what.id === id);
      if (away) this.hidden.set(id, panel ? panel.what.title : id);
      else this.hidden.delete(id);
      if (away) {
        for (const [key, one] of this.panels) {
          if (one.what.id !== id) continue;
          one.remove();
          this.panels.delete(key);
        }
        this.order = this.order.filter((key) => this.panels.has(key));
        if (this.enlarged === id) this.enlarged = null;
        this.layout();
      }
      stored.set(this.memory, [...this.hidden]);
      this.showChips();
      this.tell();
      this.schedule();
    }

    tell() {
      this.send("view", { hidden: [...this.hidden.keys()], enlarged: this.enlarged });
    }

    /** The panels that this visitor had put away for this model. */
    recall(memory) {
      if (memory === this.memory) return;
      this.memory = memory;
      const before = [...this.hidden.keys()].join();
      const kept = stored.get(memory);
      const sound = (entry) => Array.isArray(entry) && entry.length === 2 &&
        entry.every((text) => typeof text === "string");
      this.hidden = new Map(Array.isArray(kept) ? kept.filter(sound).slice(0, 50) : []);
      this.showChips();
      if ([...this.hidden.keys()].join() !== before) this.tell();
    }

    showChips() {
      this.chips.replaceChildren();
      if (!this.hidden.size) return;
      this.chips.append("Hidden:");
      for (const [id, title] of this.hidden) {
        const chip = make("button", "", `+ ${title}`);
        chip.type = "button";
        chip.setAttribute("aria-label", `Show: ${title}`);
        chip.addEventListener("click", () => this.hide(id, false));
        this.chips.append(chip);
      }
    }

    /** Take the view apart: for pages that replace it. */
    close() {
      for (const panel of this.panels.values()) panel.remove();
      this.panels.clear();
      this.observer.disconnect();
      this.watcher.disconnect();
      this.themes.disconnect();
      document.removeEventListener("visibilitychange", this.onVisible);
      document.removeEventListener("keydown", this.onKey);
      document.removeEventListener("fullscreenchange", this.onFull);
      clearTimeout(this.timer);
    }
  }

  /** The slot that shares the closest ancestor with the view, but is not inside one. */
  function nearestSlot(root, name) {
    for (let up = root.parentElement; up; up = up.parentElement) {
      const found = up.querySelector(`[data-slot="${name}"]`);
      if (found) return found;
    }
    return null;
  }

  window.PlaygroundView = (root, options) => new View(root, options);
})();
