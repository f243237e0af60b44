// The views of a study without a kernel: the frames and figures of privkd_nb.analysis and privkd_nb.figures, from the scores in the page.
// tests/test_explorer_file_browser.py compares both, number by number. D is the study as `explorer_data` has it: texts in it are ready to be shown (label) or drawn (plot),
// and whatever a user has named has a key of ours, or stands in a list, so that nothing can be called `constructor`.

class Refusal extends Error {}                   // a sentence for the reader, in the place of a figure
const refuse = text => { throw new Refusal(text); };
const range = n => [...Array(n).keys()], unique = a => [...new Set(a)], sum = a => a.reduce((x, y) => x + y, 0), mean = a => sum(a) / a.length;
const finite = v => v !== null && Number.isFinite(v);
const fixed = (v, n) => {                        // as Python writes it: of two as near, the even one, as in .0625 -> 0.062
  const k = Math.abs(v) * 10 ** n, down = Math.floor(k), tie = k - down === .5 && Number.isInteger(v * 2 ** 20);
  return tie && down % 2 === 0 ? (Math.sign(v) * down / 10 ** n).toFixed(n) : v.toFixed(n);
};
const round = (v, n) => finite(v) ? Number(fixed(v, n)) : null, s = (n, word) => `${n} ${word}${n === 1 ? '' : 's'}`;
const signed = v => `${v < 0 ? '-' : '+'}${fixed(Math.abs(v), 3)}`, general = v => String(Number(v.toPrecision(6))), count = n => n.toLocaleString('en');
const capital = text => text.slice(0, 1).toUpperCase() + text.slice(1);

// --- numbers: Student's t over seeds, its p-value, Holm
const floats = text => Array.from(new Float64Array(Uint8Array.from(atob(text), c => c.charCodeAt(0)).buffer));

function logGamma(x) {                           // Lanczos
  const c = [76.18009172947146, -86.50532032941677, 24.01409824083091, -1.231739572450155, .1208650973866179e-2, -.5395239384953e-5];
  const t = x + 5.5 - (x + .5) * Math.log(x + 5.5);
  return -t + Math.log(2.5066282746310005 * (1.000000000190015 + sum(c.map((v, i) => v / (x + 1 + i)))) / x);
}
function fraction(x, a, b) {                     // the continued fraction of the incomplete beta function (Lentz)
  const off = v => Math.abs(v) < 1e-300 ? 1e-300 : v;
  let c = 1, d = 1 / off(1 - (a + b) * x / (a + 1)), h = d;
  for (let m = 1; m < 500; m++) {
    for (const e of [m * (b - m) * x / ((a + 2*m - 1) * (a + 2*m)), -(a + m) * (a + b + m) * x / ((a + 2*m) * (a + 2*m + 1))]) {
      d = 1 / off(1 + e * d); c = off(1 + e / c); h *= c * d;
      if (Math.abs(c * d - 1) < 1e-15) return h;
    }
  }
  return h;
}
function twoSided(t, df) {                       // p of Student's t
  if (!finite(t)) return NaN;
  const x = df / (df + t * t), a = df / 2, b = .5;
  const front = Math.exp(logGamma(a + b) - logGamma(a) - logGamma(b) + a * Math.log(x) + b * Math.log1p(-x));
  return t === 0 ? 1 : x < (a + 1) / (a + b + 2) ? front * fraction(x, a, b) / a : 1 - front * fraction(1 - x, b, a) / b;
}
function interval(y) {                           // the mean of a value a seed, and t standard errors to either side
  const n = y.length, point = mean(y), top = Math.max(...y), bottom = Math.min(...y);
  const alike = n < 2 || top - bottom <= 1e-12 * Math.max(1, Math.abs(top), Math.abs(bottom));
  const se = alike ? NaN : Math.sqrt(sum(y.map(v => (v - point) ** 2)) / (n - 1) / n), half = D.t[n - 1] * se;
  return {score: point, low: point - half, high: point + half, seeds: n, p: twoSided(point / se, n - 1)};
}
function holm(p) {
  const order = range(p.length).filter(i => finite(p[i])).sort((i, j) => p[i] - p[j]), out = p.map(() => NaN);
  let most = 0;
  order.forEach((i, k) => { most = Math.max(most, p[i] * (order.length - k)); out[i] = Math.min(1, most); });
  return out;
}
const iqm = a => { const v = [...a].sort((x, y) => x - y), cut = Math.floor(v.length / 4); return mean(v.slice(cut, v.length - cut)); };

