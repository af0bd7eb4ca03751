// Data of one's own: a brush, a mixture editor, files. `element, trigger, props, watch` are in
// scope (gr.HTML). The tools stand here; the drawing itself is done on the pictures of the
// stage, where the model can be watched as it follows.
const root = element.querySelector('.gp-own');
const MOST = 2000; // points that a link can carry
const FEWEST = 20;
const SEND_MS = 120; // between two messages while the hand moves
const GRID = 1024; // points lie on multiples of 1/1024, so that a link holds them exactly
const MAX_FILE = 5e6;
const EDITABLE = ['model', 'truth'];
const WHITE = 'rgba(255,255,255,.9)';

const el = (tag, attributes = {}, ...children) => {
  const node = document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith('on')) node.addEventListener(key.slice(2), value);
    else if (value !== false && value != null) node.setAttribute(key, value === true ? '' : value);
  }
  node.append(...children);
  return node;
};

const view = () => document.querySelector('.gp-view')?.playgroundView;
let state = {kind: 'other'};
let points = [], strokes = [], tool = 'spray', brush = 0.06, components = [], selected = 0;
let resting = false; // the tools are put away for now
let cleared = false; // fewer points than a model can learn from: the server still has the old ones

const editing = () => !resting && (state.kind === 'points' && !state.large || state.kind === 'gaussians');

// ---- sending: at once, then at most every SEND_MS, and always the last state

let timer = 0, sentAt = 0, begun = true;
function send(end = false) {
  clearTimeout(timer);
  const go = () => {
    timer = 0;
    sentAt = performance.now();
    const turn = window.playgroundTurn = (window.playgroundTurn || 0) + 1;
    if (state.kind === 'points') {
      cleared = points.length < FEWEST;
      if (cleared) return;
      trigger('points', {xy: points.flat(), begin: begun, end, turn});
    } else trigger('gaussians', {components, begin: begun, end, turn});
    begun = false;
  };
  const rest = sentAt + SEND_MS - performance.now();
  if (end || rest <= 0) go(); else timer = setTimeout(go, rest);
}

// small units are not for the grid: there a thousandth may be all there is
const snap = (v, box) => box[1] - box[0] < 2 ? v : Math.round(v * GRID) / GRID;

// ---- the brush

function stroke(x, y, box) {
  const r = brush * (box[1] - box[0]);
  if (tool === 'erase') {
    points = points.filter(([a, b]) => Math.hypot(a - x, b - y) > r);
  } else {
    // a disc filled evenly: as many points a touch for a large brush as for a small one
    for (let i = 0; i < 4 && points.length < MOST; i++) {
      const [t, s] = [Math.random() * 2 * Math.PI, r * Math.sqrt(Math.random())];
      points.push([snap(between(x + s * Math.cos(t), box[0], box[1]), box), snap(between(y + s * Math.sin(t), box[2], box[3]), box)]);
    }
  }
  send();
  count();
}

function undoStroke() {
  if (!strokes.length) return;
  points = strokes.pop();
  begun = false;
  send(true);
  count();
  repaint();
}

// ---- over the pictures

const overlays = new Map(); // panel → canvas

const editor = {
  /** Called by the view whenever it has painted a panel. */
  over(panel) {
    const on = editing() && EDITABLE.includes(panel.what.id) && panel.kind === 'plane' && !panel.view.past;
    let canvas = overlays.get(panel);
    if (!on) {
      if (canvas) { canvas.remove(); overlays.delete(panel); }
      return;
    }
    if (!canvas || !canvas.isConnected) {
      canvas = el('canvas', {class: 'gp-edit', tabindex: '0', 'aria-label': state.kind === 'points' ? 'Draw data here' : 'Gaussians: arrow keys move the chosen one, Delete removes it'});
      panel.plot.append(canvas);
      overlays.set(panel, canvas);
      listen(panel, canvas);
    }
    const {width, height} = panel.size, ratio = Math.min(window.devicePixelRatio || 1, 2);
    if (canvas.width !== Math.round(width * ratio)) { canvas.width = Math.round(width * ratio); }
    if (canvas.height !== Math.round(height * ratio)) { canvas.height = Math.round(height * ratio); }
    const c = canvas.getContext('2d');
    c.setTransform(ratio, 0, 0, ratio, 0, 0);
    c.clearRect(0, 0, width, height);
    const a = panel.axes();
    const px = (x, y) => [a.left + a.kx * (x - a.x0), a.top + a.ky * (a.y1 - y)];
    if (state.kind === 'points') paintPoints(c, px, panel); else paintGaussians(c, px, a, panel);
  },
};

function repaint() {
  const now = view();
  if (!now) return;
  now.editor = editor;
  for (const panel of now.panels.values()) if (panel.what && panel.size.width && panel.kind === 'plane') editor.over(panel);
}

