'use strict';
// What a page can do beyond being read: search tables and taps, draw charts that can be asked, copy commands.
// Without this script every number that decides is still there.

const $ = (selector, within = document) => within.querySelector(selector);
const $$ = (selector, within = document) => [...within.querySelectorAll(selector)];
const make = (name, attributes = {}, ...children) => {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) if (value !== null) element.setAttribute(key, value);
  element.append(...children);
  return element;
};
const unpack = async (element) => {
  const bytes = Uint8Array.from(atob(element.textContent.trim()), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream('gzip'));
  return JSON.parse(await new Response(stream).text());
};
const number = (value, digits = 3) => {
  if (value === null || value === undefined) return '–';
  if (value < 0 && digits === 'ratio') return '∞';
  if (digits === 'ratio') digits = 3;
  if (value === 0) return '0';
  const size = Math.abs(value);
  return size < 1e-3 || size >= 1e5 ? value.toExponential(digits - 1) : String(Number(value.toPrecision(digits)));
};
const matches = (text, words) => words.every((word) => text.includes(word));
const wordsOf = (text) => text.toLowerCase().split(/\s+/).filter(Boolean);
const MARKS = { pass: ['✓', 'pass'], diverged: ['✕', 'fail'], invalid: ['✕', 'fail'], missing: ['◌', 'warn'], inconclusive: ['?', 'warn'] };
const badge = (verdict) => {
  const [symbol, kind] = MARKS[verdict] || ['?', 'warn'];
  return make('span', { class: `badge ${kind}` }, `${symbol} ${verdict}`);
};
const breaking = (name) => {
  const code = make('code');
  name.split(/(?<=[._/:])/).forEach((part, i) => code.append(...(i ? [make('wbr'), part] : [part])));
  return code;
};

// ---- small things of every page ------------------------------------------------------------------------------------

for (const button of $$('.copy')) {
  button.hidden = false;
  button.addEventListener('click', () => copy(button));
}
async function copy(button) {
  const text = button.previousElementSibling;
  try {
    await navigator.clipboard.writeText(text.textContent);
  } catch { // a page from a file may not write to the clipboard in every browser: select it instead
    getSelection().selectAllChildren(text);
    document.execCommand('copy');
  }
  button.textContent = 'Copied';
  setTimeout(() => { button.textContent = 'Copy'; }, 1500);
}
const command = (text) => {
  const button = make('button', { type: 'button', class: 'copy' }, 'Copy');
  button.addEventListener('click', () => copy(button));
  return make('span', { class: 'command' }, make('code', {}, text), button);
};

for (const filter of $$('.filter')) {
  const rows = $$('tbody tr', filter.nextElementSibling);
  const texts = rows.map((row) => row.textContent.toLowerCase());
  filter.hidden = false;
  $('input', filter).addEventListener('input', (event) => {
    const words = wordsOf(event.target.value);
    rows.forEach((row, i) => { row.hidden = !matches(texts[i], words); });
    $('.count', filter).textContent = `${rows.filter((row) => !row.hidden).length} of ${rows.length}`;
  });
}

for (const menu of $$('.menu')) {
  addEventListener('click', (event) => { if (!menu.contains(event.target) || event.target.closest('a')) menu.open = false; });
  menu.addEventListener('keydown', (event) => { if (event.key === 'Escape') { menu.open = false; $('summary', menu).focus(); } });
}

const reveal = () => {
  const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  for (let part = target; part; part = part.parentElement) if (part.tagName === 'DETAILS') part.open = true;
  if (target && target.tagName === 'DETAILS') target.scrollIntoView();
};
addEventListener('hashchange', reveal);
reveal();

// ---- charts --------------------------------------------------------------------------------------------------------

const charts = []; // functions that draw each of them again, in the colours and the width of now
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
let printing = false;