// --- cells: an arm on what it was run on, with tables of seeds × languages
const cellsOf = where => D.cells.filter(c => Object.entries(where).every(([k, v]) => c[k] === v));
function table(cell, metric, model = 'student') {         // {seeds, langs, row(i), column(l)}, or null
  const t = cell?.scores[metric]?.[model];
  if (!t) return null;
  const values = t.values ??= floats(t.data), n = t.langs.length;
  return {seeds: t.seeds, langs: t.langs, at: (seed, lang) => values[t.seeds.indexOf(seed) * n + t.langs.indexOf(lang)]};
}
const MEANS = ['seen', 'texts', 'unseen'];
const groupsOf = (trained, langs) => {                    // 'all', and each of these where several occur
  const there = MEANS.filter(g => langs.some(l => trained[l] === g));
  return [['all', langs], ...(there.length > 1 ? there.map(g => [g, langs.filter(l => trained[l] === g)]) : [])];
};
const labelOf = (list, value) => list.find(x => x[0] === value)?.[1] ?? String(value);
const taskWords = ({dataset, scenario, fraction}) => [labelOf(D.datasets, dataset), scenario, ...(fraction === undefined ? [] : [general(fraction)])].join(', ');
const armLook = arm => D.arms.find(a => a.name === arm), armName = arm => armLook(arm)?.label ?? arm, plotName = l => D.languages[l]?.plot ?? l, plain = l => D.languages[l]?.label ?? l;

function requireArms(c, where, any = false) {             // the cells of a choice, in the order of arms
  const there = cellsOf(where), on = taskWords(where);
  if (!there.length) refuse(`there is no run on ${on}.`);
  if (!there.some(x => x.scores[c.metric])) refuse(`no run on ${on} has ${D.score_names[c.metric] ?? c.metric}.`);
  const found = any ? there : there.filter(x => c.arms.includes(x.arm));
  if (!found.length) refuse(`none of the chosen arms has a run on ${on}.`);
  return found;
}

// --- frames
function byLanguage(c) {
  const rows = [];
  for (const cell of requireArms(c, c.task)) {
    const t = table(cell, c.metric);
    for (const l of t?.langs ?? []) {
      if (c.languages.length && !c.languages.includes(l)) continue;
      const group = cell.trained[l];
      rows.push({arm: cell.arm, ...c.task, language: l, seen: group === 'seen', texts: group === 'texts', ...interval(t.seeds.map(x => t.at(x, l)).filter(finite))});
    }
  }
  if (!rows.length) refuse(`none of the chosen languages has a ${D.score_names[c.metric]} in these arms.`);
  return rows;
}
const trainedOf = frame => { const g = {}; for (const r of frame) g[r.language] ??= r.seen ? 'seen' : r.texts ? 'texts' : 'unseen'; return g; };
const teacherOf = c => D.tasks.find(t => ['dataset', 'scenario', 'fraction'].every(k => t[k] === c[k]))?.teacher[c.metric] ?? {};
const sceneOf = c => D.scenes.find(t => ['dataset', 'scenario'].every(k => t[k] === c[k]));