function paintPoints(c, px, panel) {
  c.fillStyle = panel.view.theme.role('data');
  c.globalAlpha = 0.75;
  for (const [x, y] of points) { const [u, v] = px(x, y); c.fillRect(u - 1.1, v - 1.1, 2.2, 2.2); }
  c.globalAlpha = 1;
  if (!panel.cursor) return;
  const [u, v] = px(...panel.cursor), r = brush * (panel.what.box[1] - panel.what.box[0]) * panel.axes().kx;
  c.strokeStyle = panel.view.theme.role(tool === 'erase' ? 'lost' : 'data');
  c.lineWidth = 1.5;
  if (tool === 'erase') c.setLineDash([4, 3]);
  c.beginPath(); c.arc(u, v, r, 0, 7); c.stroke();
  c.setLineDash([]);
}

const ends = ([x, y, sx, sy, angle]) => [[x + 2 * sx * Math.cos(angle), y + 2 * sx * Math.sin(angle)], [x - 2 * sy * Math.sin(angle), y + 2 * sy * Math.cos(angle)]];

function paintGaussians(c, px, a, panel) {
  const theme = panel.view.theme;
  components.forEach((one, i) => {
    const [x, y, sx, sy, angle] = one, [u, v] = px(x, y), chosen = i === selected;
    for (const [times, width] of [[2, chosen ? 2 : 1.2], [1, 1]]) {
      c.beginPath();
      c.ellipse(u, v, times * sx * a.kx, times * sy * a.ky, -angle, 0, 2 * Math.PI);
      c.lineWidth = width + 2; c.strokeStyle = WHITE; c.globalAlpha = theme.dark ? 0 : 0.7; c.stroke();
      c.lineWidth = width; c.strokeStyle = theme.role('data'); c.globalAlpha = times === 1 ? 0.5 : 1; c.stroke();
      c.globalAlpha = 1;
    }
    for (const [p, q] of chosen ? ends(one).map(e => px(...e)) : []) {
      c.beginPath(); c.rect(p - 5, q - 5, 10, 10); c.fillStyle = theme.card; c.fill(); c.lineWidth = 2; c.stroke();
    }
    c.beginPath(); c.arc(u, v, chosen ? 6.5 : 5, 0, 7); c.fillStyle = theme.role('data'); c.fill();
    c.lineWidth = 2; c.strokeStyle = theme.card; c.stroke();
  });
}

function listen(panel, canvas) {
  let held = null;
  const at = event => {
    // the axes of the moment when the hand came down: what is drawn at the edge widens the
    // picture, and would run away from the hand
    const place = canvas.getBoundingClientRect(), a = (held && held.axes) || panel.axes();
    return [a.x0 + (event.clientX - place.left - a.left) / a.kx, a.y1 - (event.clientY - place.top - a.top) / a.ky];
  };
  const near = (event, [x, y], reach = 13) => {
    const place = canvas.getBoundingClientRect(), a = panel.axes();
    return Math.hypot(a.left + a.kx * (x - a.x0) - (event.clientX - place.left), a.top + a.ky * (a.y1 - y) - (event.clientY - place.top)) < reach;
  };
  canvas.addEventListener('pointerdown', event => {
    if (event.button > 0) return;
    event.preventDefault();
    canvas.focus({preventScroll: true});
    canvas.setPointerCapture(event.pointerId);
    begun = true;
    if (state.kind === 'points') {
      strokes.push(points.slice());
      if (strokes.length > 50) strokes.shift();
      held = {axes: panel.axes(), box: panel.what.box};
      stroke(...at(event), held.box);
    } else {
      const tips = components[selected] ? ends(components[selected]) : [];
      const tip = tips.findIndex(end => near(event, end));
      const hit = components.findIndex(one => near(event, one));
      const frozen = {axes: panel.axes(), box: panel.what.box};
      if (tip >= 0) held = {tip, ...frozen};
      else if (hit >= 0) { selected = hit; held = {moves: at(event), from: components[hit].slice(), ...frozen}; rows(); }
    }
    repaint();
  });
  canvas.addEventListener('pointermove', event => {
    panel.cursor = at(event);
    if (held && state.kind === 'points') stroke(...panel.cursor, held.box);
    else if (held) drag(held, panel.cursor);
    repaint();
  });
  const release = () => {
    if (!held) return;
    held = null;
    send(true);
  };
  canvas.addEventListener('pointerup', release);
  canvas.addEventListener('pointercancel', release);
  canvas.addEventListener('pointerleave', () => { panel.cursor = null; if (!held) repaint(); });
  canvas.addEventListener('dblclick', event => {
    event.preventDefault();
    event.stopPropagation();
    if (state.kind === 'gaussians' && !components.some(one => near(event, one))) add(...at(event));
  });
  canvas.addEventListener('click', event => event.stopPropagation());
  canvas.addEventListener('keydown', event => {
    if (state.kind !== 'gaussians' || !components[selected]) return;
    const way = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1]}[event.key];
    if (way) {
      const by = (panel.what.box[1] - panel.what.box[0]) / 100 * (event.shiftKey ? 5 : 1);
      begun = true;
      const one = components[selected];
      one[0] = between(one[0] + way[0] * by, -20, 20); one[1] = between(one[1] + way[1] * by, -20, 20);
      change();
    } else if (event.key === 'Delete' || event.key === 'Backspace') remove(selected);
    else return;
    event.preventDefault();
    event.stopPropagation();
  });
}

