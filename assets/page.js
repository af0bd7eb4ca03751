// The page's own habits: keyboard, address, play state, light and dark.
(() => {
  const click = id => document.getElementById(id)?.click();
  const typing = target => target.closest?.('input[type=text], input[type=number], textarea, select, [contenteditable=true], [role=listbox]');

  // ---- keyboard: space plays and pauses, → steps, R resets, N takes a new seed
  document.addEventListener('keydown', event => {
    if (event.repeat || document.body.classList.contains('gp-at-home')) return;
    if (event.ctrlKey || event.metaKey || event.altKey || typing(event.target)) {
      if (!((event.ctrlKey || event.metaKey) && event.key === 'z' && !typing(event.target))) return;
      event.preventDefault();
      return click('gp-undo');
    }
    const onSlider = event.target.matches?.('input[type=range], input[type=radio], [role=tab]');
    if (event.key === ' ') {
      // space presses what has the focus; elsewhere, and on Play itself, it plays
      const own = 'input[type=checkbox], summary, a, button:not(#gp-play, #gp-pause, [role=tab])';
      if (event.target.matches?.(own)) return;
      event.preventDefault();
      click(document.body.classList.contains('gp-playing') ? 'gp-pause' : 'gp-play');
    } else if (document.body.classList.contains('gp-lecture') && !onSlider && !event.shiftKey && /^Arrow(Left|Right|Up|Down)$/.test(event.key)) {
      event.preventDefault();
      document.dispatchEvent(new CustomEvent('playground:walk', {detail: /Right|Down/.test(event.key) ? 1 : -1}));
    } else if (event.key === 'ArrowRight' && !onSlider && !event.shiftKey) { event.preventDefault(); click('gp-step'); }
    else if (event.key === 'r' || event.key === 'R') click('gp-reset');
    else if (event.key === 'l' || event.key === 'L') click('gp-lecture');
    else if (event.key === 'n' || event.key === 'N') click('gp-seed');
  });
  document.addEventListener('keyup', event => {
    if (event.key === ' ' && event.target.matches?.('#gp-play, #gp-pause, [role=tab]')) event.preventDefault();
  });

  // ---- tooltips with the keys; Gradio's buttons know none
  const TIPS = {
    'gp-play': 'Play (space)', 'gp-pause': 'Pause (space)', 'gp-step': 'One step (→)',
    'gp-ten': 'Ten steps', 'gp-hundred': 'A hundred steps', 'gp-reset': 'Reset: the same beginning (R)',
    'gp-seed': 'New seed: another beginning (N)', 'gp-undo': 'Undo what restarted the run (Ctrl-Z)',
  };
  const label = () => {
    const missing = Object.keys(TIPS).filter(id => !document.getElementById(id)?.title);
    for (const id of missing) { const node = document.getElementById(id); if (node) node.title = TIPS[id]; }
    for (const [name, about] of Object.entries(window.playgroundData || {})) {
      const node = document.querySelector(`#gp-data label:has(input[value="${name}"])`);
      if (node) node.title = about;
    }
    if (missing.length) setTimeout(label, 250);
  };
  label();

  // ---- Play answers at once; the frames that follow say what is true
  document.addEventListener('click', event => {
    if (event.target.closest?.('#gp-play')) document.body.classList.add('gp-playing');
    if (event.target.closest?.('#gp-pause')) document.body.classList.remove('gp-playing');
  }, true);

  // ---- each frame tells whether it is playing, and the address of its experiment
  let own = '';
  document.addEventListener('playground:frame', event => {
    const extra = event.detail || {};
    document.body.classList.toggle('gp-playing', !!extra.playing);
    const gpu = document.getElementById('gp-gpu');
    if (gpu) {
      gpu.setAttribute('aria-pressed', String(extra.gpu !== 'off'));
      gpu.classList.toggle('gp-on-gpu', extra.gpu === 'on');
    }
    // the line of the machine also says how this run's steps are worked out, where that is special
    const native = document.querySelector('.gp-machine [data-slot="native"]');
    if (native) native.textContent = extra.native ? `; ${extra.native}` : '';
    const hash = extra.about && extra.about.hash;
    // an experiment too large for a link has none: an old one would name another
    if (hash === '' && /^#e=/.test(location.hash)) { own = ''; try { history.replaceState(history.state, '', location.pathname + location.search); } catch { /* a sandboxed frame */ } }
    if (hash && `#${hash}` !== location.hash) {
      own = hash;
      // replaced, not pushed: Back leaves the page, it doesn't walk through every slider move
      try { history.replaceState(history.state, '', `${location.search}#${hash}`); } catch { /* a sandboxed frame */ }
    }
  });
  // ?view=api opens Gradio's page of the API, whose own reading of it waits for a click
  document.addEventListener('playground:frame', () => {
    if (new URLSearchParams(location.search).get('view') !== 'api') return;
    const link = document.querySelector('footer .show-api');
    if (link && !document.querySelector('.api-docs')) { link.click(); link.click(); }
  }, { once: true });
  window.addEventListener('hashchange', () => {
    if (location.hash.replace(/^#/, '') !== own) click('gp-follow');
  });

  // ---- a tab or dataset chosen with the mouse gives the arrow keys back
  document.addEventListener('click', event => {
    const chosen = event.detail && event.target.closest?.('[role=tab], #gp-data label');
    if (chosen) setTimeout(() => document.activeElement?.matches?.('[role=tab], #gp-data input') && document.activeElement.blur(), 0);
  });

  // ---- lecture mode: large type, controls folded
  document.addEventListener('click', event => {
    const button = event.target.closest?.('#gp-lecture');
    if (button) button.setAttribute('aria-pressed', String(document.body.classList.toggle('gp-lecture')));
  });

  // ---- light and dark: Gradio's class on the body, remembered
  const dark = () => document.body.classList.contains('dark');
  const wanted = (() => { try { return localStorage.getItem('gp-theme'); } catch { return null; } })();
  const asked = new URLSearchParams(location.search).get('__theme');
  window.addEventListener('DOMContentLoaded', () => {
    if (wanted && !asked) setTimeout(() => document.body.classList.toggle('dark', wanted === 'dark'), 0);
  });
  document.addEventListener('click', event => {
    if (!event.target.closest?.('#gp-theme')) return;
    document.body.classList.toggle('dark');
    try { localStorage.setItem('gp-theme', dark() ? 'dark' : 'light'); } catch { /* private mode */ }
  });
})();
