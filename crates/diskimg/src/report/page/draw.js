'use strict';
// Draws the map: parts of the guest's disk as a strip, and the places of the host files against
// guest offsets. The data is the JSON of `Picture`; see its documentation for the fields.

const data = JSON.parse(document.getElementById('data').textContent);
const STATES = ['data', 'compressed', 'zero', 'unallocated'];
const [COMPRESSED, ZERO, UNALLOCATED] = [1, 2, 3];
const size = data['virtual-size'];
const parts = data.parts;
const places = data.places;
const partitions = data['partition-table'] ? data['partition-table'].partitions : [];
const files = data.layers.flatMap((layer, depth) =>
  layer.files.map((file) => ({ ...file, depth })));
const LEFT = 74;
const RIGHT = 10;
const $ = (id) => document.getElementById(id);
const chart = $('chart');

// What is shown: guest offsets, and the offset under the cursor, if there is one.
const view = { start: 0, end: size };
let cursor = null;

// --- Words ---------------------------------------------------------------------------------------

const human = (n) => {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB', 'EiB'];
  let unit = 0;
  while (n >= 999.5 && unit < 6) { n /= 1024; unit += 1; }
  const digits = unit === 0 || n >= 99.95 ? 0 : n >= 9.995 ? 1 : 2;
  return `${Number(n.toFixed(digits))} ${units[unit]}`;
};
const hex = (n) => `0x${Math.floor(n).toString(16)}`;
const range = (from, to) => `${hex(from)}–${hex(to)}`;
const percent = (part, whole) => {
  const share = whole > 0 ? part * 100 / whole : 0;
  if (share > 0 && share < 0.1) return '< 0.1 %';
  if (share < 100 && share >= 99.5) return '> 99 %';
  return `${Number(share.toFixed(share < 9.95 ? 1 : 0))} %`;
};
const baseName = (path) => path.replace(/[/\\]+$/, '').split(/[/\\]/).pop();
const layerName = (depth) => `layer ${depth} (${baseName(data.layers[depth].filename)})`;

// --- Looking things up ---------------------------------------------------------------------------

// Index of the last entry that starts at or before an offset; -1 if there is none.
const lastAt = (list, offset) => {
  let [low, high] = [0, list.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (list[middle][0] <= offset) low = middle + 1; else high = middle;
  }
  return low - 1;
};
// The parts with the range that contains an offset.
const partsAt = (offset) => {
  const found = [];
  for (let i = lastAt(parts, offset); i >= 0; i -= 1) {
    if (found.length > 0 && parts[i][0] !== found[0][0]) break;
    found.unshift(parts[i]);
  }
  return found;
};
const placeAt = (offset) => {
  const last = lastAt(places, offset);
  for (let i = last; i >= 0 && i > last - 64; i -= 1) {
    const [start, length, , , , , bytes] = places[i];
    if (bytes === length && offset < start + length) return places[i];
  }
  return null;
};
const fileAt = (position) =>
  files.find((file) => position >= file.position && position < file.position + file.length);
const hostWords = (position) => {
  const file = fileAt(position);
  return file ? `${hex(position - file.position + file.start)} in ${baseName(file.filename)}` : '';
};

const describe = (offset) => {
  const lines = [];
  const found = partsAt(offset);
  const [start, length] = found[0] || [0, 0];
  lines.push(`${range(start, start + length)} · ${human(length)} at ${human(start)}`);
  if (found.length === 1) {
    const [, , depth, state] = found[0];
    lines.push(state === UNALLOCATED ? 'unallocated' : `${STATES[state]} in ${layerName(depth)}`);
  } else {
    for (const [, , depth, state, bytes] of found.slice(0, 6)) {
      const where = state === UNALLOCATED ? '' : ` in ${layerName(depth)}`;
      lines.push(`${percent(bytes, length)} ${STATES[state]}${where}`);
    }
  }
  const place = placeAt(offset);
  if (place) {
    const [from, , position, , , state] = place;
    const host = state === COMPRESSED ? position : position + (offset - from);
    lines.push(`host ${hostWords(host)}`);
  }
  for (const p of partitions) {
    if (offset >= p.start && offset < p.start + p.length) {
      lines.push(`partition ${p.number}: ${p.type}${p.name ? `, ${p.name}` : ''}`);
    }
  }
  return lines;
};

// --- Drawing -------------------------------------------------------------------------------------

