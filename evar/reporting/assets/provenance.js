// Where a number comes from: the card that opens on a click, and the table of all.
const WORDS = {
  cell_id: 'cell',
  encoder_fingerprint: 'encoder fingerprint',
  weights: 'weights file',
  weights_sha256: 'SHA-256 of the weights',
  weights_kind: 'kind of weights',
  task_version: 'task version',
  task_fingerprint: 'task fingerprint',
  protocol_version: 'protocol version',
  norm: 'log-mel statistics of',
  duration: 'clip length (s)',
  macro_f1: 'macro F1',
  n_train: 'training clips',
  n_valid: 'validation clips',
  n_test: 'test clips',
  seconds_encode: 'encoding (s)',
  seconds_probe: 'probe (s)',
  started_at: 'measured',
  evar_version: 'evar',
  torch_version: 'torch',
  git_commit: 'commit of evar',
};
const DETAILS = [
  'protocol',
  'protocol_version',
  'layers',
  'pooling',
  'norm',
  'duration',
  'weights',
  'weights_sha256',
  'weights_kind',
  'encoder_fingerprint',
  'task_version',
  'task_fingerprint',
  'macro_f1',
  'n_train',
  'n_valid',
  'n_test',
  'seeds',
  'seconds_encode',
  'seconds_probe',
  'started_at',
  'host',
  'device',
  'evar_version',
  'torch_version',
  'git_commit',
  'cell_id',
];

function runStrip(row) {
  const scored = row.runs.filter((run) => run[2] !== null);
  if (scored.length < 2) return null;
  const values = scored.map((run) => run[2]),
    known = interval(row),
    between = known || [row.mean, row.mean];
  const low = Math.min(...values, between[0]),
    high = Math.max(...values, between[1]),
    width = 420;
  const x = (value) => 16 + (width - 32) * (high > low ? (value - low) / (high - low) : 0.5);
  return s(
    'svg',
    {
      viewBox: `0 0 ${width} 64`,
      width,
      role: 'img',
      'aria-label': 'score of each fold and seed, with the mean and its interval',
    },
    known && s('line', {
      x1: x(between[0]),
      x2: x(between[1]),
      y1: 20,
      y2: 20,
      stroke: 'var(--faint)',
      'stroke-width': 6,
      'stroke-linecap': 'round',
      opacity: 0.45,
    }),
    s('line', {x1: x(row.mean), x2: x(row.mean), y1: 9, y2: 31, stroke: 'var(--ink)', 'stroke-width': 2}),
    scored.map((run) =>
      marker(0, x(run[2]), 20, 4.5, `fold ${run[0]}, seed ${run[1]}: ${percent(run[2])} % (${run[3]})`, {
        'fill-opacity': 0.75,
      }),
    ),
    s('text', {x: x(low), y: 54, 'text-anchor': 'start'}, `${percent(low)}`),
    s('text', {x: x(high), y: 54, 'text-anchor': 'end'}, `${percent(high)}`),
    s('text', {x: width / 2, y: 54, 'text-anchor': 'middle'}, known ? 'each fold and seed; bar: 95 % interval' : 'each fold and seed'),
  );
}

function shown(name, value) {
  if (value === null || value === '') return null;
  if (name === 'macro_f1') return `${percent(value)} %`;
  return name === 'started_at' ? `${value.slice(0, 19).replace('T', ' ')} UTC` : String(value);
}

