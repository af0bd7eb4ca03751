/* Marks of places: points, and Gaussians as ellipses. */
(() => {
  "use strict";

  const { make, PAINTERS, PLACES, project } = PlaygroundLive;

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

  Object.assign(PAINTERS, { Points: paintPoints, Ellipses: paintEllipses });

  Object.assign(PlaygroundLive, { Layer });
})();
