"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const font = {family: "system-ui, -apple-system, Segoe UI, Roboto, DejaVu Sans, sans-serif",
  size: 12, color: "#1c2530"};
const config = {displayModeBar: false, responsive: true, doubleClick: "reset"};
const dressed = (layout) => ({font, paper_bgcolor: "#fff", plot_bgcolor: "#fff",
  hoverlabel: {font: {size: 12}, align: "left"}, ...layout});

function draw(id, figure) {
  const place = document.getElementById(id);
  if (!figure || !figure.data.length) {
    place.textContent = "Nothing to show for this run.";
    place.className = "hint";
    return;
  }
  Plotly.react(place, figure.data, dressed(figure.layout), config);
}

for (const id of ["time_share", "links", "critical_path", "kernels"]) draw(id, data[id]);

const choice = document.getElementById("memory_class");
data.memory.forEach((figure, index) => choice.add(new Option(figure.title, index)));
choice.addEventListener("change", () => draw("memory", data.memory[choice.value]));
draw("memory", data.memory[0]);

// ---- timeline: columns of all spans, redrawn for the stretch of time in view ----
const timeline = data.timeline;
const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer;
const start = new Uint32Array(bytes(timeline.start));
const length = new Uint32Array(bytes(timeline.length));
const label = new Uint32Array(bytes(timeline.label));
const mb = new Int16Array(bytes(timeline.mb));
const layer = new Int16Array(bytes(timeline.layer));
const labels = timeline.labels;
const tick = timeline.tick_s;
const COMPUTE_HEIGHT = 22, LANE_HEIGHT = 12, CLASS_GAP = 8;

function placeRows() {
  let at = 0, previous = null;
  for (const row of timeline.rows) {
    if (previous !== null && row.class !== previous) at += CLASS_GAP;
    row.height = row.lane === "compute" ? COMPUTE_HEIGHT : LANE_HEIGHT;
    row.middle = at + row.height / 2;
    at += row.height + 1;
    previous = row.class;
  }
  return at;
}

function duration(seconds) {
  for (const [unit, scale] of [["s", 1], ["ms", 1e-3], ["us", 1e-6]]) {
    if (seconds >= scale) return (seconds / scale).toPrecision(4) + " " + unit;
  }
  return (seconds * 1e9).toFixed(0) + " ns";
}

function paler(colour, share) {
  const keep = 0.4 + 0.6 * Math.min(1, share);
  const part = (i) => Math.round(255 - (255 - parseInt(colour.slice(i, i + 2), 16)) * keep);
  return `rgb(${part(1)},${part(3)},${part(5)})`;
}

// Neighbours of one colour and micro-batch that are narrow or nearly touch become one bar; what is
// far too narrow joins whatever is beside it, under the colour that holds most of its time.
function runsOf(row, from, to, pixel) {
  const runs = [];
  let run = null;
  for (let i = row.first; i < row.first + row.count; i++) {
    const begin = start[i], end = begin + length[i];
    if (end < from || begin > to) continue;
    const text = labels[label[i]], tiny = length[i] < 3 * pixel;
    if (run && begin - run.end <= 1.2 * pixel && !!text.wait === run.wait) {
      const sliver = run.end - run.begin < 1.5 * pixel && length[i] < 1.5 * pixel;
      const alike = run.colour === text.colour && (run.mb === mb[i] || sliver);
      if (sliver || (alike && (tiny || run.tiny))) {
        if (length[i] > run.longest) {
          run.longest = length[i]; run.colour = text.colour; run.span = i; run.mb = mb[i];
        }
        run.end = Math.max(run.end, end); run.busy += length[i]; run.count += 1; run.tiny = tiny;
        continue;
      }
    }
    run = {begin, end, busy: length[i], count: 1, colour: text.colour, mb: mb[i], span: i, tiny,
      longest: length[i], wait: !!text.wait};
    runs.push(run);
  }
  return runs;
}

function hover(row, run) {
  const text = labels[label[run.span]], owner = timeline.classes[row.class];
  const where = `stage ${owner.stage}, rank ${owner.rank}, ${row.lane}`;
  const place = [run.mb >= 0 ? `micro-batch ${run.mb}` : "",
    run.count === 1 && layer[run.span] >= 0 ? `layer ${layer[run.span]}` : ""].filter(Boolean);
  const what = run.count === 1 ? `<b>${text.wait ? "wait for " : ""}${text.name}</b> (${text.phase})`
    : `<b>${run.count} tasks</b> (${text.wait ? "waits" : text.phase}), longest: ${text.name}`;
  const busy = run.count === 1 ? "" :
    `, busy ${Math.min(100, 100 * run.busy / Math.max(1, run.end - run.begin)).toFixed(0)} %`;
  const lines = [what, duration((run.end - run.begin) * tick) + busy +
    ` at ${(timeline.origin_s + run.begin * tick - data.origin_s).toFixed(6)} s`];
  if (place.length) lines.push(place.join(", "));
  if (run.count === 1 && text.more) lines.push(text.more);
  lines.push(where);
  return lines.join("<br>");
}

