/* A panel's slider, which runs through keyframes in the browser. */
(() => {
  "use strict";

  const { make, Panel, setText, shown } = PlaygroundLive;

  const SWEEP_MS = 3500;

  Object.assign(Panel.prototype, {
    buildSlider(slider) {
      const key = JSON.stringify(slider);
      if (key === this.sliderKey) return;
      this.sliderKey = key;
      if (this.sliderBox) this.sliderBox.remove();
      this.sliderBox = null;
      this.sweepFrom = 0;
      if (!slider) {
        this.time = null;
        return;
      }
      const input = make("input");
      Object.assign(input, { type: "range", min: slider.low, max: slider.high, step: "any" });
      this.time = Math.min(Math.max(this.time ?? slider.value, slider.low), slider.high);
      // a long one counts things: layers, pixels
      const counts = slider.high - slider.low > 10;
      const named = (value) => (counts ? String(Math.round(value)) : shown(value, 1));
      input.value = this.time;
      input.setAttribute("aria-label", `${slider.label}: ${this.what.title}`);
      const output = make("output", "", named(this.time));
      const sweep = make("button", "gp-sweep", "⟳");
      sweep.type = "button";
      sweep.title = `Sweep ${slider.label}`;
      sweep.setAttribute("aria-label", `Sweep ${slider.label}: ${this.what.title}`);
      const end = (text) => make("span", "gp-end", text || "");
      this.sliderBox = make("div", "gp-slider", sweep, make("span", "gp-end", slider.label),
        end(slider.ends[0]), input, end(slider.ends[1]), output);
      this.figure.append(this.sliderBox);
      this.moveSlider = (value) => {
        this.time = value;
        setText(output, named(value));
        this.dirty = true;
        this.view.schedule();
      };
      const stop = () => {
        this.sweepFrom = 0;
        sweep.setAttribute("aria-pressed", "false");
      };
      input.addEventListener("input", () => {
        stop();
        this.moveSlider(Number(input.value));
      });
      sweep.addEventListener("click", () => {
        if (this.sweepFrom) return stop();
        sweep.setAttribute("aria-pressed", "true");
        this.sweepFrom = performance.now();
        const tick = (now) => {
          if (!this.sweepFrom || !this.figure.isConnected) return;
          // once through, a short rest at the end, and again
          const share = Math.min(1, ((now - this.sweepFrom) % (SWEEP_MS * 1.25)) / SWEEP_MS);
          const value = slider.low + Math.max(0, share) * (slider.high - slider.low);
          input.value = value;
          this.moveSlider(value);
          requestAnimationFrame(tick);
        };
        requestAnimationFrame(tick);
      });
    },
  });
})();