let colors = {};
let patterns = {};
const readColors = () => {
  const style = getComputedStyle(document.documentElement);
  const names = ['back', 'card', 'ink', 'dim', 'line', 'plot', 'band', 'grid', 'accent'];
  colors = { layers: [] };
  for (const name of names) colors[name] = style.getPropertyValue(`--${name}`).trim();
  for (let n = 0; n < 7; n += 1) {
    colors.layers.push(style.getPropertyValue(`--l${n}`).trim());
  }
  patterns = {};
};
const layerColor = (depth) => colors.layers[Math.min(depth, 6)];

// The canvas and its size in CSS pixels, at the resolution of the screen.
const prepare = (id) => {
  const canvas = $(id);
  const [width, height] = [canvas.clientWidth, canvas.clientHeight];
  const scale = window.devicePixelRatio || 1;
  if (canvas.width !== Math.round(width * scale) || canvas.height !== Math.round(height * scale)) {
    canvas.width = Math.round(width * scale);
    canvas.height = Math.round(height * scale);
  }
  const g = canvas.getContext('2d');
  g.setTransform(scale, 0, 0, scale, 0, 0);
  g.clearRect(0, 0, width, height);
  g.font = '11px system-ui, sans-serif';
  return [g, width, height];
};

// The paint of a class: solid, hatched or dotted.
const paint = (g, depth, state) => {
  const color = layerColor(depth);
  if (state !== COMPRESSED && state !== ZERO) return color;
  const key = `${Math.min(depth, 6)}/${state}`;
  if (!patterns[key]) {
    const scale = window.devicePixelRatio || 1;
    const tile = document.createElement('canvas');
    const side = Math.round(6 * scale);
    tile.width = side;
    tile.height = side;
    const t = tile.getContext('2d');
    t.fillStyle = color;
    t.strokeStyle = color;
    t.globalAlpha = state === ZERO ? 0.22 : 0.4;
    t.fillRect(0, 0, side, side);
    t.globalAlpha = state === ZERO ? 0.5 : 1;
    if (state === ZERO) {
      t.fillRect(0, 0, Math.max(1, side / 5), Math.max(1, side / 5));
    } else {
      t.lineWidth = side / 3;
      for (const shift of [-side, 0, side]) {
        t.beginPath();
        t.moveTo(shift - 1, side + 1);
        t.lineTo(shift + side + 1, -1);
        t.stroke();
      }
    }
    const pattern = g.createPattern(tile, 'repeat');
    pattern.setTransform(new DOMMatrix().scale(1 / scale));
    patterns[key] = pattern;
  }
  return patterns[key];
};

// The share of each class in each of `count` columns between two offsets, by differences.
const columns = (from, to, count) => {
  const classes = new Map();
  const width = (to - from) / count;
  let i = Math.max(lastAt(parts, from), 0);
  while (i > 0 && parts[i - 1][0] === parts[i][0]) i -= 1;
  for (; i < parts.length && parts[i][0] < to; i += 1) {
    const [start, length, depth, state, bytes] = parts[i];
    if (state === UNALLOCATED || start + length <= from) continue;
    const key = depth * 4 + state;
    if (!classes.has(key)) classes.set(key, [new Float64Array(count + 1), new Float64Array(count)]);
    const [steps, single] = classes.get(key);
    const density = bytes / length;
    const a = Math.max((start - from) / width, 0);
    const b = Math.min((start + length - from) / width, count);
    const [first, last] = [Math.floor(a), Math.min(Math.floor(b), count - 1)];
    if (first === last) {
      single[first] += density * (b - a);
    } else {
      single[first] += density * (first + 1 - a);
      single[last] += density * (b - last);
      steps[first + 1] += density;
      steps[last] -= density;
    }
  }
  const sorted = [...classes.entries()].sort((x, y) => order(x[0]) - order(y[0]));
  return sorted.map(([key, [steps, single]]) => {
    let sum = 0;
    for (let n = 0; n < count; n += 1) { sum += steps[n]; single[n] += sum; }
    return { depth: Math.floor(key / 4), state: key % 4, shares: single };
  });
};
// Stored data at the bottom, zeros above.
const order = (key) => (key % 4 === ZERO ? 1e6 : 0) + key;