// ---- Gaussians

const between = (v, low, high) => Math.min(high, Math.max(low, v));

function drag(held, [x, y]) {
  const one = components[selected];
  if (!one) return;
  if (held.moves) {
    one[0] = between(held.from[0] + x - held.moves[0], held.box[0], held.box[1]);
    one[1] = between(held.from[1] + y - held.moves[1], held.box[2], held.box[3]);
  } else {
    const length = between(Math.hypot(x - one[0], y - one[1]) / 2, 0.03, 8);
    one[2 + held.tip] = length;
    one[4] = Math.atan2(y - one[1], x - one[0]) - (held.tip ? Math.PI / 2 : 0);
  }
  send();
}

function change(end = true) { send(end); rows(); repaint(); }

function add(x, y) {
  if (components.length >= 24) return;
  begun = true;
  components.push([x, y, 0.4, 0.4, 0, 1]);
  selected = components.length - 1;
  change();
}

function remove(i) {
  if (components.length < 2) return;
  begun = true;
  components.splice(i, 1);
  selected = Math.min(selected, components.length - 1);
  change();
}

// ---- the tools in the card

const counter = el('span', {class: 'count', role: 'status'});
function count() {
  counter.textContent = points.length < FEWEST ? `${points.length} points: ${FEWEST} are needed, and the model still learns the old ones` : points.length >= MOST ? `${MOST.toLocaleString('en-US')} points: full` : `${points.length.toLocaleString('en-US')} points`;
}

const list = el('div', {class: 'gaussians'});
function rows() {
  if (list.children.length !== components.length || list.contains(document.activeElement) === false) {
    list.replaceChildren(...components.map((_, i) => {
      const weight = el('input', {type: 'range', min: 0.05, max: 3, step: 0.05, 'aria-label': `Weight of Gaussian ${i + 1}`});
      for (const name of ['pointerdown', 'keydown']) weight.addEventListener(name, () => { begun = true; });
      weight.addEventListener('input', () => { components[i][5] = Number(weight.value); selected = i; send(); shares(); repaint(); });
      weight.addEventListener('change', () => send(true));
      const pick = el('button', {type: 'button', class: 'pick', 'aria-label': `Choose Gaussian ${i + 1}`, onclick: () => { selected = i; rows(); repaint(); }}, String(i + 1));
      const away = el('button', {type: 'button', class: 'away', title: 'Remove', 'aria-label': `Remove Gaussian ${i + 1}`, disabled: components.length < 2, onclick: () => remove(i)}, '×');
      return el('div', {class: 'row'}, pick, weight, el('output'), away);
    }));
  }
  [...list.children].forEach((row, i) => {
    row.classList.toggle('chosen', i === selected);
    const weight = row.querySelector('input');
    if (document.activeElement !== weight) weight.value = components[i][5];
  });
  shares();
}
function shares() {
  const total = components.reduce((sum, one) => sum + one[5], 0);
  [...list.children].forEach((row, i) => {
    row.querySelector('output').textContent = `${Math.round(100 * components[i][5] / total)} %`;
    const weight = row.querySelector('input');
    weight.style.setProperty('--fill', `${100 * (components[i][5] - 0.05) / 2.95}%`);
  });
}

function take(kind) {
  resting = false;
  if (state.kind === kind && !state.large) { build(); repaint(); } else trigger('edit', {kind});
}

function picker(accept, label, go) {
  const input = el('input', {type: 'file', accept, hidden: true, 'aria-label': label});
  input.addEventListener('change', async () => {
    const chosen = input.files[0];
    input.value = '';
    if (!chosen) return;
    // what is too large is refused by the server in its own words; only its name is sent then
    const bytes = chosen.size > MAX_FILE ? null : new Uint8Array(await chosen.arrayBuffer());
    let text = '';
    for (let i = 0; bytes && i < bytes.length; i += 8192) text += String.fromCharCode(...bytes.subarray(i, i + 8192));
    go({name: chosen.name, size: chosen.size, data: bytes ? btoa(text) : ''});
  });
  return input;
}
const table = picker('.csv,.tsv,.txt,.json', 'Table of points', given => trigger('table', given));
const image = picker('image/*', 'Image', given => trigger('picture', given));

