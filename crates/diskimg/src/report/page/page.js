'use strict';
// Changes what the map shows, and describes it in words. Follows draw.js in the page.

document.documentElement.classList.add('js');
// Guest bytes that can be shown at least.
const SMALLEST = 4096;

// --- The view ------------------------------------------------------------------------------------

const narrowest = Math.min(size, SMALLEST);

const show = (start, end) => {
  let length = Math.min(Math.max(end - start, narrowest), size);
  start = Math.min(Math.max(start, 0), size - length);
  view.start = start;
  view.end = start + length;
  refresh();
};
const zoom = (factor, at = (view.start + view.end) / 2) => {
  const length = Math.min(Math.max((view.end - view.start) * factor, narrowest), size);
  const share = (at - view.start) / (view.end - view.start || 1);
  show(at - share * length, at + (1 - share) * length);
};
const pan = (share) => {
  const by = (view.end - view.start) * share;
  show(view.start + by, view.end + by);
};

// --- Readouts ------------------------------------------------------------------------------------

const sums = (from, to) => {
  const totals = [0, 0, 0, 0];
  let i = Math.max(lastAt(parts, from), 0);
  while (i > 0 && parts[i - 1][0] === parts[i][0]) i -= 1;
  for (; i < parts.length && parts[i][0] < to; i += 1) {
    const [start, length, , state, bytes] = parts[i];
    const common = Math.min(start + length, to) - Math.max(start, from);
    if (common > 0) totals[state] += common === length ? bytes : bytes / length * common;
  }
  return totals;
};
const readView = () => {
  const length = view.end - view.start;
  const whole = length >= size ? 'the whole disk' : `${percent(length, size)} of the disk`;
  const totals = sums(view.start, view.end)
    .map((n, state) => (n > 0 ? `${human(n)} ${STATES[state]}` : '')).filter(Boolean).join(', ');
  const shown = `${range(view.start, view.end)}, ${human(length)} at ${human(view.start)}`;
  $('view').textContent = `Showing ${shown} (${whole}): ${totals}.`;
};
const readCursor = () => {
  const words = cursor === null ? '' : `At ${hex(cursor)}: ${describe(cursor).join(' · ')}`;
  $('at').textContent = words;
};

const draw = () => {
  drawOverview();
  drawGuest();
  drawHost();
};

let pending = false;
let spoken = 0;
const refresh = () => {
  if (!pending) {
    pending = true;
    requestAnimationFrame(() => {
      pending = false;
      draw();
    });
  }
  readCursor();
  // Not at each step of a gesture: the text is read aloud.
  clearTimeout(spoken);
  spoken = setTimeout(readView, 120);
};

// --- Input ---------------------------------------------------------------------------------------

const xOf = (event, canvas) => event.clientX - canvas.getBoundingClientRect().left;
const within = (offset) => Math.min(Math.max(offset, 0), Math.max(size - 1, 0));

const hover = (event) => {
  const tip = $('tip');
  const canvas = event.currentTarget;
  const x = xOf(event, canvas);
  if (size === 0 || x < LEFT || x > canvas.clientWidth - RIGHT) { tip.hidden = true; return; }
  cursor = within(toOffset(x, canvas.clientWidth));
  const lines = describe(cursor);
  if (canvas.id === 'host') {
    const position = toPosition(event.clientY - canvas.getBoundingClientRect().top);
    const words = hostWords(position);
    if (words) lines.push(`pointer: ${words}`);
  }
  tip.textContent = lines.join('\n');
  tip.hidden = false;
  const box = chart.getBoundingClientRect();
  const [left, top] = [event.clientX - box.left + 14, event.clientY - box.top + 14];
  tip.style.left = `${Math.max(Math.min(left, box.width - tip.offsetWidth - 8), 4)}px`;
  tip.style.top = `${top + tip.offsetHeight > box.height ? top - tip.offsetHeight - 24 : top}px`;
  refresh();
};