function differences(c) {                                 // A minus B by language and on average, over the paired seeds
  requireArms(c, c.task, true);
  const cell = cellsOf({...c.task, arm: c.a})[0], x = table(cell, c.metric), other = c.b === 'teacher' ? table(cell, c.metric, 'teacher') : table(cellsOf({...c.task, arm: c.b})[0], c.metric);
  if (!x || !other) refuse(`${!x ? armName(c.a) : c.b === 'teacher' ? `the teacher of ${armName(c.a)}` : armName(c.b)} has no ${D.score_names[c.metric]} here; choose another arm.`);
  const seeds = x.seeds.filter(v => other.seeds.includes(v)), langs = x.langs.filter(l => other.langs.includes(l));
  if (!seeds.length || !langs.length) refuse(`${armName(c.a)} and ${armName(c.b)} cannot be paired: they have ${seeds.length} seeds and ${langs.length} languages in common; run both with the same seeds and languages.`);
  const of = l => seeds.map(v => x.at(v, l) - other.at(v, l)), whole = l => of(l).every(finite);
  const asked = langs.filter(l => !c.languages.length || c.languages.includes(l)), kept = asked.filter(whole), rest = langs.filter(l => !asked.includes(l) && whole(l));
  if (!asked.length) refuse('none of these languages has a score in both arms; choose others.');
  if (!kept.length) refuse(`${armName(c.a)} on ${labelOf(D.datasets, c.dataset)} has no language that all of its ${seeds.length} seeds have a score for; choose other rows.`);
  const sides = ls => ({a: mean(ls.flatMap(l => seeds.map(v => x.at(v, l)))), b: mean(ls.flatMap(l => seeds.map(v => other.at(v, l))))});
  const each = kept.map(l => ({group: 'language', language: l, seen: cell.trained[l] === 'seen', texts: cell.trained[l] === 'texts', ...sides([l]), ...interval(of(l))}));
  const means = groupsOf(cell.trained, kept).map(([group, ls]) => ({group, language: '', seen: null, texts: null, ...sides(ls), ...interval(seeds.map((_, i) => mean(ls.map(l => of(l)[i]))))}));
  const p = [...each.map(r => r.p), ...rest.map(l => interval(of(l)).p)], corrected = holm(p);
  const ahead = r => r.score > 0 ? 'A' : 'B';
  each.forEach((r, i) => { r.p_holm = corrected[i]; });
  for (const r of means) r.p_holm = NaN;
  const rows = [...each, ...means];
  for (const r of rows) { r.clear = r.low > 0 || r.high < 0 ? ahead(r) : ''; r.clear_holm = r.p_holm < 1 - D.level ? ahead(r) : ''; }
  return Object.assign(rows, {each, mean: means[0], seeds, tested: p.filter(finite).length});
}

function overall(c) {                                     // the mean and interquartile mean over languages, a row a cell and group
  const rows = [];
  for (const cell of requireArms(c, {dataset: c.dataset, scenario: c.scenario})) {
    const t = table(cell, c.metric), asked = (t?.langs ?? []).filter(l => !c.languages.length || c.languages.includes(l));
    const langs = asked.filter(l => t.seeds.every(v => finite(t.at(v, l))));
    if (!langs.length) continue;
    for (const [languages, ls] of groupsOf(cell.trained, langs))
      for (const [statistic, f] of [['mean', mean], ['iqm', iqm]])
        rows.push({arm: cell.arm, dataset: cell.dataset, scenario: cell.scenario, fraction: cell.fraction, languages, statistic, ...interval(t.seeds.map(v => f(ls.map(l => t.at(v, l))))), n: ls.length});
  }
  if (!rows.length) refuse(`none of the chosen languages has a ${D.score_names[c.metric]} in these arms; choose others.`);
  return rows;
}

// --- the look of figures: privkd_nb.figures.style
const titled = (text, note) => ({text: note ? `${text}<br><sup>${note}</sup>` : text, ...(note ? {pad: {t: 20, l: 12}, x: 0, xref: 'container', xanchor: 'left'} : {pad: {t: 12}}), y: 1, yref: 'container', yanchor: 'top'});
const axis = (title, standoff, more = {}) => ({title: {text: title, ...(standoff === null ? {} : {standoff})}, ...more});
const marker = (color, symbol, size = 9, outline = /open|line/.test(symbol) ? 2 : 0) => ({color, symbol, size, line: {width: outline, color}});
function headed(data, title, note, height, panels, more = {}) {
  const rows = Math.ceil(unique(data.filter(t => t.name && t.showlegend !== false).map(t => t.name)).length / 5), top = 70 + 22 * rows + 24 * panels;
  const legend = {orientation: 'h', yref: 'container', y: 1 - 66 / (height + top), yanchor: 'top', x: 0, xanchor: 'left'};
  return {data, layout: {template: D.template, hovermode: 'x unified', height: height + top, meta: {legend: 22 * rows}, title: titled(title, note), legend, ...more, margin: {l: 60, r: 20, t: top, b: 50, ...more.margin}}};
}
function bars(rows, color) {                              // the ends of intervals
  if (!rows.some(r => finite(r.low))) return undefined;
  const gap = f => rows.map(r => round(f(r), 5));
  return {type: 'data', ...(color ? {color} : {}), symmetric: false, array: gap(r => r.high - r.score), arrayminus: gap(r => r.score - r.low), thickness: 1.5, width: 0};
}
function seedsNote(rows) {
  const n = rows.map(r => r.seeds), [lo, hi] = [Math.min(...n), Math.max(...n)], none = rows.filter(r => !finite(r.low));
  const seeds = hi === 1 ? 'one seed' : lo === hi ? `${lo} seeds` : `${lo} to ${hi} seeds`;
  if (none.length === rows.length) return `${seeds}: no interval`;
  const why = [...(lo === 1 ? ['there is one seed'] : []), ...(none.some(r => r.seeds > 1) ? ['seeds agree exactly'] : [])];
  return `${general(D.level * 100)} % intervals (Student's t) over ${seeds}${why.length ? `; none where ${why.join(' or ')}` : ''}`;
}