function segment(name, label, title) {
  const input = el('input', {type: 'radio', name: 'gp-tool', id: `gp-tool-${name}`, value: name});
  input.checked = tool === name;
  input.addEventListener('change', () => { tool = name; repaint(); });
  return [input, el('label', {for: `gp-tool-${name}`, title}, label)];
}

function build() {
  document.body.classList.toggle('gp-editing', editing());
  const button = (label, title, go, pressed) => el('button', {type: 'button', class: 'gp-button', title, 'aria-pressed': pressed == null ? null : String(pressed), onclick: go}, label);
  const ways = el('div', {class: 'ways'},
    button('Draw', 'Spray points on the picture; the model follows at once', () => take('points'), state.kind === 'points' && editing()),
    button('Gaussians', 'Place, stretch and weigh Gaussians by hand: their density is exact', () => take('gaussians'), state.kind === 'gaussians' && editing()),
    button('Upload', 'A table with two columns of numbers: CSV, TSV or JSON', () => table.click()),
    button('Image', 'The darkness of a picture becomes a density', () => image.click(), state.kind === 'picture'));
  const tools = [];
  if (resting && state.kind !== 'picture') {
    // nothing in hand
  } else if (state.kind === 'points' && !state.large) {
    const size = el('input', {type: 'range', min: 0.01, max: 0.2, step: 0.005, 'aria-label': 'Brush size'});
    size.value = brush;
    const fill = () => size.style.setProperty('--fill', `${100 * (brush - 0.01) / 0.19}%`);
    size.addEventListener('input', () => { brush = Number(size.value); fill(); repaint(); });
    fill();
    tools.push(
      el('p', {}, 'Draw on the first picture, or on the data beside it.'),
      el('div', {class: 'segments'}, ...segment('spray', 'Spray', 'Add points'), ...segment('erase', 'Erase', 'Take points away')),
      el('label', {class: 'line'}, 'Brush', size),
      el('div', {class: 'actions'}, button('Undo stroke', 'Take back the last stroke', undoStroke), button('Clear', 'An empty plane', () => { strokes.push(points); points = []; cleared = begun = true; count(); repaint(); }), button('Done', 'Put the brush away', () => { resting = true; build(); repaint(); })),
      counter);
    count();
  } else if (state.kind === 'points') {
    tools.push(el('p', {}, `${state.count.toLocaleString('en-US')} points`, state.name ? ` from ${state.name}` : '', '. Their density is a kernel estimate.'));
  } else if (state.kind === 'gaussians') {
    tools.push(el('p', {}, 'Drag to move, squares to stretch and turn, double click to add. The slider is the weight.'), list,
      el('div', {class: 'actions'}, button('+ Gaussian', 'Add one in the middle', () => add((Math.random() - 0.5) * 4, (Math.random() - 0.5) * 4)), button('Done', 'Put the handles away', () => { resting = true; build(); repaint(); })));
    list.replaceChildren();
    rows();
  } else if (state.kind === 'picture') {
    tools.push(el('div', {class: 'actions'}, button('Another image', 'Choose a picture', () => image.click()), button('Invert', 'Light becomes mass in place of dark', () => trigger('picture', {invert: true}))));
  }
  if (state.table && state.kind === 'points') {
    const choose = (axis, other) => {
      const box = el('select', {'aria-label': `${axis} column`, onchange: event => trigger('columns', {...state.table.chosen, [axis]: event.target.value})},
        ...state.table.numeric.map(name => el('option', {value: name, selected: state.table.chosen[axis] === name, disabled: state.table.chosen[other] === name}, name)));
      return el('label', {class: 'line'}, axis, box);
    };
    if (state.table.numeric.length > 2) tools.push(choose('x', 'y'), choose('y', 'x'));
  }
  root.replaceChildren(ways, ...tools, table, image);
}

function onValue() {
  if (!props.value) return;
  const before = state;
  state = JSON.parse(props.value);
  if (state.kind !== before.kind) { resting = false; cleared = false; }
  // what was begun on an empty plane is not lost to an answer that still tells of the old points
  const waiting = cleared && state.kind === 'points' && String(before.points) === String(state.points);
  if (state.kind === 'points' && !state.large && !waiting) {
    cleared = false;
    if (before.kind === 'points' && String(before.points) !== String(state.points)) strokes = [];
    points = [];
    for (let i = 0; i < state.points.length; i += 2) points.push([state.points[i], state.points[i + 1]]);
  }
  if (state.kind !== 'points') strokes = [];
  if (state.kind === 'gaussians') { components = state.components.map(one => one.slice()); selected = Math.min(selected, components.length - 1); }
  build();
  repaint();
}
watch('value', onValue);
onValue();
const hook = setInterval(() => { if (view()) { view().editor = editor; repaint(); clearInterval(hook); } }, 100);
