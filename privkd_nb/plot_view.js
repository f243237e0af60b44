// PlotView: a plotly figure that the kernel replaces (`picture`) or lengthens (message 'extend').
// One model may have several views. plotly.js comes from the kernel, once a browser page.

// --- plotly.js, shared by every PlotView of the page
const pageCopy = version => {
  const key = `privkd_plotly_${version}`;
  return globalThis[key] ??= (() => { const o = {}; o.ready = new Promise(done => { o.done = done; }); return o; })();
};

function load(page, bytes) {                     // a classic script from memory; the page's own Plotly is left as it was
  if (page.loading) return;
  page.loading = true;
  const before = globalThis.Plotly, url = URL.createObjectURL(new Blob([bytes], {type: 'text/javascript'}));
  const script = Object.assign(document.createElement('script'), {src: url});
  script.onload = () => {
    const plotly = globalThis.Plotly;
    globalThis.Plotly = before;
    URL.revokeObjectURL(url); script.remove(); page.done(plotly);
  };
  document.head.append(script);
}

function ask(page, model) {                      // the kernel for plotly.js, not more often than every five seconds
  if (page.loading || Date.now() - (page.asked ?? 0) < 4900) return;
  page.asked = Date.now();
  model.send({type: 'plotly'});
}

// --- arrays: plotly's encoder sends numbers as {dtype, bdata}; extending needs plain arrays
const KINDS = {i1: Int8Array, u1: Uint8Array, i2: Int16Array, u2: Uint16Array, i4: Int32Array, u4: Uint32Array, f4: Float32Array, f8: Float64Array};
const plain = a => Array.isArray(a) ? a : a?.bdata !== undefined
  ? Array.from(new KINDS[a.dtype](Uint8Array.from(atob(a.bdata), c => c.charCodeAt(0)).buffer)) : Array.from(a ?? []);