function sortedLanguages(rows, by, minus) {               // best last, so that it is drawn on top; unseen ones first
  const trained = trainedOf(rows), rank = l => -MEANS.indexOf(trained[l]), langs = Object.keys(trained).sort((a, b) => D.languages[a].place - D.languages[b].place);
  if (D.orders[by]) return langs.sort((a, b) => rank(a) - rank(b) || D.orders[by][b] - D.orders[by][a]);
  const of = (l, arm) => mean(rows.filter(r => r.language === l && (!arm || r.arm === arm)).map(r => r.score));
  const key = Object.fromEntries(langs.map(l => [l, of(l, by) - (minus ? of(l, minus) : 0)]));
  return langs.sort((a, b) => rank(a) - rank(b) || key[a] - key[b]);
}
function ticks(langs, by, trained) {                      // from top to bottom; a family or script is named where it begins
  const group = langs.map(l => by === 'family' || by === 'script' ? D.languages[l][by] : '');
  return langs.map((l, i) => (group[i] && (!i || group[i] !== group[i - 1]) ? `${group[i]}: ` : '') + plotName(l) + (D.marks[trained?.[l]] ?? ''));
}
function sorting(c, rows) {                               // an arm that is not shown cannot sort the languages
  const shown = new Set(rows.map(r => r.arm));
  if (c.sort_by === 'difference') return shown.has(c.a) && shown.has(c.b) ? [c.a, c.b] : [];
  return shown.has(c.sort_by) || D.orders[c.sort_by] ? [c.sort_by] : [];
}

// --- views: a choice -> {figure, frame, words}
const VIEWS = {};

VIEWS.scores = c => {
  const frame = byLanguage(c), [by, minus] = sorting(c, frame), langs = sortedLanguages(frame, by, minus), arms = unique(frame.map(r => r.arm)), row = Object.fromEntries(langs.map((l, i) => [l, i]));
  const step = .76 / arms.length, trained = trainedOf(frame), teacher = teacherOf(c), there = langs.filter(l => finite(teacher[l] ?? NaN));
  const data = [{type: 'scatter', x: there.flatMap(l => [teacher[l], teacher[l], null]), y: there.flatMap(l => [row[l] - .42, row[l] + .42, null]), mode: 'lines', name: 'teacher', line: {color: '#000000', width: 2}, hoverinfo: 'skip'}];
  arms.forEach((arm, j) => {
    const d = frame.filter(r => r.arm === arm), look = armLook(arm);
    data.push({type: 'scatter', x: d.map(r => round(r.score, 5)), y: d.map(r => row[r.language] + .38 - step * (j + .5)), mode: 'markers', name: look.plot, error_x: bars(d), marker: marker(look.color, look.symbol),
      customdata: d.map(r => [plotName(r.language), r.seen, r.seeds]), hovertemplate: '%{customdata[0]}: %{x:.3f} (%{customdata[2]} seeds)<extra>%{fullData.name}</extra>'});
  });
  const n = langs.length, ends = range(n).filter(i => i && trained[langs[i]] !== trained[langs[i - 1]]), below = MEANS.filter(g => Object.values(trained).includes(g)).slice(1).map(g => D.group_names[g]);
  const shapes = range(n).filter(i => i).map(i => ({type: 'line', xref: 'paper', x0: 0, x1: 1, y0: i - .5, y1: i - .5, line: ends.includes(i) ? {color: '#888888', width: 1, dash: 'dash'} : {color: 'rgba(128,128,128,.18)', width: 1}}));
  const note = seedsNote(frame) + (ends.length ? `; below the dashed line${ends.length > 1 ? 's' : ''}: ${below.join(', then ')}` : ''), score = D.score_names[c.metric];
  return {frame, figure: headed(data, `${capital(score)} by language`, note, 45 + Math.max(26, 8 * arms.length + 6) * n, true, {hovermode: 'closest', margin: {b: 15}, shapes, xaxis: axis(score, 2, {side: 'top'}),
    yaxis: {tickvals: range(n), ticktext: ticks([...langs].reverse(), by).reverse(), range: [-.6, n - .4], showgrid: false, zeroline: false}})};
};

