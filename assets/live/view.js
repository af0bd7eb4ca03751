/* The whole view: takes frames, paints the newest, acknowledges what it has painted. */
(() => {
  "use strict";

  const { Blocks, make, Metrics, readFrame, setEquation, setText, Theme } = PlaygroundLive;

  const ACK_MS = 300;
  const HIDDEN_ACK_MS = 1000;

  class View {
    constructor(root, { trigger } = {}) {
      Object.assign(this, { root, trigger: trigger || (() => {}), next: null, queued: false });
      Object.assign(this, { about: null, extra: {}, enlarged: null, panelNames: "", timer: 0 });
      Object.assign(this, { ackedAt: -Infinity, sinceAck: 0, ackTimer: 0, paintedSeq: 0 });
      Object.assign(this, { hiddenAt: -Infinity, missedAt: -1e9 });
      this.wasVisible = true;
      this.blocks = new Blocks();
      this.tape = this.blocks.tape = window.PlaygroundTape ? window.PlaygroundTape() : null;
      this.past = null; // the entry of the tape that is shown in place of the present
      this.present = null; // the newest frame
      this.panels = new Map();
      this.hidden = new Map(); // id → title, of the panels put away
      this.toMount = [];
      this.slots = new Map();
      this.searched = new Map();
      this.metrics = new Metrics();
      this.stats = { ready: false, drawn: 0, step: 0, ages: [], error: null };
      this.build();
      this.theme = new Theme(root);
      this.listen();
    }

    build() {
      this.heading = make("h2");
      this.tagline = make("span", "gp-tagline");
      this.equation = make("span", "gp-equation");
      this.head = make("div", "gp-head", this.heading, this.tagline, this.equation);
      this.grid = make("div", "gp-grid");
      this.chips = make("div", "gp-hidden");
      this.look = make("div", "gp-look");
      this.note = make("div", "gp-note");
      this.note.setAttribute("role", "status");
      this.progress = make("div", "gp-progress");
      this.root.classList.add("gp-view");
      this.root.replaceChildren(this.head, this.grid, this.chips);
    }

    listen() {
      this.observer = new ResizeObserver((entries) => this.resized(entries));
      this.observer.observe(this.grid);
      // what is far outside the window is painted once it comes near
      this.watcher = new IntersectionObserver(
        (entries) => {
          for (const { target, isIntersecting } of entries) {
            if (target.panel) target.panel.onScreen = isIntersecting;
          }
          this.schedule();
        },
        { rootMargin: "60%" },
      );
      this.onVisible = () => this.looked();
      document.addEventListener("visibilitychange", this.onVisible);
      this.onKey = (event) => {
        if (event.key !== "Escape" || this.enlarged === null) return;
        if (this.root.classList.contains("gp-filled")) {
          event.stopImmediatePropagation(); // one thing at a time: what is past stays in view
          this.fill(this.enlarged);
        } else if (!this.past) this.enlarge(null);
      };
      // the browser's own Esc leaves the full screen: so does the panel
      this.onFull = () => {
        if (!document.fullscreenElement && this.root.classList.contains("gp-filled")) {
          this.fill(this.enlarged);
        }
      };
      document.addEventListener("fullscreenchange", this.onFull);
      document.addEventListener("keydown", this.onKey);
      this.themes = new MutationObserver(() => this.recolour());
      for (const element of [document.body, document.documentElement]) {
        this.themes.observe(element, { attributes: true, attributeFilter: ["class"] });
      }
    }

    send(name, data) {
      if (this.past && name === "act") return; // the past cannot be changed, only branched from
      try {
        this.trigger(name, data);
      } catch (error) {
        this.fail(error);
      }
    }

    fail(error) {
      this.stats.error = String((error && error.message) || error);
      console.error(error);
    }

    get visible() {
      // not offsetParent: what fills the window is fixed, and has none
      return !document.hidden && this.root.getClientRects().length > 0;
    }

    /** Tell the page when the view goes out of sight or comes back, and catch up. */
    looked() {
      const visible = this.visible;
      if (visible !== this.wasVisible) this.send("view", { visible });
      this.wasVisible = visible;
      this.schedule();
    }

    // ------------------------------------------------------------ frames

    /** Take one packed frame. It is painted soon, unless a newer one arrives before that. */
    show(base64) {
      try {
        const frame = readFrame(base64, this.blocks);
        if (frame.missing) return this.missed(frame);
        // an answer that was overtaken on its way; a restarted server counts from 1 again
        const last = this.present;
        if (last && frame.seq < last.seq && frame.t < last.t) return;
        this.present = frame;
        if (this.tape) {
          this.tape.add(frame, this.blocks);
          // another run has begun, or a branch before what was looked at
          if (!this.tape.holds(this.past)) this.past = null;
        }
        if (!this.past) this.next = frame;
        if (!this.visible) this.unseen(frame);
        else if (this.past) {
          this.consumed(frame);
          this.announce(frame);
        } else this.schedule();
        if (this.timeline) this.timeline.refresh();
      } catch (error) {
        this.fail(error);
      }
    }

    /** Show an entry of the tape, or with null the present again. */
    rewind(entry) {
      if (entry === this.past) return;
      this.past = this.tape.pinned = entry;
      this.next = entry ? entry.frame : this.present;
      this.schedule();
    }

    /** Paint what waits, charts too, at once: for a film. */
    paintNow() {
      this.paint();
      for (const panel of this.panels.values()) if (panel.dirty) panel.paint(performance.now());
    }

    /** A frame was lost on the way: ask for everything, but not for every frame. */
    missed(frame) {
      const now = performance.now();
      if (now - this.missedAt < 500) return;
      this.missedAt = now;
      this.send("ack", { seq: frame.seq, missing: true });
    }

    unseen(frame) {
      const now = performance.now();
      if (now - this.hiddenAt < HIDDEN_ACK_MS) return;
      this.hiddenAt = now;
      this.send("ack", { seq: frame.seq, hidden: true });
    }

    schedule() {
      if (this.queued) return;
      this.queued = true;
      requestAnimationFrame((now) => {
        this.queued = false;
        try {
          this.paint(now);
        } catch (error) {
          this.fail(error);
        }
      });
    }

    paint() {
      if (!this.visible || !this.styled()) return;
      const frame = this.next;
      this.next = null;
      if (frame) this.apply(frame);
      const now = performance.now();
      let soonest = Infinity;
      for (const panel of this.panels.values()) {
        const wait = panel.wait(now);
        if (wait <= 0) panel.paint(now);
        else soonest = Math.min(soonest, wait);
      }
      if (frame) {
        this.account(frame);
        if (!this.past) this.announce(frame);
        else document.dispatchEvent(new CustomEvent("playground:past", { detail: frame.extra }));
      }
      if (!PlaygroundLive.Plotly) return this.fetchPlotly();
      // one graph a turn, so that the page never stands still for all of them
      const panel = this.toMount.shift();
      if (panel && this.panels.get(panel.key) === panel) panel.mount();
      if (this.toMount.length) this.schedule();
      else if (this.stats.drawn) this.stats.ready = true;
      if (soonest < Infinity && !this.timer) {
        this.timer = setTimeout(() => {
          this.timer = 0;
          this.schedule();
        }, soonest + 1);
      }
    }

    /** Once a picture is on the screen, and not before. */
    fetchPlotly() {
      if (this.fetching || !this.stats.drawn) return;
      this.fetching = true;
      const fetch = () =>
        PlaygroundLive.plotly().then(() => this.schedule(), (error) => this.fail(error));
      requestAnimationFrame(() => setTimeout(fetch));
    }

    /** Whether the style sheet with the colours has arrived; else look again soon. */
    styled() {
      if (this.theme.ink) return true;
      this.theme = new Theme(this.root);
      if (this.theme.ink) return true;
      setTimeout(() => this.schedule(), 30);
      return false;
    }

    later(panel) {
      if (!this.toMount.includes(panel)) this.toMount.push(panel);
    }

    /** Tell the page what a frame says beside its pictures. */
    announce(frame) {
      const detail = { ...frame.extra, about: this.blocks.get(frame.about), step: frame.step };
      document.dispatchEvent(new CustomEvent("playground:frame", { detail }));
    }

    /** Count a painted frame. */
    account(frame) {
      window.playground = this.stats;
      this.stats.step = frame.step;
      if (frame.consumed) return; // of the past: it was counted when it came
      this.stats.drawn++;
      if (this.past) {
        frame.consumed = true; // a frame that was overtaken when it came: nobody waits for it
        return;
      }
      this.stats.ages.push(Date.now() - frame.t);
      if (this.stats.ages.length > 1000) this.stats.ages.splice(0, 100);
      this.consumed(frame);
    }

    /** Acknowledge a frame: the server waits for what nobody has seen. */
    consumed(frame) {
      frame.consumed = true;
      const wait = this.ackedAt + ACK_MS - performance.now();
      this.sinceAck++;
      this.paintedSeq = frame.seq;
      this.owed = !!frame.extra.owed;
      this.hiddenAt = -Infinity;
      if (this.sinceAck >= 5 || wait <= 0 || frame.extra.playing === false) this.acknowledge();
      // later, if no frame comes before: it may be the last that the server dares to send
      else if (!this.ackTimer) this.ackTimer = setTimeout(() => this.acknowledge(), wait);
    }

    acknowledge() {
      clearTimeout(this.ackTimer);
      this.ackTimer = this.sinceAck = 0;
      this.ackedAt = performance.now();
      const owed = this.owed; // what this frame did not wait for: asked for once
      this.owed = false;
      this.send("ack", { seq: this.paintedSeq, ...(owed ? { owed } : {}) });
    }

    apply(frame) {
      this.extra = frame.extra || {};
      const about = this.blocks.get(frame.about);
      if (about !== this.about) this.describe(about);
      this.showNote(frame.note);
      this.note.classList.toggle("gp-notice", !!this.extra.notice);
      this.showProgress(frame);
      this.metrics.laneNames = this.extra.lanes;
      const { what, fields, now } = frame.metrics;
      this.metrics.show(this.blocks.get(what), fields, now);
      this.metrics.age(frame.step, this.extra.owed);
      this.put("metrics", this.metrics.element);
      this.showPanels(frame.panels, frame.late);
    }

    describe(about) {
      this.about = about;
      const text = (key) => (about[key] === undefined || about[key] === null ? "" : `${about[key]}`);
      setText(this.heading, text("title"));
      setText(this.tagline, text("tagline"));
      setEquation(this.equation, text("objective"));
      this.head.hidden = !text("title");
      this.look.replaceChildren();
      if (text("look_for")) this.look.append(make("b", "", "What to look for. "), text("look_for"));
      if (text("paper")) this.look.append(make("cite", "", text("paper")));
      this.put("look", this.look);
      this.recall(`gp-hidden ${text("title")}`);
    }

    showNote(text) {
      setText(this.note, text || "");
      this.put("note", this.note);
    }

    showProgress(frame) {
      const rate = frame.rate > 0 ? (frame.rate < 10 ? frame.rate.toFixed(1) : Math.round(frame.rate)) : 0;
      const parts = [frame.step, rate, frame.seconds.toFixed(1)];
      if (!this.progressParts) {
        this.progressParts = parts.map(() => make("b"));
        const [step, speed, time] = this.progressParts;
        // each in a box of its own: what does not fit is left out as a whole, see the style
        this.progress.append(make("span", "", "step ", step), make("span", "", "· ", speed, " steps/s"),
          make("span", "", "· ", time, " s"));
      }
      setText(this.progressParts[0], parts[0].toLocaleString("en-US"));
      setText(this.progressParts[1], parts[1].toLocaleString("en-US"));
      setText(this.progressParts[2], Number(parts[2]).toLocaleString("en-US",
        { minimumFractionDigits: 1 }));
      this.put("progress", this.progress);
    }

    /** Put an element into the nearest [data-slot=name] of the page, else into the view. */
    put(name, element) {
      const slot = this.slots.get(name);
      if (slot && slot.isConnected && element.parentNode === slot) return;
      const now = performance.now();
      // without a slot the page may still be building: look again, but not at every frame
      if (element.parentNode === this.root && now - (this.searched.get(name) || 0) < 1000) return;
      this.searched.set(name, now);
      const found = nearestSlot(this.root, name);
      if (found) {
        this.slots.set(name, found);
        found.classList.add("gp-slot");
        found.replaceChildren(element);
      } else if (element.parentNode !== this.root) {
        if (name === "note") this.root.insertBefore(element, this.grid);
        else this.root.append(element);
      }
    }

    /** Take the view apart: for pages that replace it. */
    close() {
      for (const panel of this.panels.values()) panel.remove();
      this.panels.clear();
      this.observer.disconnect();
      this.watcher.disconnect();
      this.themes.disconnect();
      document.removeEventListener("visibilitychange", this.onVisible);
      document.removeEventListener("keydown", this.onKey);
      document.removeEventListener("fullscreenchange", this.onFull);
      clearTimeout(this.timer);
    }
  }

  /** The slot that shares the closest ancestor with the view, but is not inside one. */
  function nearestSlot(root, name) {
    for (let up = root.parentElement; up; up = up.parentElement) {
      const found = up.querySelector(`[data-slot="${name}"]`);
      if (found) return found;
    }
    return null;
  }

  window.PlaygroundView = (root, options) => new View(root, options);

  Object.assign(PlaygroundLive, { View });
})();
