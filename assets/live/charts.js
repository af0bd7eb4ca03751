/* Plotly's flat pictures: curves, bars, and the axes over a canvas. */
(() => {
  "use strict";

  const { escaped } = PlaygroundLive;

  const CLEAR = "rgba(0,0,0,0)";

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

  /** A low chart over many decades names a few powers of ten, and nothing between them. */
  function sparse(layout, traces) {
    if (layout.yaxis.type !== "log") return;
    const y = traces.flatMap((t) => t.y.filter((v) => v > 0)).map(Math.log10);
    const decades = y.length ? Math.max(...y) - Math.min(...y) : 0;
    const room = (layout.height - layout.margin.t - layout.margin.b) / layout.yaxis.tickfont.size;
    // a name of its own size above and below each
    if (decades >= 1 && room < 9 * decades) layout.yaxis.dtick = Math.ceil((3 * decades) / room);
  }

  /**
   * A logarithmic axis of a few values is marked at these; else at 1, 2, 5 or 1, 3 or 1 of each
   * decade, in one size and in plain numbers: Plotly's own marks are of two sizes.
   */
  function rungs(layout, traces) {
    if (layout.xaxis.type !== "log") return;
    let x = [...new Set(traces.flatMap((t) => [...t.x]))].filter((v) => v > 0);
    if (!x.length) return;
    if (x.length > 8) {
      const [low, high] = [Math.log10(Math.min(...x)), Math.log10(Math.max(...x))];
      const digits = high - low > 2.5 ? [1] : high - low > 1.2 ? [1, 3] : [1, 2, 5];
      const every = Math.ceil((high - low) / 6);
      const powers = [];
      for (let k = Math.ceil(Math.floor(low) / every) * every; k <= high; k += every) powers.push(k);
      x = powers.flatMap((k) => digits.map((d) => Number(`${d}e${k}`)));
    }
    const text = (v) => {
      const k = Math.round(Math.log10(v));
      const power = Math.abs(k - Math.log10(v)) < 1e-9 && (k < -3 || k > 3);
      return power ? `10<sup>${String(k).replace("-", "\u2212")}</sup>` : String(v);
    };
    Object.assign(layout.xaxis, { tickmode: "array", tickvals: x, ticktext: x.map(text) });
  }

  /** A curve over steps that has one point only: there are no steps below 0. */
  function alone(layout, traces) {
    const x = new Set(traces.flatMap((t) => [...t.x]));
    if (layout.xaxis.title?.text !== "step" || x.size !== 1) return;
    layout.xaxis.range = [0, 2 * Math.max(...x) || 10];
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

  Object.assign(PlaygroundLive, {
    alone, chartTraces, calm, brief, rungs, sparse, chartLayout, common, planeLayout,
  });
})();
