/* A panel's texts, its Plotly graph, its legend and scale. */
(() => {
  "use strict";

  const {
    alone, brief, calm, chartLayout, chartTraces, fieldAt, make, Panel, planeLayout, rungs,
    setText, shown, sizeOf, sparse,
  } = PlaygroundLive;

  Object.assign(Panel.prototype, {
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
    },

    paintChart() {
      const theme = this.view.theme;
      const traces = chartTraces(this.get, this.marks, theme);
      const layout = chartLayout(this.marks, theme, this.size);
      calm(layout, traces);
      brief(layout, traces);
      rungs(layout, traces);
      alone(layout, traces);
      this.showLegend(this.legendOfLines(), theme);
      layout.margin.t = this.legendRoom();
      sparse(layout, traces);
      this.draw(traces, layout, theme);
    },

    /** What a chart's names take up above its lines, in pixels; they never lie upon each other. */
    legendRoom() {
      const key = `${this.legendKey} ${this.size.width} ${this.size.height}`;
      if (key !== this.roomKey) {
        this.roomKey = key;
        const names = this.legend.childElementCount ? this.legend.offsetHeight + 4 : 0;
        this.room = Math.max(8, Math.min(names, 0.4 * this.size.height));
      }
      return this.room;
    },

    /** Plotly's first drawing, or the cheapest one that shows the change. */
    draw(traces, layout, theme) {
      const look = JSON.stringify([
        theme.version,
        this.size,
        traces.map((t) => [t.type, t.name, t.mode]),
        layout.shapes,
        layout.margin,
        layout.xaxis,
        layout.yaxis,
      ]);
      if (!this.graph) {
        this.graph = this.axesBox;
        PlaygroundLive.Plotly.newPlot(this.graph, traces, layout, config(this));
        this.graph.on("plotly_doubleclick", () => this.unzoomOrFill());
        this.graph.on("plotly_relayout", (change) => {
          if (Object.keys(change).some((key) => key.endsWith("axis.range[0]"))) this.zoomed = true;
          if (change["xaxis.autorange"]) this.zoomed = false;
        });
      } else if (look === this.look && this.kind === "chart") {
        const change = { x: traces.map((t) => t.x), y: traces.map((t) => t.y) };
        PlaygroundLive.Plotly.restyle(this.graph, change, traces.map((_, i) => i));
      } else {
        PlaygroundLive.Plotly.react(this.graph, traces, layout, config(this));
      }
      this.look = look;
    },

    /** A double click first brings back what was zoomed; else the picture fills the screen. */
    unzoomOrFill() {
      if (!this.zoomed) return this.view.fill(this.what.id);
      PlaygroundLive.Plotly.relayout(this.graph, { "xaxis.autorange": true, "yaxis.autorange": true });
    },

    /** The graph over the canvas is made after the first paint: it takes far longer. */
    mount() {
      if (this.graph || this.kind !== "plane" || !this.size.width) return;
      const bare = this.marks.some((m) => m.type === "Images");
      const layout = planeLayout(this.view.theme, this.size, this.view2d(), bare, this.equal);
      const nothing = { x: [null], y: [null], mode: "markers", hoverinfo: "skip" };
      this.graph = this.axesBox;
      PlaygroundLive.Plotly.newPlot(this.graph, [nothing], layout, config(this));
      this.graph.on("plotly_relayouting", () => this.follow(false));
      this.graph.on("plotly_relayout", () => this.follow(true));
      // first what was zoomed comes back; a picture that shows everything fills the screen
      this.graph.on("plotly_doubleclick", () =>
        this.shift ? this.view.zoom(this, null, true) : this.view.fill(this.what.id));
    },

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
    },

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
    },

    legendOfLines() {
      const lines = this.marks.flatMap((m) => (m.type === "Curves" ? m.lines : []));
      if (lines.length < 2) return [];
      return lines.map((l) => ({ name: l.name, role: l.ghost ? "noise" : l.role, dash: l.dash }));
    },

    legendOfMarks() {
      return this.marks
        .filter((m) => m.label && m.role && m.type !== "Heat" && !m.group && !m.grouped)
        .filter((m) => !m.xy || sizeOf(m.xy.shape))
        .map((m) => ({ name: m.label, role: m.role, dot: m.type === "Points" }));
    },

    /** What the field's colours mean, in a corner. */
    showScale(theme) {
      const heat = this.marks.filter((m) => m.type === "Heat").pop();
      const { lo, hi } = heat ? fieldAt(this.get, heat, this.time) : {};
      const key = heat && `${theme.version} ${lo} ${hi} ${heat.unit}`;
      if (key === this.scaleKey) return;
      this.scaleKey = key;
      if (!heat) return this.scale.replaceChildren();
      if (!this.scale.children.length) this.scale.append(make("span"), make("i"), make("span"));
      const [low, ramp, high] = this.scale.children;
      const unit = heat.scale === "diverging" && heat.unit ? ` ${heat.unit}` : "";
      setText(low, shown(lo, 2));
      setText(high, shown(hi, 2) + unit);
      const colours = theme.gradient(heat.scale, heat.role);
      if (this.ramp !== colours) ramp.style.background = this.ramp = colours;
    },
  });

  /** Plotly's toolbar: our own list, since its default would also send data to a cloud. */
  function config(panel) {
    const { kind } = panel;
    const reset = {
      name: "reset",
      title: "Reset view",
      icon: PlaygroundLive.Plotly.Icons.home,
      click: (graph) =>
        kind === "plane"
          ? panel.view.zoom(panel, null, true)
          : PlaygroundLive.Plotly.relayout(graph, { "xaxis.autorange": true, "yaxis.autorange": true }),
    };
    const download = {
      name: "download",
      title: "Download picture as a PNG",
      icon: PlaygroundLive.Plotly.Icons.camera,
      click: () => panel.save().catch((error) => panel.view.fail(error)),
    };
    const vector = {
      name: "vector",
      title: "Download drawing as an SVG",
      icon: PlaygroundLive.Plotly.Icons.disk,
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
})();
