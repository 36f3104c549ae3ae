// The data of the page, and the few words with which everything is drawn. Text only ever becomes text nodes.
const data = JSON.parse(document.getElementById('data').textContent);
const AT = Object.fromEntries(data.columns.map((name, i) => [name, i]));
const get = (row, name) => row.v[AT[name]];
const SVG = 'http://www.w3.org/2000/svg';

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith('on')) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? '' : value);
  }
  for (const child of children.flat(3)) {
    if (child !== null && child !== undefined && child !== false) node.append(child);
  }
  return node;
}
const h = (tag, attributes, ...children) => fill(document.createElement(tag), attributes, children);
const s = (tag, attributes, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);
const hint = (text) => s('title', null, text);

// Half to even, as Python rounds: a number reads the same here and in 'evar leaderboard'.
const number = (value, digits = 1) =>
  value.toLocaleString('en', {
    minimumFractionDigits: digits,
    maximumFractionDigits: digits,
    useGrouping: false,
    roundingMode: 'halfEven',
  });
const percent = (share) => (share === null ? 'no score' : number(100 * share));
const points = (share) => `${share < 0 ? '−' : '+'}${number(Math.abs(100 * share))}`;
const short = (text, most) => ([...text].length > most ? [...text].slice(0, most - 1).join('') + '…' : text);
const significant = (value) => Number(value.toPrecision(3)).toLocaleString('en');
const plural = (n, word) => `${n.toLocaleString('en')} ${word}${n === 1 ? '' : 's'}`;
const listed = (words) =>
  words.length < 2 ? words.join('') : `${words.slice(0, -1).join(', ')} and ${words[words.length - 1]}`;
const sum = (values) => values.reduce((a, b) => a + b, 0);
const unique = (values) => [...new Set(values)];

// Boards, columns and lines by id, and the rows of a column.
const columns = new Map(),
  lines = new Map(),
  boardOf = new Map(),
  rowsOf = new Map();
for (const board of data.boards) {
  for (const column of board.columns) {
    columns.set(column.id, column);
    boardOf.set(column.id, board);
  }
  for (const line of board.lines) lines.set(line.id, line);
}
data.rows.forEach((row, i) => {
  row.i = i;
  row.mean = get(row, 'mean');
  if (!rowsOf.has(row.col)) rowsOf.set(row.col, []);
  rowsOf.get(row.col).push(row);
});
const boardName = (board) => `${board.protocol} (version ${board.version})${board.synthetic ? ', synthetic' : ''}`;
const columnName = (column) => column.task + (column.note ? ` (${column.note})` : '');
const lineName = (line) => line.encoder + (line.variant ? ` · ${line.variant}` : '');
const rowName = (row) => lineName(lines.get(row.line));
const competitors = (row) => rowsOf.get(row.col).filter((other) => other.rank !== null).length;
const interval = (row) => {
  const low = get(row, 'ci95_low'),
    high = get(row, 'ci95_high');
  return low === null || high === null || high <= low ? null : [low, high];
};
// As 'evar leaderboard' writes it: the interval itself where half of it would lead beyond 0 or 100.
const intervalText = (row) => {
  const between = interval(row);
  if (row.mean === null) return '';
  if (!between) return 'n/a';
  const half = (between[1] - between[0]) / 2;
  if (row.mean + half > 1.0005 || row.mean - half < -0.0005) return `[${percent(between[0])}, ${percent(between[1])}]`;
  return half < 0.0005 ? '±<0.1' : `±${number(100 * half)}`;
};
const isBest = (row) => row.rank === 1 && competitors(row) > 1;
const FLAGS = [
  ['p', (row) => get(row, 'partial'), 'partial: official clips are missing'],
  ['c', (row) => get(row, 'contaminated'), 'contaminated: the encoder was pre-trained on this task’s data'],
  ['s', (row) => get(row, 'skipped') > 0, 'clips that cannot be decoded were skipped'],
];
const flagsOf = (row) => FLAGS.filter(([, wanted]) => wanted(row));
const summary = (row) => {
  const between = interval(row);
  const parts = [`${rowName(row)} on ${columnName(columns.get(row.col))}: ${percent(row.mean)} %`];
  if (between) parts.push(`95 % interval ${percent(between[0])} to ${percent(between[1])}`);
  else if (row.mean !== null) parts.push('no 95 % interval');
  if (row.rank !== null) parts.push(`rank ${row.rank} of ${competitors(row)}`);
  for (const [, , note] of flagsOf(row)) parts.push(note);
  const weights = get(row, 'weights_sha256');
  parts.push(
    `${get(row, 'protocol')} version ${get(row, 'protocol_version')}`,
    weights ? `weights ${weights.slice(0, 12)}` : 'no weights file',
  );
  return parts.join('; ');
};

