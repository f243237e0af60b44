// Draws the figures of a page with the site's own plotly.js, in the colours of the chosen scheme
(() => {
  const colour = name => getComputedStyle(document.body).getPropertyValue(name).trim()
  const dark = () => document.body.dataset.mdColorScheme === 'slate'

  // a copy of the layout, as wide as the page, on its background, with its text colour
  function layout(figure) {
    const l = structuredClone(figure.layout || {}), grid = dark() ? 'rgba(255,255,255,.15)' : 'rgba(0,0,0,.1)'
    delete l.width
    Object.assign(l, {autosize: true, paper_bgcolor: 'rgba(0,0,0,0)', plot_bgcolor: 'rgba(0,0,0,0)'})
    l.font = {...l.font, color: dark() ? '#dddddd' : '#333333', family: getComputedStyle(document.body).fontFamily}
    l.hoverlabel = {...l.hoverlabel, font: {color: dark() ? '#eeeeee' : '#222222'}, bgcolor: dark() ? '#2b2f36' : '#ffffff'}
    const axes = new Set(['xaxis', 'yaxis', ...Object.keys(l).filter(k => /^[xy]axis\d*$/.test(k))])
    for (const a of axes) l[a] = {...l[a], gridcolor: grid, zerolinecolor: grid, linecolor: grid}
    return l
  }

  function draw(div) {
    const black = /"(black|#000|#000000|rgb\(0, ?0, ?0\))"/g        // the teacher's colour, unseen on a dark page
    const figure = JSON.parse(dark() ? div.dataset.figure.replace(black, '"#e0e0e0"') : div.dataset.figure)
    Plotly.react(div, figure.data, layout(figure), {responsive: true, displaylogo: false})
  }

  const all = () => document.querySelectorAll('[data-figure]').forEach(draw)
  all()
  new MutationObserver(all).observe(document.body, {attributeFilter: ['data-md-color-scheme']})
})()