VIEWS.gap = c => {
  const frame = byLanguage(c), [by, minus] = sorting(c, frame), langs = sortedLanguages(frame, by, minus), arms = unique(frame.map(r => r.arm)), teacher = teacherOf(c);
  const score = langs.map(l => arms.map(a => frame.find(r => r.language === l && r.arm === a)?.score ?? NaN)), gap = score.map((v, i) => v.map(x => x - (teacher[langs[i]] ?? NaN)));
  const top = Math.max(.01, ...gap.flat().filter(finite).map(Math.abs)), n = unique(frame.map(r => r.seeds)).sort((a, b) => a - b);
  const data = [{type: 'heatmap', z: gap.map(r => r.map(v => round(v, 4))), zmin: -top, zmax: top, colorscale: D.diverging, showscale: false, x: arms.map(a => armLook(a).tick), y: ticks([...langs].reverse(), by, trainedOf(frame)).reverse(),
    text: gap.map(r => r.map(v => finite(v) ? signed(v) : '')), texttemplate: '%{text}', textfont: {color: D.cell_ink}, customdata: score.map(r => r.map(v => round(v, 4))), hovertemplate: '%{y}: %{customdata:.3f}, %{z:+.3f} to the teacher<extra>%{x}</extra>'}];
  const note = `${n.length === 1 && n[0] === 1 ? 'one seed' : `mean of ${n.join(' or ')} seeds`}, without intervals`;
  return {frame: frame.map(r => ({...r, teacher: teacher[r.language] ?? NaN})), figure: headed(data, `Difference to the teacher in ${D.score_names[c.metric]}`, note, 90 + 24 * langs.length, false, {hovermode: 'closest',
    yaxis: {type: 'category', automargin: true}, xaxis: {type: 'category', side: 'bottom', autotickangles: [0, 90]}})};
};

