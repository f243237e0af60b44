// Choices: what a reader can choose from, as a list of boxes, chips, radio buttons, a menu, or buttons that hand out files.
// The kernel has `items` ({label, hint, about, color, symbol, why, groups}) and `picked`, numbers of items; everything is text, never markup.

const GLYPHS = {circle: '●', 'circle-open': '○', diamond: '◆', square: '■', 'triangle-up': '▲', cross: '✚', star: '★', x: '✖'};
const make = (tag, props = {}, ...children) => {
  const e = Object.assign(document.createElement(tag), props);
  for (const [k, v] of Object.entries(props)) if (k.includes('-') || k === 'role' || k === 'for') e.setAttribute(k, v);
  e.append(...children.filter(c => c !== null && c !== undefined && c !== ''));
  return e;
};

// --- what all of them share
const pick = (model, picked) => { model.set('picked', [...new Set(picked)].sort((a, b) => a - b)); model.save_changes(); };
const toggled = (model, i, on) => { const now = model.get('picked').filter(j => j !== i); pick(model, on ? [...now, i] : now); };
const reason = (model, item) => model.get('why') || item.why || '';
const title = (model, item) => [item.label, item.about, reason(model, item)].filter(Boolean).join(': ');
const frame = (model, kind, ...children) => {     // a named group, and why it cannot be used now
  const why = model.get('why');
  return make('fieldset', {className: `pkc-group pkc-${kind}`}, model.get('label') ? make('legend', {textContent: model.get('label')}) : null,
    why ? make('p', {className: 'pkc-why', textContent: why}) : null, ...children);
};
const not_offered = model => {                    // reasons of single items, once each, for readers who see no tooltips
  if (model.get('why')) return null;
  const by = new Map();
  for (const item of model.get('items')) if (item.why) by.set(item.why, [...(by.get(item.why) ?? []), item.label]);
  return by.size ? make('p', {className: 'pkc-why', textContent: [...by].map(([why, names]) => `${names.join(', ')}: ${why}`).join('; ')}) : null;
};

// --- one of several: a menu, or radio buttons in a row
function menu(model) {
  const select = make('select', {disabled: !!model.get('why'), onchange: () => pick(model, [select.selectedIndex])},
    ...model.get('items').map(item => make('option', {textContent: item.why ? `${item.label} (${item.why})` : item.label, disabled: !!item.why, title: title(model, item)})));
  const about = make('span', {className: 'pkc-about'});
  const show = () => { const i = model.get('picked')[0] ?? -1; select.selectedIndex = i; about.textContent = model.get('items')[i]?.about ?? ''; };
  show();
  return {root: make('label', {className: 'pkc-group pkc-menu', title: model.get('why')}, make('span', {className: 'pkc-label', textContent: model.get('label')}), select,
    about, model.get('why') ? make('p', {className: 'pkc-why', textContent: model.get('why')}) : null), show};
}

function radio(model) {
  const name = `pkc-${Math.random()}`, inputs = model.get('items').map((item, i) => make('input', {type: 'radio', name, disabled: !!reason(model, item), onchange: () => pick(model, [i])}));
  const show = () => inputs.forEach((input, i) => { input.checked = model.get('picked').includes(i); });
  show();
  const row = make('div', {className: 'pkc-row'}, ...model.get('items').map((item, i) => make('label', {className: 'pkc-radio', title: title(model, item)}, inputs[i], make('span', {textContent: item.label}))));
  return {root: frame(model, 'radios', row, not_offered(model)), show};
}

// --- any of several: chips
function chips(model) {
  const buttons = model.get('items').map((item, i) => {
    const button = make('button', {type: 'button', className: 'pkc-chip', title: title(model, item), onclick: () => { if (!reason(model, item)) toggled(model, i, button.getAttribute('aria-pressed') !== 'true'); }},
      item.symbol ? make('span', {className: 'pkc-glyph', textContent: GLYPHS[item.symbol] ?? '●', 'aria-hidden': 'true'}) : null,
      make('span', {className: 'pkc-name', textContent: item.label}),
      item.about ? make('span', {className: 'pkc-about', textContent: item.about}) : null,
      item.why && !model.get('why') ? make('span', {className: 'pkc-about pkc-why', textContent: item.why}) : null);
    if (item.color) button.style.setProperty('--pkc-color', item.color);
    if (reason(model, item)) button.setAttribute('aria-disabled', 'true');
    return button;
  });
  const show = () => buttons.forEach((b, i) => b.setAttribute('aria-pressed', String(model.get('picked').includes(i))));
  show();
  const many = model.get('items').length > 8 || model.get('why') ? ' pkc-many' : '';      // names alone, the rest as tooltips
  return {root: frame(model, 'chips', make('div', {className: `pkc-row${many}`}, ...buttons)), show};
}

