// Accuracy against cost, layers, embeddings as points, training curves.
const COSTS = [
  ['speed', 'clips encoded per second', true],
  ['dim', 'numbers per embedding', true],
  ['params', 'parameters', true],
];
// A name that fits beside a point: what tells variants apart is kept.
function briefly(row) {
  const line = lines.get(row.line);
  return line.variant ? `${short(line.encoder, 18)} · ${short(line.variant, 12)}` : short(line.encoder, 26);
}

const costColumns = (field) =>
  [...columns.values()].filter((column) => rowsOf.get(column.id).some((row) => row[field] && row.mean !== null));

function costFigure() {
  const fields = COSTS.filter(([field]) => costColumns(field).length);
  let [field, title] = fields[0],
    column = costColumns(field)[0];
  const node = figure((width) => {
    const rows = rowsOf.get(column.id).filter((row) => row[field] && row.mean !== null);
    const devices = unique(rows.map((row) => get(row, 'device')));
    const [low, high] = range(
      rows.flatMap((row) => [row.mean, ...(interval(row) || [])]).map((v) => 100 * v),
      0.08,
    );
    const xs = rows.map((row) => row[field]);
    const at = frame(
      width,
      Math.min(420, Math.max(300, width * 0.46)),
      {low: Math.min(...xs) / 1.25, high: Math.max(...xs) * 1.25, log: true, title},
      {low, high, title: `${column.metric} (%)`},
      `score against ${title}`,
    );
    for (const row of rows) {
      const x = at.along(row[field]),
        between = interval(row);
      if (between)
        at.node.append(
          s('line', {
            x1: x,
            x2: x,
            y1: at.up(100 * between[0]),
            y2: at.up(100 * between[1]),
            stroke: 'var(--faint)',
            opacity: 0.6,
          }),
        );
    }
    for (const row of rows) {
      const i = field === 'speed' ? devices.indexOf(get(row, 'device')) : 0;
      const one = marker(
        i,
        at.along(row[field]),
        at.up(100 * row.mean),
        5.5,
        `${summary(row)}; ${significant(row[field])} ${title}`,
        {class: 'dot'},
      );
      one.addEventListener('click', () => openCard(row));
      at.node.append(one);
    }
    const wanted = [...rows]
      .sort((a, b) => b.mean - a.mean)
      .map((row) => ({x: at.along(row[field]), y: at.up(100 * row.mean), text: briefly(row), full: rowName(row)}));
    at.node.append(...labels(at, wanted).filter(Boolean));
    return [
      h(
        'figcaption',
        null,
        `${columnName(column)}, ${boardName(boardOf.get(column.id))}; bars are 95 % intervals.${field === 'speed' ? ' Speed is as measured, decoding not counted; it compares on one device only.' : ''}`,
      ),
      at.node,
      field === 'speed' &&
        h(
          'ul',
          {class: 'legend'},
          devices.map((name, i) => h('li', null, key(i), name || 'unknown device')),
        ),
    ];
  });
  const controls = h('div', {class: 'controls'});
  const fillIn = () =>
    controls.replaceChildren(
      choice('task', columnChoices(costColumns(field)), column.id, (id) => {
        column = columns.get(Number(id));
        node.redraw();
      }),
      choice(
        'cost',
        fields.map(([name, text]) => [name, text]),
        field,
        (name) => {
          [field, title] = fields.find(([one]) => one === name);
          if (!costColumns(field).includes(column)) column = costColumns(field)[0];
          fillIn();
          node.redraw();
        },
      ),
    );
  fillIn();
  return [controls, node];
}

// One panel per encoder and protocol: its score by layer, one curve per task.
function layerPanels() {
  const panels = new Map();
  for (const row of data.rows) {
    if (row.mean === null) continue;
    const board = boardOf.get(row.col),
      id = JSON.stringify([board.protocol, board.version, board.synthetic, get(row, 'encoder'), get(row, 'pooling')]);
    if (!panels.has(id))
      panels.set(id, {board, encoder: get(row, 'encoder'), pooling: get(row, 'pooling'), tasks: new Map()});
    const tasks = panels.get(id).tasks;
    if (!tasks.has(row.col)) tasks.set(row.col, new Map());
    const own = tasks.get(row.col),
      layer = get(row, 'layers');
    if (!own.has(layer)) own.set(layer, row);
  }
  const kept = [];
  for (const panel of panels.values()) {
    const several = [...panel.tasks].filter(([, own]) => own.size > 1);
    if (several.length)
      kept.push({
        ...panel,
        tasks: several,
        layers: data.layers.filter((layer) => several.some(([, own]) => own.has(layer))),
      });
  }
  return kept;
}

function layersFigure(panels) {
  return h(
    'div',
    {class: 'panels'},
    panels.map((panel) =>
      h(
        'div',
        null,
        h('h3', {title: panel.encoder}, short(panel.encoder, 48)),
        figure((width) => {
          const series = panel.tasks.map(([id, own]) => {
            const at = panel.layers.map((layer, i) => [i, own.get(layer)]).filter(([, row]) => row);
            return {
              name: columnName(columns.get(id)),
              x: at.map(([i]) => i),
              y: at.map(([, row]) => 100 * row.mean),
              hints: at.map(([, row]) => summary(row)),
              low: at.map(([, row]) => (interval(row) ? 100 * interval(row)[0] : null)),
              high: at.map(([, row]) => (interval(row) ? 100 * interval(row)[1] : null)),
            };
          });
          return [
            h('figcaption', null, `${boardName(panel.board)}, pooling ${panel.pooling}; bars are 95 % intervals`),
            curves(width, {
              series,
              names: panel.layers,
              x: 'layer',
              y: {title: 'score (%)'},
              label: `score of ${panel.encoder} by layer`,
            }),
            seriesKey(series.map((one) => one.name)),
          ];
        }),
      ),
    ),
  );
}

