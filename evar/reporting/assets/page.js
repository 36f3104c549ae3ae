// The page from top to bottom; a part without data is not there.
const content = document.getElementById('content'),
  nav = [];
content.replaceChildren();
function section(id, title, lead, ...children) {
  nav.push([id, title]);
  const node = h('section', {id}, h('h2', null, title), lead && h('p', {class: 'how'}, lead), children);
  content.append(node);
  return node;
}

const rows = data.rows,
  all = (name) => unique(rows.map((row) => get(row, name)).filter((value) => value !== null && value !== ''));
const days = all('started_at')
  .map((moment) => moment.slice(0, 10))
  .sort();
const when = days.length
  ? days[0] === days[days.length - 1]
    ? ` on ${days[0]}`
    : ` between ${days[0]} and ${days[days.length - 1]}`
  : '';
document
  .getElementById('head')
  .append(
    h('h1', null, data.title),
    rows.length
      ? h(
          'p',
          {class: 'lede'},
          `${plural(all('encoder').length, 'frozen encoder')} on ${plural(all('task').length, 'task')}: ${plural(rows.length, 'number')}, measured${when} with evar ${listed(all('evar_version'))} on ${listed(all('device').slice(0, 3))}.`,
        )
      : null,
  );

if (!rows.length) {
  content.append(
    h(
      'div',
      {class: 'empty'},
      h('h2', null, 'Nothing measured yet'),
      h(
        'p',
        null,
        'There is no row in ',
        h('code', null, data.results),
        '. This command measures two encoders on a small synthetic stand-in, without any dataset:',
      ),
      h('pre', null, data.example),
      h('p', null, 'Then make this page again: ', h('code', null, 'evar report')),
    ),
  );
} else {
  const filter = h('input', {
    type: 'search',
    placeholder: 'part of a name',
    oninput: () => {
      const wanted = filter.value.toLowerCase();
      document.querySelectorAll('tr[data-name]').forEach((line) => {
        line.hidden = !line.dataset.name.includes(wanted);
      });
    },
  });
  const lead =
    'Percent ± half of the 95 % interval, or the interval itself where that would lead beyond 0 or 100 (n/a: none); ★ is the best of those that compare. A column’s head sorts by it; a number opens where it comes from.';
  data.boards.forEach((board, i) => {
    const node = section(`board-${i}`, `${board.synthetic ? 'Synthetic' : 'Leaderboard'}: ${board.protocol}`);
    if (board.synthetic) {
      node.classList.add('synthetic');
      node.append(h('span', {class: 'banner'}, 'synthetic stand-ins: these numbers say nothing about the real tasks'));
    }
    node.append(h('p', {class: 'how'}, `Protocol ${board.protocol}, version ${board.version}. `, i === 0 ? lead : ''));
    if (i === 0 && lines.size > 8)
      node.append(h('div', {class: 'controls'}, h('label', null, 'show encoders with ', filter)));
    if (board.columns.length > 8) node.classList.add('across');
    node.append(...leaderboard(board).flat().filter(Boolean));
  });
  const heat = section('heat', 'Heat map', null, heatmap());
  if (data.boards.some((board) => board.columns.length > 8)) heat.classList.add('across');
  if (COSTS.some(([field]) => costColumns(field).length)) section('cost', 'Score against cost', null, costFigure());
  const panels = layerPanels();
  if (panels.length)
    section(
      'layers',
      'Layers',
      'Where in the network the answer lies: the same encoder and task, read out at each layer.',
      layersFigure(panels),
    );
  if (confusable().length) section('confusion', 'Confusion', null, confusionFigure());
  if (confusable().some((column) => counted(column).length > 1))
    section('classes', 'Class by class', null, differenceFigure());
  if (data.projections.length) section('points', 'Embeddings', null, pointsFigure());
}
if (data.training.length)
  section('training', 'Pre-training', `${listed(data.training.map((run) => run.name))}.`, trainingFigures());
if (rows.length)
  section(
    'provenance',
    'Provenance',
    'Every number with the weights, data and versions that it comes from.',
    provenance(),
  ).classList.add('across');

if (nav.length > 1)
  document.getElementById('nav').append(
    h(
      'ul',
      null,
      nav.map(([id, title]) => h('li', null, h('a', {href: `#${id}`}, title))),
    ),
  );
document
  .getElementById('foot')
  .append(
    `Made with evar ${data.version} from ${data.results}. Rows of different protocols are never ranked together; synthetic, partial and limited rows only among themselves.`,
  );

const card = document.getElementById('card');
card.addEventListener('click', (event) => {
  if (event.target === card) card.close();
});
redraws.forEach((again) => again(true));
let waiting = 0;
addEventListener('resize', () => {
  clearTimeout(waiting);
  waiting = setTimeout(() => redraws.forEach((again) => again(false)), 120);
});
for (const [moment, state] of [
  ['beforeprint', true],
  ['afterprint', false],
]) {
  addEventListener(moment, () => {
    printing = state;
    redraws.forEach((again) => again(false));
  });
}
document.documentElement.dataset.ready = 'true';
