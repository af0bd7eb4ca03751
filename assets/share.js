// Share, save, open, take away. `element, trigger, props, watch` are in scope (gr.HTML).
//
// What needs the experiment is asked of the server ("ask"), whose answer arrives as the value;
// the web page and the film are made here, from the tape that the browser holds.
const MAX_FILE = 6e6; // characters of an experiment's file
const root = element.querySelector('.gp-share');

const el = (tag, attributes = {}, ...children) => {
  const node = document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith('on')) node.addEventListener(key.slice(2), value);
    else node.setAttribute(key, value);
  }
  node.append(...children);
  return node;
};

const view = () => document.querySelector('.gp-view')?.playgroundView;

function download(name, content, type) {
  const link = el('a', {download: name, href: URL.createObjectURL(new Blob([content], {type}))});
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
}

// ---- what was done, in a line that goes away by itself
const toast = el('div', {class: 'gp-toast', role: 'status'});
document.body.append(toast);
let toastTimer = 0;
function say(text, rest = 3500) {
  toast.textContent = text;
  toast.classList.add('shown');
  clearTimeout(toastTimer);
  if (rest) toastTimer = setTimeout(() => toast.classList.remove('shown'), rest);
}

// ---- a dialog for what can be copied: a frame may be refused the clipboard
const dialog = el('dialog', {class: 'gp-dialog'});
document.body.append(dialog);
function show(title, text) {
  const box = el('textarea', {readonly: '', spellcheck: 'false', rows: Math.min(18, text.split('\n').length + 1), 'aria-label': title});
  box.value = text;
  const copy = el('button', {type: 'button', class: 'gp-button', onclick: async () => { if (await toClipboard(text)) { dialog.close(); say('Copied'); } else { box.select(); say('Press Ctrl-C to copy'); } }}, 'Copy');
  const close = el('button', {type: 'button', class: 'gp-button', onclick: () => dialog.close()}, 'Close');
  dialog.replaceChildren(el('h3', {}, title), box, el('div', {class: 'actions'}, copy, close));
  if (!dialog.open) dialog.showModal();
  box.focus(); box.select();
  box.scrollTop = 0;
}

async function toClipboard(text) {
  try { await navigator.clipboard.writeText(text); return true; } catch { /* tried below */ }
  const box = el('textarea', {style: 'position:fixed;opacity:0'});
  box.value = text;
  (dialog.open ? dialog : document.body).append(box);
  box.select();
  let done = false;
  try { done = document.execCommand('copy'); } catch { /* then the visitor copies by hand */ }
  box.remove();
  return done;
}

// ---- the page's own address, not that of a frame around it
function address() {
  const url = new URL(location.href);
  for (const name of ['__theme', '__sign', 'view']) url.searchParams.delete(name);
  return url.href;
}

async function link() {
  const url = address();
  const home = document.body.classList.contains('gp-at-home');
  if (!location.hash) return say('This experiment is too large for a link: save it as a file.');
  const many = view()?.about?.points > 2000;
  if (await toClipboard(url)) say(home ? 'Link copied: it opens this page' : many ? 'Link copied: it carries 2,000 of your points. Save keeps them all' : 'Link copied: it opens this experiment anywhere');
  else show(home ? 'Link to this page' : 'Link to this experiment', url);
}

const file = el('input', {type: 'file', accept: '.json,application/json', hidden: ''});
file.addEventListener('change', async () => {
  const chosen = file.files[0];
  file.value = '';
  if (!chosen) return;
  if (chosen.size > MAX_FILE) return say('That file is too large to be an experiment.');
  trigger('open', {text: await chosen.text()});
});

function title() {
  const about = view()?.about || {};
  return [about.title, about.dataset].filter(Boolean).join(' on ');
}

const slug = text => text.toLowerCase().replace(/[^\w]+/g, '-').replace(/^-|-$/g, '') || 'run';

async function page() {
  const now = view();
  if (!now || now.tape.entries.length < 2) return say('There is nothing to replay yet: press Play first.');
  say('Building the page…', 0);
  try {
    const knobs = Object.fromEntries([...document.querySelectorAll('#gp-knobs .knob:not([hidden])')].map(row => {
      const chosen = row.querySelector('input:checked');
      const value = row.querySelector('input.value')?.value ?? (row.querySelector('[role=switch]') ? (chosen ? 'on' : 'off') : chosen?.value);
      return [row.querySelector('label, .name')?.textContent ?? row.dataset.knob, value ?? ''];
    }));
    const lanes = now.extra.lanes || [];
    if (lanes.length) knobs['Side by side'] = lanes.join(' | ');
    const text = await window.PlaygroundExport.page(now, {title: title(), address: address(), knobs});
    download(`${slug(title())}.html`, text, 'text/html');
    say(`Saved as a web page, ${(text.length / 1e6).toFixed(1)} MB: it replays without a network`);
  } catch (error) { say(`The page could not be built: ${error.message}`, 6000); }
}

async function film() {
  const now = view();
  if (!now || now.tape.entries.length < 2) return say('There is nothing to film yet: press Play first.');
  try {
    const blob = await window.PlaygroundExport.film(now, {progress: share => say(`Filming, ${Math.round(100 * share)} %`, 0)});
    download(`${slug(title())}.webm`, blob, 'video/webm');
    say(`Saved as a film, ${(blob.size / 1e6).toFixed(1)} MB`);
  } catch (error) { say(error.message, 6000); }
}

// ---- the menu
const items = [
  ['Copy link', 'Opens the same experiment anywhere, drawn points included', link],
  ['Copy as Python', 'The few lines that run it in a notebook', () => trigger('ask', {what: 'python'})],
  ['Save experiment', 'A small JSON file', () => trigger('ask', {what: 'json'})],
  ['Open experiment…', 'A JSON file that was saved here', () => file.click()],
  ['Export as a web page', 'One file that replays the run offline', page],
  ['Record a film', 'A WebM video of the run', film],
];
const menu = el('div', {class: 'gp-menu', role: 'menu', hidden: ''}, ...items.map(([name, about, go]) =>
  el('button', {type: 'button', role: 'menuitem', 'data-name': name, onclick: () => { open(false); go(); }}, el('b', {}, name), el('span', {}, about))));
const toggle = el('button', {type: 'button', id: 'gp-share', 'aria-haspopup': 'menu', 'aria-expanded': 'false', title: 'Share, save, export', onclick: () => open(menu.hidden)}, 'Share');
function open(on) {
  menu.hidden = !on;
  toggle.setAttribute('aria-expanded', String(on));
  if (on) menu.querySelector('button').focus();
}
document.addEventListener('pointerdown', event => { if (!root.contains(event.target)) open(false); });
root.addEventListener('keydown', event => {
  if (menu.hidden) return;
  const all = [...menu.querySelectorAll('button')], at = all.indexOf(document.activeElement);
  if (event.key === 'Escape') { open(false); toggle.focus(); }
  else if (event.key === 'ArrowDown') all[(at + 1) % all.length].focus();
  else if (event.key === 'ArrowUp') all[(at + all.length - 1) % all.length].focus();
  else return;
  event.preventDefault();
  event.stopPropagation();
});
root.replaceChildren(toggle, menu, file);

// ---- answers
let heard = 0;
function onValue() {
  if (!props.value) return;
  const answer = JSON.parse(props.value);
  if (answer.n === heard) return;
  heard = answer.n;
  if (answer.what === 'python') show('Run it from Python', answer.text);
  if (answer.what === 'json') { download(answer.name, answer.text, 'application/json'); say(`Saved as ${answer.name}`); }
}
watch('value', onValue);
