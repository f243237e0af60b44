// The page: reads the model from the folder that it lies in, predicts while one types, and shows labels and languages. All that is not ours enters as text.
import * as ort from 'onnxruntime-web/webgpu';
import {PreTrainedTokenizer, env} from './lib/transformers.web.min.js';
import {encode, named} from './text.js';

env.allowRemoteModels = false;
env.localModelPath = '..';
ort.env.wasm.wasmPaths = new URL('./lib/', import.meta.url).href;
if (!self.crossOriginIsolated) ort.env.wasm.numThreads = 1;       // threads need a server that isolates its pages

const at = id => document.getElementById(id);
const make = (tag, text = '', cls = '') => { const e = document.createElement(tag); e.textContent = text; if (cls) e.className = cls; return e; };
const percent = p => `${(100 * p).toFixed(1)} %`;
const status = (text, bad = false) => { at('status').textContent = text; at('status').classList.toggle('bad', bad); };

async function read(url, progress) {
  const answer = await fetch(url);
  if (!answer.ok) throw new Error(`${url} cannot be read (${answer.status}); serve the whole exported folder, not only web.`);
  if (!progress) return answer.json();
  const of = Number(answer.headers.get('content-length')), parts = [];
  let n = 0;
  for (const reader = answer.body.getReader(); ;) {
    const {done, value} = await reader.read();
    if (done) break;
    parts.push(value); n += value.length;
    if (of) progress(Math.min(1, n / of));
  }
  return new Uint8Array(await new Blob(parts).arrayBuffer());
}

function bars(prediction, facts) {
  const list = make('ul', '', 'bars'), chosen = new Set(prediction.labels ?? [prediction.label]);
  const line = i => {
    const [label, p] = prediction.probabilities[i], item = make('li', '', chosen.has(label) ? 'best' : ''), head = make('div', '', 'line'), name = make('span', label), track = make('div', '', 'track'), fill = make('div', '', 'fill');
    name.dir = 'auto';
    fill.style.width = `${100 * p}%`;
    head.append(name, make('span', percent(p), 'number'));
    track.append(fill);
    if (facts.kind === 'multilabel') {
      const mark = make('div', '', 'threshold');
      mark.style.insetInlineStart = `${100 * facts.thresholds[i]}%`;
      mark.title = `predicted from ${percent(facts.thresholds[i])} on`;
      track.append(mark);
    }
    item.append(head, track);
    return item;
  };
  list.append(...prediction.order.slice(0, 5).map(line));
  const rest = prediction.order.slice(5);
  if (!rest.length) return [list];
  const more = make('details'), others = make('ul', '', 'bars');
  more.open = at('result').querySelector('details')?.open ?? false;
  more.append(make('summary', `${rest.length} more labels`), others);
  others.append(...rest.map(line));
  return [list, more];
}

function tagged(prediction) {
  const line = make('p', '', 'words');
  line.dir = 'auto';
  prediction.words.forEach((word, i) => {
    const tag = prediction.labels[i], box = make('span', '', 'word');
    if (tag === 'O') box.append(make('bdi', word));
    else { const m = make('mark'); m.append(make('bdi', word), make('small', tag)); box.append(m); }
    line.append(box, ' ');
  });
  return [line, ...(prediction.labels.every(l => l === 'O') ? [make('p', 'No word has a label other than O.', 'muted')] : [])];
}

function notes(prediction, facts) {
  const said = [];
  if (prediction.cut) said.push(`The text is longer than ${facts.max_length} tokens; the rest was not read.`);
  if (prediction.unknown > facts.usual_unknown)
    said.push(`The vocabulary lacks ${percent(prediction.unknown)} of this text. It may be in a language that this student is not for${facts.left_out.length ? ` (left out: ${facts.left_out.join(', ')})` : ''}.`);
  at('notes').replaceChildren(...said.map(s => make('li', s)));
}

