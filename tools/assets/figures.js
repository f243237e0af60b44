// Draws the figures of a page with the site's own plotly.js, in the colours of the chosen scheme and as wide as the page
(() => {
  const dark = () => document.body.dataset.mdColorScheme === 'slate' || document.body.classList.contains('quarto-dark')
  const config = {responsive: true, displaylogo: false, showSendToCloud: false, modeBarButtonsToRemove: ['lasso2d', 'select2d']}
  const rgb = hex => [1, 3, 5].map(i => parseInt(hex.slice(i, i + 2), 16))
  const light = hex => rgb(hex).reduce((sum, v, i) => sum + v * [.3, .59, .11][i], 0)

  // a line of text in several, none longer than `most` characters; tags count as nothing
  function wrap(text, most) {
    if (!text) return text
    return text.split('<br>').map(line => {
      let length = 0
      return line.split(' ').reduce((all, word) => {
        const n = word.replace(/<[^>]*>|&\w+;/g, '').length + 1
        const fits = length + n <= most
        length = fits ? length + n : n
        return all === '' ? word : all + (fits ? ' ' : '<br>') + word
      }, '')
    }).join('<br>')
  }

  // a title in so many lines: its note, the part in small type, stays one `sup` a line, or plotly shows the tag
  function title(text, most) {
    const [main, ...note] = (text || '').split('<br><sup>')
    const lines = note.map(n => wrap(n.replace('</sup>', ''), most * 1.35).split('<br>').map(l => `<sup>${l}</sup>`).join('<br>'))
    return [wrap(main, most), ...lines].join('<br>')
  }

  // ink that a dark page would hide: black becomes light grey, another dark colour its own light tint
  const tint = hex => '#' + rgb(hex).map(v => Math.round(v * .45 + 125).toString(16).padStart(2, '0')).join('')
  const readable = text => text.replace(/"(black|#000|rgb\(0, ?0, ?0\))"/g, '"#000000"')
    .replace(/"(#[0-9a-fA-F]{6})"/g, (all, hex) => hex === '#000000' ? '"#e0e0e0"' : light(hex) < 75 ? `"${tint(hex)}"` : all)

  // words on a filled shape stand out from it, whatever the page's ground
  function onShapes(layout) {
    const same = (a, s, r) => (a[r] ?? r[0]) === (s[r] ?? r[0])
    const inside = (a, s) => same(a, s, 'xref') && same(a, s, 'yref') && a.x > s.x0 && a.x < s.x1 && a.y > s.y0 && a.y < s.y1
    for (const a of layout.annotations || []) {
      const s = (layout.shapes || []).find(s => /^#[0-9a-f]{6}$/i.test(s.fillcolor) && inside(a, s))
      if (s) a.font = {...a.font, color: light(s.fillcolor) < 130 ? '#ffffff' : '#111111'}
    }
  }

  // a copy of the layout, as wide as the page, on its background, with its text colour
  function layout(figure, width) {
    const l = structuredClone(figure.layout || {}), grid = dark() ? 'rgba(255,255,255,.15)' : 'rgba(0,0,0,.1)', none = 'rgba(0,0,0,0)'
    delete l.width
    onShapes(l)
    Object.assign(l, {autosize: true, paper_bgcolor: none, plot_bgcolor: none})
    l.font = {...l.font, color: dark() ? '#dddddd' : '#333333', family: getComputedStyle(document.body).fontFamily}
    l.hoverlabel = {...l.hoverlabel, font: {color: dark() ? '#eeeeee' : '#222222'}, bgcolor: dark() ? '#2b2f36' : '#ffffff'}
    l.legend = {...l.legend, bgcolor: none}
    const axes = new Set(['xaxis', 'yaxis', ...Object.keys(l).filter(k => /^[xy]axis\d*$/.test(k))])
    for (const a of axes) l[a] = {...l[a], gridcolor: grid, zerolinecolor: grid, linecolor: grid}
    if (width < 640) {
      l.font.size = 11
      for (const a of l.annotations || []) a.font = {...a.font, size: Math.min(a.font?.size || 12, 12)}
      for (const a of axes) if (a.startsWith('x')) l[a].nticks ??= Math.max(3, Math.round(width / 80 / (axes.size / 2)))
      if (typeof l.title === 'string') l.title = {text: l.title}
      if (l.title?.text) {
        const text = title(l.title.text, width / 9), lines = text.split('<br>').length - l.title.text.split('<br>').length
        l.title = {...l.title, text, font: {...l.title.font, size: 14}}
        Object.assign(l, taller(l, 19 * lines))
      }
    }
    return l
  }

  // room above the plot: the figure grows, and a legend between title and plot moves down, or keeps its place if plotly has made the room
  function taller(l, more, moves = more) {
    const height = l.height || 450, legend = {...l.legend}
    if (legend.yref === 'container') legend.y = 1 - ((1 - legend.y) * height + moves) / (height + more)
    return {height: height + more, margin: {...l.margin, t: (l.margin?.t ?? 80) + more}, legend}
  }

  // how far the legend reaches into the titles of panels, which stand on the plot's upper edge
  function overlap(div) {
    const legend = div.querySelector('.legend'), titles = div._fullLayout.annotations.filter(a => a.yref === 'paper' && a.y >= 1 && a.yanchor === 'bottom')
    if (!legend || !titles.length) return 0
    const tops = titles.map(a => div.querySelector(`.annotation[data-index="${a._index}"]`)?.getBoundingClientRect().top ?? Infinity)
    return Math.max(0, legend.getBoundingClientRect().bottom - Math.min(...tops))
  }

  async function draw(div) {
    const figure = JSON.parse(dark() ? readable(div.dataset.figure) : div.dataset.figure)
    const asked = layout(figure, div.clientWidth)
    if (!div._fullLayout) div.textContent = ''                    // a picture that stood in for the figure
    div.dataset.width = div.clientWidth
    await Plotly.react(div, figure.data, asked, config)
    const more = Math.ceil(div._fullLayout._size.t - (asked.margin?.t ?? 80) + overlap(div))           // a legend of several rows takes it from the plot
    if (more > 2) await Plotly.react(div, figure.data, {...asked, ...taller(asked, more, 0)}, config)
    div.style.minHeight = `${div._fullLayout.height}px`
  }

  const all = () => document.querySelectorAll('[data-figure]').forEach(draw)
  all()
  new MutationObserver(all).observe(document.body, {attributeFilter: ['data-md-color-scheme', 'class']})
  let wait
  addEventListener('resize', () => { clearTimeout(wait); wait = setTimeout(() => document.querySelectorAll('[data-figure]').forEach(d => d.dataset.width != d.clientWidth && draw(d)), 250) })
})()
