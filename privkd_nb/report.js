// The figures of a report, in the colours of the page
const dark = matchMedia('(prefers-color-scheme: dark)'), none = 'rgba(0,0,0,0)';
const inked = (o, ink) => o === '#000000' ? ink : Array.isArray(o) ? o.map(v => inked(v, ink)) : o && typeof o === 'object' ? Object.fromEntries(Object.entries(o).map(([k, v]) => [k, inked(v, ink)])) : o;
function draw(gd) {
  const ink = getComputedStyle(document.body).color, grid = dark.matches ? 'rgba(255,255,255,.14)' : 'rgba(0,0,0,.10)', {data, layout} = inked(JSON.parse(gd.dataset.figure), ink);
  for (const k of new Set([...Object.keys(layout).filter(k => /^[xy]axis/.test(k)), 'xaxis', 'yaxis'])) layout[k] = {gridcolor: grid, zerolinecolor: grid, linecolor: grid, ...layout[k]};
  Object.assign(layout, {paper_bgcolor: none, plot_bgcolor: none, font: {...layout.font, color: ink}, modebar: {bgcolor: none}});
  gd.style.height = gd.style.minHeight = `${layout.height ?? 450}px`;
  return Plotly.react(gd, data, layout, {displaylogo: false, responsive: true, displayModeBar: false}).then(() => fit(gd));
}
const all = () => document.querySelectorAll('.privkd-figure').forEach(draw);
all(); dark.addEventListener('change', all);
