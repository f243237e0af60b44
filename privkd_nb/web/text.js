// From a text to a prediction, as `Student` does it in Python. Only the division into tokens is left to transformers.js.
const SPACE = /[\t-\r\x1c-\x20\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]+/u; // what Python divides words at

export const wordsOf = text => text.split(SPACE).filter(w => w);

// How many tokens of each text stay if both together have room for `room`: the longer one is cut first
export function kept(n1, n2, room) {
  if (n1 + n2 <= room) return [n1, n2];
  const [a, b] = n1 <= n2 ? [n1, n2] : [n2, n1];
  let few = a, many = a > room ? a : Math.max(a, room - a);
  if (few + many > room) { few = Math.floor(room / 2); many = few + room % 2; }
  few = Math.min(few, a); many = Math.min(many, b);
  return n1 <= n2 ? [few, many] : [many, few];
}

const plain = (tokenizer, text) => tokenizer.encode(text, {add_special_tokens: false});

// Token ids, their types, the word that each token begins (-1: none), whether the text was cut, and the share of unknown tokens
export function encode(facts, tokenizer, text, second) {
  let first = [], words = [], other = null;
  if (facts.kind === 'token') {
    wordsOf(text).forEach((word, w) => plain(tokenizer, facts.spaced && !facts.added.includes(word) ? ` ${word}` : word).forEach((id, i) => { first.push(id); words.push(i ? -1 : w); }));
  } else first = Array.from(plain(tokenizer, text));
  if (facts.pairs) other = Array.from(plain(tokenizer, second));
  const {before, between, after, types: [type1, type2]} = other ? facts.frames.pair : facts.frames.single;   // special tokens, as [id, type]
  const [n1, n2] = kept(first.length, other ? other.length : 0, facts.max_length - before.length - between.length - after.length);
  const cut = n1 < first.length || (other !== null && n2 < other.length);
  first = first.slice(0, n1);
  other = (other || []).slice(0, n2);
  const all = [...before, ...first.map(id => [id, type1]), ...between, ...other.map(id => [id, type2]), ...after];
  const [ids, types] = [0, 1].map(k => all.map(t => t[k])), starts = ids.map(() => -1);
  words.slice(0, n1).forEach((w, i) => { starts[before.length + i] = w; });
  const real = [...first, ...other], unknown = new Set(facts.unknown_ids);
  return {ids, types, starts, cut, unknown: real.length ? real.filter(id => unknown.has(Number(id))).length / real.length : 0};
}

export function softmax(z) {
  const most = Math.max(...z), e = z.map(v => Math.exp(v - most)), sum = e.reduce((a, b) => a + b, 0);
  return e.map(v => v / sum);
}
const sigmoid = z => z.map(v => 1 / (1 + Math.exp(-v)));
const best = p => p.reduce((at, v, i) => v > p[at] ? i : at, 0);

// What the logits of a text say: the fields of a `Prediction`
export function named(facts, logits, encoded, text) {
  const {labels} = facts, said = {cut: encoded.cut, unknown: encoded.unknown};
  if (facts.kind === 'token') {
    const words = wordsOf(text), tags = words.map(() => 'O');
    encoded.starts.forEach((w, i) => { if (w >= 0) tags[w] = labels[best(Array.from(logits.slice(i * labels.length, (i + 1) * labels.length)))]; });
    return {words, labels: tags, ...said};
  }
  const p = facts.kind === 'multilabel' ? sigmoid(Array.from(logits)) : softmax(Array.from(logits));
  const order = p.map((_, i) => i).sort((a, b) => p[b] - p[a]);
  const probabilities = labels.map((label, i) => [label, p[i]]);
  if (facts.kind === 'sequence') return {label: labels[order[0]], probability: p[order[0]], probabilities, order, ...said};
  return {labels: labels.filter((_, i) => p[i] >= facts.thresholds[i]), probabilities, order, ...said};
}
