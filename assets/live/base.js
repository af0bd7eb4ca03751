/* The one renderer: paints the frames that app/pack.py packs. This file and those beside it are
   plain scripts, loaded in the order of LIVE_JS in app/view.py; each takes what it needs from
   PlaygroundLive, and adds what the later ones need.

   The page uses the renderer live, inside a Gradio component; an exported run uses it alone:

       const view = PlaygroundView(element, { trigger: (name, data) => {} });
       view.show(base64OfOneFrame);

   What is dense (fields, points, paths, arrows, meshes, images) is painted on a canvas.
   Over it lies a transparent Plotly graph that brings axes, zoom, pan and its toolbar.
   Curves, bars and surfaces are Plotly's own, renewed at most four times a second: its
   drawing is far more costly than a canvas. Only the newest frame is painted, once per
   animation frame, and a panel whose content has not changed is left alone.

   base      words, numbers and elements
   blocks    what is read out of a frame
   theme     the colours
   project   from data to pixels
   fields, points, lines    the marks that are painted on a canvas
   charts    those that Plotly draws
   panel     one picture; graphs, surface, pointer, slider and keep are parts of it
   layout    where panels go
   metrics   the numbers beside the stage
   view      everything together; stage is its part that minds the panels */
(() => {
  "use strict";

  // An exported page brings it along. Taken at once: a gr.Plot that is mounted later replaces
  // window.Plotly with an older one.
  const Plotly = window.Plotly || null;

  /** Plotly takes a browser half a second to read, so it is asked for behind the first picture. */
  function plotly() {
    PlaygroundLive.asked ||= new Promise((there, failed) => {
      const script = document.createElement("script");
      script.src = document.getElementById("gp-plotly").href;
      script.onload = () => there((PlaygroundLive.Plotly = window.Plotly));
      script.onerror = () => failed(new Error("The charts could not be loaded."));
      document.head.append(script);
    });
    return PlaygroundLive.asked;
  }

  const SENTINEL = -32768; // int16 code of a point that is not finite

  // What tests and benchmarks read; replaced by the visible view's own.
  window.playground ||= { ready: false, drawn: 0, step: 0, ages: [], error: null };

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

  window.PlaygroundLive = {
    Plotly, plotly, SENTINEL, make, setText, minus, shown, escaped, setEquation, stored,
  };
})();