// One chart. series: {name, colour, values, style: dots | line | dashes, bad: indices that do not pass}
function chart(place, { title, names, series, ticks, log = true, tell, choose, height = 250, sync, stepped = false }) {
  const shown = series.filter((one) => one.values.some((value) => value !== null && (!log || value > 0)));
  if (!shown.length) return;
  const keys = shown.map((one) => make('span', { class: 'key' }, make('i', { class: `swatch ${one.style}`, style: `border-color:var(--${one.colour})`, 'aria-hidden': 'true' }), one.name));
  const tip = make('div', { class: 'tip', hidden: '' });
  const box = make('div', { role: 'img', 'aria-label': `${title}: ${shown.map((one) => said(one, names)).join('; ')}` });
  place.append(make('figure', { class: 'chart' }, make('figcaption', {}, make('b', {}, title), ...keys), box, tip));
  const data = [names.map((_, i) => i), ...shown.map((one) => one.values.map((value) => (log && !(value > 0) ? null : value)))];
  const longest = Math.max(0, ...ticks.map(([, name]) => name.length));
  let plot = null;
  let zoom = null;
  const draw = () => {
    const width = Math.max(240, Math.floor(printing ? 330 : place.classList.contains('profile') ? place.clientWidth : box.clientWidth));
    if (plot) { zoom = { min: plot.scales.x.min, max: plot.scales.x.max }; plot.destroy(); }
    const [line, soft] = [colour('line'), colour('soft')];
    const slanted = longest > 4;
    const font = '11px system-ui, sans-serif';
    plot = new uPlot({
      width,
      height: height + (slanted ? Math.min(220, longest * 4) : 0),
      padding: [8, slanted ? Math.min(120, ticks[ticks.length - 1][1].length * 5) : 12, 0, 0],
      legend: { show: false },
      cursor: { sync: sync ? { key: sync, setSeries: false } : undefined, drag: { x: true, y: false, uni: 8 }, points: { size: 8 } },
      scales: { x: { time: false, ...(zoom || {}) }, y: { distr: log ? 3 : 1, range: log ? undefined : (u, low, high) => [0, high * 1.1 || 1] } },
      axes: [{
        stroke: soft, font, grid: { stroke: line, width: 0.5 }, ticks: { show: false }, rotate: slanted ? -40 : 0, gap: 4,
        size: slanted ? 20 + Math.min(220, longest * 4.2) : 26,
        splits: (u, axis, min, max) => thinned(ticks, min, max, u.bbox.width / devicePixelRatio || width),
        values: (u, splits) => splits.map((at) => (ticks.find(([i]) => i === at) || [0, ''])[1]),
      }, {
        stroke: soft, font, grid: { stroke: line, width: 0.5 }, ticks: { show: false }, size: 58,
        values: (u, splits) => splits.map((value) => (value === null || (log && !isLabelled(value, u, height)) ? '' : log && (value < 1e-3 || value >= 1e5) ? value.toExponential(0) : number(value))),
      }],
      series: [{}, ...shown.map((one) => ({
        stroke: colour(one.colour), width: one.style === 'dots' ? 0 : 1.6, dash: one.style === 'dashes' ? [6, 4] : undefined, spanGaps: one.style !== 'dots',
        paths: one.style === 'dots' ? () => null : stepped ? uPlot.paths.stepped({ align: 1 }) : undefined,
        points: { show: one.style === 'dots' || (one.style === 'line' && names.length < 30 && !stepped), size: names.length > 400 ? 3 : 5, fill: colour(one.colour), width: 0 },
      }))],
      hooks: {
        draw: [(u) => crosses(u, shown, colour('fail'))],
        setCursor: [(u) => point(u, tip, tell)],
        setScale: [(u, key) => { if (key === 'x') zoom = { min: u.scales.x.min, max: u.scales.x.max }; }],
      },
    }, data, box);
    if (choose) {
      let from = 0;
      plot.over.style.cursor = 'pointer';
      plot.over.addEventListener('mousedown', (event) => { from = event.clientX; });
      plot.over.addEventListener('click', (event) => { if (Math.abs(event.clientX - from) < 4 && plot.cursor.idx !== null) choose(plot.cursor.idx); });
    }
    plot.over.addEventListener('mouseleave', () => { tip.hidden = true; });
  };
  draw();
  charts.push(draw);
  draw.place = place;
}
// As many decades as have room for their label.
function isLabelled(value, u, height) {
  const power = Math.log10(value);
  const step = Math.ceil((17 * Math.log10(u.scales.y.max / u.scales.y.min)) / height) || 1;
  return Math.abs(power - Math.round(power)) < 1e-9 && Math.round(power) % step === 0;
}
const said = (one, names) => {
  const known = one.values.map((value, i) => [value, names[i]]).filter(([value]) => value !== null);
  if (!known.length) return one.name;
  const low = known.reduce((a, b) => (b[0] < a[0] ? b : a));
  const high = known.reduce((a, b) => (b[0] > a[0] ? b : a));
  return `${one.name} from ${number(low[0])} at ${low[1]} to ${number(high[0])} at ${high[1]}`;
};
// As many layers' names as fit, those of blocks first; names are never cut.
function thinned(ticks, min, max, width) {
  const inside = ticks.filter(([at]) => at >= min && at <= max);
  const room = (20 * (max - min)) / width;
  const kept = [];
  for (const blocks of [true, false]) {
    for (const [at, name] of inside) {
      if (/\d$/.test(name) === blocks && kept.every((other) => Math.abs(other - at) >= room)) kept.push(at);
    }
  }
  return kept.sort((a, b) => a - b);
}
// A cross where a tensor does not pass.
function crosses(u, shown, red) {
  const { ctx } = u;
  const size = 4 * devicePixelRatio;
  ctx.save();
  ctx.strokeStyle = red;
  ctx.lineWidth = 1.6 * devicePixelRatio;
  ctx.beginPath();
  shown.forEach((one, s) => {
    for (const i of one.bad || []) {
      const value = u.data[s + 1][i];
      if (value === null || i < u.scales.x.min || i > u.scales.x.max) continue;
      const [x, y] = [u.valToPos(i, 'x', true), u.valToPos(value, 'y', true)];
      ctx.moveTo(x - size, y - size); ctx.lineTo(x + size, y + size);
      ctx.moveTo(x + size, y - size); ctx.lineTo(x - size, y + size);
    }
  });
  ctx.stroke();
  ctx.restore();
}
function point(u, tip, tell) {
  const { idx, left, top } = u.cursor;
  if (idx === null || idx === undefined || left < 0 || !u.over.matches(':hover')) { tip.hidden = true; return; }
  tip.replaceChildren(...tell(idx));
  tip.hidden = false;
  const [x, y] = [left + u.over.offsetLeft, top + u.over.offsetTop];
  tip.style.left = `${Math.max(0, Math.min(x + 14, u.width - tip.offsetWidth))}px`;
  tip.style.top = `${y + 40}px`;
}
const redraw = () => charts.forEach((draw) => { if (draw.place.isConnected) draw(); });
let resizing;
addEventListener('resize', () => { clearTimeout(resizing); resizing = setTimeout(redraw, 120); });
matchMedia('(prefers-color-scheme: dark)').addEventListener('change', redraw);
const turn = (on) => { printing = on; document.documentElement.classList.toggle('light', on); redraw(); };
addEventListener('beforeprint', () => { for (const part of $$('main details')) part.open = true; turn(true); });
addEventListener('afterprint', () => turn(false));