function ordered(each, by, trained) {                     // the languages of a comparison, the first one on top
  const f = [...each].sort((x, y) => y.score - x.score);
  if (by === 'a' || by === 'b') return f.sort((x, y) => y[by] - x[by]);
  if (D.orders[by]) return f.sort((x, y) => D.orders[by][x.language] - D.orders[by][y.language]);
  return by === 'seen' ? f.sort((x, y) => MEANS.indexOf(trained[x.language]) - MEANS.indexOf(trained[y.language])) : f;
}
function aheadWords(each, arm) {
  const f = each.filter(r => r.clear === arm).sort((x, y) => arm === 'B' ? x.score - y.score : y.score - x.score), names = f.slice(0, 8).map(r => plain(r.language)).join(', ') + (f.length > 8 ? ', …' : '');
  return `in ${f.length}${f.length ? ` (${names})` : ''}`;
}
function chanceWords(each, tested) {
  const m = each.filter(r => finite(r.low)).length, expected = m * (1 - D.level), times = general(Number((expected * 100).toPrecision(2)));
  const many = `about ${expected.toFixed(expected >= 1 ? 1 : 2)} of ${m} would be clear of zero by chance`;
  const chance = m > 1 ? `If the two did not differ in any language, ${many}` : `If the two did not differ, this language would be clear of zero by chance ${times} times in 100`;
  if (m === 1 && tested === 1) return `${chance}.`;
  const n = {A: 0, B: 0};
  for (const r of each) if (r.clear_holm) n[r.clear_holm]++;
  const total = n.A + n.B, still = total ? `${total} ${total === 1 ? 'is' : 'are'} still clear (${n.A} for A, ${n.B} for B)` : 'none is still clear';
  return `${chance}; after Holm's correction for ${tested > m ? `all ${tested} languages that both have, shown or not,` : `${m} languages,`} ${still}.`;
}
function differenceWords(c, frame) {
  const {each, mean: all, seeds} = frame, n = s(each.length, 'language'), none = each.filter(r => !finite(r.low)).length, words = [];
  const ends = finite(all.low) ? ` [${signed(all.low)}, ${signed(all.high)}]` : '', some = `${s(seeds.length, 'seed')} (${seeds.slice(0, 8).join(', ')}${seeds.length > 8 ? ', …' : ''})`;
  words.push(`A is ${armName(c.a)}, B is ${armName(c.b)}. A minus B in ${D.score_names[c.metric]}, mean of ${n}: ${signed(all.score)}${ends}, with ${some}.`);
  if (none < each.length) {
    words.push(`A is ahead ${aheadWords(each, 'A')} and B ${aheadWords(each, 'B')} of ${n}, counting those where the ${general(D.level * 100)} % interval over the paired seeds leaves out zero.`);
    words.push(chanceWords(each, frame.tested));
  }
  const why = seeds.length < 2 ? 'there is one seed of both' : 'the seeds agree exactly';
  if (none === each.length) words.push(`${none === 1 ? 'The language has no' : 'No language has an'} interval, because ${why}.`);
  else if (none) words.push(`${none} of ${each.length} languages ${none === 1 ? 'has' : 'have'} no interval, because ${why}.`);
  if (!finite(all.low) && none < each.length) words.push("The mean has no interval, because the seeds' means agree exactly.");
  return words;
}
VIEWS.difference = c => {
  const frame = differences(c), {each, mean: all, seeds} = frame, trained = trainedOf(each), by = D.pair_orders[c.sort_by] ? c.sort_by : 'difference', f = ordered(each, by, trained), n = f.length;
  f.forEach((r, i) => { r.y = n - 1 - i; });
  const data = [];
  for (const v of D.verdicts) {
    const d = f.filter(r => r.clear === v.clear && (r.clear_holm === v.clear_holm || !v.clear));
    if (d.length) data.push({type: 'scatter', x: d.map(r => round(r.score, 5)), y: d.map(r => r.y), mode: 'markers', name: v.name, error_x: bars(d, v.color), marker: marker(v.color, v.symbol, v.symbol.includes('triangle') ? 11 : 8),
      customdata: d.map(r => [plotName(r.language), round(r.a, 3), round(r.b, 3)]), hovertemplate: '%{customdata[0]}: %{x:+.3f} (A %{customdata[1]:.3f}, B %{customdata[2]:.3f})<extra>%{fullData.name}</extra>'});
  }
  const m = seeds.length === 1 ? 'one seed' : `${seeds.length} paired seeds`, line = (x, look) => ({type: 'line', yref: 'y', y0: -.6, y1: n - .4, layer: 'below', x0: x, x1: x, line: {color: '#888888', ...look}});
  const over = each.every(r => !finite(r.low)) ? `${m}: no interval` : `${general(D.level * 100)} % intervals (Student's t) over ${m}; dotted: the mean of the languages`;
  const note = `A: ${armLook(c.a).plot}, B: ${armLook(c.b)?.plot ?? c.b}; ${over}`;
  const figure = headed(data, `${capital(D.score_names[c.metric])}: A − B by language, sorted by ${D.pair_orders[by]}`, note, 70 + 24 * n, true, {hovermode: 'closest', margin: {b: 15}, showlegend: true, shapes: [line(0, {width: 1.5}), line(all.score, {width: 1, dash: 'dot'})],
    xaxis: axis('← B is better · A is better →', 2, {side: 'top', zeroline: false, tickformat: '.2~f'}), yaxis: {tickvals: f.map(r => r.y), ticktext: ticks(f.map(r => r.language), by, trained), range: [-.6, n - .4], zeroline: false}});
  return {frame: [...frame].map(({y, ...r}) => r), figure, words: differenceWords(c, frame)};
};

// --- figures of several panels beside one another
function panels(n, gap, titles, x = {}, y = {}, first = {}) {
  const width = (1 - gap * (n - 1)) / n, layout = {annotations: []};
  for (const i of range(n)) {
    const k = i ? i + 1 : '', at = [i * (width + gap), i * (width + gap) + width];
    layout[`xaxis${k}`] = {anchor: `y${k}`, domain: at, ...x};
    layout[`yaxis${k}`] = {anchor: `x${k}`, domain: [0, 1], ...y, ...(i ? {matches: 'y', showticklabels: false} : first)};
    if (titles) layout.annotations.push({text: titles[i], x: (at[0] + at[1]) / 2, y: 1, xref: 'paper', yref: 'paper', xanchor: 'center', yanchor: 'bottom', showarrow: false, font: {size: 12}});
  }
  return layout;
}
const onPanel = i => ({xaxis: `x${i ? i + 1 : ''}`, yaxis: `y${i ? i + 1 : ''}`});