// --- any of many: a list of boxes with search, groups, and all or none of what is shown
function list(model, memory) {
  const items = model.get('items'), kinds = [...new Set(items.flatMap(item => Object.keys(item.groups ?? {})))];
  const values = kind => [...new Set(items.map(item => item.groups?.[kind] ?? 'other'))];
  const two = kinds.find(k => k === 'seen' && values(k).length > 1);             // trained on, or not: a filter of its own
  const words = items.map(item => [item.label, item.hint, ...Object.values(item.groups ?? {})].join(' ').toLowerCase());
  memory.open ??= innerWidth > 700;
  const search = make('input', {type: 'search', value: memory.search ?? '', placeholder: `search ${items.length}: name, code, group`, 'aria-label': `Search ${model.get('label')}`, oninput: () => { memory.search = search.value; rows(); }});
  const option = (value, text) => make('option', {value, textContent: text});
  const by = make('select', {'aria-label': 'Group by', onchange: () => { memory.by = by.value; rows(); }}, option('', 'A to Z'), ...kinds.map(k => option(k, `by ${k === 'seen' ? 'training' : k}`)));
  by.value = memory.by ?? '';
  const which = two ? make('select', {'aria-label': 'Show', onchange: () => { memory.which = which.value; rows(); }}, option('', 'show all'), ...values(two).map(v => option(v, v))) : null;
  if (which) which.value = memory.which ?? '';
  const count = make('span', {className: 'pkc-count', 'aria-live': 'polite'}), body = make('div', {className: 'pkc-items', role: 'group', 'aria-label': model.get('label')});
  const button = (text, f) => make('button', {type: 'button', className: 'pkc-small', textContent: text, onclick: f});
  const all = button('All', () => pick(model, [...model.get('picked'), ...shown])), none = button('None', () => { const s = new Set(shown); pick(model, model.get('picked').filter(i => !s.has(i))); });
  const off = !!model.get('why');
  let shown = [], boxes = [], heads = [];
  const box = (text, hint, change, css = '') => {
    const input = make('input', {type: 'checkbox', tabIndex: -1, disabled: off, onchange: () => change(input.checked)});
    return [input, make('label', {className: `pkc-box ${css}`}, input, make('span', {textContent: text}), hint ? make('small', {textContent: hint}) : null)];
  };
  const rows = () => {
    const q = (memory.search ?? '').trim().toLowerCase(), kind = memory.by ?? '';
    shown = items.map((_, i) => i).filter(i => words[i].includes(q) && (!memory.which || items[i].groups?.[two] === memory.which));
    boxes = []; heads = [];
    const entry = i => { const [input, label] = box(items[i].label, items[i].hint, on => toggled(model, i, on)); boxes.push([i, input]); return label; };
    const groups = kind ? values(kind).sort().map(g => [g, shown.filter(i => (items[i].groups?.[kind] ?? 'other') === g)]).filter(([, m]) => m.length) : [];
    const filled = kind ? groups.flatMap(([g, members]) => {
      const [input, label] = box(g, String(members.length), on => { const m = new Set(members); pick(model, on ? [...model.get('picked'), ...members] : model.get('picked').filter(i => !m.has(i))); }, 'pkc-head');
      heads.push([members, input]);
      return [label, ...members.map(entry)];
    }) : shown.map(entry);
    body.replaceChildren(...(shown.length ? filled : [make('p', {className: 'pkc-why', textContent: 'Nothing is called so; clear the search, or show all.'})]));
    const first = body.querySelector('input');
    if (first) first.tabIndex = 0;                // one stop of the tab key; arrows go on from there
    const part = shown.length < items.length;
    all.textContent = part ? `All ${shown.length} shown` : 'All'; none.textContent = part ? 'None of them' : 'None';
    show();
  };
  const show = () => {
    const picked = new Set(model.get('picked'));
    for (const [i, input] of boxes) input.checked = picked.has(i);
    for (const [members, input] of heads) { const n = members.filter(i => picked.has(i)).length; input.checked = n === members.length; input.indeterminate = n > 0 && n < members.length; }
    count.textContent = ` ${picked.size} of ${items.length}`;
  };
  body.onkeydown = e => {
    const inputs = [...body.querySelectorAll('input')], at = inputs.indexOf(e.target);
    if (at < 0) return;
    if (e.key === 'Enter') { e.preventDefault(); e.target.click(); return; }
    const to = {ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: inputs.length - 1}[e.key];
    if (to === undefined) return;
    e.preventDefault();
    const next = inputs[Math.max(0, Math.min(inputs.length - 1, to))];
    inputs.forEach(i => { i.tabIndex = -1; }); next.tabIndex = 0; next.focus();
  };
  for (const e of [search, by, which, all, none]) if (e) e.disabled = off;
  rows();
  const details = make('details', {open: memory.open, ontoggle: () => { memory.open = details.open; }}, make('summary', {}, make('span', {textContent: model.get('label')}), count),
    model.get('why') ? make('p', {className: 'pkc-why', textContent: model.get('why')}) : null,
    search, make('div', {className: 'pkc-tools'}, all, none, by, which), body);
  return {root: make('div', {className: 'pkc-group pkc-list'}, details), show};
}