function profile(place) {
  const found = JSON.parse(place.dataset.profile);
  const bins = found.ours.map((_, i) => Math.floor((i * found.size) / found.ours.length));
  const last = bins.length - 1;
  chart(place, {
    title: '', names: bins.map((at) => `position ${at}`), height: 120, stepped: true,
    ticks: [[0, '0'], [last, String(found.size - 1)]],
    series: [{ name: 'torch', colour: 'torch', values: found.reference, style: 'line' }, { name: 'ours', colour: 'ours', values: found.ours, style: 'line' }],
    tell: (i) => [make('b', {}, `from position ${bins[i]}`), make('br'), `ours ${number(found.ours[i])}, torch ${number(found.reference[i])}`],
  });
}
const drawn = new WeakSet();
const profiles = (within) => $$('.profile', within).forEach((place) => { if (!drawn.has(place)) { drawn.add(place); profile(place); } });
for (const part of $$('main details')) {
  if (part.open) profiles(part);
  part.addEventListener('toggle', () => { if (part.open) profiles(part); });
}

// Lines that a page brings with it: [{title, names, ticks, style, log, series: {name: values}}].
const lines = (place) => {
  for (const { title, names, ticks, log, style, series } of JSON.parse(place.dataset.lines)) {
    const hues = ['ours', 'free', 'torch'];
    const tell = (i) => [make('b', {}, names[i]), ...Object.entries(series).flatMap(([name, values]) => [make('br'), `${name} ${number(values[i])}`])];
    chart(place, {
      title, names, log, tell, height: 170, ticks: ticks.map((name, i) => [i, name]),
      series: Object.entries(series).map(([name, values], i) => ({ name, values, colour: hues[i % 3], style })),
    });
  }
};
requestAnimationFrame(() => setTimeout(() => $$('[data-lines]').forEach(lines))); // the words are seen first

