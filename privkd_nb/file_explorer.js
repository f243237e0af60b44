// The explorer as one file: the controls of privkd_nb.apps.controls and the page around them. A file has no kernel: what would need one is grey, with the reason.

// --- a control: what choices.js reads as an anywidget model, and what privkd_nb.apps.choices.Choices does with it
class Model {
  constructor(state, saved = () => {}, sent = () => {}) { Object.assign(this, {state, saved, sent, heard: {}}); }
  get(k) { return this.state[k]; }
  set(k, v) { if (JSON.stringify(this.state[k]) !== JSON.stringify(v)) { this.state[k] = v; this.emit(`change:${k}`); } }
  emit(name, ...args) { for (const f of [...this.heard[name] ?? []]) f(...args); }
  on(name, f) { (this.heard[name] ??= []).push(f); }
  off(name, f) { this.heard[name] = (this.heard[name] ?? []).filter(g => g !== f); }
  save_changes() { this.saved(); }
  send(msg) { this.sent(msg); }
}
const item = (value, label = value, more = {}) => ({value, label: String(label), hint: '', about: '', why: '', color: '', symbol: '', groups: {}, ...more});

class Control {
  constructor(label, look, changed) {
    this.several = look === 'chips' || look === 'list';
    this.value = this.several ? [] : null;
    this.items = [];
    this.model = new Model({label, look, why: '', items: [], picked: []}, () => { this.take(this.model.get('picked')); changed(); });
    this.el = document.createElement('div');
    choices.render({model: this.model, el: this.el});
  }
  take(picked) {
    const values = picked.map(n => this.items[n].value);
    if (this.several) this.value = values; else if (values.length) this.value = values[0];
  }
  offer(items, value = null, why = '') {
    const values = items.map(i => i.value), free = items.filter(i => !i.why).map(i => i.value);
    if (this.several) {
      const now = this.value, everything = !this.items.length || now.length === this.items.length, kept = value ?? (everything ? values : values.filter(v => now.includes(v)));
      this.value = kept.length ? [...kept] : now.length ? values : [];
    } else this.value = [value, this.value].find(v => v !== null && free.includes(v)) ?? free[0] ?? values[0] ?? null;
    this.items = items;
    this.model.set('items', items.map(({value: _, ...rest}) => rest));
    this.model.set('why', why);
    this.model.set('picked', range(items.length).filter(n => this.several ? this.value.includes(values[n]) : values[n] === this.value));
  }
}

// --- all controls of the study
const labels = {...D.sidebar, ...D.for_view, arms: 'Arms', view: 'View'}, control = {};
for (const [k, label] of Object.entries(labels)) control[k] = new Control(label, D.looks[k] ?? 'menu', () => refresh());
const whyNot = (name, view) => D.not_in[name]?.[view] ?? '', taskNow = () => Object.fromEntries(['dataset', 'scenario', 'fraction'].map(k => [k, control[k].value]));
const compare = (a, b) => a < b ? -1 : a > b ? 1 : 0, percent = f => `${general(f * 100)} %`;
const initOf = arm => arm.split(' · ')[0], lossesOf = arm => arm.split(' · ')[1];
let before = '';                                          // A, before it was changed