function languages(facts) {
  const rows = facts.languages, table = at('scores'), teacher = rows.some(r => r.teacher !== null), head = make('tr'), body = make('tbody');
  if (!rows.some(r => r.score !== null)) at('by-language').hidden = !facts.left_out.length;
  const points = v => v === null ? '–' : (100 * v).toFixed(1);
  const title = (t, cls = '') => { const th = make('th', t, cls); th.scope = 'col'; return th; };
  head.append(title('Language'), ...(teacher ? [title('Teacher', 'number')] : []), title('Student', 'number'), title(''));
  const line = (r, cell) => {
    const tr = make('tr'), name = make(cell, r.name), track = make('div', '', 'track'), fill = make('div', '', 'fill mine'), bar = make('td', '', 'bar');
    name.scope = 'row'; name.dir = 'auto';
    if (r.trained) name.append(' ', make('span', `(${r.trained})`, 'muted'));
    fill.style.width = `${100 * (r.score ?? 0)}%`;
    track.append(fill); bar.append(track);
    tr.append(name, ...(teacher ? [make('td', points(r.teacher), 'number')] : []), make('td', points(r.score), 'number'), bar);
    return tr;
  };
  body.append(...rows.map(r => line(r, 'th')));
  const thead = make('thead'), caption = make('caption', facts.caption);
  thead.append(head);
  table.replaceChildren(caption, thead, body);
  if (facts.mean) { const foot = make('tfoot'); foot.append(line(facts.mean, 'th')); table.append(foot); }
  if (!rows.some(r => r.score !== null)) table.hidden = true;
  at('left-out').textContent = facts.left_out.length ? `Left out of this export: ${facts.left_out.join(', ')}. What it predicts there was never checked.` : '';
}

async function start() {
  status('Reading the tokenizer …');
  const facts = await read('facts.json');
  document.title = facts.name;
  at('name').textContent = facts.name;
  at('about').textContent = facts.about;
  at('made').textContent = facts.made_by;
  at('pair').hidden = !facts.pairs;
  if (facts.pairs) at('first-label').textContent = 'First text';
  languages(facts);
  const [file, config] = await Promise.all([read('../tokenizer.json'), read('../tokenizer_config.json')]);
  const tokenizer = new PreTrainedTokenizer(file, config);
  at('loaded').hidden = false;
  status(`Reading the model (${facts.megabytes} MB) …`);
  const bytes = await read(`../${facts.file}`, share => { at('loaded').value = share; });
  const session = await ort.InferenceSession.create(bytes, {executionProviders: ['wasm'], logSeverityLevel: 3});
  at('loaded').hidden = true;

  async function predict(text, second = '') {
    const e = encode(facts, tokenizer, text, second), whole = v => new ort.Tensor('int64', BigInt64Array.from(v.map(BigInt)), [1, v.length]);
    const given = {input_ids: e.ids, attention_mask: e.ids.map(() => 1), token_type_ids: facts.typed ? e.types : e.ids.map(() => 0)};
    const out = await session.run(Object.fromEntries(facts.inputs.map(k => [k, whole(given[k])])));
    return named(facts, out[session.outputNames[0]].data, e, text);
  }

  let last = 0, running = Promise.resolve();
  async function show(turn) {
    const [text, second] = [at('first').value, at('second').value];
    if (turn !== last) return;
    if (!text.trim() || (facts.pairs && !second.trim())) { at('result').replaceChildren(); at('notes').replaceChildren(); status(facts.pairs ? 'Write two texts.' : 'Write a text.'); return; }
    const began = performance.now(), prediction = await predict(text, second);
    if (turn !== last) return;
    at('result').replaceChildren(...(facts.kind === 'token' ? tagged(prediction) : bars(prediction, facts)));
    if (facts.kind === 'multilabel' && !prediction.labels.length) at('result').prepend(make('p', 'No label reaches its threshold.', 'muted'));
    notes(prediction, facts);
    status(`${(performance.now() - began).toFixed(0)} ms in this browser`);
  }
  const changed = () => { const turn = ++last; setTimeout(() => { running = running.then(() => show(turn)).catch(failed); }, 120); };
  for (const id of ['first', 'second']) at(id).addEventListener('input', changed);
  window.student = {facts, predict};
  document.body.dataset.state = 'ready';
  changed();
}

function failed(error) {
  at('loaded').hidden = true;
  document.body.dataset.state = 'failed';
  status(`This browser cannot run the student: ${error.message ?? error}`, true);
}
start().catch(failed);