const pointers = new Map();
let drag = null;
const begin = (event) => {
  const canvas = event.currentTarget;
  if (event.button > 0 || size === 0) return;
  canvas.setPointerCapture(event.pointerId);
  pointers.set(event.pointerId, xOf(event, canvas));
  const x = xOf(event, canvas);
  drag = { x, start: view.start, end: view.end, select: event.shiftKey, pinch: null };
  if (pointers.size === 2) {
    const [a, b] = [...pointers.values()];
    drag.pinch = Math.max(Math.abs(a - b), 10);
  }
};
const move = (event) => {
  const canvas = event.currentTarget;
  const x = xOf(event, canvas);
  if (!pointers.has(event.pointerId) || !drag) { hover(event); return; }
  pointers.set(event.pointerId, x);
  $('tip').hidden = true;
  const length = drag.end - drag.start;
  if (drag.pinch && pointers.size === 2) {
    const [a, b] = [...pointers.values()];
    const factor = drag.pinch / Math.max(Math.abs(a - b), 10);
    const share = ((a + b) / 2 - LEFT) / plotWidth(canvas.clientWidth);
    const at = drag.start + share * length;
    show(at - share * length * factor, at + (1 - share) * length * factor);
  } else if (drag.select) {
    drag.to = x;
    refresh();
    requestAnimationFrame(() => {
      const g = canvas.getContext('2d');
      g.fillStyle = colors.accent;
      g.globalAlpha = 0.25;
      const from = drag ? drag.x : x;
      g.fillRect(Math.min(from, x), 0, Math.abs(from - x), canvas.clientHeight);
      g.globalAlpha = 1;
    });
  } else if (!drag.pinch) {
    const by = (drag.x - x) / plotWidth(canvas.clientWidth) * length;
    show(drag.start + by, drag.end + by);
  }
};
const finish = (event) => {
  const canvas = event.currentTarget;
  pointers.delete(event.pointerId);
  if (drag && drag.select && drag.to !== undefined && Math.abs(drag.to - drag.x) > 4) {
    const [a, b] = [toOffset(drag.x, canvas.clientWidth), toOffset(drag.to, canvas.clientWidth)];
    show(Math.min(a, b), Math.max(a, b));
  }
  drag = null;
};
const wheel = (event) => {
  const focused = document.activeElement === chart;
  if (Math.abs(event.deltaX) > Math.abs(event.deltaY)) {
    event.preventDefault();
    pan(event.deltaX / 1000);
  } else if (event.ctrlKey || event.metaKey || focused) {
    event.preventDefault();
    const canvas = event.currentTarget;
    const at = within(toOffset(xOf(event, canvas), canvas.clientWidth));
    zoom(Math.exp(Math.max(Math.min(event.deltaY, 200), -200) / 300), at);
  }
};
for (const id of ['guest', 'host']) {
  const canvas = $(id);
  canvas.addEventListener('pointerdown', begin);
  canvas.addEventListener('pointermove', move);
  canvas.addEventListener('pointerup', finish);
  canvas.addEventListener('pointercancel', finish);
  canvas.addEventListener('pointerleave', () => { $('tip').hidden = true; });
  canvas.addEventListener('wheel', wheel, { passive: false });
  canvas.addEventListener('dblclick', (event) =>
    zoom(0.25, within(toOffset(xOf(event, canvas), canvas.clientWidth))));
}
// The overview moves the view to the pointer.
const overview = $('overview');
const center = (event) => {
  const at = (xOf(event, overview) - LEFT) / plotWidth(overview.clientWidth) * size;
  const half = (view.end - view.start) / 2;
  show(at - half, at + half);
};
overview.addEventListener('pointerdown', (event) => {
  overview.setPointerCapture(event.pointerId);
  center(event);
});
overview.addEventListener('pointermove', (event) => { if (event.buttons & 1) center(event); });