VIEWS.training = c => {
  const where = {dataset: c.dataset, scenario: c.scenario}, here = sceneOf(c), curve = here?.curves.find(x => x.key === c.curve);
  requireArms(c, where);
  const score = c.curve === 'score', bands = (score ? here?.scores[c.metric]?.[c.language] : curve?.bands) ?? [], frame = bands.filter(b => c.arms.includes(b.arm));
  if (!frame.length) refuse(`the chosen arms wrote no ${score ? 'validation score' : curve?.title ?? c.curve}; choose another curve, or other arms.`);
  const what = score ? `validation ${D.score_names[c.metric]}, ${c.language ? plotName(c.language) : 'mean of languages'}` : curve.plot;
  const shares = unique(frame.map(b => b.fraction)).sort((a, b) => a - b), arms = unique(frame.map(b => b.arm)), data = [];
  shares.forEach((f, i) => { for (const arm of arms) {
    const b = frame.find(x => x.arm === arm && x.fraction === f), look = armLook(arm);
    if (!b) continue;
    if (b.high) data.push({type: 'scatter', mode: 'lines', x: [...b.step, ...[...b.step].reverse()], y: [...b.high, ...[...b.low].reverse()], fill: 'toself', fillcolor: look.color, opacity: .15, line: {width: 0}, hoverinfo: 'skip', showlegend: false, legendgroup: arm, ...onPanel(i)});
    data.push({type: 'scatter', x: b.step, y: b.score, mode: 'lines', name: look.plot, legendgroup: arm, showlegend: i === 0, line: {color: look.color, dash: look.dash, width: 2}, hovertemplate: '%{y:.3f}', ...onPanel(i)});
  } });
  const log = !score && c.curve !== 'ce', [lo, hi] = [Math.min(...frame.map(b => b.seeds[0])), Math.max(...frame.map(b => b.seeds[1]))], sets = unique(arms.filter(a => a.includes(' · ')).map(a => a.split(' · ')[1])).sort();
  let note = hi === 1 ? 'one seed' : `mean of ${lo === hi ? lo : `${lo} to ${hi}`} seeds; the band spans the lowest and the highest run, and is no interval`;
  if (!score && c.curve === 'loss' && sets.length > 1) note += `; do not compare lines of ${sets.map(x => arms.map(a => armLook(a)).find(a => a.name.split(' · ')[1] === x).losses_plot).join(' and ')}, which are sums of different terms`;
  const share = f => `${f >= .01 ? Math.round(f * 100) : (f * 100).toFixed(1)}% of the data`, layout = panels(shares.length, .03, shares.map(share), {title: {text: 'step'}}, log ? {type: 'log', dtick: 1} : {}, {title: {text: what}});
  const rows = frame.flatMap(b => b.step.map((step, i) => ({arm: b.arm, ...where, fraction: b.fraction, step, score: b.score[i], low: (b.low ?? b.score)[i], high: (b.high ?? b.score)[i]})));
  return {frame: rows, figure: headed(data, `${capital(what)} by step`, note, 340, true, layout)};
};

VIEWS.data = c => {
  const frame = overall(c), d = frame.filter(r => r.statistic === c.statistic), shares = unique(d.map(r => r.fraction)).sort((a, b) => a - b);
  let groups = Object.keys(D.group_names).filter(g => d.some(r => r.languages === g));
  if (groups.length > 1) groups = groups.filter(g => g !== 'all');
  const t = sceneOf(c)?.teacher[c.metric], few = unique(frame.map(r => r.languages)).length === 1, asked = c.languages.filter(l => t?.languages[l]);
  const teacher = !few || !t ? null : !c.languages.length ? t.all : asked.length ? sum(asked.map(l => t.languages[l][0])) / sum(asked.map(l => t.languages[l][1])) : null;
  const titles = groups.length > 1 ? groups.map(g => D.group_names[g]) : null, what = `${D.score_names[c.metric]}, ${{mean: 'mean', iqm: 'interquartile mean'}[c.statistic]}`, data = [];
  const layout = panels(groups.length, .04, titles, {type: 'log', tickvals: shares, ticktext: shares.map(general), title: {text: 'share of the training data'}}, {}, {title: {text: what}});
  layout.shapes = [];
  groups.forEach((g, i) => {
    for (const arm of unique(d.map(r => r.arm))) {
      const r = d.filter(x => x.arm === arm && x.languages === g).sort((x, y) => x.fraction - y.fraction), look = armLook(arm);
      if (r.length) data.push({type: 'scatter', x: r.map(x => x.fraction), y: r.map(x => round(x.score, 5)), mode: 'lines+markers', name: look.plot, legendgroup: arm, showlegend: i === 0, error_y: bars(r), line: {color: look.color, dash: look.dash, width: 2},
        marker: {size: 7, symbol: look.symbol}, customdata: r.map(x => x.seeds), hovertemplate: '%{y:.3f} (%{customdata} seeds)', ...onPanel(i)});
    }
    if (finite(teacher)) {
      layout.shapes.push({type: 'line', x0: 0, x1: 1, xref: 'x domain', y0: teacher, y1: teacher, yref: 'y', line: {color: '#000000', dash: 'dash', width: 1.5}});
      layout.annotations.push({text: 'teacher', x: 0, xref: 'x domain', xanchor: 'left', y: teacher, yref: 'y', yanchor: 'bottom', showarrow: false});
    }
  });
  return {frame, figure: headed(data, `${capital(D.score_names[c.metric])} against the amount of data`, seedsNote(d), 340, groups.length > 1, layout)};
};