// A viridis-like ramp (van der Walt and Smith): lightness rises evenly, so that it survives grey print and colour blindness.
const RAMP = [
  [68, 1, 84],
  [71, 44, 122],
  [59, 81, 139],
  [44, 113, 142],
  [33, 144, 141],
  [39, 173, 129],
  [92, 200, 99],
  [170, 220, 50],
  [253, 231, 37],
];
function shade(share) {
  const place = Math.min(1, Math.max(0, share)) * (RAMP.length - 1),
    i = Math.min(RAMP.length - 2, Math.floor(place));
  const rgb = RAMP[i].map((low, k) => Math.round(low + (place - i) * (RAMP[i + 1][k] - low)));
  const linear = rgb.map((v) => (v / 255 <= 0.04045 ? v / 3294.6 : ((v / 255 + 0.055) / 1.055) ** 2.4));
  const light = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2];
  return {fill: `rgb(${rgb.join(',')})`, ink: light > 0.179 ? '#000' : '#fff'};
}
const rampStyle = `linear-gradient(90deg, ${RAMP.map((c) => `rgb(${c.join(',')})`).join(', ')})`;

// Series are told apart by colour, marker and dash together.
const DASHES = ['', '7 3', '2 3', '9 3 2 3', '4 2', '1 2', '12 4', '6 2 1 2 1 2'];
const colour = (i) => `var(--c${i % 8})`;
const dash = (i) => DASHES[(i + Math.floor(i / 8)) % 8] || null;
const SHAPES = [
  (r) => `M${-r} 0A${r} ${r} 0 1 1 ${r} 0A${r} ${r} 0 1 1 ${-r} 0Z`,
  (r) => `M${-r * 0.9} ${-r * 0.9}H${r * 0.9}V${r * 0.9}H${-r * 0.9}Z`,
  (r) => `M0 ${-r * 1.2}L${r * 1.1} ${r * 0.8}H${-r * 1.1}Z`,
  (r) => `M0 ${-r * 1.3}L${r * 1.1} 0L0 ${r * 1.3}L${-r * 1.1} 0Z`,
  (r) => `M0 ${r * 1.2}L${r * 1.1} ${-r * 0.8}H${-r * 1.1}Z`,
  (r) =>
    `M${-r * 0.4} ${-r * 1.2}H${r * 0.4}V${-r * 0.4}H${r * 1.2}V${r * 0.4}H${r * 0.4}V${r * 1.2}H${-r * 0.4}V${r * 0.4}H${-r * 1.2}V${-r * 0.4}H${-r * 0.4}Z`,
  (r) => `M0 ${-r * 1.3}L${r * 1.2} ${-r * 0.3}L${r * 0.75} ${r * 1.1}H${-r * 0.75}L${-r * 1.2} ${-r * 0.3}Z`,
  (r) =>
    `M${-r} ${-r * 1.1}L0 ${-r * 0.4}L${r} ${-r * 1.1}L${r * 0.5} 0L${r} ${r * 1.1}L0 ${r * 0.4}L${-r} ${r * 1.1}L${-r * 0.5} 0Z`,
];
// 8 colours and 8 shapes that go out of step after each round: 64 pairs before one comes again
const shape = (i, r) => SHAPES[(i + Math.floor(i / 8)) % 8](r);
const marker = (i, x, y, r, text, extra) =>
  s(
    'path',
    {d: shape(i, r), transform: `translate(${x.toFixed(1)} ${y.toFixed(1)})`, fill: colour(i), ...extra},
    text && hint(text),
  );
const key = (i) =>
  s('svg', {width: 14, height: 14, viewBox: '-7 -7 14 14', 'aria-hidden': 'true'}, marker(i, 0, 0, 4.6));

// Controls: a labelled choice, and figures that draw themselves again when the choice or the width changes.
function choice(label, options, chosen, act) {
  const select = h(
    'select',
    {onchange: () => act(select.value)},
    options.map(([value, text]) => h('option', {value, selected: String(value) === String(chosen)}, short(text, 70))),
  );
  return h('label', null, label, ' ', select);
}
const redraws = [];
const PRINTED = 690; // px: the width of an A4 page between its margins
let printing = false;
function figure(draw) {
  const node = h('figure');
  let width = 0;
  const again = (force) => {
    const place = printing ? (node.closest('.panels') ? PRINTED / 2 - 16 : PRINTED) : node.clientWidth || 900;
    const now = Math.round(Math.max(280, Math.min(1100, place)));
    if (!force && now === width) return;
    width = now;
    node.replaceChildren(...[draw(now)].flat(3).filter(Boolean));
  };
  redraws.push(again);
  node.redraw = () => again(true);
  return node;
}
