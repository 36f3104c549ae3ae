// Confusion matrices and per-class differences, from packed counts [C, C + 1]; the last column is what was left out for size.
function counts(row) {
  const column = data.confusion[row.col],
    packed = column && column.cells[row.i];
  if (packed === undefined) return null;
  const c = column.classes.length,
    right = new Array(c).fill(0),
    n = new Array(c).fill(0),
    entries = [];
  let place = 0;
  for (const part of packed ? packed.split(',') : []) {
    const [gap, count] = part.split(':');
    place += parseInt(gap, 36);
    const truth = Math.floor(place / (c + 1)),
      told = place % (c + 1),
      k = count ? parseInt(count, 36) : 1;
    n[truth] += k;
    if (told === truth) right[truth] += k;
    entries.push([truth, told, k]);
  }
  return {classes: column.classes, right, n, entries};
}

const confusable = () =>
  [...columns.values()].filter(
    (column) => data.confusion[column.id] && Object.keys(data.confusion[column.id].cells).length,
  );
const counted = (column) => rowsOf.get(column.id).filter((row) => data.confusion[column.id].cells[row.i] !== undefined);
const columnChoices = (from) =>
  from.map((column) => [
    column.id,
    columnName(column) + (data.boards.length > 1 ? ` — ${boardName(boardOf.get(column.id))}` : ''),
  ]);
const lineChoices = (rows) => rows.map((row) => [row.i, `${rowName(row)} (${percent(row.mean)})`]);

function confusionFigure() {
  const from = confusable();
  let column = from[0],
    row = counted(column)[0];
  const node = figure((width) => {
    const told = counts(row),
      c = told.classes.length;
    const wrong = told.entries
      .filter(([truth, guess]) => truth !== guess && guess < c)
      .sort((a, b) => b[2] / told.n[b[0]] - a[2] / told.n[a[0]] || b[2] - a[2]);
    const seeds = get(row, 'n_seeds') > 1 ? `, summed over ${get(row, 'n_seeds')} seeds` : '';
    const list = [
      h('h3', null, 'Most often mistaken'),
      wrong.length
        ? h(
            'ol',
            {class: 'pairs'},
            wrong
              .slice(0, 10)
              .map(([truth, guess, k]) =>
                h(
                  'li',
                  null,
                  `${short(told.classes[truth], 40)} taken for ${short(told.classes[guess], 40)}: ${k} of ${told.n[truth]}`,
                ),
              ),
          )
        : h('p', {class: 'note'}, 'nothing was mistaken'),
    ];
    const caption = h(
      'figcaption',
      null,
      `${rowName(row)} on ${columnName(column)}, ${boardName(boardOf.get(column.id))}${seeds}: rows are true classes, columns what the probe said; each row is shaded by its share.`,
    );
    if (c > 60) return [caption, h('p', {class: 'note'}, `${c} classes are too many for a matrix.`), list];
    const beside = width > 830,
      room = beside ? width - 300 : width;
    return [
      caption,
      h('div', {class: 'beside'}, h('div', {class: 'scroll'}, confusionMatrix(told, room)), h('div', null, list)),
    ];
  });
  const controls = h('div', {class: 'controls'});
  const fillIn = () =>
    controls.replaceChildren(
      choice('task', columnChoices(from), column.id, (id) => {
        column = columns.get(Number(id));
        row = counted(column)[0];
        fillIn();
        node.redraw();
      }),
      choice('encoder', lineChoices(counted(column)), row.i, (i) => {
        row = data.rows[i];
        node.redraw();
      }),
    );
  fillIn();
  return [controls, node];
}

function confusionMatrix(told, room) {
  const c = told.classes.length,
    others = told.entries.some(([, guess]) => guess === c) ? 1 : 0;
  const longest = Math.min(16, Math.max(...told.classes.map((name) => [...name].length)));
  const left = 8 + longest * 6.4,
    top = 10 + longest * 5.2;
  const cell = Math.max(11, Math.min(52, (room - left - 4) / (c + others))),
    size = Math.min(13, cell * 0.46);
  const width = left + cell * (c + others) + 40,
    height = top + cell * c + 4;
  const node = s('svg', {
    viewBox: `0 0 ${width} ${height}`,
    width,
    height,
    role: 'img',
    'aria-label': 'confusion matrix',
  });
  const small = `font-size:${Math.min(12, Math.max(8, cell * 0.8))}px`;
  for (let i = 0; i < c; i++) {
    const middle = top + cell * (i + 0.5);
    node.append(
      s(
        'text',
        {x: left - 6, y: middle + 4, 'text-anchor': 'end', style: small},
        short(told.classes[i], 16),
        hint(`${told.classes[i]}: ${told.n[i]} tested`),
      ),
      s(
        'text',
        {x: 0, y: 0, style: small, transform: `translate(${left + cell * (i + 0.5) + 3} ${top - 6}) rotate(-50)`},
        short(told.classes[i], 16),
        hint(told.classes[i]),
      ),
    );
  }
  if (others)
    node.append(
      s(
        'text',
        {x: 0, y: 0, style: small, transform: `translate(${left + cell * (c + 0.5) + 3} ${top - 6}) rotate(-50)`},
        'others',
      ),
    );
  node.append(s('rect', {x: left, y: top, width: cell * (c + others), height: cell * c, fill: 'var(--wash)'}));
  for (const [truth, guess, k] of told.entries) {
    const share = k / told.n[truth],
      x = left + cell * guess,
      y = top + cell * truth;
    const ground = `fill:color-mix(in srgb, var(--deep) ${(6 + 94 * share).toFixed(1)}%, var(--wash))`;
    const ink = share > 0.68 ? 'hot' : share > 0.45 ? 'mid' : 'strong'; // enough contrast on either paper
    const said = guess === c ? 'other classes' : told.classes[guess];
    node.append(
      s(
        'g',
        null,
        hint(`${told.classes[truth]} → ${said}: ${k} of ${told.n[truth]} (${percent(share)} %)`),
        s('rect', {
          x: x + 0.5,
          y: y + 0.5,
          width: cell - 1,
          height: cell - 1,
          style: ground,
          rx: Math.min(3, cell / 6),
        }),
        cell >= 14 &&
          s(
            'text',
            {
              class: ink,
              x: x + cell / 2,
              y: y + cell / 2 + size * 0.36,
              'text-anchor': 'middle',
              style: `font-size:${size}px`,
            },
            String(k),
          ),
      ),
    );
  }
  return node;
}

