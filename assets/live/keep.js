/* A panel as a picture to keep. */
(() => {
  "use strict";

  const { make, Panel } = PlaygroundLive;

  Object.assign(Panel.prototype, {
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
    },

    /** The graph as an image; over a canvas it is but axes, which are made once a range. */
    async graphImage(kept) {
      const { width, height } = this.size;
      const key = this.kind === "plane" &&
        JSON.stringify([this.view2d(), width, height, this.view.theme.version]);
      if (key && kept.has(key)) return kept.get(key);
      const image = new Image();
      image.src = await PlaygroundLive.Plotly.toImage(this.graph, { format: "svg", width, height });
      await image.decode();
      if (key) kept.set(key, image);
      return image;
    },

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
    },

    /** Save a chart as a vector drawing. */
    async saveVector() {
      const { width, height } = this.size;
      this.download(await PlaygroundLive.Plotly.toImage(this.graph, { format: "svg", width, height }), "svg");
    },

    download(url, ending) {
      const link = make("a");
      link.href = url;
      const name = this.what.title.replace(/[^\w]+/g, "-").toLowerCase();
      link.download = `${name || "panel"}.${ending}`;
      link.click();
    },

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
    },
  });
})();
