// The bar of tabs: on wide screens it takes up to two rows; on a phone, and in a lecture, it is
// one that scrolls sideways. The chosen tab is in view, and an edge fades where there are more.
(() => {
  'use strict';

  const REST_MS = 250; // the arrow keys open the tab on which they rest, not those they pass

  const bar = () => document.querySelector('#gp-tabs .tab-container');
  const tabs = () => [...document.querySelectorAll('#gp-tabs [role=tab]')];
  const chosen = () => tabs().find(tab => tab.getAttribute('aria-selected') === 'true');

  const phone = matchMedia('(max-width: 760px)');

  /** One row that scrolls, or as many as it takes, which shall be no more than two. */
  const fold = () => {
    const box = bar();
    if (!box) return;
    const row = tabs()[0]?.offsetHeight || 1;
    const lecture = document.body.classList.contains('gp-lecture');
    box.classList.remove('gp-one-row');
    box.classList.toggle('gp-one-row', phone.matches || lecture || box.offsetHeight > 2.6 * row);
    reveal(chosen(), 'instant');
    edges();
  };

  /** Which edges have more behind them. */
  const edges = () => {
    const box = bar();
    if (!box) return;
    const more = box.scrollWidth - box.clientWidth;
    box.classList.toggle('gp-more-left', more > 1 && box.scrollLeft > 4);
    box.classList.toggle('gp-more-right', more > 1 && box.scrollLeft < more - 4);
  };

  /** Bring a tab into the middle of the bar; the page itself stays where it is. */
  const reveal = (tab, behavior = 'smooth') => {
    const box = bar();
    if (!box || !tab || box.scrollWidth <= box.clientWidth + 1) return;
    const [frame, place] = [box.getBoundingClientRect(), tab.getBoundingClientRect()];
    const left = box.scrollLeft + place.left - frame.left - (frame.width - place.width) / 2;
    const still = matchMedia('(prefers-reduced-motion: reduce)').matches;
    box.scrollTo({ left, behavior: still ? 'instant' : behavior });
  };

  /** One stop for the Tab key: the tab that has the focus, else the chosen one. */
  const settle = () => {
    const one = tabs().includes(document.activeElement) ? document.activeElement : chosen();
    for (const tab of tabs()) tab.tabIndex = tab === one ? 0 : -1;
  };

  let shown = null;
  const follow = () => {
    settle();
    const now = chosen()?.textContent;
    if (now !== shown) reveal(chosen(), shown === null ? 'instant' : 'smooth');
    shown = now;
    edges();
  };

  let rest = 0;
  document.addEventListener('keydown', event => {
    const tab = event.target.closest?.('#gp-tabs [role=tab]');
    if (!tab || event.ctrlKey || event.metaKey || event.altKey || event.shiftKey) return;
    const all = tabs();
    const at = all.indexOf(tab);
    const to = {
      ArrowRight: at + 1, ArrowDown: at + 1, ArrowLeft: at - 1, ArrowUp: at - 1,
      Home: 0, End: all.length - 1,
    }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    event.stopPropagation();
    const next = all[(to + all.length) % all.length];
    next.focus({ preventScroll: true });
    settle();
    reveal(next);
    clearTimeout(rest);
    rest = setTimeout(() => document.activeElement === next && next.click(), REST_MS);
  }, true);

  // a mouse's wheel turns the row, where it has more than fits
  const wheel = event => {
    const box = event.currentTarget;
    if (box.scrollWidth <= box.clientWidth + 1 || Math.abs(event.deltaX) > Math.abs(event.deltaY)) return;
    event.preventDefault();
    box.scrollLeft += event.deltaY;
  };

  const start = () => {
    const box = bar();
    if (!box) return setTimeout(start, 100);
    box.addEventListener('scroll', edges, { passive: true });
    box.addEventListener('wheel', wheel, { passive: false });
    box.addEventListener('focusin', settle);
    box.addEventListener('focusout', () => setTimeout(settle, 0));
    new MutationObserver(follow).observe(box, {
      subtree: true, childList: true, attributes: true, attributeFilter: ['aria-selected'],
    });
    new ResizeObserver(fold).observe(document.getElementById('gp-tabs'));
    new MutationObserver(fold).observe(document.body, { attributes: true, attributeFilter: ['class'] });
    fold();
    follow();
  };
  start();
})();