// ---- every tensor of a stage ---------------------------------------------------------------------------------------

const STEP = 200; // rows at once

class Explorer {
  constructor(section, data) {
    Object.assign(this, { section, data, stage: section.dataset.stage, limit: STEP, chosen: null });
    this.form = $('.choices', section);
    this.body = $('.taps tbody', section);
    this.lower = data.names.map((name) => name.toLowerCase());
    this.fill();
    this.form.hidden = $('.rows', section).hidden = false;
    this.form.addEventListener('input', () => { this.limit = STEP; this.chosen = null; this.show(); });
    this.form.addEventListener('submit', (event) => event.preventDefault());
    $('.more', section).addEventListener('click', () => { this.limit += STEP; this.table(); });
    this.body.addEventListener('click', (event) => {
      const row = event.target.closest('tr[data-row]');
      if (row && !event.target.closest('.copy')) this.choose(Number(row.dataset.row), false);
    });
    this.show();
  }

  // The choices that there are; those of a red stage begin at what is red.
  fill() {
    const { data, form } = this;
    const lists = { config: data.configs, case: data.cases, lane: [...data.lanes].sort(), verdict: data.verdicts.filter((_, v) => data.verdict.includes(v)) };
    for (const [name, values] of Object.entries(lists)) {
      form[name].append(make('option', { value: '' }, 'all'), ...values.map((value) => make('option', { value }, value)));
    }
    if (lists.verdict.length > 1) form.verdict.append(make('option', { value: '!' }, 'all that do not pass'));
    if (data.verdict.some((verdict) => data.verdicts[verdict] !== 'pass')) form.verdict.value = '!';
  }

  show() { this.table(); this.draw(); }

  wanted() {
    const { data, form } = this;
    const words = wordsOf(form.q.value);
    const [config, kase, lane] = [['configs', 'config'], ['cases', 'case'], ['lanes', 'lane']].map(([list, key]) => (form[key].value ? data[list].indexOf(form[key].value) : -1));
    const verdict = form.verdict.value;
    const names = new Set(this.lower.flatMap((name, i) => (matches(name, words) ? [i] : [])));
    const found = [];
    for (let i = 0; i < data.count; i += 1) {
      if (config >= 0 && data.config[i] !== config) continue;
      if (kase >= 0 && data.case[i] !== kase) continue;
      if (lane >= 0 && data.lane[i] !== lane) continue;
      const own = data.verdicts[data.verdict[i]];
      if (verdict === '!' ? own === 'pass' : verdict && own !== verdict) continue;
      if (names.has(data.name[i])) found.push(i);
    }
    const size = (i) => (data.ratio[i] < 0 ? Infinity : data.ratio[i]) / data.allowed[data.lanes[data.lane[i]]];
    return form.order.value === 'ratio' ? found.sort((a, b) => size(b) - size(a)) : found;
  }

  table() {
    const found = this.wanted();
    const shown = found.slice(0, this.limit);
    if (this.chosen !== null && !shown.includes(this.chosen)) shown.unshift(this.chosen);
    this.body.replaceChildren(...shown.map((i) => this.row(i)));
    const more = $('.more', this.section);
    more.hidden = found.length <= this.limit;
    more.textContent = `Show ${Math.min(STEP, found.length - this.limit).toLocaleString('en')} more`;
    $('.count', this.section).textContent = `${found.length.toLocaleString('en')} of ${this.data.count.toLocaleString('en')} tensors`;
  }