function openCard(row) {
  const card = document.getElementById('card'),
    between = interval(row),
    column = columns.get(row.col);
  const copy = h(
    'button',
    {
      type: 'button',
      class: 'press',
      onclick: () =>
        navigator.clipboard &&
        navigator.clipboard.writeText(row.cmd).then(
          () => {
            copy.textContent = 'copied';
          },
          () => {},
        ),
    },
    'copy',
  );
  const told = DETAILS.map((name) => [WORDS[name] || name, shown(name, get(row, name))]);
  told.push(
    ['embedding', row.dim && `${row.dim} numbers per clip`],
    ['parameters', row.params && row.params.toLocaleString('en')],
    ['clips per second', row.speed && significant(row.speed)],
    [
      'chosen',
      unique(row.runs.map((run) => run[3]))
        .filter(Boolean)
        .join(', '),
    ],
  );
  const scores = [
    get(row, 'metric'),
    between ? `95 % interval ${percent(between[0])} to ${percent(between[1])}` : row.mean !== null && 'no 95 % interval',
    get(row, 'std') !== null && `spread ±${percent(get(row, 'std'))}`,
    row.rank !== null && `rank ${row.rank} of ${competitors(row)}`,
  ];
  card.replaceChildren();
  fill(card, null, [
    h('button', {type: 'button', class: 'press close', 'aria-label': 'close', onclick: () => card.close()}, '✕'),
    h('h2', {id: 'card-title'}, `${rowName(row)} on ${columnName(column)}`),
    boardOf.get(row.col).synthetic &&
      h('p', null, h('span', {class: 'banner'}, 'synthetic stand-in: says nothing about the real task')),
    h('p', {class: 'big'}, row.mean === null ? 'no score' : `${percent(row.mean)} %`),
    h('p', {class: 'note'}, scores.filter(Boolean).join(' · ')),
    flagsOf(row).map(([, , note]) => h('p', null, h('span', {class: 'banner'}, note))),
    runStrip(row),
    h('h3', null, 'Make this number again ', copy),
    h('pre', null, row.cmd),
    h('h3', null, 'Where it comes from'),
    h(
      'dl',
      null,
      told.filter(([, value]) => value).map(([name, value]) => [h('dt', null, name), h('dd', null, value)]),
    ),
  ]);
  card.showModal();
}

function provenance() {
  const names = [
    'protocol',
    'weights',
    'weights_sha256',
    'weights_kind',
    'encoder_fingerprint',
    'task_fingerprint',
    'n_test',
    'device',
    'evar_version',
    'torch_version',
    'started_at',
    'cell_id',
  ];
  const numeric = new Set(['n_test']);
  const heads = [
    {content: 'encoder', text: true},
    {content: 'task', text: true},
    {content: 'score'},
    ...names.map((name) => ({content: WORDS[name] || name, text: !numeric.has(name)})),
  ];
  const details = h(
    'details',
    {id: 'every'},
    h('summary', null, `all ${plural(data.rows.length, 'number')} with weights, fingerprints, versions and device`),
  );
  details.addEventListener('toggle', () => {
    if (!details.open || details.children.length > 1) return;
    const cut = (name, value) =>
      value === null
        ? ''
        : name.endsWith('sha256') || name.endsWith('fingerprint')
          ? value.slice(0, 12)
          : name === 'started_at'
            ? value.slice(0, 19).replace('T', ' ')
            : name === 'protocol'
              ? value
              : String(value);
    const body = data.rows.map((row) => {
      const shown = names.map((name) => [name, get(row, name)]),
        task = columnName(columns.get(row.col));
      return {
        node: h(
          'tr',
          null,
          lineHead(lines.get(row.line)),
          h('td', {class: 'text', title: task}, h('span', {class: 'taskName'}, task)),
          h('td', null, numberButton(row, false, false)),
          shown.map(([name, value]) =>
            h(
              'td',
              {class: numeric.has(name) ? null : 'text', title: value === null ? null : String(value)},
              h('span', {class: 'taskName'}, cut(name, value)),
            ),
          ),
        ),
        values: [rowName(row), task, row.mean, ...shown.map(([, value]) => (value === '' ? null : value))],
      };
    });
    details.append(
      h(
        'div',
        {class: 'scroll', tabindex: 0, role: 'region', 'aria-label': 'provenance'},
        sortable(heads, body, {class: 'wide'}),
      ),
    );
  });
  return details;
}
