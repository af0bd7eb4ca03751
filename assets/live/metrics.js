/* The numbers beside the stage. */
(() => {
  "use strict";

  const { make, minus, setText, shown } = PlaygroundLive;

  /** The table of metrics: built when names change, and only its numbers touched after. */
  class Metrics {
    constructor() {
      this.element = make("table", "gp-metrics");
      this.what = null;
      this.now = "";
      this.rows = [];
    }

    show(what, fields, now) {
      const key = JSON.stringify(now);
      if (what === this.what && key === this.now) return;
      if (what !== this.what) this.build(what);
      this.what = what;
      this.now = key;
      const at = Object.fromEntries(fields.map((name, i) => [name, i]));
      this.rows.forEach((row, i) => {
        const get = (name) => now[i][at[name]];
        row.element.dataset.step = get("step");
        setText(row.kind, SIGNS[row.metric.kind] || "");
        setText(row.value, metricValue(row.metric, get("value")));
        setText(row.floor, metricFloor(row.metric, get("se"), get("floor")));
        row.name.title = metricHelp(row.metric, get("se"), get("floor"));
        setText(row.note, get("note") || "");
        row.note.hidden = !get("note");
        showRival(row, numeric(get("value")), numeric(get("rival")));
      });
    }

    build(what) {
      const head = make("tr", "gp-unseen");
      for (const name of ["Metric", "Value", "Standard error or floor"]) {
        const cell = make("th", "", name);
        cell.scope = "col";
        head.append(cell);
      }
      const body = make("tbody");
      const lanes = new Set(what.map((m) => m.lane));
      let lane = null;
      const order = what.map((metric, i) => ({ metric, i }));
      order.sort((a, b) => a.metric.lane - b.metric.lane || a.i - b.i);
      this.rows = new Array(what.length);
      for (const { metric, i } of order) {
        if (lanes.size > 1 && metric.lane !== lane) {
          const cell = make("th", "", this.laneName(metric.lane));
          cell.colSpan = 3;
          body.append(make("tr", "gp-lane", cell));
          lane = metric.lane;
        }
        this.rows[i] = metricRow(metric);
        body.append(this.rows[i].element);
      }
      this.element.replaceChildren(make("thead", "", head), body);
    }

    /** Dim what was measured long before the step that is shown, and say when it was; and all while
        the numbers of the present picture are owed. */
    age(step, owed = false) {
      for (const row of this.rows) {
        const at = Number(row.element.dataset.step);
        const late = at >= 0 && step - at > Math.max(30, 0.2 * step);
        const old = late || owed;
        if (row.element.classList.contains("gp-stale") !== old) {
          row.element.classList.toggle("gp-stale", old);
        }
        const text = late ? `Measured at step ${at.toLocaleString("en-US")}.` : "";
        if (row.value.title !== text) row.value.title = text;
      }
    }

    laneName(lane) {
      return (this.laneNames && this.laneNames[lane]) || `Run ${lane + 1}`;
    }
  }

  /** Before a number: on which side of it the truth lies. */
  const SIGNS = { estimate: "≈ ", "upper bound": "≤ ", "lower bound": "≥ " };

  const KINDS = {
    exact: "This is exact.",
    estimate: "This is an estimate.",
    "upper bound": "This is an upper bound, measured on samples: but for their noise, the true value is this or less.",
    "lower bound": "This is a lower bound, measured on samples: but for their noise, the true value is this or more.",
  };

  function metricRow(metric) {
    const [kind, value, floor] = [make("span", "gp-kind"), make("span"), make("td", "gp-floor")];
    const [note, rival] = [make("small"), make("small", "gp-rival")];
    const name = make("th", "", metric.label || metric.name);
    name.scope = "row";
    if (metric.unit && !(metric.unit in CLOSE_UNITS)) name.append(make("span", "gp-unit", `, ${metric.unit}`));
    name.append(note, rival);
    rival.hidden = true;
    rival.title = RIVAL;
    const element = make("tr", "", name, make("td", "gp-value", kind, value), floor);
    return { metric, element, name, kind, value, floor, note, rival };
  }

  const RIVAL =
    "The same number for a Gaussian kernel on each of 20,000 true samples, its width chosen by " +
    "leave-one-out likelihood: the oldest density estimate there is. A model that is further from " +
    "the data than that has not earned its keep yet.";

  /** JSON has no infinities: they travel as texts. */
  const numeric = (x) => (typeof x === "string" ? Number(x) : x);

  /** Beside a divergence, what a kernel estimate achieves; said plainly when the model loses. */
  function showRival(row, value, rival) {
    row.rival.hidden = typeof rival !== "number";
    if (row.rival.hidden) return;
    const above = typeof value === "number" && value > rival;
    // what lies below an upper bound may still be the better of the two
    const loses = above && row.metric.kind !== "upper bound";
    const verdict = loses ? "loses to a kernel estimate" : above ? "may lose to a kernel estimate" : "kernel estimate";
    setText(row.rival, `${verdict}: ${metricNumber(row.metric, rival)}`);
    row.rival.classList.toggle("gp-loses", loses);
  }

  /** Units that are written with the number; the others stand beside the name. */
  const CLOSE_UNITS = { "%": " %", "×": " ×" };

  function metricNumber(metric, x) {
    if (typeof x === "number" && metric.of !== null && Number.isInteger(x)) return minus(String(x));
    const size = Math.abs(x);
    const percent = size >= 99.95 || size === 0 ? 0 : size >= 10 ? 1 : 2;
    const text = x === 0 ? "0" : shown(x, metric.unit === "%" ? percent : 3);
    return text + (CLOSE_UNITS[metric.unit] || "");
  }

  function metricValue(metric, value) {
    const text = metricNumber(metric, value);
    return metric.of !== null && typeof value === "number" ? `${text} / ${metric.of}` : text;
  }

  /** Of an exact number its standard error, of an estimate what perfect samples would give. */
  function metricFloor(metric, se, floor) {
    const error = typeof se === "number" && se > 0 ? `± ${metricNumber(metric, se)}` : "";
    const best = typeof floor === "number" ? metricNumber(metric, floor) : "";
    return metric.kind === "exact" ? error || best : best || error;
  }

  function metricHelp(metric, se, floor) {
    const parts = [metric.help, KINDS[metric.kind] || ""];
    if (typeof se === "number") parts.push(`Standard error ${metricNumber(metric, se)}.`);
    if (typeof floor === "number") parts.push(`Ideal, or its floor: ${metricNumber(metric, floor)}.`);
    return parts.filter(Boolean).join(" ");
  }

  Object.assign(PlaygroundLive, { Metrics });
})();
