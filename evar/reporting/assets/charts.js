// Axes and curves, drawn as SVG at the width of their place.
function ticks(low, high, most) {
  const raw = (high - low) / Math.max(1, most) || 1,
    power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((m) => m * power).find((candidate) => candidate >= raw * 0.999);
  const found = [];
  for (let k = Math.ceil(low / step - 1e-9); k * step <= high + step * 1e-9; k++) found.push(k * step);
  return found;
}

function logTicks(low, high) {
  const every = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power++) {
    for (const m of [1, 2, 5]) every.push(m * 10 ** power);
  }
  const inside = every.filter((value) => value >= low * 0.999 && value <= high * 1.001);
  if (inside.length < 2) return ticks(low, high, 3);
  const tens = inside.filter((value) => /^1(0*|e[+-]?\d+)$/.test(String(value)) || /^0\.0*1$/.test(String(value)));
  return inside.length > 8 && tens.length > 1 ? tens : inside;
}

function tickLabel(value) {
  if (value === 0) return '0';
  const size = Math.abs(value);
  if (size >= 1e6) return `${Number((value / 1e6).toPrecision(3))}M`;
  if (size >= 1e4) return `${Number((value / 1e3).toPrecision(3))}k`;
  return (size < 1e-3 ? value.toExponential(0) : String(Number(value.toPrecision(4)))).replace('-', '−');
}

// A frame with grid and labels. x: {low, high, log, title} or {names}; y: {low, high, title}. Gives the node and both scales.
function frame(width, height, x, y, label, margin = {}) {
  const {left, right, top, bottom} = {left: 48, right: 16, top: 12, bottom: 44, ...margin};
  const inner = width - left - right,
    tall = height - top - bottom;
  const along = x.names
    ? (i) => left + (x.names.length === 1 ? inner / 2 : 14 + ((inner - 28) * i) / (x.names.length - 1))
    : (value) => {
        const f = x.log ? Math.log : (v) => v,
          from = f(x.low),
          to = f(x.high);
        return left + (to > from ? (inner * (f(value) - from)) / (to - from) : inner / 2);
      };
  const up = (value) => top + tall * (1 - (y.high > y.low ? (value - y.low) / (y.high - y.low) : 0.5));
  const node = s('svg', {viewBox: `0 0 ${width} ${height}`, width, height, role: 'img', 'aria-label': label});
  for (const value of ticks(y.low, y.high, Math.max(2, tall / 48))) {
    node.append(
      s('line', {class: 'grid', x1: left, x2: width - right, y1: up(value), y2: up(value)}),
      s('text', {x: left - 8, y: up(value) + 4, 'text-anchor': 'end'}, tickLabel(value)),
    );
  }
  node.append(s('line', {class: 'axis', x1: left, x2: width - right, y1: height - bottom, y2: height - bottom}));
  if (x.names) {
    const room = inner / Math.max(1, x.names.length) / 6.6;
    const every = Math.max(1, Math.ceil(x.names.length / (inner / 26)));
    x.names.forEach((name, i) => {
      if (i % every) return;
      node.append(
        s(
          'text',
          {x: along(i), y: height - bottom + 18, 'text-anchor': 'middle'},
          short(name, Math.max(3, Math.floor(room * every))),
          hint(name),
        ),
      );
    });
  } else {
    let last = -Infinity;
    for (const value of x.log ? logTicks(x.low, x.high) : ticks(x.low, x.high, Math.max(2, inner / 90))) {
      if (along(value) - last < 34) continue;
      last = along(value);
      node.append(
        s('line', {class: 'axis', x1: last, x2: last, y1: height - bottom, y2: height - bottom + 4}),
        s('text', {x: last, y: height - bottom + 18, 'text-anchor': 'middle'}, tickLabel(value)),
      );
    }
  }
  if (x.title) node.append(s('text', {x: left + inner / 2, y: height - 6, 'text-anchor': 'middle'}, x.title));
  if (y.title)
    node.append(
      s(
        'text',
        {x: 0, y: 0, transform: `translate(12 ${top + tall / 2}) rotate(-90)`, 'text-anchor': 'middle'},
        y.title,
      ),
    );
  return {node, along, up, left, right: width - right, top, bottom: height - bottom};
}