// Draws a strip of stacked columns.
const strip = (g, from, to, [x, y, width, height]) => {
  g.fillStyle = colors.plot;
  g.fillRect(x, y, width, height);
  const count = Math.max(Math.round(width), 1);
  const filled = new Float64Array(count);
  for (const { depth, state, shares } of columns(from, to, count)) {
    g.fillStyle = paint(g, depth, state);
    let n = 0;
    while (n < count) {
      const [below, share] = [filled[n], shares[n]];
      let end = n + 1;
      while (end < count && filled[end] === below && shares[end] === share) end += 1;
      if (share > 0) {
        // What is stored is visible, however little it is.
        const tall = Math.max(Math.min(share, 1) * height, 2);
        const bottom = Math.max(y + height - below * height, y + tall);
        g.fillRect(x + n, bottom - tall, end - n, tall);
      }
      for (let k = n; k < end; k += 1) filled[k] += share;
      n = end;
    }
  }
};

// Powers of two between ticks, so that at least `gap` pixels are between them.
const tickStep = (length, pixels, gap) =>
  2 ** Math.max(Math.ceil(Math.log2(length * gap / pixels)), 0);
// Labels with enough digits to tell ticks apart: whole units of the step.
const tickLabel = (offset, step) => {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB', 'EiB'];
  if (offset === 0) return '0';
  let unit = Math.min(Math.floor(Math.log2(offset) / 10), 6);
  while (unit > 0 && step / 1024 ** unit < 0.125) unit -= 1;
  return `${Number((offset / 1024 ** unit).toFixed(3))} ${units[unit]}`;
};

const plotWidth = (width) => Math.max(width - LEFT - RIGHT, 1);
const toX = (offset, width) =>
  LEFT + (offset - view.start) / (view.end - view.start || 1) * plotWidth(width);
const toOffset = (x, width) =>
  view.start + (x - LEFT) / plotWidth(width) * (view.end - view.start);

const drawOverview = () => {
  const [g, width, height] = prepare('overview');
  const wide = plotWidth(width);
  g.fillStyle = colors.dim;
  g.textBaseline = 'middle';
  g.textAlign = 'right';
  g.fillText('whole disk', LEFT - 8, height / 2);
  strip(g, 0, size, [LEFT, 4, wide, height - 8]);
  const x = LEFT + view.start / (size || 1) * wide;
  const w = Math.max((view.end - view.start) / (size || 1) * wide, 3);
  if (view.end - view.start < size) {
    g.fillStyle = colors.card;
    g.globalAlpha = 0.6;
    g.fillRect(LEFT, 4, x - LEFT, height - 8);
    g.fillRect(x + w, 4, LEFT + wide - x - w, height - 8);
    g.globalAlpha = 1;
    g.strokeStyle = colors.ink;
    g.lineWidth = 1.5;
    g.strokeRect(x, 2.5, w, height - 5);
  }
};

const clipped = (g, x, y, width, height, draw) => {
  g.save();
  g.beginPath();
  g.rect(x, y, width, height);
  g.clip();
  draw();
  g.restore();
};

const drawGuest = () => {
  const [g, width, height] = prepare('guest');
  const wide = plotWidth(width);
  const top = partitions.length > 0 ? 24 : 2;
  const bottom = height - 20;
  g.textBaseline = 'middle';
  g.fillStyle = colors.dim;
  g.textAlign = 'right';
  g.fillText('guest', LEFT - 8, (top + bottom) / 2);
  if (partitions.length > 0) g.fillText('partitions', LEFT - 8, 11);
  strip(g, view.start, view.end, [LEFT, top, wide, bottom - top]);
  clipped(g, LEFT, 0, wide, height, () => {
    g.textAlign = 'left';
    for (const p of partitions) {
      const [a, b] = [toX(p.start, width), toX(p.start + p.length, width)];
      if (b < LEFT || a > LEFT + wide) continue;
      const x = Math.max(a, LEFT - 2);
      const w = Math.max(Math.min(b, LEFT + wide + 2) - x, 2);
      g.fillStyle = colors.band;
      g.fillRect(x, 2, w, 18);
      g.strokeStyle = colors.dim;
      g.lineWidth = 1;
      g.strokeRect(x + 0.5, 2.5, w - 1, 17);
      const label = `${p.number} ${p.name || p.type}`;
      const room = w - 10;
      if (room > 8) {
        clipped(g, x, 0, w - 3, 22, () => {
          g.fillStyle = colors.ink;
          const text = g.measureText(label).width <= room ? label : `${p.number}`;
          g.fillText(text, Math.max(x, LEFT) + 5, 11.5);
        });
      }
    }
  });
  drawTicks(g, width, bottom);
  drawCursor(g, width, 0, bottom);
};

