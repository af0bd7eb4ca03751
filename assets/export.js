/* What a visitor takes away: the run as one web page, or as a film.

       PlaygroundExport.page(view, {title}) → Promise of the HTML of a page that replays the
           run by itself: no network, no server; the sliders that live in the browser work.
       PlaygroundExport.film(view, {progress}) → Promise of a WebM Blob of the replay.
       PlaygroundExport.boot() is what an exported page runs. */
(() => {
  "use strict";

  const PAGE_BYTES = 19e6; // a page to send around: a minute's run fits
  const FILM_FRAMES = 120;
  const FILM_MS = 66; // a frame of the film
  const FILM_WIDTH = 1280;

  // ================================================================ a web page

  /** The text of a script or style sheet that this page has loaded. */
  async function asset(name) {
    const own = document.getElementById(`gp-asset-${name}`);
    if (own) return own.textContent; // an exported page exports itself
    const element = document.querySelector(`script[src*="${name}"], link[href*="${name}"]`);
    const answer = await fetch(element.src || element.href);
    if (!answer.ok) throw new Error(`${name} could not be read`);
    return answer.text();
  }

  /** Names of the renderer's scripts, in the order in which this page has loaded them. */
  function renderer() {
    const name = (script) => /(?:gp-asset-|\/assets\/)(live\/\w+\.js)/.exec(script.id || script.src)?.[1];
    return [...new Set([...document.scripts].map(name).filter(Boolean))];
  }

  const inScript = (text) => text.replace(/<\/(script)/gi, "<\\/$1").replace(/<!--/g, "<\\!--");
  const inData = (value) => JSON.stringify(value).replace(/</g, "\\u003c");
  const inText = (text) => text.replace(/[&<>"]/g, (c) => `&#${c.charCodeAt(0)};`);

  const SHELL = `
    *, *::before, *::after { box-sizing: border-box; }
    body { margin: 0; background: var(--gp-paper); color: var(--gp-ink); font-family: var(--gp-font); }
    main { max-width: 1400px; margin: 0 auto; padding: 14px; display: grid; gap: 14px;
      grid-template-columns: minmax(0, 1fr) 300px; }
    header { grid-column: 1 / -1; display: flex; gap: 12px; align-items: baseline; flex-wrap: wrap; }
    header h1 { font-size: 17px; margin: 0; } header h1 em { font-style: normal; color: var(--gp-accent); }
    header p { margin: 0; font-size: 13px; color: var(--gp-mute); flex: 1 1 auto; }
    header a { color: var(--gp-accent); font-size: 13px; }
    header button { border: 1px solid var(--gp-line); background: var(--gp-card); color: var(--gp-ink);
      border-radius: 8px; font: inherit; padding: 2px 9px; cursor: pointer; }
    .gp-sheet { background: var(--gp-card); border: 1px solid var(--gp-line); border-radius: 14px; padding: 12px; }
    aside dl { display: grid; grid-template-columns: auto auto; gap: 3px 10px; font-size: 12px; margin: 0; }
    aside dt { color: var(--gp-mute); } aside dd { margin: 0; text-align: right; font-variant-numeric: tabular-nums; }
    aside h4 { margin: 0 0 8px; font-size: 12px; text-transform: uppercase; letter-spacing: .06em; color: var(--gp-mute); }
    aside > div + div { margin-top: 14px; }
    #timeline { position: sticky; bottom: 0; background: var(--gp-card); padding: 8px 0; z-index: 5; }
    /* nobody is there to whom a dragged point could be told */
    #view .gp-handle { pointer-events: none; } #view .gp-handle span { display: none; }
    @media (max-width: 900px) { main { grid-template-columns: minmax(0, 1fr); } }`;

  async function page(view, { title = "", address = "", knobs = {} } = {}) {
    const names = ["timeline.js", ...renderer(), "export.js"];
    const [plotly, style, ...texts] = await Promise.all(
      ["plotly.min.js", "live.css", ...names].map(asset));
    const fixed = [plotly, style, ...texts].reduce((sum, text) => sum + text.length, 0);
    let most = Infinity;
    let data = inData(view.tape.dump());
    // every second frame less, until it fits
    while (fixed + data.length > PAGE_BYTES && most > 20) {
      most = Math.ceil(Math.min(most, view.tape.entries.length) / 2);
      data = inData(view.tape.dump(most));
    }
    const script = (name, text) => `<script id="gp-asset-${name}">${inScript(text)}</script>`;
    const about = { title, address, knobs };
    return `<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>${inText(title)} · Generative Playground</title>
<style id="gp-asset-live.css">${style}</style><style>${SHELL}</style>
${script("plotly.min.js", plotly)}
</head><body class="${view.theme.dark ? "dark" : ""}">
<main><header><h1>Generative <em>Playground</em></h1><p id="what"></p></header>
<section class="gp-sheet"><div id="view"></div><div id="timeline"></div>
<div data-slot="progress"></div><div data-slot="note"></div></section>
<aside><div class="gp-sheet"><h4>How close</h4><div data-slot="metrics"></div></div>
<div class="gp-sheet" id="settings"><h4>Settings</h4><dl></dl></div>
<div class="gp-sheet"><div data-slot="look"></div></div></aside></main>
<script type="application/json" id="tape">${data}</script>
<script type="application/json" id="about">${inData(about)}</script>
${names.map((name, i) => script(name, texts[i])).join("\n")}
<script>PlaygroundExport.boot()</script>
</body></html>`;
  }

  /** Bring an exported page to life. */
  function boot() {
    const read = (id) => JSON.parse(document.getElementById(id).textContent);
    const about = read("about");
    document.getElementById("what").textContent = about.title;
    if (/^https?:/.test(about.address)) {
      const link = document.createElement("a");
      Object.assign(link, { href: about.address, textContent: "Run it yourself" });
      document.querySelector("header").append(link);
    }
    const dark = document.createElement("button");
    Object.assign(dark, { type: "button", textContent: "◐", title: "Light or dark" });
    dark.setAttribute("aria-label", "Light or dark");
    dark.addEventListener("click", () => document.body.classList.toggle("dark"));
    document.querySelector("header").append(dark);
    for (const [name, value] of Object.entries(about.knobs)) {
      for (const [tag, text] of [["dt", name], ["dd", value]]) {
        const cell = document.createElement(tag);
        cell.textContent = String(text);
        document.querySelector("#settings dl").append(cell);
      }
    }
    const view = window.PlaygroundView(document.getElementById("view"), {});
    view.tape = view.blocks.tape = window.PlaygroundTape.load(read("tape"), view);
    const timeline = window.PlaygroundTimeline(view, document.getElementById("timeline"), {
      alone: true,
    });
    document.addEventListener("keydown", (event) => {
      if (event.key !== " " || event.target.closest("button, input[type=text]")) return;
      event.preventDefault();
      timeline.replay.click();
    });
    timeline.wind(view.tape.entries.length - 1);
    Object.assign(window, { view, timeline });
  }

  // ================================================================ a film

  /** The run as a WebM film: the stage as it is laid out now, replayed evenly over its frames. */
  async function film(view, { progress = () => {}, frames = FILM_FRAMES } = {}) {
    const type = ["video/webm;codecs=vp9", "video/webm;codecs=vp8", "video/webm"].find(
      (name) => window.MediaRecorder && MediaRecorder.isTypeSupported(name));
    if (!type) throw new Error("This browser cannot record a film.");
    const before = view.past;
    const stage = view.grid.getBoundingClientRect();
    const scale = Math.min(2, FILM_WIDTH / stage.width);
    const sheet = document.createElement("canvas");
    // codecs want even numbers
    sheet.width = 2 * Math.round((stage.width * scale) / 2);
    sheet.height = 2 * Math.round((stage.height * scale) / 2) + 2 * Math.round(15 * scale);
    const c = sheet.getContext("2d");
    const stream = sheet.captureStream(0);
    const recorder = new MediaRecorder(stream, { mimeType: type, videoBitsPerSecond: 6e6 });
    const parts = [];
    recorder.addEventListener("dataavailable", (event) => parts.push(event.data));
    const ended = new Promise((done) => recorder.addEventListener("stop", done));
    const { entries } = view.tape;
    const chosen = entries.filter((_, i) => i % Math.max(1, Math.ceil(entries.length / frames)) === 0);
    if (chosen[chosen.length - 1] !== entries[entries.length - 1]) chosen.push(entries[entries.length - 1]);
    const kept = new Map();
    try {
      for (const [i, entry] of chosen.entries()) {
        view.rewind(entry);
        view.paintNow();
        await drawStage(c, view, entry, stage, scale, kept);
        // time stands still for the film while a frame is drawn
        if (i === 0) recorder.start();
        else recorder.resume();
        stream.getVideoTracks()[0].requestFrame();
        const last = i === chosen.length - 1;
        await new Promise((next) => setTimeout(next, last ? 1000 : FILM_MS));
        if (!last) recorder.pause();
        progress((i + 1) / chosen.length);
      }
    } finally {
      if (recorder.state !== "inactive") recorder.stop();
      view.rewind(before);
    }
    await ended;
    return new Blob(parts, { type: "video/webm" });
  }

  async function drawStage(c, view, entry, stage, scale, kept) {
    c.setTransform(scale, 0, 0, scale, 0, 0);
    c.fillStyle = view.theme.card;
    c.fillRect(0, 0, stage.width, stage.height + 40);
    for (const panel of view.panels.values()) {
      const box = panel.plot.getBoundingClientRect();
      if (!box.width) continue;
      await panel.drawOn(c, box.left - stage.left, box.top - stage.top, kept);
    }
    c.fillStyle = view.theme.mute;
    c.font = `13px ${view.theme.font}`;
    c.fillText(`${view.heading.textContent} · step ${entry.step.toLocaleString("en-US")} · Generative Playground`,
      8, stage.height + 20);
  }

  window.PlaygroundExport = { page, boot, film };
})();
