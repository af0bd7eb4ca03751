/* The tape of a run: every frame that arrives is kept, thinned out as the run grows long,
   so that panels and metrics can be taken back to any moment without asking the server.

       const tape = PlaygroundTape();
       tape.add(frame, blocks);          // a parsed frame and the view's blocks
       tape.entries[i].frame             // what View.apply takes
       PlaygroundTimeline(view, element) // the slider that winds it

   A frame's arrays are blocks named by their content, so frames that share a panel share its
   memory. The rule of thinning is the one of app/timeline.py.

   When another run begins, the one before is thinned and kept as `tape.previous`, to be looked
   at beside its ghost; when it is gone on with (undo, a tab that is opened again) its frames
   are the tape's own again. */
(() => {
  "use strict";

  const DENSE = 10; // seconds at the beginning from which nothing is thinned out
  const COUNT = 320; // frames at most
  const SIZE = 48e6; // bytes at most
  const BEFORE = { count: 80, size: 12e6 }; // what is kept of the run before
  const WORTH = 8; // frames that a run has at least, to be kept
  const PLAY_SECONDS = 8; // a replay takes as long, however long the run was

  class Tape {
    constructor({ count = COUNT, size = SIZE } = {}) {
      Object.assign(this, { count, size, id: null, bytes: 0, version: 0, offset: 0 });
      this.previous = null; // the tape of the run before this one
      this.entries = [];
      this.pinned = null; // the entry that is looked at is never thinned out
      this.blocks = new Map(); // name → {block, uses}
      this.branches = [];
      this.kept = [];
    }

    clear() {
      this.entries = [];
      this.blocks = new Map();
      this.bytes = this.offset = 0;
      this.branches = [];
      this.version++;
    }

    /** Another run begins: keep what there is of this one, if it is worth it. */
    retire() {
      if (this.entries.length >= WORTH) {
        const { entries, blocks, bytes, engine, offset } = this;
        this.previous = Object.assign(new Tape(BEFORE), { entries, blocks, bytes, engine, offset });
        this.previous.thin();
      }
      this.clear();
    }

    /** Whether a frame goes on from where this tape ends. */
    endsBefore(frame, about) {
      const last = this.entries[this.entries.length - 1];
      const same = about.hash && frame.about.hash === last.frame.about.hash;
      return same && last.step > 0 && last.step <= frame.step;
    }

    /** Take up a tape again; its run goes on, and so does its clock. */
    resume(before, frame) {
      const { entries, blocks, bytes } = before;
      Object.assign(this, { entries, blocks, bytes });
      this.offset = Math.max(0, entries[entries.length - 1].seconds - frame.seconds);
    }

    holds(entry) {
      return this.entries.includes(entry) || !!this.previous?.entries.includes(entry);
    }

    /** A kept block by its name, of this run or the one before. */
    find(name) {
      return this.blocks.get(name) || this.previous?.blocks.get(name);
    }

    /** Keep a frame whose blocks are all held. Another run, or a branch, is noticed here. */
    add(frame, blocks) {
      const line = (frame.extra && frame.extra.timeline) || { tape: 0, branches: [], kept: [] };
      if (line.tape !== this.id) {
        const before = this.previous;
        this.retire();
        this.id = line.tape;
        if (before && before.endsBefore(frame, blocks.get(frame.about))) {
          if (this.previous === before) this.previous = null;
          this.resume(before, frame);
        }
      }
      this.engine = blocks.get(frame.about).engine;
      frame.seconds += this.offset;
      this.kept = line.kept;
      if (String(line.branches) !== String(this.branches)) {
        this.branches = line.branches.slice();
        this.cut(line.branches[line.branches.length - 1] ?? frame.step);
      }
      this.cut(frame.step - 1); // a newer picture of the same step takes its place
      const names = blocks.within([frame.about, frame.metrics.what, ...frame.panels]);
      for (const name of names) this.hold(name, blocks.held.get(name));
      this.entries.push({ frame, names, step: frame.step, seconds: frame.seconds });
      this.thin();
      this.version++;
    }

    thin() {
      while (this.entries.length > 2 && (this.entries.length > this.count || this.bytes > this.size)) {
        this.remove(this.dullest());
      }
    }

    hold(name, block) {
      const held = this.blocks.get(name);
      if (held) held.uses++;
      else {
        this.blocks.set(name, { block, uses: 1 });
        this.bytes += block.bytes.length;
      }
    }

    remove(i) {
      for (const name of this.entries[i].names) {
        const held = this.blocks.get(name);
        if (--held.uses) continue;
        this.bytes -= held.block.bytes.length;
        this.blocks.delete(name);
      }
      this.entries.splice(i, 1);
    }

    /** Index of the frame that leaves the smallest gap behind, on a logarithmic axis of time. */
    dullest() {
      const at = this.entries.map((entry) => entry.seconds);
      const gap = (i) => Math.log((1 + at[i + 1]) / (1 + at[i - 1]));
      const best = (from) => {
        let found = -1;
        for (let i = 1; i < at.length - 1; i++) {
          if (at[i] > from && this.entries[i] !== this.pinned && (found < 0 || gap(i) < gap(found))) found = i;
        }
        return found;
      };
      const late = best(DENSE);
      return late > 0 ? late : Math.max(1, best(-1));
    }

    cut(step) {
      while (this.entries.length && this.entries[this.entries.length - 1].step > step) {
        this.remove(this.entries.length - 1);
      }
    }

    /** Index of the entry nearest to a step. */
    near(step) {
      let best = 0;
      this.entries.forEach((entry, i) => {
        if (Math.abs(entry.step - step) < Math.abs(this.entries[best].step - step)) best = i;
      });
      return best;
    }

    // ------------------------------------------------------------ to and from a file

    /** Plain JSON of it all; blocks are base64. */
    dump(most = Infinity) {
      const stride = Math.max(1, Math.ceil(this.entries.length / most));
      const last = this.entries.length - 1;
      const chosen = this.entries.filter((_, i) => i % stride === 0 || i === last);
      const blocks = {};
      for (const { names } of chosen) {
        for (const name of names) blocks[name] ??= base64Of(this.blocks.get(name).block.bytes);
      }
      const branches = this.branches;
      return { frames: chosen.map((e) => e.frame), blocks, branches };
    }

    static load({ frames, blocks, branches }, view) {
      const tape = new Tape({ count: Infinity, size: Infinity });
      for (const [name, text] of Object.entries(blocks)) view.blocks.put(name, bytesOf(text));
      for (const frame of frames) {
        frame.extra.timeline = { tape: 0, branches: [], kept: [] };
        delete frame.consumed; // a mark of the page that it comes from
        tape.add(frame, view.blocks);
      }
      tape.branches = branches;
      return tape;
    }
  }

  function base64Of(bytes) {
    if (bytes.toBase64) return bytes.toBase64();
    let text = "";
    for (let i = 0; i < bytes.length; i += 8192) {
      text += String.fromCharCode(...bytes.subarray(i, i + 8192));
    }
    return btoa(text);
  }

  function bytesOf(base64) {
    const text = atob(base64);
    return Uint8Array.from(text, (c) => c.charCodeAt(0));
  }

  // ================================================================ the slider

  function make(tag, className, ...children) {
    const element = document.createElement(tag);
    if (className) element.className = className;
    element.append(...children);
    return element;
  }

  function button(className, text, label) {
    const element = make("button", className, text);
    element.type = "button";
    element.title = label;
    element.setAttribute("aria-label", label);
    return element;
  }

  const count = (n) => n.toLocaleString("en-US");

  /** Winds a view's tape: drag to go back, Live to return, Branch to go on from there. */
  class Timeline {
    constructor(view, element, { alone = false } = {}) {
      Object.assign(this, { view, element, alone, playing: 0, before: false });
      this.input = make("input");
      Object.assign(this.input, { type: "range", min: 0, max: 0, step: 1, value: 0 });
      this.input.setAttribute("aria-label", "Timeline");
      this.input.title = "Go back to any moment of this run (Shift ← →)";
      this.marks = make("div", "gp-marks");
      this.track = make("div", "gp-track", this.marks, this.input);
      this.replay = button("gp-replay", "▷", alone ? "Play (space)" : "Replay the run from its beginning");
      this.where = make("output", "gp-where");
      this.chip = button("gp-before", "Previous run", "Look at the pictures of the run before this one");
      this.live = button("gp-live", "Live", "Back to the present (Esc)");
      this.branch = button("gp-branch", "↳ Branch", "Go on training from this moment");
      element.classList.add("gp-timeline");
      element.replaceChildren(this.replay, this.track, this.where);
      if (!alone) element.append(this.chip, this.branch, this.live);
      this.input.addEventListener("input", () => {
        this.stop();
        this.wind(Number(this.input.value));
      });
      this.replay.addEventListener("click", () => (this.playing ? this.stop() : this.start()));
      this.chip.addEventListener("click", () => this.turn());
      this.live.addEventListener("click", () => this.present());
      this.branch.addEventListener("click", () => {
        const entry = view.past;
        if (!entry) return;
        view.send("branch", { step: this.keptNear(entry.step) });
        this.present();
      });
      this.onKey = (event) => this.key(event);
      document.addEventListener("keydown", this.onKey);
      view.timeline = this;
      this.refresh();
    }

    /** What the slider winds: this run, or the one before. */
    get tape() {
      return (this.before && this.view.tape.previous) || this.view.tape;
    }

    /** To the last picture of the run before, and back to the present. */
    turn() {
      if (this.before) return this.present();
      this.stop();
      this.before = true;
      this.wind(this.tape.entries.length - 1);
    }

    keptNear(step) {
      const kept = this.tape.kept;
      return kept.reduce((a, b) => (Math.abs(b - step) < Math.abs(a - step) ? b : a), kept[0]);
    }

    key(event) {
      if (event.target.closest?.("input[type=text], textarea, select, [contenteditable=true]")) return;
      if (event.key === "Escape" && this.view.past && !this.alone) this.present();
      const way = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      const mine = event.shiftKey || this.alone;
      if (!way || !mine || event.target === this.input || event.ctrlKey || event.altKey) return;
      event.preventDefault();
      event.stopImmediatePropagation();
      this.stop();
      const now = this.index();
      this.wind(Math.min(Math.max(now + way, 0), this.tape.entries.length - 1));
    }

    index() {
      const i = this.tape.entries.indexOf(this.view.past);
      return i < 0 ? this.tape.entries.length - 1 : i;
    }

    /** Show the entry at an index; the last one of a run that goes on is the present. */
    wind(i) {
      const entry = this.tape.entries[i];
      if (!entry) return;
      if (i === this.tape.entries.length - 1 && !this.alone && !this.before) return this.present();
      this.view.rewind(entry);
      this.refresh();
    }

    present() {
      this.stop();
      this.before = false;
      this.view.rewind(null);
      this.refresh();
    }

    /** Replay evenly over the frames: so what is early and quick is seen as slowly as the rest. */
    start() {
      const last = this.tape.entries.length - 1;
      if (last < 1) return;
      const from = this.index() >= last ? 0 : this.index();
      const begin = performance.now();
      const rate = Math.max(last, 1) / (PLAY_SECONDS * 1000);
      const turn = (this.playing = (this.playing || 0) + 1);
      this.element.classList.add("gp-replaying");
      const tick = () => {
        if (this.playing !== turn || !this.element.isConnected) return;
        const i = Math.round(from + (performance.now() - begin) * rate);
        if (i >= this.tape.entries.length - 1) {
          this.stop();
          return this.wind(this.tape.entries.length - 1);
        }
        this.wind(i);
        requestAnimationFrame(tick);
      };
      requestAnimationFrame(tick);
      this.refresh();
    }

    stop() {
      this.playing = 0;
      this.element.classList.remove("gp-replaying");
    }

    /** Bring the slider up to date; called whenever a frame was kept or shown. */
    refresh() {
      const { previous } = this.view.tape;
      const earlier = previous && previous.engine === this.view.tape.engine;
      if (!this.view.past || !earlier) this.before = false; // another run took its place
      const { entries, branches, kept } = this.tape;
      const past = this.view.past;
      const last = Math.max(0, entries.length - 1);
      const key = `${this.tape.version} ${past ? past.step : ""} ${this.playing ? 1 : 0} ${this.before} ${earlier}`;
      if (key === this.shownKey) return;
      this.shownKey = key;
      this.input.max = last;
      this.input.disabled = last < 1;
      this.replay.disabled = last < 1;
      this.input.value = past ? this.index() : last;
      this.input.style.setProperty("--fill", `${last ? (100 * this.input.value) / last : 100}%`);
      const at = past || entries[last];
      const run = this.before ? "previous run · " : "";
      const text = at ? `${run}step ${count(at.step)} · ${at.seconds.toFixed(1)} s` : "";
      if (this.where.textContent !== text) this.where.textContent = text;
      this.input.setAttribute("aria-valuetext", text);
      this.where.hidden = !this.alone && !past;
      this.live.hidden = !past;
      this.branch.hidden = !past || this.before;
      this.chip.hidden = !earlier || (past && !this.before);
      this.chip.setAttribute("aria-pressed", String(this.before));
      if (past && kept.length) {
        const label = `↳ Branch from ${count(this.keptNear(past.step))}`;
        if (this.branch.textContent !== label) this.branch.textContent = label;
      }
      this.branch.disabled = !kept.length;
      this.replay.textContent = this.playing ? "❚❚" : "▷";
      document.body.classList.toggle("gp-rewound", !!past && !this.alone);
      const wanted = `${branches} ${last} ${this.before}`;
      if (wanted === this.shownMarks) return;
      this.shownMarks = wanted;
      this.marks.replaceChildren(...branches.map((step) => {
        const mark = make("i", "", "↳");
        mark.style.left = `${last ? (100 * this.tape.near(step)) / last : 0}%`;
        mark.title = `Branched at step ${count(step)}`;
        return mark;
      }));
    }

    close() {
      this.stop();
      document.removeEventListener("keydown", this.onKey);
    }
  }

  window.PlaygroundTape = (options) => new Tape(options);
  window.PlaygroundTape.load = Tape.load;
  window.PlaygroundTimeline = (view, element, options) => new Timeline(view, element, options);
})();
