/* What a pointer does to a panel: reading values, clicking, dragging handles. */
(() => {
  "use strict";

  const {
    heatAt, make, minus, Panel, SENTINEL, setText, sheetBox, sheetOf, shown,
  } = PlaygroundLive;

  const DRAG_MS = 50;

  Object.assign(Panel.prototype, {
    // ------------------------------------------------------------ the pointer

    point(event) {
      if (this.kind !== "plane") return;
      if (!event) {
        this.pointer = null;
        setText(this.readout, "");
        return;
      }
      const place = this.plot.getBoundingClientRect();
      this.pointer = { x: event.clientX - place.left, y: event.clientY - place.top };
      this.read();
    },

    /** Say what is under the pointer. */
    read() {
      const a = this.axes();
      const x = a.x0 + (this.pointer.x - a.left) / a.kx;
      const y = a.y1 - (this.pointer.y - a.top) / a.ky;
      const images = this.marks.find((m) => m.type === "Images");
      if (images) return setText(this.readout, this.readImage(images, x, y));
      const places = Math.max(0, Math.min(6, 2 - Math.floor(Math.log10(this.size.width / a.kx / 4))));
      const at = (v) => minus((Math.abs(v) < 0.5 * 10 ** -places ? 0 : v).toFixed(places));
      const parts = [`x ${at(x)}, y ${at(y)}`];
      for (const mark of this.marks) {
        if (mark.type !== "Heat") continue;
        const value = heatAt(this.get, mark, x, y, this.time);
        const unit = mark.unit ? ` ${mark.unit}` : "";
        if (value !== null) parts.push(`${mark.label} = ${shown(value)}${unit}`);
      }
      setText(this.readout, parts.join(" · "));
    },

    readImage(mark, x, y) {
      const { count, height, width, columns } = sheetOf(mark);
      const column = Math.floor(x / (width + 1));
      const row = Math.floor((sheetBox(mark)[3] - y) / (height + 1));
      const n = row * columns + column;
      if (!(column >= 0 && column < columns && row >= 0 && n < count)) return "";
      const tag = mark.tags && mark.tags[n] ? ` · ${mark.tags[n]}` : "";
      return `${mark.label || "image"} ${n + 1}${tag}`;
    },

    /** A click on the picture, where the page names an action for it. */
    click(event) {
      const name = this.view.extra.click;
      if (!name || this.kind !== "plane" || event.target.closest("button, .modebar")) return;
      const from = this.pressed;
      // the end of a drag is no click
      if (from && Math.hypot(event.clientX - from.x, event.clientY - from.y) > 4) return;
      this.point(event);
      const a = this.axes();
      const x = a.x0 + (this.pointer.x - a.left) / a.kx;
      const y = a.y1 - (this.pointer.y - a.top) / a.ky;
      this.view.send("act", { name, args: { x, y } });
    },

    // ------------------------------------------------------------ handles

    placeHandles() {
      const wanted = [];
      for (const mark of this.marks) {
        if (mark.type !== "Handles") continue;
        for (let i = 0; i < mark.xy.shape[0]; i++) wanted.push({ mark, i });
      }
      while (this.handles.length > wanted.length) this.handles.pop().element.remove();
      while (this.handles.length < wanted.length) this.addHandle();
      wanted.forEach(({ mark, i }, n) => {
        const handle = this.handles[n];
        const codes = this.get(mark.xy);
        const { offset, scale } = mark.xy;
        Object.assign(handle, { mark, i });
        handle.missing = codes[2 * i] === SENTINEL;
        // for a moment after a drag the server still reports where it was before
        if (!handle.held && performance.now() > handle.until) {
          handle.x = offset[0] + scale[0] * codes[2 * i];
          handle.y = offset[1] + scale[1] * codes[2 * i + 1];
        }
        const name = (mark.names && mark.names[i]) || "";
        setText(handle.label, name);
        handle.label.hidden = !name;
        handle.element.setAttribute("aria-label", name || `Handle ${i + 1}`);
        handle.element.style.setProperty("--gp-role", `var(--gp-${mark.role})`);
      });
    },

    addHandle() {
      const label = make("span");
      const element = make("button", "gp-handle", label);
      element.type = "button";
      const handle = { element, label, x: 0, y: 0, held: false, until: 0, sent: 0, timer: 0,
        dragging: false };
      element.addEventListener("pointerdown", (event) => {
        event.preventDefault();
        element.focus({ preventScroll: true });
        element.setPointerCapture(event.pointerId);
        handle.held = true;
      });
      element.addEventListener("pointermove", (event) => {
        if (!handle.held) return;
        const place = this.plot.getBoundingClientRect();
        const a = this.axes();
        const x = Math.min(Math.max(event.clientX - place.left, 0), this.size.width);
        const y = Math.min(Math.max(event.clientY - place.top, 0), this.size.height);
        this.dragTo(handle, a.x0 + (x - a.left) / a.kx, a.y1 - (y - a.top) / a.ky);
      });
      const release = () => {
        if (!handle.held) return;
        handle.held = false;
        handle.until = performance.now() + 600;
        this.tellDrag(handle, true);
      };
      element.addEventListener("pointerup", release);
      element.addEventListener("lostpointercapture", release);
      element.addEventListener("keydown", (event) => {
        const way = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };
        if (!(event.key in way)) return;
        event.preventDefault();
        event.stopPropagation();
        const r = this.view2d();
        const part = (event.shiftKey ? 5 : 1) / 100;
        const ux = (r.x1 - r.x0) * part;
        const uy = this.equal ? ux : (r.y1 - r.y0) * part;
        handle.until = performance.now() + 600;
        this.dragTo(handle, handle.x + way[event.key][0] * ux, handle.y + way[event.key][1] * uy);
      });
      element.addEventListener("keyup", () => this.tellDrag(handle, true));
      this.plot.append(element);
      this.handles.push(handle);
    },

    /** Move a handle now and tell the server soon: at most twenty times a second. */
    dragTo(handle, x, y) {
      Object.assign(handle, { x, y });
      this.moveHandles(this.axes());
      if (handle.timer) return;
      const due = handle.sent + DRAG_MS - performance.now();
      if (due <= 0) this.tellDrag(handle, false);
      else handle.timer = setTimeout(() => this.tellDrag(handle, false), due);
    },

    /** Tell the server where a handle is; the first and the last word of a drag say so. */
    tellDrag(handle, end) {
      clearTimeout(handle.timer);
      handle.timer = 0;
      if (end && !handle.dragging) return;
      const begin = !handle.dragging;
      handle.dragging = !end;
      handle.sent = performance.now();
      this.view.send("act", {
        name: handle.mark.action,
        args: { x: handle.x, y: handle.y, index: handle.i },
        turn: performance.timeOrigin + handle.sent,
        begin,
        end,
      });
    },

    moveHandles(a) {
      const placed = [];
      for (const handle of this.handles) {
        const x = a.left + a.kx * (handle.x - a.x0);
        const y = a.top + a.ky * (a.y1 - handle.y);
        // two names on one spot can neither be read: the second stands on the other side
        const taken = placed.some(([u, v]) => Math.abs(y - v) < 16 && x - u > -60 && x - u < 60);
        handle.element.classList.toggle("gp-named-left", taken && x > 60);
        if (!handle.label.hidden) placed.push([x, y]);
        handle.element.hidden = handle.missing;
        // 11 pixels are half of its size
        handle.element.style.transform = `translate(${x - 11}px, ${y - 11}px)`;
      }
    },
  });
})();
