// Knobs, actions and comparisons, drawn from the one line that declares each in Python.
//
// Gradio's slider knows no logarithmic scale and no "live" mark, and a component per knob
// costs a listener each; so a card of controls is one component, made of native inputs.
// `element, trigger, props, watch` are in scope (gr.HTML, js_on_load).
const root = element.querySelector('.knobs');
const TICKS = 1000;
const SEND_EVERY = 50; // ms between messages of a slider that is being dragged
let shownKey = null, rows = new Map(), held = [], state = null;

const el = (tag, attributes = {}, ...children) => {
  const node = document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) {
    if (key === 'class') node.className = value;
    else if (key.startsWith('on')) node.addEventListener(key.slice(2), value);
    else if (value === true) node.setAttribute(key, '');
    else if (value !== false && value != null) node.setAttribute(key, value);
  }
  node.append(...children);
  return node;
};

// ---- numbers: position on the slider ↔ value ↔ text

function toPosition(knob, value) {
  if (knob.log) return TICKS * Math.log(value / knob.low) / Math.log(knob.high / knob.low);
  return TICKS * (value - knob.low) / (knob.high - knob.low);
}

function fromPosition(knob, position) {
  const t = position / TICKS;
  let value = knob.log ? knob.low * (knob.high / knob.low) ** t : knob.low + t * (knob.high - knob.low);
  if (knob.kind === 'int') value = Math.round(value);
  else value = Number(value.toPrecision(knob.log ? 2 : 3));
  return Math.min(knob.high, Math.max(knob.low, value));
}

function text(knob, value) {
  if (knob.kind === 'int') return String(value);
  if (value !== 0 && (Math.abs(value) < 1e-3 || Math.abs(value) >= 1e5)) return value.toExponential(1).replace('.0e', 'e').replace('e+', 'e');
  return String(Number(value.toPrecision(3)));
}

// ---- sending, at most every SEND_EVERY ms while a slider moves, and always the last value

const waiting = new Map();
const sent = new Map(); // knob → number of its last message; an older echo is no news
function send(knob, value) {
  const last = waiting.get(knob.name) || {at: 0, timer: null};
  clearTimeout(last.timer);
  const go = () => {
    waiting.set(knob.name, {at: performance.now(), timer: null});
    const turn = window.playgroundTurn = (window.playgroundTurn || 0) + 1;
    sent.set(knob.name, turn);
    trigger('set', {where: state.where, name: knob.name, value, turn});
  };
  const rest = SEND_EVERY - (performance.now() - last.at);
  if (rest <= 0) go(); else waiting.set(knob.name, {at: last.at, timer: setTimeout(go, rest)});
}

// ---- one row a knob

function slider(knob, id) {
  const whole = knob.kind === 'int' && !knob.log && knob.high - knob.low <= TICKS;
  const input = el('input', whole
    ? {type: 'range', id, min: knob.low, max: knob.high, step: 1}
    : {type: 'range', id, min: 0, max: TICKS, step: 1});
  const box = el('input', {type: 'text', class: 'value', inputmode: 'decimal', 'aria-label': `${knob.label}, exact value`, spellcheck: 'false'});
  const read = () => whole ? Number(input.value) : fromPosition(knob, Number(input.value));
  const show = value => {
    const position = whole ? value : toPosition(knob, value);
    input.value = position;
    input.style.setProperty('--fill', `${100 * (whole ? (value - knob.low) / (knob.high - knob.low) : position / TICKS)}%`);
    input.setAttribute('aria-valuetext', text(knob, value));
    box.value = text(knob, value);
  };
  const instant = knob.live || knob.view;
  input.addEventListener('input', () => { knob.value = read(); show(knob.value); refresh(); if (instant) send(knob, knob.value); });
  input.addEventListener('change', () => { knob.value = read(); if (!instant) send(knob, knob.value); });
  box.addEventListener('focus', () => box.select());
  box.addEventListener('keydown', event => { if (event.key === 'Enter') box.blur(); if (event.key === 'Escape') { show(knob.value); box.blur(); } event.stopPropagation(); });
  box.addEventListener('change', () => {
    const typed = Number(box.value.replace(',', '.'));
    if (!box.value.trim() || !Number.isFinite(typed)) { show(knob.value); return; }
    let value = Math.min(knob.high, Math.max(knob.low, typed));
    if (knob.kind === 'int') value = Math.round(value);
    knob.value = value; show(value); refresh(); send(knob, value);
  });
  const label = el('label', {for: id, title: knob.help}, knob.label);
  label.addEventListener('dblclick', () => { knob.value = knob.default; show(knob.default); refresh(); send(knob, knob.default); });
  return {node: el('div', {class: 'knob'}, el('div', {class: 'line'}, label, mark(knob), box), input), show};
}

function choice(knob, id) {
  const buttons = knob.choices.map((option, i) => {
    const input = el('input', {type: 'radio', name: id, id: `${id}-${i}`, value: option});
    input.addEventListener('change', () => { knob.value = option; refresh(); send(knob, option); });
    return [input, el('label', {for: `${id}-${i}`}, option)];
  });
  const show = value => buttons.forEach(([input]) => { input.checked = input.value === value; });
  const group = el('div', {class: 'segments', role: 'radiogroup', 'aria-label': knob.label, title: knob.help}, ...buttons.flat());
  return {node: el('div', {class: 'knob'}, el('div', {class: 'line'}, el('span', {class: 'name', title: knob.help}, knob.label), mark(knob)), group), show};
}

