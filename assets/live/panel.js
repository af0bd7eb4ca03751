/* One picture: a figure with its caption, a canvas, a Plotly graph over it, a slider. */
(() => {
  "use strict";

  const { fieldAt, Layer, make, PAINTERS, setText, sheetBox, sizeOf } = PlaygroundLive;

  const CHART_MS = 250; // at least, between two renewals of a Plotly chart
  const CHART_SHARE = 0.1; // of the time may go into one chart: slow machines renew it less
  const CHART_MAX_MS = 1000; // often, but at least this often

  function kindOf(marks) {
    const types = new Set(marks.map((m) => m.type));
    if (types.has("Surface")) return "surface";
    if (types.has("Text")) return "text";
    if (types.has("Curves") || types.has("Bars")) return "chart";
    return "plane";
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

  const MUCH_THE_SAME = 40; // codes of 255 that an edge may stray from its mean
  const BLACK_OR_WHITE = ["#15171c", "#ffffff"];

  /** A colour for small text on a ground where `usual` could not be read; null where it can. */
  function readable(usual, ground) {
    const bright = (colour) => {
      const hex = colour.startsWith("#");
      const [r, g, b] = hex
        ? [1, 3, 5].map((i) => parseInt(colour.slice(i, i + 2), 16))
        : colour.match(/\d+/g).map(Number);
      return (0.299 * r + 0.587 * g + 0.114 * b) / 255;
    };
    const far = (colour) => Math.abs(bright(colour) - bright(ground));
    if (far(usual) > 0.35) return null;
    return BLACK_OR_WHITE.reduce((a, b) => (far(a) >= far(b) ? a : b));
  }

  class Panel {
    constructor(view, key) {
      Object.assign(this, { view, key, name: null, what: null, marks: [], kind: null });
      Object.assign(this, { dirty: true, painted: 0, onScreen: true, shift: null, range: null });
      Object.assign(this, { graph: null, quiet: 0, pointer: null, time: null, sweepFrom: 0 });
      Object.assign(this, { cost: 0, charted: false, layer: null, step: undefined });
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
      setText(this.title, what.title.split(" · ")[0]);
      this.tell(undefined, true);
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

    /** Which step it is of, if that is long past, before what else stands under its title: where
        several are side by side, that is which of them it is. */
    tell(step, anew = false) {
      if (step === this.step && !anew) return;
      this.step = step;
      const { title, subtitle, help } = this.what;
      const when = step === undefined ? "" : `step ${step.toLocaleString("en-US")}`;
      const setting = title.split(" · ").slice(1);
      setText(this.setting, setting.length ? [when, ...setting].filter(Boolean).join(" · ") : "");
      setText(this.subtitle, [setting.length ? "" : when, subtitle].filter(Boolean).join("; "));
      const long = when && `As it was at ${when}: it is drawn anew when there is time, or when the run rests.`;
      this.caption.title = [title, subtitle, long, help].filter(Boolean).join("\n");
    }

    /** The body for another kind of picture. */
    rebuild(kind) {
      this.drop();
      this.kind = kind;
      this.what = null; // so that labels are set again
      this.figure.className = `gp-panel gp-is-${kind}`;
      this.plot.replaceChildren();
      this.canvas = this.axesBox = this.textBox = this.turner = null;
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
      if (this.graph) PlaygroundLive.Plotly.purge(this.graph);
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
      Promise.resolve(PlaygroundLive.Plotly.relayout(this.graph, change)).finally(() => this.quiet--);
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
      if (!PlaygroundLive.Plotly) return Infinity;
      const rest = Math.min(CHART_MAX_MS, Math.max(CHART_MS, this.cost / CHART_SHARE));
      return Math.max(0, this.painted + rest - now);
    }

    paint(now) {
      if (!this.size.width) this.resize(this.plot.clientWidth, this.plot.clientHeight);
      if (!this.size.width) return;
      const drawn = this.kind === "chart" || this.kind === "surface";
      if (drawn && !PlaygroundLive.Plotly) return; // the view paints it once that is there
      this.dirty = false;
      this.painted = now;
      if (this.kind === "text") return this.paintText();
      if (drawn) {
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

    /** Beyond its box a density is nothing, and other fields are what they are at its edge:
        their ground goes on to the panel's. */
    paintGround(c, theme) {
      const heat = this.marks.find((m) => m.type === "Heat");
      const { width, height } = this.size;
      let ground = theme.paper;
      if (heat) {
        const nothing = heat.scale === "diverging" ? 128 : 1;
        const code = ["noise", "discriminator"].includes(heat.role) ? this.edge(heat) : nothing;
        const pixel = theme.table(heat.scale, heat.role)[code || nothing];
        ground = `rgb(${pixel & 255},${(pixel >> 8) & 255},${(pixel >> 16) & 255})`;
      }
      c.fillStyle = ground;
      c.fillRect(0, 0, width, height);
      if (ground !== this.ground) {
        this.ground = ground;
        this.plot.style.setProperty("--gp-ground", ground);
        const tick = readable(theme.mute, ground);
        if (tick) this.plot.style.setProperty("--gp-tick", tick);
        else this.plot.style.removeProperty("--gp-tick");
      }
    }

    /** The mean code along a field's edge; 0 where it is not much the same all along. */
    edge(heat) {
      const { codes, name } = fieldAt(this.get, heat, this.time);
      if (this.edged?.name === name) return this.edged.code;
      const [rows, columns] = heat.values.shape.slice(-2);
      const along = [];
      for (let i = 0; i < columns; i++) along.push(codes[i], codes[(rows - 1) * columns + i]);
      for (let j = 0; j < rows; j++) along.push(codes[j * columns], codes[(j + 1) * columns - 1]);
      const mean = along.reduce((sum, code) => sum + code, 0) / along.length;
      const off = along.reduce((sum, code) => sum + Math.abs(code - mean), 0) / along.length;
      const code = off < MUCH_THE_SAME ? Math.round(mean) : 0;
      this.edged = { name, code };
      return code;
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
  }

  Object.assign(PlaygroundLive, { Panel });
})();
