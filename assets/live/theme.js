/* The colours, and the ready-made pixels that are painted with them. */
(() => {
  "use strict";

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

  Object.assign(PlaygroundLive, { Theme, PLACES });
})();