const moveCursor = (steps) => {
  const length = view.end - view.start;
  const from = cursor === null ? (view.start + view.end) / 2 : cursor;
  cursor = within(Math.floor(from + steps * length / 64));
  if (cursor < view.start || cursor >= view.end) show(cursor - length / 2, cursor + length / 2);
  refresh();
};
const keys = {
  '+': () => {
    const isVisible = cursor !== null && cursor >= view.start && cursor <= view.end;
    zoom(0.5, isVisible ? cursor : undefined);
  },
  '-': () => zoom(2),
  '0': () => show(0, size),
  ArrowLeft: (event) => (event.shiftKey ? moveCursor(-1) : pan(-0.1)),
  ArrowRight: (event) => (event.shiftKey ? moveCursor(1) : pan(0.1)),
  PageUp: () => pan(-0.9),
  PageDown: () => pan(0.9),
  Home: () => show(0, view.end - view.start),
  End: () => show(size - (view.end - view.start), size),
  Escape: () => { cursor = null; $('tip').hidden = true; refresh(); },
};
keys['='] = keys['+'];
keys['_'] = keys['-'];
chart.addEventListener('keydown', (event) => {
  const key = keys[event.key];
  if (!key || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  key(event);
});
$('in').addEventListener('click', () => zoom(0.5));
$('out').addEventListener('click', () => zoom(2));
$('all').addEventListener('click', () => show(0, size));
$('fit').addEventListener('change', refresh);
$('go').addEventListener('submit', (event) => {
  event.preventDefault();
  const text = $('offset').value.trim();
  const found = /^(0x[0-9a-f]+|[0-9]+(?:\.[0-9]+)?)\s*([kmgtpe]?)(?:i?b)?$/i.exec(text);
  const unit = found ? ['', 'k', 'm', 'g', 't', 'p', 'e'].indexOf(found[2].toLowerCase()) : 0;
  const offset = found ? Number(found[1]) * 1024 ** unit : NaN;
  const valid = offset >= 0 && offset < size;
  $('offset').setAttribute('aria-invalid', String(!valid));
  $('offset').setCustomValidity(valid ? '' : 'An offset within the disk, such as 0x100000 or 1G');
  if (!valid) { $('offset').reportValidity(); return; }
  cursor = offset;
  const length = view.end - view.start;
  if (offset < view.start || offset >= view.end) show(offset - length / 2, offset + length / 2);
  refresh();
});
$('offset').addEventListener('input', () => $('offset').setCustomValidity(''));

// Rows of the table of partitions zoom to the partition.
for (const row of document.querySelectorAll('tr[data-start]')) {
  const button = document.createElement('button');
  button.type = 'button';
  button.textContent = 'Show';
  button.setAttribute('aria-label', `Show partition ${row.cells[0].textContent} in the map`);
  button.addEventListener('click', () => {
    const [start, length] = [Number(row.dataset.start), Number(row.dataset.length)];
    show(start, start + length);
    chart.focus({ preventScroll: true });
    const calm = matchMedia('(prefers-reduced-motion: reduce)').matches;
    chart.scrollIntoView({ behavior: calm ? 'auto' : 'smooth', block: 'nearest' });
  });
  row.cells[1].append(button);
}

// --- Theme ---------------------------------------------------------------------------------------

const THEMES = ['system', 'light', 'dark'];
let theme = 0;
$('theme').addEventListener('click', () => {
  theme = (theme + 1) % THEMES.length;
  if (theme === 0) delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = THEMES[theme];
  $('theme').textContent = `Theme: ${THEMES[theme]}`;
  readColors();
  refresh();
});
const again = () => { readColors(); refresh(); };
matchMedia('(prefers-color-scheme: dark)').addEventListener('change', again);
// Paper is light.
const printed = (light) => {
  if (light) document.documentElement.dataset.theme = 'light';
  else if (theme === 0) delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = THEMES[theme];
  readColors();
  draw();
};
addEventListener('beforeprint', () => printed(true));
addEventListener('afterprint', () => printed(false));
new ResizeObserver(refresh).observe(chart);

const merged = [[data['part-size'], 'strip'], [data['place-size'], 'chart']]
  .filter(([length]) => length > 1)
  .map(([length, where]) => `shorter than ${human(length)} in the ${where}`);
if (merged.length > 0) {
  $('detail').textContent = 'The image has very many extents: those '
    + `${merged.join(' and ')} are drawn merged; the tables are exact.`;
}
readColors();
refresh();
readView();