const drawTicks = (g, width, y) => {
  const step = tickStep(view.end - view.start || 1, plotWidth(width), 84);
  g.textBaseline = 'top';
  g.textAlign = 'center';
  g.strokeStyle = colors.grid;
  g.lineWidth = 1;
  for (let at = Math.ceil(view.start / step) * step; at <= view.end; at += step) {
    const x = Math.round(toX(at, width)) + 0.5;
    g.beginPath();
    g.moveTo(x, y);
    g.lineTo(x, y + 4);
    g.stroke();
    const label = tickLabel(at, step);
    const half = g.measureText(label).width / 2;
    g.fillStyle = colors.dim;
    g.fillText(label, Math.min(x, width - half - 1), y + 6);
  }
};

const drawCursor = (g, width, top, bottom) => {
  if (cursor === null || cursor < view.start || cursor > view.end) return;
  const x = Math.round(toX(cursor, width)) + 0.5;
  g.strokeStyle = colors.ink;
  g.globalAlpha = 0.55;
  g.setLineDash([4, 3]);
  g.beginPath();
  g.moveTo(x, top);
  g.lineTo(x, bottom);
  g.stroke();
  g.setLineDash([]);
  g.globalAlpha = 1;
};

// The files that are drawn, from the bottom up: the range of positions of each, and where it is.
// Small files are taller than their share, so that they can be seen.
let bands = [];
const TOP = 6;
const SMALLEST_BAND = 44;
const arrange = (height) => {
  const fit = $('fit').checked && view.end - view.start < size;
  bands = files.filter((file) => file.length > 0).map((file) =>
    ({ file, low: file.position, high: file.position + file.length }));
  if (fit) bands = fitted(bands);
  const least = Math.min(SMALLEST_BAND, height / Math.max(bands.length, 1));
  const total = bands.reduce((sum, { low, high }) => sum + high - low, 0);
  const isSmall = ({ low, high }) => (high - low) / total * height < least;
  const small = bands.filter(isSmall);
  const rest = total - small.reduce((sum, { low, high }) => sum + high - low, 0);
  const room = height - small.length * least;
  let bottom = TOP + height;
  for (const band of bands) {
    const tall = isSmall(band) ? least : (band.high - band.low) / rest * room;
    band.bottom = bottom;
    bottom -= tall;
    band.top = bottom;
  }
};
// Reduces the bands to what the visible part of the disk takes of each file.
const fitted = (all) => {
  const used = new Map();
  for (const [start, length, position, hostLength, , state, bytes] of places) {
    if (start >= view.end) break;
    if (start + length <= view.start) continue;
    let [from, to] = [position, position + hostLength];
    // Only the visible bytes of what is stored as it is.
    if (state !== COMPRESSED && bytes === length) {
      to = Math.min(to, position + (view.end - start));
      from = Math.max(from, position + (view.start - start));
    }
    const band = bandAt(all, position);
    if (!band) continue;
    const range = used.get(band) || [Infinity, -Infinity];
    used.set(band, [Math.min(range[0], from), Math.max(range[1], to)]);
  }
  const narrow = Math.max((view.end - view.start) / 256, 64 * 1024);
  return all.filter((band) => used.has(band)).map((band) => {
    const [from, to] = used.get(band);
    const margin = Math.max((to - from) * 0.06, (narrow - (to - from)) / 2, 1);
    const end = band.file.position + band.file.length;
    return {
      file: band.file,
      low: Math.max(from - margin, band.file.position),
      high: Math.min(to + margin, end),
    };
  });
};
const bandAt = (all, position) => {
  let [low, high] = [0, all.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (all[middle].file.position <= position) low = middle + 1; else high = middle;
  }
  return all[low - 1];
};
const toY = (band, position) => band.bottom
  - (position - band.low) / (band.high - band.low || 1) * (band.bottom - band.top);
const toPosition = (y) => {
  const band = bands.find(({ top, bottom }) => y >= top && y < bottom);
  if (!band) return -1;
  return band.low + (band.bottom - y) / (band.bottom - band.top) * (band.high - band.low);
};