// A range with some air, never of zero size.
function range(values, air = 0.06) {
  let low = Math.min(...values),
    high = Math.max(...values);
  const pad = (high - low) * air || Math.abs(high) * 0.05 || 1;
  return [low - pad, high + pad];
}

const path = (xy) => xy.map(([x, y], i) => `${i ? 'L' : 'M'}${x.toFixed(1)} ${y.toFixed(1)}`).join('');

// Labels beside points, moved apart where they would overlap; each in the colour of the text, with a halo.
function labels(at, wanted, size = 14) {
  const placed = wanted.map(({x, y}) => ({x0: x - 5, x1: x + 5, y0: y - 5, y1: y + 5}));
  const clear = (box) =>
    placed.every((other) => box.x1 < other.x0 || box.x0 > other.x1 || box.y1 < other.y0 || box.y0 > other.y1);
  return wanted.map(({x, y, text, full}) => {
    const wide = 6.4 * [...text].length,
      before = x + 9 + wide > at.right;
    for (let k = 0; k < 11; k++) {
      const shift = (k % 2 ? -1 : 1) * Math.ceil(k / 2) * size * 0.55;
      const x0 = before ? x - 9 - wide : x + 9,
        box = {x0, x1: x0 + wide, y0: y + shift - size / 2, y1: y + shift + size / 2 - 1};
      if (!clear(box) || box.y0 < at.top - 6 || box.y1 > at.bottom) continue;
      placed.push(box);
      const name = s(
        'text',
        {class: 'halo strong', x: before ? x - 9 : x + 9, y: y + shift + 4, 'text-anchor': before ? 'end' : 'start'},
        text,
        hint(full || text),
      );
      if (Math.abs(shift) < size * 0.8) return name;
      return s('g', null, s('line', {class: 'axis', x1: x, y1: y, x2: before ? x - 9 : x + 9, y2: y + shift}), name);
    }
    return null; // no room: the marker still says its name on hover
  });
}

// Several curves: series = [{name, x: [], y: [], low: [], high: []}]. With names, x holds indices into them.
function curves(width, {series, names, x, y, label, height = 260, markers = true}) {
  const ys = series
    .flatMap((one) => [...one.y, ...(one.low || []), ...(one.high || [])])
    .filter((value) => value !== null);
  const xs = series.flatMap((one) => one.x);
  const [low, high] = y.range || range(ys);
  const at = frame(
    width,
    height,
    names ? {names, title: x} : {low: Math.min(...xs), high: Math.max(...xs), title: x},
    {low, high, title: y.title},
    label,
  );
  series.forEach((one, i) => {
    const xy = one.x.map((value, k) => [at.along(value), at.up(one.y[k])]);
    if (one.low) {
      one.x.forEach((value, k) => {
        if (one.low[k] !== null)
          at.node.append(
            s('line', {
              x1: xy[k][0],
              x2: xy[k][0],
              y1: at.up(one.low[k]),
              y2: at.up(one.high[k]),
              stroke: colour(i),
              opacity: 0.4,
            }),
          );
      });
    }
    at.node.append(
      s(
        'path',
        {
          d: path(xy),
          fill: 'none',
          stroke: colour(i),
          'stroke-width': 1.8,
          'stroke-dasharray': dash(i),
          'stroke-linejoin': 'round',
        },
        hint(one.name),
      ),
    );
    if (markers || xy.length === 1)
      xy.forEach(([px, py], k) => at.node.append(marker(i, px, py, 4, one.hints ? one.hints[k] : one.name)));
  });
  return at.node;
}

function seriesKey(names) {
  return h(
    'ul',
    {class: 'legend'},
    names.map((name, i) =>
      h(
        'li',
        null,
        s(
          'svg',
          {width: 34, height: 14, viewBox: '-17 -7 34 14', 'aria-hidden': 'true'},
          s('line', {
            x1: -16,
            x2: 16,
            y1: 0,
            y2: 0,
            stroke: colour(i),
            'stroke-width': 1.8,
            'stroke-dasharray': dash(i),
          }),
          marker(i, 0, 0, 4),
        ),
        name,
      ),
    ),
  );
}
