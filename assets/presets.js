// "Try this": experiments that teach, for the tab that is open. `element, trigger, props, watch`
// are in scope (gr.HTML). Which one is open, and whether it has kept its promise, comes with
// every frame.
const root = element.querySelector('.gp-presets');
const MARK = {break: '✕', mend: '✓', show: '◦'};
const WORD = {break: 'Breaks: ', mend: 'Mends: ', show: ''};
let items = [], now = {name: '', kept: null};
// The sentence above the pictures is for who asked for a preset: a tab's defaults may happen to
// equal one, and then the list's mark is enough. An address asks for what it names.
const WAIT_MS = 3000; // at most, for the first frame of what was chosen
let waiting = 0; // until then frames of the run before are still under way
let chosen = '', asked = /^#e=/.test(location.hash) ? 'any' : ''; // the address whose preset is wanted
window.addEventListener('hashchange', () => { waiting = 0; asked = /^#e=/.test(location.hash) ? location.hash : ''; });

const el = (tag, attributes = {}, ...children) => {
  const node = document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith('on')) node.addEventListener(key.slice(2), value);
    else if (value != null) node.setAttribute(key, value);
  }
  node.append(...children);
  return node;
};

const told = kept => kept === true ? ['kept', '✓', 'It came true'] : kept === false ? ['broken', '✕', 'It did not come true'] : ['open', '○', 'Not yet'];

function promise(item) {
  const [state, sign, text] = told(now.kept);
  return el('span', {class: `promise ${state}`}, el('i', {'aria-hidden': 'true'}, sign), el('span', {class: 'gp-unseen'}, `${text}: `), item.promise);
}

function take(name) {
  chosen = name;
  asked = '';
  now = {name, kept: null}; // at once: the next arrow key walks on from here
  waiting = performance.now() + WAIT_MS;
  build();
  // on a phone the stage lies above the list
  if (window.matchMedia('(max-width: 760px)').matches) document.getElementById('gp-stage')?.scrollIntoView({behavior: 'smooth'});
  const turn = window.playgroundTurn = (window.playgroundTurn || 0) + 1;
  trigger('preset', {name, turn});
}

function build() {
  const focused = root.contains(document.activeElement) && document.activeElement.dataset.preset;
  root.replaceChildren(...items.map(item => {
    const open = item.name === now.name;
    const button = el('button', {type: 'button', class: `preset ${item.role}`, 'data-preset': item.name, 'aria-pressed': String(open), title: item.look_for, onclick: () => take(item.name)},
      el('i', {class: 'role', 'aria-hidden': 'true'}, MARK[item.role]), el('span', {class: 'gp-unseen'}, WORD[item.role]), el('b', {}, item.title));
    if (open) button.append(promise(item));
    return button;
  }));
  if (focused) root.querySelector(`[data-preset="${CSS.escape(focused)}"]`)?.focus();
  banner();
}

// the sentence of what to look for, above the pictures
function banner() {
  const place = document.querySelector('[data-slot="preset"]');
  if (!place) return;
  const item = items.find(one => one.name === now.name && one.name === chosen);
  if (!item) { place.replaceChildren(); return; }
  const other = items.find(one => one.name === item.pair);
  const line = el('div', {class: `gp-banner ${item.role}`}, el('b', {}, item.title), el('span', {}, item.look_for), promise(item));
  if (other) line.append(el('button', {type: 'button', class: 'gp-button', onclick: () => take(other.name)}, item.role === 'break' ? `Mend it: ${other.title}` : `Break it: ${other.title}`));
  place.replaceChildren(line);
}

// the tick is of the moment that is shown, be it past or present
for (const name of ['playground:frame', 'playground:past']) document.addEventListener(name, event => {
  if (name === 'playground:frame' && document.body.classList.contains('gp-rewound')) return;
  const {preset, about} = event.detail || {}, next = preset || {name: '', kept: null};
  const arrived = asked && about && (asked === 'any' || asked === `#${about.hash}`);
  if (next.name === chosen || performance.now() > waiting) waiting = 0;
  if (waiting) return;
  if (arrived) { asked = ''; chosen = next.name; }
  if (next.name === now.name && next.kept === now.kept && !arrived) return;
  now = next;
  build();
});

document.addEventListener('playground:walk', event => {
  if (!items.length) return;
  const at = items.findIndex(one => one.name === now.name);
  const next = at < 0 ? (event.detail > 0 ? 0 : items.length - 1) : (at + event.detail + items.length) % items.length;
  take(items[next].name);
});

function onValue() {
  items = props.value ? JSON.parse(props.value) : [];
  build();
}
watch('value', onValue);
onValue();
