// The leaderboards and the heat map.
function numberButton(row, withInterval, best = isBest(row)) {
  const between = intervalText(row);
  return h(
    'button',
    {type: 'button', class: 'num', title: summary(row), 'data-cell': get(row, 'cell_id'), onclick: () => openCard(row)},
    h('span', {class: best ? 'best' : null}, percent(row.mean)),
    withInterval && between && h('span', {class: 'pm'}, between),
    flagsOf(row).map(([mark]) => h('span', {class: 'flag'}, mark)),
  );
}

const lineHead = (line) =>
  h(
    'th',
    {scope: 'row', title: lineName(line)},
    h('span', {class: 'name'}, line.encoder),
    line.variant && h('span', {class: 'variant'}, line.variant),
  );

// What a board holds: for each line its rows by column and, where the line is complete and scores compare, their average.
function matrix(board) {
  const cells = new Map(board.lines.map((line) => [line.id, new Map()]));
  for (const column of board.columns) for (const row of rowsOf.get(column.id)) cells.get(row.line).set(column.id, row);
  const comparable = unique(board.columns.map((column) => column.metric)).length === 1;
  const all = board.lines.map((line) => {
    const own = cells.get(line.id),
      means = [...own.values()].map((row) => row.mean).filter((mean) => mean !== null);
    const complete = means.length === board.columns.length;
    const ranks = [...own.values()].map((row) => row.rank).filter((rank) => rank !== null);
    return {
      line,
      cells: own,
      n: means.length,
      average: complete && comparable ? sum(means) / means.length : null,
      rank: ranks.length ? sum(ranks) / ranks.length : Infinity,
    };
  });
  all.sort((a, b) => (b.average ?? -1) - (a.average ?? -1) || b.n - a.n || a.rank - b.rank);
  return {lines: all, averaged: board.columns.length > 1 && all.some((one) => one.average !== null)};
}

// A table whose heads are buttons: enter or a click sorts, what has no value stays last.
function sortable(heads, body, attributes) {
  const place = h(
    'tbody',
    null,
    body.map((entry) => entry.node),
  );
  const cells = heads.map((head, i) => {
    const button = h('button', {type: 'button', class: 'sort', title: head.hint}, head.content);
    const cell = h('th', {scope: 'col', class: head.text ? 'text' : null}, button);
    button.addEventListener('click', () => {
      const first = head.text ? 'ascending' : 'descending',
        second = head.text ? 'descending' : 'ascending';
      const way = cell.getAttribute('aria-sort') === first ? second : first,
        sign = way === 'ascending' ? 1 : -1;
      cells.forEach((other) => other.removeAttribute('aria-sort'));
      cell.setAttribute('aria-sort', way);
      const order = body.map((entry, k) => [entry.values[i], k, entry.node]);
      order.sort(([a, k], [b, l]) => {
        if (a === null || b === null) return (a === null) - (b === null) || k - l;
        return sign * (head.text ? String(a).localeCompare(String(b), 'en', {numeric: true}) : a - b) || k - l;
      });
      place.append(...order.map(([, , node]) => node));
    });
    return cell;
  });
  return h('table', attributes, h('thead', null, h('tr', null, cells)), place);
}

const taskHead = (column) => [
  h('span', {class: 'taskName'}, column.task),
  column.note && h('span', {class: 'taskNote'}, column.note),
];