// --- the page's theme: transparent ground, text and grid in its colours, black ink in its text colour
const luma = rgb => { const [r, g, b] = (rgb.match(/[\d.]+/g) ?? [0, 0, 0]).map(Number); return .3*r + .6*g + .1*b; };
const repaint = (o, ink) => typeof o === 'string' ? (/^(#000|#000000|black)$/i.test(o) ? ink : o)
  : Array.isArray(o) ? o.map(v => repaint(v, ink)) : o && Object.getPrototypeOf(o) === Object.prototype ? Object.fromEntries(Object.entries(o).map(([k, v]) => [k, /color|line|marker|font/.test(k) ? repaint(v, ink) : v])) : o;

function themed(figure, el) {
  const ink = getComputedStyle(el).color, dark = luma(ink) > 128, grid = dark ? 'rgba(255,255,255,.14)' : 'rgba(0,0,0,.10)', none = 'rgba(0,0,0,0)';
  const layout = repaint({...figure.layout}, ink), axis = {gridcolor: grid, zerolinecolor: grid, linecolor: grid};
  for (const k of new Set([...Object.keys(layout).filter(k => /^[xy]axis\d*$/.test(k)), 'xaxis', 'yaxis'])) layout[k] = {...axis, ...layout[k]};
  Object.assign(layout, {paper_bgcolor: none, plot_bgcolor: none, autosize: true, font: {...layout.font, color: ink},
    legend: {bgcolor: none, ...layout.legend}, modebar: {bgcolor: none, color: grid.replace(/[.\d]+\)$/, '.45)'), activecolor: ink, ...layout.modebar},
    hoverlabel: {bgcolor: dark ? '#222' : '#fff', font: {color: ink}, ...layout.hoverlabel}});
  delete layout.width; delete layout.height;
  return [figure.data.map(t => dark ? repaint({...t}, ink) : {...t}), layout];
}

// --- a title that is wider than the page is broken into lines, which push everything below them down
const broken = (text, chars) => text.split('<br>').map(part => {
  const [, open, words, close] = part.match(/^(<sup>)?(.*?)(<\/sup>)?$/), room = open ? chars * 1.42 : chars, lines = [''];
  for (const w of words.split(' ')) {
    const last = lines.length - 1, longer = lines[last] ? `${lines[last]} ${w}` : w;
    if (longer.replace(/&[#\w]+;/g, '_').length <= room || !lines[last]) lines[last] = longer; else lines.push(w);
  }
  return lines.map(l => (open ?? '') + l + (close ?? '')).join('<br>');
}).join('<br>');

function shaped(figure, width) {                 // the figure as it fits this width
  const {layout, height} = figure, {title, margin, legend} = layout ?? {}, text = title?.text;
  if (typeof text !== 'string' || title.yref !== 'container' || !margin?.t) return figure;
  const lines = broken(text, Math.max(12, (width - 24) / 9)), more = 18 * (lines.split('<br>').length - text.split('<br>').length);
  if (!more) return figure;
  const down = {...legend, ...(legend?.yref === 'container' ? {y: 1 - ((1 - legend.y) * height + more) / (height + more)} : {})};
  return {...figure, height: height + more, layout: {...layout, title: {...title, text: lines}, margin: {...margin, t: margin.t + more}, legend: down, height: height + more}};
}

// --- one view
function view(plotly, el, div, now, click) {
  let work = Promise.resolve(), stale = true, gone = false, wait = 0, later = 0, cost = 0, last = 0;
  const pending = new Map();                     // trace -> [x, y] not yet drawn
  const visible = () => el.clientWidth > 0;
  const then = f => { work = work.then(() => gone ? 0 : f()).catch(e => console.error('PlotView:', e)); };
  const download = format => plotly.downloadImage({data: now().data, layout: now().layout},
    {format, width: Math.max(700, div.clientWidth), height: now().height, filename: now().filename ?? 'figure', scale: format === 'png' ? 2 : 1});
  const image = format => ({name: `${format}`, title: `Download as ${format.toUpperCase()}`, icon: plotly.Icons[format === 'png' ? 'camera' : 'disk'], click: () => download(format)});
  const config = {displaylogo: false, showSendToCloud: false, modeBarButtonsToRemove: ['toImage', 'lasso2d', 'select2d'], modeBarButtonsToAdd: [image('png'), image('svg')]};
  const fitting = () => shaped(now(), el.clientWidth || 700);
  const fit = async () => {                      // a legend of more rows than the figure reckoned with pushes the plot down
    const {layout, height} = fitting(), legend = div._fullLayout.legend, room = layout?.meta?.legend, {t} = layout?.margin ?? {};
    if (!room || legend?.yref !== 'container' || !t) return;
    const more = Math.max(0, Math.round(legend._effHeight - room - 6));
    if (more === (div.more ?? 0)) return;
    div.more = more;
    div.style.height = `${height + more}px`;
    await plotly.relayout(div, {'margin.t': t + more, 'legend.y': 1 - (1 - layout.legend.y) * height / (height + more), height: height + more});
  };
  const redraw = async figure => {
    div.style.height = `${figure.height}px`;
    div.more = 0; div.titled = figure.layout?.title?.text;
    const shape = [...new Set(figure.data.map(t => t.type)), ...Object.keys(figure.layout ?? {}).filter(k => /axis/.test(k))].join();
    if (div.shape && div.shape !== shape) { plotly.purge(div); div.listening = false; }       // another kind of figure: plotly would keep the room of its legend
    div.shape = shape;
    await plotly.react(div, ...themed(figure, el), config);
    await fit();
  };
  const resize = async () => {
    const figure = fitting();
    if (figure.layout?.title?.text !== div.titled) return redraw(figure);      // its title has more lines now, or fewer
    await plotly.Plots.resize(div);
    await fit();
  };
  const draw = () => {
    stale = true;
    if (!visible()) {                            // hidden and shown again between two frames, it would not be resized: looked at once more
      requestAnimationFrame(() => { if (stale && !gone && visible()) draw(); });
      return;
    }
    if (!now().data.length && !now().layout?.height) return;                    // drawn when there is something to see
    then(async () => {
      if (!stale) return;
      stale = false; pending.clear();            // the figure has them
      await redraw(fitting());
      el.classList.add('privkd-drawn');
      if (!div.listening) { div.listening = true; div.on('plotly_click', click); }
    });
  };
  const extend = pieces => {                     // on a slow machine pieces gather, so that drawing takes a quarter of its time
    if (stale || !visible()) { stale = true; return; }
    for (const [i, x, y] of pieces) { const p = pending.get(i) ?? [[], []]; pending.set(i, [p[0].concat(x), p[1].concat(y)]); }
    later ||= setTimeout(() => {
      later = 0;
      then(async () => {
        if (stale || !pending.size) return;
        const [traces, parts, began] = [[...pending.keys()], [...pending.values()], performance.now()];
        pending.clear();
        for (const i of traces) for (const k of ['x', 'y']) div.data[i][k] = plain(div.data[i][k]);
        await plotly.extendTraces(div, {x: parts.map(p => p[0]), y: parts.map(p => p[1])}, traces);
        cost = performance.now() - began; last = performance.now();
      });
    }, Math.max(0, last + 3 * cost - performance.now()));
  };
  const size = new ResizeObserver(() => {
    cancelAnimationFrame(wait);
    wait = requestAnimationFrame(() => { if (visible()) stale ? draw() : then(resize); });
  });
  const theme = new MutationObserver(() => { clearTimeout(theme.wait); theme.wait = setTimeout(draw, 150); });
  size.observe(el);
  theme.observe(document.body, {attributes: true, attributeFilter: ['class', 'data-jp-theme-name', 'data-jp-theme-light', 'data-vscode-theme-id']});
  draw();
  return {draw, extend, download, visible, dispose() {
    gone = true; size.disconnect(); theme.disconnect(); clearTimeout(theme.wait); clearTimeout(later); cancelAnimationFrame(wait);
    work.then(() => plotly.purge(div));
  }};
}

// --- the widget: `picture` is {epoch, height, data, layout}; a piece that does not fit asks for the whole
export default () => {
  let figure = null;
  const views = new Set();
  return {
    initialize({model}) {
      const page = pageCopy(model.get('plotly'));
      const read = () => { figure = JSON.parse(model.get('picture')); views.forEach(v => v.draw()); };
      const hear = (msg, buffers) => {
        if (msg.type === 'plotly') load(page, buffers[0]);
        if (msg.type === 'download') [...views].find(v => v.visible())?.download(msg.format);
        if (msg.type !== 'extend') return;
        const {epoch, traces} = JSON.parse(msg.json), pieces = [];
        if (epoch < figure.epoch) return;
        for (const [i, start, ...xy] of traces) {
          const t = figure.data[i];
          if (t) for (const k of ['x', 'y']) t[k] = plain(t[k]);
          if (epoch > figure.epoch || !t || start > t.x.length) return model.send({type: 'state'});
          const [x, y] = xy.map(a => plain(a).slice(t.x.length - start));
          if (!x.length) continue;
          t.x = t.x.concat(x); t.y = t.y.concat(y);
          pieces.push([i, x, y]);
        }
        if (pieces.length) views.forEach(v => v.extend(pieces));
      };
      model.on('change:picture', read);
      model.on('msg:custom', hear);
      read();
      ask(page, model);                          // while the kernel is still busy with what will be shown
      return () => { model.off('change:picture', read); model.off('msg:custom', hear); };
    },
    render({model, el}) {
      const page = pageCopy(model.get('plotly')), div = document.createElement('div');
      let mine = null, gone = false;
      div.style.width = '100%'; div.style.minHeight = `${figure.height}px`;
      Object.assign(el.style, {width: '100%', color: 'var(--jp-ui-font-color1, var(--vscode-foreground, inherit))'});
      el.append(div);
      const note = setTimeout(() => { div.textContent = 'The figure appears as soon as the kernel answers; without a kernel, run the cell again.'; }, 8000);
      page.ready.then(plotly => {
        clearTimeout(note);
        if (gone) return;
        div.textContent = ''; div.style.minHeight = '';
        mine = view(plotly, el, div, () => figure, e => {
          const p = e.points[0];
          model.send({type: 'click', curve: p.curveNumber, point: p.pointNumber, x: p.x, y: p.y, customdata: p.customdata ?? null});
        });
        views.add(mine);
      });
      ask(page, model);
      const again = setInterval(() => ask(page, model), 5000);     // the model that asked first may be one without a kernel, from a saved notebook
      page.ready.then(() => clearInterval(again));
      model.send({type: 'view', there: true});
      return () => { gone = true; clearTimeout(note); clearInterval(again); views.delete(mine); mine?.dispose(); model.send({type: 'view', there: false}); };
    }
  };
};
