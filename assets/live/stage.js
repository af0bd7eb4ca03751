/* The view's panels: which are there, laid out, zoomed together, enlarged and put away. */
(() => {
  "use strict";

  const { arrange, CAPTION, LEAST, make, Panel, placeRow, stored, Theme, View } = PlaygroundLive;

  Object.assign(View.prototype, {
    showPanels(references, late) {
      const seen = new Set();
      let changed = false;
      for (const [place, reference] of references.entries()) {
        const content = this.blocks.get(reference);
        const what = this.blocks.get(content.what);
        if (this.hidden.has(what.id)) continue; // the server has not heard of it yet
        const key = `${what.lane}:${what.id}`;
        seen.add(key);
        let panel = this.panels.get(key);
        if (!panel) {
          panel = new Panel(this, key);
          panel.plot.panel = panel;
          this.panels.set(key, panel);
          this.grid.append(panel.figure);
          this.observer.observe(panel.plot);
          this.watcher.observe(panel.plot);
          changed = true;
        }
        const size = panel.what && panel.what.size;
        panel.update(reference.hash, content);
        panel.tell(late[place]);
        changed ||= size !== panel.what.size;
      }
      for (const [key, panel] of this.panels) {
        if (seen.has(key)) continue;
        panel.remove();
        this.panels.delete(key);
        changed = true;
      }
      this.order = [...seen];
      const names = this.order.join("\n");
      // what is told above and below the pictures may take a line more
      const pushed = this.excess() !== this.stuck;
      if (changed || pushed || names !== this.panelNames) this.layout();
      this.panelNames = names;
    },

    /** What a page that shall not scroll (a lecture) says it takes around the main pictures, which
        share the rest of the window; [NaN, NaN] where it may. */
    around() {
      const style = getComputedStyle(this.root);
      return ["--gp-around", "--gp-below"].map((name) => parseFloat(style.getPropertyValue(name)));
    },

    /** By how many pixels the main pictures reach too far down. */
    excess() {
      const [around, below] = this.around();
      if (!(around > 0)) return 0;
      const main = [...this.panels.values()].filter((p) => p.what && p.what.size === "large");
      const bottoms = main.map((p) => p.figure.getBoundingClientRect().bottom + window.scrollY);
      return Math.max(0, Math.ceil(Math.max(0, ...bottoms) - (window.innerHeight - below)));
    },

    layout() {
      const width = this.grid.clientWidth;
      if (!width || !this.order) return;
      this.laidOut = width;
      const panels = this.order.map((key) => this.panels.get(key)).filter(Boolean);
      let order = 1;
      const filled = this.root.classList.contains("gp-filled");
      const [around] = this.around();
      const rows = arrange(panels, width, this.enlarged, around > 0);
      const main = rows.filter((row) => row.panels[0].what.size === "large");
      let room = (window.innerHeight - around) / main.length - CAPTION;
      const placed = () => {
        order = 1;
        for (const row of rows) {
          placeRow(row, order, width, filled, main.includes(row) && room > 0 ? room : Infinity);
          order += row.panels.length;
        }
        return this.excess();
      };
      // captions, legends and sliders take what they take: the pictures give way, more than once
      // where it was not `room` that kept them small
      this.stuck = placed();
      for (let tries = 0; this.stuck > 0 && room > LEAST && tries < 4; tries++) {
        room = Math.max(LEAST, room - this.stuck / main.length);
        this.stuck = placed();
      }
      for (const panel of panels) panel.resize(panel.plot.clientWidth, panel.plot.clientHeight);
    },

    resized(entries) {
      for (const { target, contentRect } of entries) {
        if (target === this.grid) {
          if (contentRect.width && contentRect.width !== this.laidOut) this.layout();
        } else if (target.panel) {
          target.panel.resize(Math.round(contentRect.width), Math.round(contentRect.height));
        }
      }
      this.looked(); // a tab that was hidden may have come back
    },

    recolour() {
      const before = this.theme;
      this.theme = new Theme(this.root);
      if (before.dark === this.theme.dark && before.ink === this.theme.ink && before.type === this.theme.type) {
        this.theme = before;
        return;
      }
      for (const panel of this.panels.values()) panel.recolour();
      this.schedule();
    },

    /** Zoom one panel, and with it all that show the same box: eyes compare. */
    zoom(panel, shift, final) {
      const box = panel.what.box && String(panel.what.box);
      for (const other of this.panels.values()) {
        if (other !== panel && !(box && other.kind === "plane" && String(other.what.box) === box)) {
          continue;
        }
        other.setShift(shift, final && (other !== panel || shift === null));
      }
      this.schedule();
    },

    enlarge(id) {
      this.enlarged = id === this.enlarged ? null : id;
      this.layout();
      const panel = [...this.panels.values()].find((p) => p.what.id === this.enlarged);
      if (panel) panel.figure.scrollIntoView({ block: "nearest" });
      this.tell();
      this.schedule();
    },

    /** One panel over the whole window, and back again. */
    fill(id) {
      const on = !this.root.classList.contains("gp-filled");
      if (on && this.enlarged !== id) this.enlarge(id);
      this.root.classList.toggle("gp-filled", on);
      this.recolour(); // larger type
      const full = document.fullscreenElement;
      // a frame may not be allowed the screen: then the window is what it fills
      if (on && !full) this.root.requestFullscreen?.().catch(() => {});
      if (!on) {
        if (full === this.root) document.exitFullscreen().catch(() => {});
        this.enlarge(id);
      }
      this.layout();
    },

    hide(id, away) {
      const panel = [...this.panels.values()].find((p) => p.what.id === id);
      if (away) this.hidden.set(id, panel ? panel.what.title : id);
      else this.hidden.delete(id);
      if (away) {
        for (const [key, one] of this.panels) {
          if (one.what.id !== id) continue;
          one.remove();
          this.panels.delete(key);
        }
        this.order = this.order.filter((key) => this.panels.has(key));
        if (this.enlarged === id) this.enlarged = null;
        this.layout();
      }
      stored.set(this.memory, [...this.hidden]);
      this.showChips();
      this.tell();
      this.schedule();
    },

    tell() {
      this.send("view", { hidden: [...this.hidden.keys()], enlarged: this.enlarged });
    },

    /** The panels that this visitor had put away for this model. */
    recall(memory) {
      if (memory === this.memory) return;
      this.memory = memory;
      const before = [...this.hidden.keys()].join();
      const kept = stored.get(memory);
      const sound = (entry) => Array.isArray(entry) && entry.length === 2 &&
        entry.every((text) => typeof text === "string");
      this.hidden = new Map(Array.isArray(kept) ? kept.filter(sound).slice(0, 50) : []);
      this.showChips();
      if ([...this.hidden.keys()].join() !== before) this.tell();
    },

    showChips() {
      this.chips.replaceChildren();
      if (!this.hidden.size) return;
      this.chips.append("Hidden:");
      for (const [id, title] of this.hidden) {
        const chip = make("button", "", `+ ${title}`);
        chip.type = "button";
        chip.setAttribute("aria-label", `Show: ${title}`);
        chip.addEventListener("click", () => this.hide(id, false));
        this.chips.append(chip);
      }
    },
  });
})();
