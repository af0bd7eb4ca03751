/* Plotly's picture in three dimensions, which a visitor turns: the camera stays theirs while
   frames arrive. A finger scrolls the page past it, until a button says that it means to turn. */
(() => {
  "use strict";

  const { common, escaped, make, Panel, SENTINEL, setText } = PlaygroundLive;

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
        reversescale: !!mark.down,
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
      nticks: 5,
      showspikes: false,
      zerolinecolor: theme.line,
    });
    // a narrow panel is seen from further away, or the names of the axes would be cut off
    const far = Math.max(1, 1.5 / Math.max(0.8, size.width / size.height));
    return {
      ...common(theme, size),
      margin: { l: 0, r: 0, t: 0, b: 0 },
      dragmode: "orbit",
      scene: {
        xaxis: axis("x"),
        yaxis: axis("y"),
        zaxis: axis(mark.label),
        aspectratio: { x: 1, y: 1, z: 0.6 },
        camera: {
          eye: { x: 1.2 * far, y: -1.3 * far, z: 0.9 * far },
          center: { x: 0, y: 0, z: -0.16 },
        },
      },
    };
  }

  Object.assign(Panel.prototype, {
    paintSurface() {
      const theme = this.view.theme;
      const mark = this.marks.find((m) => m.type === "Surface");
      const layout = surfaceLayout(mark, theme, this.size);
      const [camera, now] = [layout.scene.camera, this.turned()];
      if (now) layout.scene.camera = now;
      else this.given = camera;
      this.draw(surfaceTraces(this.get, mark, theme), layout, theme);
      if (!this.turner) this.buildTurning();
    },

    /** The camera as the visitor holds it, also in the middle of a drag; null where it was put.

        Plotly's own memory of it (uirevision) loses a camera that was given in part. */
    turned() {
      const scene = this.graph && this.graph._fullLayout?.scene?._scene;
      const now = scene && scene.getCamera();
      const { given } = this;
      const differ = (part) => ["x", "y", "z"].some((k) => Math.abs(now[part][k] - given[part][k]) > 1e-6);
      return now && given && (differ("eye") || differ("center")) ? now : null;
    },

    /** On a touch screen, where the same finger scrolls: a button that takes hold of the surface. */
    buildTurning() {
      this.turner = make("button", "gp-turn");
      this.turner.type = "button";
      const turn = (on) => {
        this.figure.classList.toggle("gp-turning", on);
        this.turner.setAttribute("aria-pressed", String(on));
        setText(this.turner, on ? "Done" : "Turn it");
      };
      turn(false);
      this.turner.addEventListener("click", () =>
        turn(!this.figure.classList.contains("gp-turning")));
      this.plot.append(this.turner);
    },
  });
})();