  name(i) { return this.data.names[this.data.name[i]] + (this.data.call[i] ? `#${this.data.call[i]}` : ''); }

  at(i) {
    const { data } = this;
    return { config: data.configs[data.config[i]], case: data.cases[data.case[i]], lane: data.lanes[data.lane[i]], verdict: data.verdicts[data.verdict[i]] };
  }

  row(i) {
    const { data } = this;
    const at = this.at(i);
    const std = data.reference[i];
    const numbers = [number(data.ratio[i], 'ratio'), number(data.error[i]), number(data.torch[i]), number(data.decorrelation[i], 2), number(data.ours[i] ?? std, 4), number(std, 4)];
    return make('tr', { 'data-row': i, id: `row-${this.stage}-${i}`, class: i === this.chosen ? 'chosen' : null },
      make('td', {}, breaking(this.name(i))), make('td', {}, badge(at.verdict)), make('td', {}, at.config), make('td', {}, at.case), make('td', {}, at.lane),
      make('td', {}, data.kinds[data.kind[i]]), ...numbers.map((text) => make('td', { class: 'n' }, text)));
  }

  // Show a row, why it does not pass, and what to do next. scroll: it was chosen elsewhere.
  choose(i, scroll) {
    this.chosen = i;
    $$('.more-of', this.body).forEach((row) => row.remove());
    this.table();
    const row = $(`[data-row="${i}"]`, this.body);
    const at = this.at(i);
    const why = this.data.whys[this.data.why[i]];
    const source = this.data.sources[this.data.source[i]];
    const place = [this.stage, at.config, at.case, at.lane, this.name(i)].map(quoted).join(' ');
    const seed = this.data.seed ? ` --seed ${this.data.seed}` : '';
    const box = make('div', {}, ...(why ? [make('p', {}, why)] : []), ...(source ? [make('p', {}, 'Our source: ', breaking(source))] : []),
      ...['explain', 'bisect'].map((verb) => make('p', {}, command(`python -m parity ${verb} ${place}${seed}`))));
    row.after(make('tr', { class: 'more-of' }, make('td', { colspan: 12 }, box)));
    if (scroll) row.scrollIntoView({ block: 'center' });
  }

  // A row by the words of a link, whatever is filtered now.
  find(asked) {
    const { data } = this;
    const [config, kase, lane] = [data.configs.indexOf(asked.get('config')), data.cases.indexOf(asked.get('case')), data.lanes.indexOf(asked.get('lane'))];
    const name = data.names.indexOf(asked.get('tap'));
    for (let i = 0; i < data.count; i += 1) {
      if (data.name[i] === name && data.config[i] === config && data.case[i] === kase && data.lane[i] === lane && data.call[i] === Number(asked.get('call') || 0)) return i;
    }
    return null;
  }

  open(asked) {
    const { form } = this;
    if (asked.has('q')) { form.q.value = asked.get('q'); form.verdict.value = ''; this.show(); this.section.scrollIntoView(); return; }
    const i = this.find(asked);
    if (i === null) return;
    const at = this.at(i);
    form.config.value = at.config;
    form.case.value = at.case;
    this.show();
    this.choose(i, true);
  }

  // The config and case that are drawn: those chosen, or else those of the first that does not pass, or of the first.
  draw() {
    const { data, form } = this;
    const fits = (i) => (!form.config.value || data.configs[data.config[i]] === form.config.value) && (!form.case.value || data.cases[data.case[i]] === form.case.value);
    let first = -1;
    for (let i = 0; i < data.count && (first < 0 || data.verdict[first] === data.verdicts.indexOf('pass')); i += 1) {
      if (fits(i) && (first < 0 || data.verdicts[data.verdict[i]] !== 'pass')) first = i;
    }
    const place = $('.charts', this.section);
    const key = first < 0 ? '' : `${data.config[first]} ${data.case[first]}`;
    if (this.drawn === key) return;
    this.drawn = key;
    place.replaceChildren();
    if (first >= 0) this.panels(place, data.config[first], data.case[first]);
  }