function offerTask(view, first) {
  const v = control, put = first ?? {};
  v.dataset.offer(D.datasets.map(d => item(...d)), put.dataset);
  let d = cellsOf({dataset: v.dataset.value});
  const there = new Set(d.map(c => c.scenario)), on = labelOf(D.datasets, v.dataset.value);
  v.scenario.offer(D.scenarios.map(([x, label]) => item(x, label, {why: there.has(x) ? '' : `no run on ${on}`})), put.scenario);
  d = d.filter(c => c.scenario === v.scenario.value);
  const shares = unique(d.map(c => c.fraction)).sort((a, b) => a - b), all = unique(D.cells.map(c => c.fraction)).sort((a, b) => a - b), now = put.fraction ?? v.fraction.value;
  v.fraction.offer(all.map(f => item(f, percent(f), {why: shares.includes(f) ? '' : `no run on ${on}, ${v.scenario.value}`})), shares.includes(now) ? now : shares[Math.floor(shares.length / 2)], whyNot('fraction', view));
  if (!D.not_in.fraction[view]) d = d.filter(c => c.fraction === v.fraction.value);
  const has = new Set(d.flatMap(c => Object.keys(c.scores))), any = new Set(D.cells.flatMap(c => Object.keys(c.scores)));
  const loss = view === 'training' && v.curve.items.length && v.curve.value !== 'score' ? 'this curve is a loss' : '';
  v.metric.offer(Object.keys(D.score_names).filter(m => any.has(m)).map(m => item(m, D.score_names[m], {why: has.has(m) ? '' : 'not in these runs'})), put.metric ?? v.metric.value ?? D.metric, whyNot('metric', view) || loss);
}
function offerArms(view, first) {
  const where = taskNow();
  if (D.not_in.fraction[view]) delete where.fraction;
  const there = new Set(cellsOf(where).map(c => c.arm)), none = `no run on ${taskWords(where)}`;
  for (const [k, part] of [['inits', initOf], ['losses', lossesOf]]) {
    const runs = new Set([...there].map(part)), every = unique(D.arms.map(a => part(a.name)).sort((x, y) => k === 'losses' ? (x !== 'ce') - (y !== 'ce') : compare(x, y)));
    control[k].offer(every.map(v => item(v, v, {why: runs.has(v) ? '' : none})), first?.[k], whyNot(k, view));
  }
  const why = a => !there.has(a) ? none : !control.inits.value.includes(initOf(a)) ? 'its initialization is off' : control.losses.value.includes(lossesOf(a)) ? '' : 'its losses are off';
  control.arms.offer(D.arms.map(a => item(a.name, a.label, {about: a.about, color: a.color, symbol: a.symbol, why: whyNot('arms', view) ? '' : why(a.name)})), first?.arms, whyNot('arms', view));
}
function offerPair(first) {                               // A and B are never the same: who takes the other's place moves it to one's own
  const there = D.arms.map(a => a.name).filter(a => cellsOf({...taskNow(), arm: a}).length), v = control;
  const arm = (a, why = '') => item(a.name, a.label, {about: a.about, why: why || (there.includes(a.name) ? '' : 'no run on this choice')});
  v.a.offer(D.arms.map(a => arm(a)), first?.a || v.a.value || there.at(-1));
  const parts = a => new Set(a.split(' · ').map((p, i) => `${i} ${p}`)), unlike = a => { const x = parts(a), y = parts(v.a.value ?? ''); return [...x].filter(p => !y.has(p)).length + [...y].filter(p => !x.has(p)).length; };
  const nearest = there.filter(a => a !== v.a.value).sort((x, y) => unlike(x) - unlike(y))[0] ?? null;
  const other = v.b.value === v.a.value && before ? before : v.b.value || nearest;
  v.b.offer([...D.arms.map(a => arm(a, a.name === v.a.value ? 'it is A, and an arm minus itself is zero' : '')), item('teacher', 'the teacher')], first?.b || other);
  before = v.a.value;
}
function offerLanguages(view, first) {
  const groups = {}, words = {seen: 'trained on', texts: 'trained on without labels', unseen: 'not trained on'}, v = control;
  for (const c of cellsOf(taskNow())) for (const [l, g] of Object.entries(c.trained)) groups[l] = MEANS[Math.min(MEANS.indexOf(groups[l] ?? 'unseen'), MEANS.indexOf(g))];
  const langs = Object.keys(groups).sort((a, b) => compare(D.languages[a].name, D.languages[b].name));
  v.languages.offer(langs.map(l => { const o = D.languages[l]; return item(l, o.name, {hint: o.name === o.label ? '' : o.label, groups: {family: o.family, script: o.script, seen: words[groups[l]]}}); }), first?.languages, whyNot('languages', view));
  const loss = view === 'training' && v.curve.value !== 'score', full = l => { const {name, label} = D.languages[l]; return name === label || name.endsWith(')') ? name : `${name} (${label})`; };
  v.language.offer([item('', 'all'), ...langs.map(l => item(l, full(l)))], first?.language, loss ? 'a loss is of all languages; choose the validation score as the curve' : '');
}
function offerRest(view, first) {
  const v = control, task = taskNow(), shown = v.arms.value.filter(a => !v.arms.items.find(i => i.value === a).why);
  const orders = {'': 'score, mean of the arms', name: 'name, A to Z', family: 'family', script: 'script', difference: 'difference A − B', ...Object.fromEntries(shown.map(a => [a, `score of ${armLook(a).label}`]))};
  v.sort_by.offer(Object.entries(orders).map(o => item(...o)), first?.sort_by);
  v.sort_pairs.offer(Object.entries(D.pair_orders).map(o => item(...o)), first?.sort_pairs);
  v.over.offer([item('seeds', 'seeds of these arms'), item('texts', 'test texts, for these runs', {why: 'a file cannot draw the texts again; privkd explore can'})]);
  v.curve.offer((sceneOf(task)?.curves ?? []).map(x => item(x.key, x.title)), first?.curve);
  v.statistic.offer([item('mean', 'mean of languages'), item('iqm', 'interquartile mean')], first?.statistic);
  const of = arm => cellsOf({...task, arm})[0]?.seeds ?? [], pair = D.only.b.includes(view), both = of(v.a.value).filter(x => of(v.b.value).includes(x)), seeds = pair && both.length ? both : of(v.a.value);
  const held = x => view !== 'examples' || D.examples.runs[cellsOf({...task, arm: v.a.value})[0]?.runs[of(v.a.value).indexOf(x)]];
  v.seed.offer([...seeds].sort((x, y) => x - y).map(x => item(x, x, {why: held(x) ? '' : 'its predictions are not in this file'})), first?.seed);
  for (const [k, views] of Object.entries(D.only)) {
    const need = views.includes(view) || (k === 'a' || k === 'b') && D.only.sort_by.includes(view) && v.sort_by.value === 'difference';
    v[k].el.style.display = need ? '' : 'none';
  }
}
function choice() {
  const v = control, names = ['metric', 'a', 'b', 'over', 'curve', 'language', 'seed', 'statistic'], whole = v.languages.value.length === v.languages.items.length;
  return {...Object.fromEntries(names.map(k => [k, v[k].value])), task: taskNow(), ...taskNow(), arms: v.arms.items.filter(i => !i.why && v.arms.value.includes(i.value)).map(i => i.value),
    languages: whole ? [] : v.languages.value, sort_by: (v.view.value === 'difference' ? v.sort_pairs : v.sort_by).value};
}
function problem(c) {                                     // what is missing for a figure
  const v = control, why = k => v[k].model.get('why');
  if (!why('arms') && !c.arms.length) {
    const off = [['initialization', 'inits'], ['set of losses', 'losses']].find(([, k]) => !v[k].value.length);
    return off ? `No ${off[0]} is switched on, so there is no arm to show: switch one on.` : 'None of the arms that are switched on has a run here: switch on another arm, or choose another share or scenario.';
  }
  return !why('languages') && !v.languages.value.length ? 'No language is ticked: tick some in the list of languages, or press All.' : '';
}