function leaderboard(board) {
  const {lines: all, averaged} = matrix(board);
  const top = Math.max(...all.map((one) => one.average ?? -1));
  const heads = [
    {content: 'encoder', text: true, hint: 'sort by name'},
    ...board.columns.map((column) => ({content: taskHead(column), hint: `sort by ${columnName(column)}`})),
  ];
  if (averaged) heads.push({content: 'average', hint: 'sort by the average over all tasks (complete lines only)'});
  const body = all.map((one) => {
    const own = board.columns.map((column) => one.cells.get(column.id));
    const node = h(
      'tr',
      {'data-name': lineName(one.line).toLowerCase()},
      lineHead(one.line),
      own.map((row) => h('td', null, row && numberButton(row, true))),
      averaged &&
        h(
          'td',
          null,
          one.average !== null &&
            h('span', {class: one.average === top && all.length > 1 ? 'best' : null}, percent(one.average)),
        ),
    );
    const values = [lineName(one.line), ...own.map((row) => (row ? row.mean : null))];
    return {node, values: averaged ? [...values, one.average] : values};
  });
  const notes = FLAGS.filter(([, wanted]) => board.columns.some((column) => rowsOf.get(column.id).some(wanted)));
  return [
    h(
      'div',
      {class: 'scroll', tabindex: 0, role: 'region', 'aria-label': `leaderboard, protocol ${boardName(board)}`},
      sortable(heads, body, {class: board.columns.length > 8 ? 'board wide' : 'board'}),
    ),
    notes.map(([mark, , note]) => h('p', {class: 'note'}, `${mark}: ${note}`)),
  ];
}

function heatmap() {
  let board = data.boards[0],
    by = 'score';
  const draw = () => {
    const {lines: all} = matrix(board);
    const scored = board.columns
      .flatMap((column) => rowsOf.get(column.id))
      .map((row) => row.mean)
      .filter((mean) => mean !== null);
    const low = Math.min(...scored),
      high = Math.max(...scored);
    const share = (row) => {
      if (by === 'score') return high > low ? (row.mean - low) / (high - low) : 1;
      const own = rowsOf
        .get(row.col)
        .map((other) => other.mean)
        .filter((mean) => mean !== null);
      const from = Math.min(...own),
        to = Math.max(...own);
      return to > from ? (row.mean - from) / (to - from) : 1;
    };
    const cell = (row) => {
      if (!row || row.mean === null)
        return h('td', {title: row ? summary(row) : 'not measured'}, row ? numberButton(row, false) : '');
      const look = shade(share(row)),
        node = h('td', null, numberButton(row, false));
      node.style.backgroundColor = look.fill;
      node.style.color = look.ink;
      node.querySelectorAll('.flag').forEach((flag) => {
        flag.style.color = look.ink;
      });
      return node;
    };
    const ramp = h('i');
    ramp.style.background = rampStyle;
    const ends =
      by === 'score' ? [`${percent(low)} %`, `${percent(high)} %`] : ['lowest of the task', 'highest of the task'];
    return [
      h(
        'figcaption',
        null,
        `Scores in percent, protocol ${boardName(board)}; shaded by ${by === 'score' ? 'the score' : 'the place within each task'}. `,
        h('span', {class: 'ramp'}, ends[0], ramp, ends[1]),
      ),
      h(
        'div',
        {class: 'scroll', tabindex: 0, role: 'region', 'aria-label': 'heat map'},
        h(
          'table',
          {class: board.columns.length > 8 ? 'heat wide' : 'heat'},
          h(
            'thead',
            null,
            h(
              'tr',
              null,
              h('th', {scope: 'col'}, 'encoder'),
              board.columns.map((column) => h('th', {scope: 'col', title: columnName(column)}, taskHead(column))),
            ),
          ),
          h(
            'tbody',
            null,
            all.map((one) =>
              h(
                'tr',
                {'data-name': lineName(one.line).toLowerCase()},
                lineHead(one.line),
                board.columns.map((column) => cell(one.cells.get(column.id))),
              ),
            ),
          ),
        ),
      ),
    ];
  };
  const node = h('figure', null, draw());
  const again = () => node.replaceChildren(...draw().flat());
  return [
    h(
      'div',
      {class: 'controls'},
      data.boards.length > 1 &&
        choice(
          'protocol',
          data.boards.map((one, i) => [i, boardName(one)]),
          0,
          (i) => {
            board = data.boards[i];
            again();
          },
        ),
      choice(
        'shade by',
        [
          ['score', 'score'],
          ['task', 'place within each task'],
        ],
        by,
        (value) => {
          by = value;
          again();
        },
      ),
    ),
    node,
  ];
}