// Recall per class of two encoders, the largest differences first; two markers and a number for each class.
function differenceFigure() {
  const from = confusable().filter((column) => counted(column).length > 1);
  const firstTwo = (rows) => [rows[0], rows.find((row) => get(row, 'encoder') !== get(rows[0], 'encoder')) || rows[1]];
  let column = from[0],
    pair = firstTwo(counted(column));
  const node = figure((width) => {
    const [a, b] = pair.map(counts),
      c = a.classes.length;
    const all = a.classes
      .map((name, i) => ({
        name,
        n: a.n[i],
        a: a.n[i] ? a.right[i] / a.n[i] : null,
        b: b.n[i] ? b.right[i] / b.n[i] : null,
      }))
      .filter((one) => one.a !== null && one.b !== null);
    all.sort((one, other) => other.a - other.b - (one.a - one.b) || (one.name < other.name ? -1 : 1));
    const half = 20,
      shown = all.length > 2 * half ? [...all.slice(0, half), ...all.slice(-half)] : all;
    const names = pair.map(rowName),
      longest = Math.min(22, Math.max(...shown.map((one) => [...one.name].length)));
    const left = 10 + longest * 6.4,
      right = 92,
      tall = 22,
      height = shown.length * tall + 46;
    const x = (share) => left + 8 + (width - left - right - 16) * share;
    const svg = s('svg', {
      viewBox: `0 0 ${width} ${height}`,
      width,
      height,
      role: 'img',
      'aria-label': 'recall per class of two encoders',
    });
    for (const share of width < 480 ? [0, 0.5, 1] : [0, 0.25, 0.5, 0.75, 1]) {
      svg.append(
        s('line', {class: 'grid', x1: x(share), x2: x(share), y1: 4, y2: height - 40}),
        s('text', {x: x(share), y: height - 24, 'text-anchor': 'middle'}, `${100 * share}`),
      );
    }
    svg.append(
      s('text', {x: (x(0) + x(1)) / 2, y: height - 6, 'text-anchor': 'middle'}, 'recall in percent'),
      s('text', {x: width - 4, y: height - 24, 'text-anchor': 'end'}, 'difference'),
    );
    shown.forEach((one, i) => {
      const y = 4 + tall * (i + 0.5),
        text = `${one.name}: ${names[0]} ${percent(one.a)} %, ${names[1]} ${percent(one.b)} % (${one.n} tested)`;
      svg.append(
        s('text', {x: left - 6, y: y + 4, 'text-anchor': 'end'}, short(one.name, 22), hint(text)),
        s('line', {x1: x(one.a), x2: x(one.b), y1: y, y2: y, stroke: 'var(--faint)', 'stroke-width': 2}),
        marker(0, x(one.a), y, 5, text),
        marker(1, x(one.b), y, 5, text),
        s(
          'text',
          {class: 'strong', x: width - 4, y: y + 4, 'text-anchor': 'end'},
          one.a === one.b ? '0' : points(one.a - one.b),
        ),
      );
    });
    const ahead = all.filter((one) => one.a > one.b).length,
      behind = all.filter((one) => one.a < one.b).length;
    return [
      h(
        'figcaption',
        null,
        `${columnName(column)}, ${boardName(boardOf.get(column.id))}: ${names[0]} is ahead in ${ahead} classes, ${names[1]} in ${behind}, ${all.length - ahead - behind} tie.` +
          (shown.length < all.length ? ` The ${half} largest differences either way, of ${c} classes.` : '') +
          ' ‘evar compare’ says whether a difference is more than chance.',
      ),
      h(
        'ul',
        {class: 'legend'},
        names.map((name, i) => h('li', null, key(i), name)),
      ),
      svg,
    ];
  });
  const controls = h('div', {class: 'controls'});
  const fillIn = () => {
    const rows = counted(column);
    controls.replaceChildren(
      choice('task', columnChoices(from), column.id, (id) => {
        column = columns.get(Number(id));
        pair = firstTwo(counted(column));
        fillIn();
        node.redraw();
      }),
      ...[0, 1].map((k) =>
        choice(k ? 'against' : 'encoder', lineChoices(rows), pair[k].i, (i) => {
          pair[k] = data.rows[i];
          node.redraw();
        }),
      ),
    );
  };
  fillIn();
  return [controls, node];
}