  panels(place, config, kase) {
    const { data } = this;
    const rows = { gate: new Map(), free: new Map() };
    const order = new Map();
    for (let i = 0; i < data.count; i += 1) {
      if (data.config[i] !== config || data.case[i] !== kase) continue;
      const tap = `${data.name[i]} ${data.call[i]}`;
      if (!order.has(tap)) order.set(tap, i);
      rows[data.lanes[data.lane[i]] === 'C' ? 'free' : 'gate'].set(tap, i);
    }
    const taps = [...order.keys()].filter((tap) => [rows.gate, rows.free].some((side) => side.has(tap) && data.error[side.get(tap)] !== null));
    if (!taps.some((tap) => [rows.gate, rows.free].some((side) => data.error[side.get(tap)]))) {
      place.append(make('p', { class: 'soft' }, `${data.configs[config]}, case ${data.cases[kase]}: every value equals the reference's, to the last bit.`));
      return;
    }
    const names = taps.map((tap) => this.name(order.get(tap)));
    const column = (side, key) => taps.map((tap) => (side.has(tap) ? key(side.get(tap)) : null));
    const bad = (side) => taps.flatMap((tap, x) => (side.has(tap) && data.verdicts[data.verdict[side.get(tap)]] !== 'pass' ? [x] : []));
    const [gate, free] = [rows.gate, rows.free];
    const lane = gate.size ? data.lanes[data.lane[gate.values().next().value]] : 'A';
    const ticks = [];
    taps.forEach((tap, x) => {
      const name = data.layers[data.name[order.get(tap)]];
      if (!x || name !== data.layers[data.name[order.get(taps[x - 1])]]) ticks.push([x, name]);
    });
    const tell = (x) => this.tell(taps[x], names[x], gate, free);
    const choose = (x) => this.choose(gate.get(taps[x]) ?? free.get(taps[x]), true);
    const shared = { names, ticks, tell, choose, sync: `${this.stage}` };
    const isolated = `isolated (${lane})`;
    const pair = (key) => [
      { name: isolated, colour: 'ours', values: column(gate, key), style: 'dots', bad: bad(gate) },
      { name: 'free-running (C)', colour: 'free', values: column(free, key), style: 'dots', bad: bad(free) },
    ];
    const limit = (value, side, name) => ({ name, colour: 'limit', values: side.size ? taps.map(() => value) : [], style: 'dashes' });
    const ratio = (i) => (data.ratio[i] < 0 ? null : data.ratio[i]);
    place.append(make('p', {}, make('b', {}, `${data.configs[config]}, case ${data.cases[kase]}`), ', in the order of computation. Point at a tensor for its numbers, click for its row, drag to zoom. A cross does not pass.'));
    chart(place, { ...shared, title: 'Ratio: our error over torch’s', series: [...pair(ratio), limit(data.allowed[lane], gate, `${data.allowed[lane]} is allowed`), limit(data.allowed.C, free, `${data.allowed.C}, free-running`)] });
    chart(place, { ...shared, title: 'Relative L2 error against the float64 oracle', series: [{ name: `torch's own, ${isolated}`, colour: 'torch', values: column(gate, (i) => data.torch[i]), style: 'line' }, ...pair((i) => data.error[i])] });
    const known = gate.size ? gate : free;
    chart(place, { ...shared, title: 'Std', series: [
      { name: 'reference', colour: 'torch', values: column(known, (i) => data.reference[i]), style: 'line' },
      { name: 'ours', colour: 'ours', values: column(known, (i) => data.ours[i] ?? data.reference[i]), style: 'dots' },
      ...this.reported(taps, order),
    ] });
    chart(place, { ...shared, title: '1 − correlation with the reference', series: pair((i) => data.decorrelation[i]) });
    this.shares(place, data.configs[config]);
  }