// --- the page
const make = (tag, props = {}, ...children) => {
  const e = Object.assign(document.createElement(tag), props);
  for (const [k, v] of Object.entries(props)) if (k.includes('-') || k === 'dir' || k === 'lang') e.setAttribute(k, v);
  e.append(...children);
  return e;
};
const part = (css, ...children) => make('div', {className: css}, ...children);
const plot = new Model({plotly: D.plotly, picture: JSON.stringify({epoch: 0, height: 450, data: [], layout: {}})}, () => {}, msg => { if (msg.type === 'click') clicked(msg); });
const plotEl = make('div'), text = part('pkd-text'), widget = plotView();
let shown = {}, epoch = 0, drawn = '';

function examplesTable({rows, names}, limit = 60) {
  if (!rows.length) return make('p', {textContent: 'They agree on every text of this choice.'});
  const keys = ['teacher', 'a', 'b'].slice(0, 1 + names.length), answer = (v, ok) => make('td', {className: ok ? 'ok' : 'no', textContent: `${ok ? '✓' : '✗'}\u00a0${v}`});
  const row = r => make('tr', {}, make('td', {textContent: plain(r.language)}), make('td', {className: 't', dir: 'auto', lang: plain(r.language), textContent: r.text}), make('td', {textContent: r.gold}), ...keys.map(k => answer(r[k], r[`right_${k}`])));
  const head = make('tr', {}, ...['', 'text', 'gold', 'teacher', ...names].map(h => make('th', {textContent: h})));
  const more = rows.length > limit ? [make('p', {textContent: `The first ${limit} of ${count(rows.length)}; the CSV has all.`})] : [];
  return part('pkd', part('w', make('table', {}, make('thead', {}, head), make('tbody', {}, ...rows.slice(0, limit).map(row)))), ...more);
}
function answer(view, c) {
  try {
    const wrong = problem(c);
    return wrong ? {message: wrong} : VIEWS[view](c);
  } catch (e) {
    if (!(e instanceof Refusal)) console.error(e);
    return {message: e instanceof Refusal ? e.message : `${e.name}: ${e.message}`};
  }
}
function show() {
  const view = control.view.value, c = choice(), now = JSON.stringify([view, c, problem(c)]);
  if (now === drawn) return;
  drawn = now;
  shown = answer(view, c);
  const {figure, words = [], message, examples} = shown;
  plotEl.style.display = figure ? '' : 'none';
  if (figure) plot.set('picture', JSON.stringify({epoch: ++epoch, height: figure.layout.height ?? 450, filename: filename(view, c), data: figure.data, layout: figure.layout}));
  text.replaceChildren(part('widget-html-content', ...(message ? [make('div', {className: 'pkd-message', textContent: message})] : []), ...words.map(w => make('p', {textContent: w})), ...(examples ? [examplesTable(examples)] : [])));
  files.set('items', fileItems(figure));
  files.set('why', shown.frame?.length ? '' : 'there is nothing to save');
}
const viewItems = Object.entries(D.views).map(([k, v]) => item(k, v, {why: VIEWS[k] ? '' : 'a file does not have this view; privkd explore has'}));
function refresh(first = null) {                          // offer what the study has for the current choice, and show it
  if (first?.view) control.view.offer(viewItems, first.view);
  const view = control.view.value;
  for (const offer of [offerTask, offerArms]) offer(view, first);
  offerPair(first);
  for (const offer of [offerLanguages, offerRest]) offer(view, first);
  show();
}

