// The home page: shown in place of the stage, its map's lines, and the recorded clips.
(() => {
  "use strict";

  const HOME = "#home";
  const TAB = "Home";
  const BETWEEN_MS = 240; // from one recorded moment to the next
  const REST_MS = 2600; // on the last one
  const FRAME_MS = 33;
  const LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

  const home = () => document.querySelector("#gp-home .home");
  const tabs = () => [...document.querySelectorAll("#gp-tabs [role=tab]")];
  const tabOf = (name) => tabs().find((tab) => tab.textContent.trim() === name);
  const chosen = () => tabs().find((tab) => tab.getAttribute("aria-selected") === "true");
  const atHome = () => document.body.classList.contains("gp-at-home");

  // ================================================================ coming and going

  let asked = location.hash === HOME; // until the server has chosen the tab that was asked for
  let before = asked ? "" : location.hash; // the address to come back to

  const address = (hash) => {
    try {
      history.replaceState(history.state, "", hash || location.pathname + location.search);
    } catch {
      /* a sandboxed frame */
    }
  };

  /** Follow the tab that is selected, whoever selected it. */
  function follow() {
    const tab = chosen();
    if (!tab) return;
    const here = tab.textContent.trim() === TAB;
    if (asked && !here) return tabOf(TAB)?.click();
    asked = false;
    if (here !== atHome()) turn(here);
  }

  function turn(here) {
    document.body.classList.toggle("gp-at-home", here);
    if (here) {
      if (location.hash !== HOME) before = location.hash;
      address(HOME);
      scrollTo(0, 0);
    } else if (location.hash === HOME) {
      address(before);
    }
    // the live view looks whether it can be seen
    document.dispatchEvent(new Event("visibilitychange"));
    arrange();
  }

  document.addEventListener(
    "click",
    (event) => {
      if (event.isTrusted && event.target.closest?.("#gp-tabs [role=tab]")) asked = false;
      if (event.target.closest?.(".home-motion")) setStill(!still);
      const way = event.target.closest?.("#gp-home [data-tab]");
      if (!way) return;
      asked = false;
      // a link changes the address, and the page follows it; but where that experiment is the
      // one that was left, there is nothing to open
      const link = way.getAttribute("href");
      if (link && link !== before) return;
      event.preventDefault();
      tabOf(way.dataset.tab)?.click();
    },
    true,
  );

  // ================================================================ the lines of the map

  /** Curves from each node to those below it; on a phone, elbows along the left side. */
  function connect() {
    const tree = home()?.querySelector(".home-tree");
    if (!tree || !tree.offsetParent) return;
    const origin = tree.getBoundingClientRect();
    const boxOf = (node) => {
      const box = node.getBoundingClientRect();
      const [x, y] = [box.left - origin.left, box.top - origin.top];
      return { x, y, w: box.width, h: box.height };
    };
    const narrow = getComputedStyle(tree).getPropertyValue("--stacked").trim() === "1";
    const paths = [];
    const link = (from, to) => {
      const [a, b] = [boxOf(from), boxOf(to)];
      let d;
      if (narrow) {
        const [x, y] = [a.x + 8, b.y + Math.min(b.h / 2, 30)];
        d = `M${x} ${a.y + a.h}V${y - 8}Q${x} ${y} ${x + 8} ${y}H${b.x}`;
      } else {
        const [x0, y0, x1, y1] = [a.x + a.w / 2, a.y + a.h, b.x + b.w / 2, b.y];
        const middle = (y0 + y1) / 2;
        d = `M${x0} ${y0}C${x0} ${middle} ${x1} ${middle} ${x1} ${y1}`;
      }
      const hue = to.matches(".home-leaf") ? to.style.getPropertyValue("--hue") : "";
      paths.push(`<path d="${d}"${hue ? ` style="stroke:${hue}"` : ""}/>`);
    };
    const root = tree.querySelector(".home-root");
    for (const fork of tree.querySelectorAll(".home-fork")) {
      const top = fork.querySelector(":scope > .home-node");
      link(root, top);
      for (const kind of fork.querySelectorAll(".home-kind")) {
        const node = kind.querySelector(":scope > .home-node");
        if (node) link(top, node);
        const leaves = [...kind.querySelectorAll(".home-leaf")];
        const first = leaves[0]?.offsetTop;
        for (const leaf of leaves) {
          // those of a second row stand below the first, and need no line
          if (narrow || leaf.offsetTop === first) link(node || top, leaf);
        }
      }
    }
    tree.querySelector(".home-lines").innerHTML = paths.join("");
  }

  // ================================================================ clips

  const numbers = (text, size) => {
    const out = new Float32Array(text.length / size);
    for (let i = 0; i < out.length; i++) {
      let value = 0;
      for (let k = 0; k < size; k++) value = 64 * value + LETTERS.indexOf(text[i * size + k]);
      out[i] = value;
    }
    return out;
  };
  /** Shares of the box, x and y in turn: app/clips.py keeps [−½, 1½] in 12 bits. */
  const shares = (text) => numbers(text, 2).map((v) => (2 * v) / 4095 - 0.5);

  const rgb = (hex) => [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16));

  class Clip {
    constructor(box) {
      this.box = box;
      this.canvas = box.querySelector("canvas");
      this.step = box.querySelector(".home-step");
      this.onScreen = false;
      this.loaded = false;
    }

    async load() {
      this.loading = true;
      try {
        const answer = await fetch(this.box.dataset.clip);
        if (!answer.ok) throw new Error(answer.status);
        const clip = await answer.json();
        this.steps = clip.steps;
        this.data = shares(clip.data);
        this.points = clip.points.map(shares);
        this.cells = clip.cells;
        this.fields = clip.fields.map((text) => numbers(text, 1));
        this.loaded = true;
        tick();
      } catch {
        this.step.textContent = "The recording could not be loaded.";
      }
    }

    colours() {
      const style = getComputedStyle(this.box);
      const value = (name) => style.getPropertyValue(`--gp-${name}`).trim();
      const stops = value("sequential").split(/\s+/).map(rgb);
      this.table = new Uint8ClampedArray(64 * 4);
      for (let code = 0; code < 64; code++) {
        const at = (code / 63) * (stops.length - 1);
        const [i, t] = [Math.min(Math.floor(at), stops.length - 2), at % 1];
        const share = at >= stops.length - 1 ? 1 : t;
        for (let c = 0; c < 3; c++) {
          this.table[4 * code + c] = stops[i][c] * (1 - share) + stops[i + 1][c] * share;
        }
        this.table[4 * code + 3] = Math.min(255, code * 40); // nothing is no colour
      }
      [this.blue, this.orange] = [value("data"), value("model")];
      this.theme = dark();
    }

    /** Paint the clip at a time in units of recorded moments. */
    paint(at) {
      const last = this.points.length - 1;
      const i = Math.min(Math.floor(at), last - 1);
      const t = Math.min(at - i, 1);
      if (this.theme !== dark()) this.colours();
      const scale = Math.min(devicePixelRatio || 1, 2);
      const [w, h] = [this.canvas.clientWidth, this.canvas.clientHeight];
      const [pw, ph] = [Math.round(w * scale), Math.round(h * scale)];
      if (this.canvas.width !== pw || this.canvas.height !== ph) {
        [this.canvas.width, this.canvas.height] = [pw, ph];
      }
      const pen = this.canvas.getContext("2d");
      pen.setTransform(scale, 0, 0, scale, 0, 0);
      pen.clearRect(0, 0, w, h);
      const side = Math.min(w, h);
      const [left, bottom] = [(w - side) / 2, (h + side) / 2];
      if (this.fields.length) this.paintField(pen, at / 2, left, bottom - side, side);
      const size = Math.max(1.2, side / 190);
      const dots = (xy, next, share, radius) => {
        pen.beginPath();
        for (let k = 0; k < xy.length; k += 2) {
          const x = left + side * (xy[k] + share * (next[k] - xy[k]));
          const y = bottom - side * (xy[k + 1] + share * (next[k + 1] - xy[k + 1]));
          pen.moveTo(x + radius, y);
          pen.arc(x, y, radius, 0, 7);
        }
        pen.fill();
      };
      pen.globalAlpha = 0.45;
      pen.fillStyle = this.blue;
      dots(this.data, this.data, 0, size);
      pen.globalAlpha = 0.9;
      pen.fillStyle = this.orange;
      dots(this.points[i], this.points[i + 1], t, 1.3 * size);
      pen.globalAlpha = 1;
      // the last recorded step: what is between two of them is drawn in between, not recorded
      const step = this.steps[t >= 1 ? last : i].toLocaleString("en");
      this.step.textContent = `recorded: step ${step}`;
      this.painted = at;
    }

    paintField(pen, at, x, y, side) {
      const i = Math.min(Math.floor(at), this.fields.length - 2);
      const t = Math.min(at - i, 1);
      const n = this.cells;
      // the field ends at the box, the picture does not: let it fade there
      const rim = (k) => Math.min(1, (Math.min(k, n - 1 - k) + 0.5) / 4);
      this.small ||= new OffscreenCanvas(n, n);
      const inner = this.small.getContext("2d");
      const image = (this.image ||= inner.createImageData(n, n));
      const [a, b] = [this.fields[i], this.fields[i + 1]];
      for (let row = 0; row < n; row++) {
        for (let column = 0; column < n; column++) {
          const from = row * n + column;
          const code = 4 * Math.round(a[from] + t * (b[from] - a[from]));
          const to = 4 * ((n - 1 - row) * n + column); // rows begin at the bottom
          for (let c = 0; c < 3; c++) image.data[to + c] = this.table[code + c];
          image.data[to + 3] = this.table[code + 3] * rim(row) * rim(column);
        }
      }
      inner.putImageData(image, 0, 0);
      pen.imageSmoothingQuality = "high";
      pen.drawImage(this.small, x, y, side, side);
    }
  }

  const dark = () => !!document.querySelector("body.dark");
  const calm = matchMedia("(prefers-reduced-motion: reduce)");
  let clips = [];
  let still = calm.matches;
  let clock = 0; // ms since the clips began, without the time they stood still
  let painted = 0;
  let queued = false;
  let begun = null; // the element that was set up
  let watchers = [];

  /** Ask for a picture, if there is anything to see. */
  function tick() {
    if (queued || document.hidden || !atHome()) return;
    if (!clips.some((clip) => clip.onScreen && clip.loaded)) return;
    queued = true;
    requestAnimationFrame(frame);
  }

  function frame(now) {
    queued = false;
    if (document.hidden || !atHome()) return;
    const passed = now - painted;
    if (!still && passed < FRAME_MS - 4) return tick();
    // after a rest the clips go on where they stood
    if (!still) clock += Math.min(passed, 3 * FRAME_MS);
    painted = now;
    for (const clip of clips) {
      if (!clip.onScreen || !clip.loaded) continue;
      const last = clip.points.length - 1;
      const at = Math.min((clock / BETWEEN_MS) % (last + REST_MS / BETWEEN_MS), last);
      clip.paint(still && !clock ? last : at);
    }
    if (!still) tick();
  }

  function setStill(value) {
    still = value;
    const button = home()?.querySelector(".home-motion");
    if (button) button.textContent = still ? "Play the clips" : "Pause the clips";
    tick();
  }

  /** After the home page was shown, or changed its size or its colours. */
  function arrange() {
    if (!home() || !atHome()) return;
    // Gradio may have built the elements anew
    if (!begun?.isConnected) begin();
    connect();
    tick();
  }

  function begin() {
    begun = home();
    for (const watcher of watchers) watcher.disconnect();
    clips = [...begun.querySelectorAll("[data-clip]")].map((box) => new Clip(box));
    const near = new IntersectionObserver((entries) => {
      for (const { target, isIntersecting } of entries) {
        const clip = clips.find((one) => one.box === target);
        clip.onScreen = isIntersecting;
        if (isIntersecting && !clip.loading) clip.load();
      }
      tick();
    });
    for (const clip of clips) near.observe(clip.box);
    const sizes = new ResizeObserver(arrange);
    sizes.observe(begun);
    watchers = [near, sizes];
    setStill(still);
  }

  // what tests read
  window.playgroundHome = {
    get clips() {
      return clips.map(({ painted, onScreen, loaded }) => ({ painted, onScreen, loaded }));
    },
    get still() {
      return still;
    },
  };

  calm.addEventListener("change", () => setStill(calm.matches));
  document.addEventListener("visibilitychange", tick);
  const start = () => {
    if (asked) document.body.classList.add("gp-at-home");
    new MutationObserver(arrange).observe(document.body, { attributeFilter: ["class"] });
    const look = () => {
      const bar = document.getElementById("gp-tabs");
      if (!bar || !home() || !chosen()) return setTimeout(look, 60);
      new MutationObserver(follow).observe(bar, {
        subtree: true,
        childList: true,
        attributeFilter: ["aria-selected"],
      });
      new MutationObserver(() => begun?.isConnected || arrange()).observe(
        document.getElementById("gp-home"),
        { subtree: true, childList: true },
      );
      follow();
      arrange();
    };
    look();
  };
  if (document.body) start();
  else addEventListener("DOMContentLoaded", start);
})();