// --- files: the kernel makes them, the browser saves them
function files(model) {
  const said = make('span', {className: 'pkc-said', 'aria-live': 'polite'});
  const buttons = model.get('items').map((item, i) => {
    const b = make('button', {type: 'button', className: 'pkc-small', textContent: item.label, title: title(model, item),
      onclick: () => { if (!reason(model, item)) { said.textContent = 'making the file …'; model.send({type: 'press', item: i}); } }});
    if (reason(model, item)) b.setAttribute('aria-disabled', 'true');
    return b;
  });
  const hear = (msg, buffers) => {
    if (msg.type === 'said') said.textContent = msg.text;
    if (msg.type !== 'file') return;
    const url = URL.createObjectURL(new Blob([buffers[0]], {type: msg.mime})), a = make('a', {href: url, download: msg.name});
    document.body.append(a); a.click(); a.remove();
    setTimeout(() => URL.revokeObjectURL(url), 10000);
    said.textContent = `saved ${msg.name} (${Math.max(1, Math.round(buffers[0].byteLength / 1000)).toLocaleString('en')} kB)`;
  };
  return {root: frame(model, 'files', make('div', {className: 'pkc-row'}, ...buttons, said), not_offered(model)), show() {}, hear};
}

const LOOKS = {menu, radio, chips, list, files};

export default {
  render({model, el}) {
    const memory = {};                            // of this view: what was searched, how it is grouped
    let now = null;
    el.classList.add('pkc');
    // Plain keys are for these controls; with Ctrl they stay JupyterLab's. It looks at the focused element, on the way down from the window.
    const keys = e => { if (el.contains(e.target)) e.target.toggleAttribute('data-lm-suppress-shortcuts', !(e.ctrlKey || e.metaKey || e.altKey)); };
    addEventListener('keydown', keys, true);
    const draw = () => {
      const focus = el.contains(document.activeElement) ? [...el.querySelectorAll('input, select, button')].indexOf(document.activeElement) : -1;
      now = LOOKS[model.get('look')](model, memory);
      el.replaceChildren(now.root);
      if (focus >= 0) el.querySelectorAll('input, select, button')[focus]?.focus();
    };
    const show = () => now.show(), hear = (msg, buffers) => now.hear?.(msg, buffers);
    let waiting = false;
    const later = () => { if (!waiting) { waiting = true; queueMicrotask(() => { waiting = false; draw(); }); } };   // items, label and why often change together
    for (const k of ['items', 'why', 'label']) model.on(`change:${k}`, later);
    model.on('change:picked', show);
    model.on('msg:custom', hear);
    draw();
    return () => { removeEventListener('keydown', keys, true); for (const k of ['items', 'why', 'label']) model.off(`change:${k}`, later); model.off('change:picked', show); model.off('msg:custom', hear); };
  }
};