// --- files
const slug = t => String(t).replace(/[^\p{L}\p{N}_.+=-]+/gu, '-').replace(/^-+|-+$/g, '').slice(0, 60);
function filename(view, c) {
  const tasks = unique(D.cells.map(x => JSON.stringify([x.dataset, x.scenario, x.fraction]))), varying = tasks.length > 1 ? [c.dataset, c.scenario, general(c.fraction)] : [];
  const pair = {difference: [slug(c.a), 'vs', slug(c.b)], examples: [slug(c.a), 'vs', slug(c.b)]}[view] ?? (D.made_of[view] ? [slug(c.a)] : []), code = D.languages[c.language]?.code ?? '';
  const what = {training: [c.curve, code], data: [c.statistic], examples: [code, c.seed]}[view] ?? (D.made_of[view] ? [c.seed] : []);
  const score = view === 'examples' || D.made_of[view] || view === 'training' && c.curve !== 'score' ? [] : [c.metric], where = view === 'training' || view === 'data' ? varying.slice(0, 2) : varying;
  return ['privkd', view, ...pair, ...score, ...[...where, ...what].filter(x => x !== null).map(slug)].filter(x => x !== '').join('_');
}
const fileItems = figure => [['svg', 'The figure for a paper'], ['png', 'The figure for slides'], ['csv', 'The table behind it']].map(([k, about]) => item(k, k.toUpperCase(), {about, why: figure || k === 'csv' ? '' : 'this view is a table'}));
const cell = v => v === null || v === undefined || typeof v === 'number' && !Number.isFinite(v) ? '' : typeof v === 'boolean' ? (v ? 'True' : 'False') : /[",\n\r]/.test(v) ? `"${String(v).replace(/"/g, '""')}"` : String(v);
const csv = rows => { const keys = unique(rows.flatMap(Object.keys)); return [keys, ...rows.map(r => keys.map(k => r[k]))].map(r => r.map(cell).join(',')).join('\n') + '\n'; };
const files = new Model({label: 'Save this view', look: 'files', why: '', items: fileItems(true), picked: []}, () => {}, msg => {
  const kind = ['svg', 'png', 'csv'][msg.item], name = `${filename(control.view.value, choice())}.${kind}`;
  if (kind !== 'csv') { plot.emit('msg:custom', {type: 'download', format: kind}); files.emit('msg:custom', {type: 'said', text: `saved ${name}`}); }
  else files.emit('msg:custom', {type: 'file', name, mime: 'text/csv'}, [new TextEncoder().encode(csv(shown.frame.map(r => r.language in D.languages ? {...r, language: D.languages[r.language].code} : r)))]);
});
const filesEl = make('div');
choices.render({model: files, el: filesEl});

// --- a click on a language makes it the language of curves and examples
function clicked(point) {
  const view = control.view.value, at = ['scores', 'difference'].includes(view) ? point.customdata?.[0] : view === 'gap' ? point.y : null;
  const named = l => [plotName(l), ...Object.values(D.marks).map(m => plotName(l) + m)], language = Object.keys(D.languages).find(l => named(l).some(n => at === n || view === 'gap' && String(at).endsWith(`: ${n}`)));
  if (!language || !control.language.items.some(i => i.value === language)) return;
  control.language.value = language;
  refresh();
  text.firstChild.append(make('p', {textContent: `${plain(language)} is now the language of ${D.views.training} (validation score) and ${D.views.examples}.`}));
}

// --- start
const named = names => Object.keys(names).map(k => control[k].el), root = document.querySelector('.pkd-explorer');
for (const k of ['inits', 'losses']) control[k].el.classList.add('pkd-small-chips');
plot.state.picture = JSON.stringify({epoch: 0, height: 450, data: [], layout: {}});
globalThis[`privkd_plotly_${D.plotly}`] = {ready: Promise.resolve(globalThis.Plotly), loading: true};
root.append(part('pkd-side', ...named(D.sidebar)), part('pkd-main', control.view.el, control.arms.el, part('pkd-for-view', ...named(D.for_view)), plotEl, text, filesEl));
widget.initialize({model: plot});
widget.render({model: plot, el: plotEl});
refresh(D.first);
globalThis.privkdExplorer = {put: refresh, get shown() { return shown; }};      // for scripts and tests: put({view: 'data', a: 'copy_ft · ce'})
matchMedia('(prefers-color-scheme: dark)').addEventListener('change', e => document.body.classList.toggle('dark', e.matches));   // figures are drawn again