function toggle(knob, id) {
  const input = el('input', {type: 'checkbox', id, role: 'switch'});
  input.addEventListener('change', () => { knob.value = input.checked; refresh(); send(knob, knob.value); });
  return {
    node: el('div', {class: 'knob'}, el('div', {class: 'line'}, el('label', {for: id, title: knob.help}, knob.label), mark(knob), input)),
    show: value => { input.checked = value; },
  };
}

const mark = knob => knob.live ? el('span', {class: 'live', title: 'Takes effect at once, while it trains', 'aria-hidden': 'true'}, '⚡') : '';

// ---- the card

// what is seldom changed is folded away, so that the numbers below it stay in sight
function fold(title, help, ...nodes) {
  if (!nodes.length) return [];
  const key = `gp-fold-${title}`;
  const box = el('details', {class: 'fold'}, el('summary', {title: help}, title), ...nodes);
  try { box.open = localStorage.getItem(key) === 'open'; } catch { /* storage may be refused */ }
  box.addEventListener('toggle', () => { try { localStorage.setItem(key, box.open ? 'open' : 'shut'); } catch { /* likewise */ } });
  return [box];
}

function group(knobs) {
  const nodes = knobs.map(knob => {
    const id = `knob-${state.where}-${knob.name}`;
    const row = knob.kind === 'choice' ? choice(knob, id) : knob.kind === 'bool' ? toggle(knob, id) : slider(knob, id);
    row.node.dataset.knob = knob.name;
    rows.set(knob.name, row);
    return row.node;
  });
  return nodes;
}

// the engines of a tab that has several: one below the other, for their names are sentences
function engines() {
  const offered = (state.engines || {}).offered || [];
  if (!offered.length) return [];
  const buttons = offered.map(([name, title, help]) => {
    const input = el('input', {type: 'radio', name: 'gp-engine', id: `engine-${name}`, value: name});
    input.addEventListener('change', () => {
      const turn = window.playgroundTurn = (window.playgroundTurn || 0) + 1;
      trigger('engine', {name, turn});
    });
    return [input, el('label', {for: `engine-${name}`, title: help}, title)];
  });
  return [el('div', {class: 'segments engines', role: 'radiogroup', 'aria-label': 'Model'}, ...buttons.flat())];
}

function build() {
  rows = new Map();
  held = state.knobs;
  const training = state.knobs.filter(knob => !knob.view), view = state.knobs.filter(knob => knob.view);
  const actions = (state.actions || []).map(action => el('button', {type: 'button', class: 'gp-button', title: action.help, onclick: () => trigger('act', {name: action.name})}, action.label));
  const compare = ((state.compare || {}).offered || []).map((name, i) => {
    const input = el('input', {type: 'checkbox', id: `beside-${i}`, value: name});
    input.addEventListener('change', () => trigger('beside', {labels: [...root.querySelectorAll('.beside input:checked')].map(x => x.value).slice(0, 3)}));
    return [input, el('label', {for: `beside-${i}`}, name)];
  });
  root.replaceChildren(
    ...engines(),
    ...group(training),
    ...(actions.length ? [el('div', {class: 'actions'}, ...actions)] : []),
    ...fold('Side by side with', 'Run another setting in lockstep on the same data and seed',
      ...(compare.length ? [el('div', {class: 'segments beside'}, ...compare.flat())] : [])),
    ...fold('Picture', 'What is shown; training does not notice', ...group(view)),
  );
}

// whether a knob means anything beside these values, as Knob.applies in Python has it
function applies(knob, values) {
  const met = (value, wanted) => Array.isArray(wanted) ? wanted.includes(value) : value > wanted.above;
  return Object.entries(knob.when).every(([names, wanted]) =>
    names.split(' or ').some(name => !(name in values) || met(values[name], wanted)));
}

// values, what `when` hides, and what is being compared
function refresh() {
  const values = Object.fromEntries(state.knobs.map(knob => [knob.name, knob.value]));
  for (const knob of state.knobs) {
    // a knob that means something to any of the settings side by side is shown
    const shown = [{}, ...(state.beside || [])].some(changes => applies(knob, {...values, ...changes}));
    rows.get(knob.name).node.hidden = !shown;
    rows.get(knob.name).node.classList.toggle('moved', knob.value !== knob.default);
  }
}

function onValue() {
  if (!props.value) return;
  const next = JSON.parse(props.value), touched = document.activeElement;
  const same = next.key === shownKey;
  state = next;
  // a slider that is being dragged is not rebuilt under the hand: same knobs, same nodes
  if (!same) { sent.clear(); build(); shownKey = next.key; } else rebind(next);
  for (const knob of state.knobs) {
    const row = rows.get(knob.name);
    if (!newer(knob.name) && !(touched && row.node.contains(touched) && waiting.get(knob.name)?.timer)) row.show(knob.value);
  }
  // a comparison under way is never hidden
  if (!same && (state.compare || {}).chosen?.length) root.querySelector('.fold:has(.beside)').open = true;
  for (const input of root.querySelectorAll('.beside input')) input.checked = ((state.compare || {}).chosen || []).includes(input.value);
  for (const input of root.querySelectorAll('.engines input')) input.checked = input.value === state.engines.chosen;
  refresh();
}

// the rows' handlers hold the knob objects of the first build: keep those, with new values
function rebind(next) {
  // `state` is the new message, but its knobs are the objects that the rows hold
  const fresh = new Map(next.knobs.map(knob => [knob.name, knob.value]));
  held.forEach(knob => { if (!newer(knob.name)) knob.value = fresh.get(knob.name); });
  state.knobs = held;
}

// whether a value of ours is on its way that this message has not heard of
function newer(name) { return sent.has(name) && !((state.heard || {})[name] >= sent.get(name)); }
watch('value', onValue);
onValue();
