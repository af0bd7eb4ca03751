/* Plotly's picture in three dimensions. */
(() => {
  "use strict";

  const { common, escaped, SENTINEL } = PlaygroundLive;

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

  Object.assign(PlaygroundLive, { surfaceTraces, surfaceLayout });
})();
