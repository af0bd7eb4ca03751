/* A panel's slider, which runs through keyframes in the browser. */
(() => {
  "use strict";

  const { make, minus, Panel, setText } = PlaygroundLive;

  const SWEEP_MS = 3500;

  Object.assign(Panel.prototype, {
    buildSlider(slider) {
      const key = JSON.stringify(slider);
      if (key === this.sliderKey) return;
      this.sliderKey = key;
      const untouched = this.slider && this.time === this.slider.value;
      this.slider = slider;
      if (this.sliderBox) this.sliderBox.remove();
      this.sliderBox = null;
      this.sweepFrom = 0;
      if (!slider) {
        this.time = null;
        return;
      }
      const input = make("input");
      Object.assign(input, { type: "range", min: slider.low, max: slider.high, step: "any" });
      // a panel that joins others stands where they stand
      const stood = this.linked().find((panel) => panel !== this)?.time ?? this.time;
      const output = make("output");
      input.setAttribute("aria-label", `${slider.label}: ${this.what.title}`);
      const sweep = make("button", "gp-sweep", "⟳");
      sweep.type = "button";
      sweep.title = `Sweep ${slider.label}`;
      sweep.setAttribute("aria-label", `Sweep ${slider.label}: ${this.what.title}`);
      const end = (text) => make("span", "gp-end", text || "");
      this.sliderBox = make("div", "gp-slider", sweep, make("span", "gp-end", slider.label),
        end(slider.ends[0]), input, end(slider.ends[1]), output);
      this.figure.append(this.sliderBox);
      this.setTime = (value) => {
        this.time = Math.min(Math.max(value, slider.low), slider.high);
        input.value = this.time;
        const text = named(slider, this.time);
        setText(output, text);
        input.setAttribute("aria-valuetext", text);
        this.dirty = true;
      };
      this.stopSweep = () => {
        this.sweepFrom = 0;
        sweep.setAttribute("aria-pressed", "false");
      };
      // nobody has moved it: where the engine puts it, though it now has another range
      this.setTime(untouched ? slider.value : (stood ?? slider.value));
      this.stopSweep();
      input.addEventListener("input", () => {
        for (const panel of this.linked()) panel.stopSweep();
        this.moveSlider(Number(input.value));
      });
      sweep.addEventListener("click", () => {
        const sweeping = this.sweepFrom;
        for (const panel of this.linked()) panel.stopSweep();
        if (sweeping) return;
        sweep.setAttribute("aria-pressed", "true");
        const began = (this.sweepFrom = performance.now());
        const tick = (now) => {
          if (this.sweepFrom !== began || !this.figure.isConnected) return;
          // once through, a short rest at the end, and again
          const share = Math.min(1, ((now - began) % (SWEEP_MS * 1.25)) / SWEEP_MS);
          this.moveSlider(slider.low + Math.max(0, share) * (slider.high - slider.low));
          requestAnimationFrame(tick);
        };
        requestAnimationFrame(tick);
      });
    },

    /** This panel, and those whose sliders move with its own. */
    linked() {
      const name = this.slider?.linked;
      const others = name ? [...this.view.panels.values()] : [];
      return [this, ...others.filter((p) => p !== this && p.slider?.linked === name)];
    },

    moveSlider(value) {
      for (const panel of this.linked()) panel.setTime(value);
      this.view.schedule();
    },
  });

  /** The slider's value in words. A long slider counts things: layers, pixels. */
  function named({ low, high }, value) {
    if (high - low > 10) return String(Math.round(value));
    const places = high - low >= 2 ? 1 : 2;
    return minus((Math.abs(value) < 0.5 * 10 ** -places ? 0 : value).toFixed(places));
  }
})();