const METHOD = {tsne: 't-SNE', pca: 'principal axes', umap: 'UMAP'};
function pointsFigure() {
  let chosen = data.projections[0],
    method = 0,
    ring = true;
  const node = figure((width) => {
    const row = data.rows[chosen.row],
      how = chosen.methods[method],
      column = columns.get(row.col);
    const beside = width > 830,
      size = Math.min(620, beside ? width - 320 : width),
      pad = 14;
    const span = [0, 1].map((k) => Math.max(...how.xy.filter((_, i) => i % 2 === k), 1));
    const height = Math.max(160, (size * span[1]) / 1000 + 2 * pad);
    const svg = s('svg', {
      viewBox: `0 0 ${size} ${height}`,
      width: size,
      height,
      role: 'img',
      'aria-label': `embeddings of ${rowName(row)} on ${columnName(column)}`,
    });
    const scale = (size - 2 * pad) / 1000,
      r = chosen.label.length > 500 ? 3 : 4;
    chosen.label.forEach((label, i) => {
      const x = pad + scale * how.xy[2 * i],
        y = height - pad - scale * how.xy[2 * i + 1],
        missed = chosen.right[i] === 0;
      svg.append(
        marker(
          label,
          x,
          y,
          r,
          `${chosen.clip[i]}: ${chosen.classes[label]}${missed ? ', taken for another class' : ''}`,
          {'fill-opacity': 0.85},
        ),
      );
      if (ring && missed)
        svg.append(
          s('circle', {cx: x, cy: y, r: r + 3, fill: 'none', stroke: 'var(--ink)', 'stroke-width': 1, opacity: 0.7}),
        );
    });
    const missed = chosen.right.filter((right) => right === 0).length,
      n = chosen.label.length;
    return [
      h(
        'figcaption',
        null,
        `${rowName(row)} on ${columnName(column)}, test clips${n < chosen.total ? `, ${n} of ${chosen.total} drawn at random` : ''}; ${METHOD[how.name]}` +
          (how.explained === null
            ? ': near points are alike, distances between groups mean little.'
            : `: the two hold ${number(100 * how.explained, 0)} % of the variance.`) +
          (ring && missed ? ` Rings: ${missed} clips that the probe took for another class.` : ''),
      ),
      h(
        'div',
        {class: 'beside'},
        svg,
        h(
          'ul',
          {class: 'legend'},
          chosen.classes.map((name, i) => h('li', null, key(i), short(name, 60))),
        ),
      ),
    ];
  });
  return [
    h(
      'div',
      {class: 'controls'},
      choice(
        'embeddings',
        data.projections.map((one, i) => [
          i,
          `${columnName(columns.get(data.rows[one.row].col))} — ${rowName(data.rows[one.row])}`,
        ]),
        0,
        (i) => {
          chosen = data.projections[i];
          node.redraw();
        },
      ),
      choice(
        'drawn by',
        chosen.methods.map((one, i) => [i, METHOD[one.name]]),
        0,
        (i) => {
          method = Number(i);
          node.redraw();
        },
      ),
      h(
        'label',
        null,
        h('input', {
          type: 'checkbox',
          checked: true,
          onchange: (event) => {
            ring = event.target.checked;
            node.redraw();
          },
        }),
        'ring what was mistaken',
      ),
    ),
    node,
  ];
}

function trainingFigures() {
  const panels = [],
    runs = data.training;
  for (const name of unique(runs.flatMap((run) => run.curves.map((one) => one.key)))) {
    const series = runs
      .map((run) => [run, run.curves.find((one) => one.key === name)])
      .map(([run, one]) => ({name: run.name, x: one ? one.x : [], y: one ? one.y : [], title: one && one.title}));
    const title = series.find((one) => one.title).title;
    panels.push([title, series]);
  }
  const probes = runs.flatMap((run) => run.probes.map((one) => ({...one, run: run.name})));
  for (const task of unique(probes.map((one) => one.task))) {
    const series = probes
      .filter((one) => one.task === task)
      .map((one) => ({
        name: [runs.length > 1 && one.run, one.encoder, one.split].filter(Boolean).join(' · '),
        x: one.x,
        y: one.y.map((v) => 100 * v),
      }));
    panels.push([`probe on ${task || 'the task'} (%)`, series, true]);
  }
  const skipped = sum(runs.map((run) => run.skipped));
  return [
    runs.length > 1 && seriesKey(runs.map((run) => run.name)),
    h(
      'div',
      {class: 'panels'},
      panels.map(([title, series, own]) =>
        h(
          'div',
          null,
          h('h3', null, short(title, 60)),
          figure((width) => [
            curves(width, {
              series,
              x: 'step',
              y: {title: ''},
              label: title,
              height: 220,
              markers: Boolean(own) && Math.max(...series.map((one) => one.x.length)) <= 60,
            }),
            own && seriesKey(series.map((one) => one.name)),
          ]),
        ),
      ),
    ),
    skipped > 0 && h('p', {class: 'note'}, `${plural(skipped, 'unfinished line')} of the logs left out`),
  ];
}