// --- views of one run, or of two
function runOf(c, arm) {
  const cell = cellsOf({...c.task, arm})[0], i = cell?.seeds.indexOf(c.seed) ?? -1;
  if (i < 0) refuse(`${armName(arm)} has no run with seed ${c.seed} on ${taskWords(c.task)}; its seeds are ${cell?.seeds.join(', ') || 'none'}.`);
  return cell.runs[i];
}
const made = (kept, run) => {                             // a figure that Python has made
  const [i, why] = kept[run] ?? [];
  if (i === undefined || why) refuse(why || 'this file holds no figure of this run; open the folder with privkd explore.');
  const {data, layout, frame, html} = D.made[i], words = [...new DOMParser().parseFromString(html, 'text/html').querySelectorAll('p')].map(p => p.textContent);
  return data ? {frame, words, figure: {data, layout: {...layout, template: D.template}}} : {frame, message: words.join(' ')};
};
for (const [view, kept] of Object.entries(D.made_of)) VIEWS[view] = c => made(kept, runOf(c, c.a));

function predictions(run) {                               // numbers of labels, in the order of the texts
  const p = D.examples.runs[run];
  if (!p) refuse(`this file holds the predictions of ${count(Object.keys(D.examples.runs).length)} runs, and this is none of them; open the folder with privkd explore.`);
  const read = v => { const b = Uint8Array.from(atob(v), ch => ch.charCodeAt(0)); return p.wide ? new Uint16Array(b.buffer) : b; };
  return {...p, student: read(D.examples.predicted[p.student]), teacher: read(D.examples.predicted[p.teacher])};
}
VIEWS.examples = c => {
  const run = runOf(c, c.a), other = c.b === 'teacher' ? null : runOf(c, c.b);
  if (run === other) refuse(`A and B are both ${armName(c.a)}, and a student never disagrees with itself; choose another B.`);
  const a = predictions(run), b = other ? predictions(other) : {...a, student: a.teacher};
  if (a.set !== b.set) refuse('A and B predicted different test texts, so they cannot be compared text by text.');
  const set = D.examples.sets[a.set], asked = c.language ? [c.language] : c.languages, labels = set.labels, rows = [], right = {};
  set.language.forEach((n, i) => {
    const language = set.languages[n], gold = set.gold[i];
    if (gold === null || asked.length && !asked.includes(language)) return;
    const [x, y, t] = [a.student[i], b.student[i], a.teacher[i]], r = right[language] ??= [0, 0, 0];
    r[0]++; r[1] += x === gold; r[2] += y === gold;
    if (x !== y || x !== t) rows.push({id: set.id[i], language, text: set.text[i], gold: labels[gold], teacher: labels[t], a: labels[x], b: labels[y], right_a: x === gold, right_b: y === gold, right_teacher: t === gold});
  });
  const only = (p, q) => count(rows.filter(r => r[p] && !r[q]).length), n = sum(Object.values(right).map(r => r[0]));
  const shown = set.part ? `, of the ${count(n)} texts that this file holds (${set.part} a language)` : '';
  const words = [`${count(rows.length)} texts on which they disagree${shown}: A alone is right in ${only('right_a', 'right_b')}, B alone in ${only('right_b', 'right_a')}.`];
  const where = !asked.length ? 'all languages' : asked.length === 1 ? plain(asked[0]) : `these ${asked.length} languages`;
  if (set.ratio && n && !set.part) words[0] += ` A minus B on ${where}: ${signed(mean(Object.values(right).map(r => (r[1] - r[2]) / r[0])))} over ${count(n)} texts, this seed; its interval needs a kernel (privkd explore).`;
  return {frame: rows, words, examples: {rows, names: [`A: ${armName(c.a)}`, `B: ${armName(c.b)}`].slice(0, other ? 2 : 1)}};
};