const drawHost = () => {
  const [g, width, height] = prepare('host');
  const wide = plotWidth(width);
  const plotHeight = height - TOP - 24;
  arrange(plotHeight);
  g.fillStyle = colors.plot;
  g.fillRect(LEFT, TOP, wide, plotHeight);
  bands.forEach((band, n) => drawBand(g, band, n, width));
  // Guest offsets of the ticks, as lines.
  const step = tickStep(view.end - view.start || 1, wide, 84);
  g.strokeStyle = colors.grid;
  g.lineWidth = 1;
  for (let at = Math.ceil(view.start / step) * step; at <= view.end; at += step) {
    const x = Math.round(toX(at, width)) + 0.5;
    g.beginPath();
    g.moveTo(x, TOP);
    g.lineTo(x, TOP + plotHeight);
    g.stroke();
  }
  clipped(g, LEFT, TOP - 2, wide, plotHeight + 4, () => drawPlaces(g, width));
  if (places.length === 0) {
    g.fillStyle = colors.dim;
    g.textAlign = 'center';
    g.textBaseline = 'middle';
    g.fillText('Nothing is stored.', LEFT + wide / 2, TOP + plotHeight / 2);
  }
  drawTicks(g, width, TOP + plotHeight);
  drawCursor(g, width, TOP, TOP + plotHeight);
};

// Draws the band of a file, its name and its ticks.
const drawBand = (g, band, n, width) => {
  const { file, low, high, top, bottom } = band;
  const wide = plotWidth(width);
  if (n % 2 === 1) {
    g.fillStyle = colors.band;
    g.fillRect(LEFT, top, wide, bottom - top);
  }
  g.fillStyle = layerColor(file.depth);
  g.fillRect(LEFT - 4, top + 0.5, 3, bottom - top - 1);
  const base = file.start - file.position;
  const step = tickStep(high - low || 1, bottom - top, bottom - top < 60 ? 18 : 30);
  g.textAlign = 'right';
  g.textBaseline = 'middle';
  g.strokeStyle = colors.grid;
  g.lineWidth = 1;
  for (let at = Math.ceil((low + base) / step) * step; at <= high + base; at += step) {
    const y = Math.round(toY(band, at - base)) + 0.5;
    g.beginPath();
    g.moveTo(LEFT, y);
    g.lineTo(LEFT + wide, y);
    g.stroke();
    g.fillStyle = colors.dim;
    if (y > top + 5) g.fillText(tickLabel(at, step), LEFT - 9, Math.min(y, bottom - 5));
  }
  if (bottom - top > 18) {
    const more = file.count > 1 ? ` and ${file.count - 1} more files` : '';
    const label = `${file.depth}: ${baseName(file.filename)}${more}`;
    g.textAlign = 'left';
    g.textBaseline = 'top';
    clipped(g, LEFT, top, wide - 6, bottom - top, () => {
      g.fillStyle = n % 2 === 1 ? colors.band : colors.plot;
      g.globalAlpha = 0.85;
      g.fillRect(LEFT + 5, top + 3, g.measureText(label).width + 6, 15);
      g.globalAlpha = 1;
      g.fillStyle = colors.dim;
      g.fillText(label, LEFT + 8, top + 5);
    });
  }
};

const drawPlaces = (g, width) => {
  g.lineCap = 'butt';
  for (const [start, length, position, hostLength, depth, state, bytes] of places) {
    if (start >= view.end) break;
    if (start + length <= view.start) continue;
    const band = bandAt(bands, position);
    if (!band || position + hostLength < band.low || position > band.high) continue;
    const [x, end] = [toX(start, width), toX(start + length, width)];
    const [y, top] = [toY(band, position), toY(band, position + hostLength)];
    const color = layerColor(depth);
    if (bytes < length) {
      // Several extents: the denser, the darker.
      g.globalAlpha = 0.2 + 0.7 * Math.min(bytes / Math.max(Math.min(length, hostLength), 1), 1);
      g.fillStyle = color;
      g.fillRect(x, top, Math.max(end - x, 2), Math.max(y - top, 2));
      continue;
    }
    g.globalAlpha = state === ZERO ? 0.45 : 1;
    if (end - x < 3 && y - top < 3) {
      g.fillStyle = color;
      g.fillRect(x - 0.5, y - 2, 3, 3);
      continue;
    }
    g.strokeStyle = color;
    g.lineWidth = state === ZERO ? 1.5 : 3;
    g.setLineDash(state === COMPRESSED ? [4, 2] : []);
    g.beginPath();
    g.moveTo(x, y);
    g.lineTo(Math.max(end, x + 1.5), top);
    g.stroke();
  }
  g.setLineDash([]);
  g.globalAlpha = 1;
};