  tell(tap, name, gate, free) {
    const { data } = this;
    const lines = [];
    for (const [side, words] of [[gate, 'isolated'], [free, 'free-running']]) {
      if (!side.has(tap)) continue;
      const i = side.get(tap);
      const verdict = data.verdicts[data.verdict[i]];
      lines.push(make('br'), `${words}: ratio ${number(data.ratio[i], 'ratio')}${verdict === 'pass' ? '' : ` (${verdict})`}, rel L2 ${number(data.error[i])}, torch's ${number(data.torch[i])}`);
    }
    const i = gate.get(tap) ?? free.get(tap);
    lines.push(make('br'), `std ours ${number(data.ours[i] ?? data.reference[i], 4)}, reference ${number(data.reference[i], 4)}`);
    return [make('b', {}, name), ...lines];
  }

  // Lowest and highest std that were reported of the released model, at the last tensor of a layer.
  reported(taps, order) {
    const { data } = this;
    if (!data.landmarks) return [];
    const values = [0, 1].map((side) => taps.map((tap, x) => {
      const name = data.layers[data.name[order.get(tap)]];
      const last = x === taps.length - 1 || data.layers[data.name[order.get(taps[x + 1])]] !== name;
      return last && data.landmarks.std[name] ? data.landmarks.std[name][side] : null;
    }));
    return [{ name: 'reported for the released 19B, lowest', colour: 'ink', values: values[0], style: 'dots' }, { name: 'highest', colour: 'ink', values: values[1], style: 'dots' }];
  }

  shares(place, config) {
    const known = this.data.landmarks && this.data.landmarks.shares[config];
    if (!known) return;
    const names = known.map(([name]) => name);
    chart(place, {
      title: 'Text attention as a share of the stream', names, ticks: names.map((name, i) => [i, name]),
      tell: (i) => [make('b', {}, names[i]), make('br'), number(known[i][1])],
      series: [{ name: 'reference', colour: 'torch', values: known.map(([, share]) => share), style: 'line' },
        { name: 'reported for the released 19B', colour: 'ink', values: names.map((name) => this.data.landmarks.share[name] ?? null), style: 'dots' }],
    });
  }
}
const quoted = (word) => (/^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\"'\"'")}'`);

const explorers = new Map(); // stage → a promise of its explorer; unpacked when it is seen first, or asked for
function explore(section) {
  const stage = section.dataset.stage;
  if (!explorers.has(stage)) explorers.set(stage, unpack($('.data', section)).then((data) => new Explorer(section, data)));
  return explorers.get(stage);
}
const seen = new IntersectionObserver((entries) => {
  for (const entry of entries) if (entry.isIntersecting) { seen.unobserve(entry.target); explore(entry.target); }
}, { rootMargin: '400px' });
$$('.explorer').forEach((section) => seen.observe(section));

async function asked() {
  const query = new URLSearchParams(location.hash.slice(1));
  const section = $$('.explorer').find((one) => one.dataset.stage === query.get('stage'));
  if (section) (await explore(section)).open(query);
}
addEventListener('hashchange', asked);
asked();

// ---- a tap of any stage --------------------------------------------------------------------------------------------

for (const finder of $$('.finder')) {
  finder.hidden = false;
  let known = null;
  const load = () => { known ??= unpack($('.names', finder)); return known; };
  $('input', finder).addEventListener('focus', load, { once: true });
  $('input', finder).addEventListener('input', async (event) => {
    const words = wordsOf(event.target.value);
    const { stages } = await load();
    const found = [];
    for (const [stage, names] of Object.entries(stages)) {
      for (const [name, ratio, red] of names) if (words.length && matches(`${stage} ${name}`.toLowerCase(), words)) found.push([stage, name, ratio, red]);
    }
    $('.count', finder).textContent = words.length ? `${found.length.toLocaleString('en')} taps` : '';
    $('.found', finder).replaceChildren(make('ul', {}, ...found.slice(0, 60).map(([stage, name, ratio, red]) => make('li', {},
      make('a', { href: `${finder.dataset.root}${finder.dataset.root ? `${stageFile(finder, stage)}` : ''}#${new URLSearchParams({ stage, q: name })}` }, `${stage} `, breaking(name)),
      ` ratio ${number(ratio, 'ratio')} `, ...(red ? [badge('diverged')] : [])))));
  });
}
const stageFile = (finder, stage) => JSON.parse(finder.dataset.files)[stage];