// A kernel alone bears its name. Of the bars of one pass the first with room bears its micro-batch.
function inside(row, run, pass, pixels) {
  if (row.lane !== "compute") return "";
  const alone = run.count === 1 ? labels[label[run.span]].name : "";
  const fits = (text) => text && pixels > 6.2 * text.length + 3;
  if (fits(alone)) return alone;
  if (run.mb < 0) return "";
  const key = `${run.colour} ${run.mb}`, number = `${run.mb}`;
  if ((pass.labelled === key && pixels < 60) || !fits(number)) return "";
  pass.labelled = key;
  return number;
}

function timelineTraces(from, to, pixel) {
  const makeTrace = (name) => ({type: "bar", orientation: "h", name, base: [], x: [], y: [],
    width: [], text: [], hovertext: [], marker: {color: [], line: {width: [], color: "#fff"}}, hoverinfo: "text",
    textposition: "inside", insidetextanchor: "middle", textangle: 0, constraintext: "none",
    textfont: {size: 10, color: []}, showlegend: false});
  const waits = makeTrace("waits"), tasks = makeTrace("tasks");
  for (const row of timeline.rows) {
    const pass = {labelled: null};
    for (const run of runsOf(row, from, to, pixel)) {
      const trace = run.wait ? waits : tasks;
      const wide = run.end - run.begin;
      // A bar that reaches far outside of the view would lose its text.
      const begin = Math.max(run.begin, from), end = Math.min(run.end, to);
      trace.base.push(timeline.origin_s - data.origin_s + begin * tick);
      trace.x.push(Math.max(end - begin, pixel / 2) * tick);
      trace.y.push(row.middle);
      trace.width.push(row.height);
      trace.text.push(inside(row, run, pass, (end - begin) / pixel));
      trace.hovertext.push(hover(row, run));
      trace.marker.color.push(run.count > 1 ? paler(run.colour, run.busy / Math.max(1, wide))
        : run.colour);
      trace.textfont.color.push(["#2f6db3", "#0f7f5c", "#7b5cab"].includes(run.colour)
        ? "#ffffff" : "#1c2530");
      // An edge tells kernels of one colour apart, where it does not hide them.
      trace.marker.line.width.push(run.count === 1 && end - begin > 5 * pixel ? 0.8 : 0);
    }
  }
  return [waits, tasks];
}

function rowText(row) {
  const owner = timeline.classes[row.class];
  if (row.lane !== "compute") return `<span style="color:#5b6672">${row.lane}</span>`;
  return `<b>stage ${owner.stage}</b>  rank ${owner.rank} (x${owner.ranks})`;
}

function drawTimeline() {
  const place = document.getElementById("timeline");
  const height = placeRows();
  let last = 0;
  for (let i = 0; i < start.length; i++) last = Math.max(last, start[i] + length[i]);
  const offset = timeline.origin_s - data.origin_s;
  const whole = [offset, offset + last * tick];
  const margin = {l: 150, r: 24, t: 6, b: 46};
  const layout = dressed({height: height + margin.t + margin.b, margin, barmode: "overlay",
    dragmode: "zoom", hovermode: "closest",
    xaxis: {range: whole, title: {text: "time (s)", standoff: 8}, gridcolor: "#e7eaee",
      zeroline: false, minallowed: whole[0], maxallowed: whole[1]},
    yaxis: {range: [height, 0], fixedrange: true, showgrid: false, zeroline: false,
      ticks: "outside", ticklen: 5, tickcolor: "#fff",
      tickvals: timeline.rows.map((row) => row.middle), ticktext: timeline.rows.map(rowText),
      tickfont: {size: 10.5}}});
  const redraw = () => {
    const [left, right] = place.layout ? place.layout.xaxis.range.map(Number) : whole;
    const width = Math.max(300, place.clientWidth - margin.l - margin.r);
    const from = (left - offset) / tick, to = (right - offset) / tick;
    const traces = timelineTraces(Math.max(0, from), Math.min(last, to), (to - from) / width);
    return Plotly.react(place, traces, place.layout || layout, config);
  };
  redraw().then(() => {
    place.on("plotly_relayout", (change) => {
      if (Object.keys(change).some((key) => key.startsWith("xaxis"))) redraw();
    });
    place.on("plotly_doubleclick", () => Plotly.relayout(place, {"xaxis.range": whole}));
  });
  document.getElementById("timeline_reset").addEventListener("click",
    () => Plotly.relayout(place, {"xaxis.range": whole}));
}

function drawLegend() {
  const seen = new Map();
  for (const text of labels) seen.set(text.wait ? "waiting for members" : text.key, text.colour);
  const waiting = seen.get("waiting for members");
  seen.delete("waiting for members");
  if (waiting) seen.set("waiting for members", waiting);
  for (const [name, colour] of seen) {
    const item = document.createElement("span"), swatch = document.createElement("i");
    swatch.style.background = colour;
    item.append(swatch, name);
    document.getElementById("timeline_legend").append(item);
  }
}

if (start.length) { drawTimeline(); drawLegend(); }
