"use strict";
// Columns of all spans, redrawn for the stretch of time in view. A row is a lane of a rank class.

function decoded(text, Kind) {
  return new Kind(Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer);
}

function duration(seconds) {
  for (const [unit, scale] of [["s", 1], ["ms", 1e-3], ["us", 1e-6]]) {
    if (seconds >= scale) return (seconds / scale).toPrecision(4) + " " + unit;
  }
  return (seconds * 1e9).toFixed(0) + " ns";
}

const channels = (colour) => [1, 3, 5].map((i) => parseInt(colour.slice(i, i + 2), 16));

function paler(colour, share) {
  const keep = 0.4 + 0.6 * Math.min(1, share);
  return `rgb(${channels(colour).map((c) => Math.round(255 - (255 - c) * keep)).join(",")})`;
}

// Black or white, whichever reads better (ITU-R BT.601 luma).
function inkOn(colour) {
  const [red, green, blue] = channels(colour);
  return 0.299 * red + 0.587 * green + 0.114 * blue < 150 ? "#ffffff" : "#1c2530";
}

class Timeline {
  constructor(packed, originS, stepS) {
    this.rows = packed.rows;
    this.classes = packed.classes;
    this.labels = packed.labels;
    this.path = Object.keys(packed.classes).length > 1 ? packed.path : [];
    this.tick = packed.tick_s;
    this.offset = packed.origin_s - originS;
    this.pathOffset = originS;
    this.start_ = decoded(packed.start, Uint32Array);
    this.length = decoded(packed.length, Uint32Array);
    this.label = decoded(packed.label, Uint32Array);
    const numbers = packed.short ? Int16Array : Int32Array;
    this.mb = decoded(packed.mb, numbers);
    this.layer = decoded(packed.layer, numbers);
    this.inks = this.labels.map((text) => inkOn(text.colour));
    this.margin = {l: 196, r: 62, t: 6, b: 46};
    this.place = byId("timeline");
    let first = Infinity, last = 0;
    for (let i = 0; i < this.start_.length; i++) {
      first = Math.min(first, this.start_[i]);
      last = Math.max(last, this.start_[i] + this.length[i]);
    }
    this.whole = [Math.min(0, this.offset + first * this.tick),
      Math.max(stepS, this.offset + last * this.tick)];
  }

  // Few rows are drawn taller, so that one rank is not a thin strip.
  placeRows(top = 0) {
    const lanes = byId("show_lanes").checked;
    this.shown = this.rows.filter((row) => lanes || row.lane === "compute");
    const computes = this.shown.filter((row) => row.lane === "compute").length;
    const room = Math.max(1, Math.min(2, 3 / Math.max(1, computes)));
    let at = top, previous = null;
    for (const row of this.shown) {
      if (previous !== null && row.class !== previous) at += lanes ? 8 : 2;
      row.height = Math.round(room * (row.lane === "compute" ? 24 : 12));
      row.top = at;
      row.middle = at + row.height / 2;
      at += row.height + 1;
      previous = row.class;
    }
    this.height = at;
  }

  // Neighbours of one colour and micro-batch that are narrow or nearly touch become one bar; what
  // is far too narrow joins whatever is beside it, under the colour that holds most of its time.
  runsOf(row, from, to, pixel) {
    const runs = [];
    let run = null;
    for (let i = row.first; i < row.first + row.count; i++) {
      const begin = this.start_[i], size = this.length[i], end = begin + size;
      if (end < from || begin > to) continue;
      const text = this.labels[this.label[i]], tiny = size < 3 * pixel;
      if (run && begin - run.end <= 1.2 * pixel && !!text.wait === run.wait) {
        const sliver = run.end - run.begin < 1.5 * pixel && size < 1.5 * pixel;
        const alike = run.colour === text.colour && (run.mb === this.mb[i] || sliver);
        if (sliver || (alike && (tiny || run.tiny))) {
          if (size > run.longest) {
            run.longest = size; run.colour = text.colour; run.span = i; run.mb = this.mb[i];
          }
          run.end = Math.max(run.end, end); run.busy += size; run.count += 1; run.tiny = tiny;
          continue;
        }
      }
      run = {begin, end, busy: size, count: 1, colour: text.colour, mb: this.mb[i], span: i, tiny,
        longest: size, wait: !!text.wait};
      runs.push(run);
    }
    return runs;
  }

  hover(row, run) {
    const text = this.labels[this.label[run.span]], owner = this.classes[row.class];
    const alone = run.count === 1, layer = this.layer[run.span];
    const where = `stage ${owner.stage}, rank ${owner.rank}, ${row.lane}`;
    const place = [run.mb >= 0 ? `micro-batch ${run.mb}` : "",
      alone && layer >= 0 ? `layer ${layer}` : ""].filter(Boolean);
    const what = alone ? `<b>${text.wait ? "wait for " : ""}${text.name}</b> (${text.phase})`
      : `<b>${run.count} tasks</b> (${text.wait ? "waits" : text.phase}), longest: ${text.name}`;
    const busy = alone ? "" :
      `, busy ${Math.min(100, 100 * run.busy / Math.max(1, run.end - run.begin)).toFixed(0)} %`;
    const lines = [what, duration((run.end - run.begin) * this.tick) + busy +
      ` at ${(this.offset + run.begin * this.tick).toFixed(6)} s`];
    if (place.length) lines.push(place.join(", "));
    if (alone && text.more) lines.push(text.more);
    lines.push(where);
    return lines.join("<br>");
  }

  // Text in a bar and its size. A task (almost) alone in its bar gives it its name. Of the bars of
  // one pass the first with room bears its micro-batch.
  inside(row, run, pass, pixels) {
    const text = this.labels[this.label[run.span]];
    const most = run.longest > 0.85 * (run.end - run.begin);
    const alone = !most ? "" : text.wait ? "wait" : text.name;
    const fits = (words, letter) => words && pixels > letter * words.length + 0.5;
    if (fits(alone, 6)) return [alone, row.height < 16 ? 9 : 9.5];
    if (run.mb < 0 || row.lane !== "compute") return ["", 9];
    const key = `${run.colour} ${run.mb}`, number = `${run.mb}`;
    if ((pass.labelled === key && pixels < 60) || !fits(number, 5)) return ["", 9];
    pass.labelled = key;
    return [number, fits(number, 6) ? 9.5 : 8];
  }

  traces(from, to, pixel) {
    const makeTrace = (name) => ({type: "bar", orientation: "h", name, base: [], x: [], y: [],
      width: [], text: [], hovertext: [], marker: {color: [], line: {width: [], color: "#fff"}},
      hoverinfo: "text", textposition: "inside", insidetextanchor: "middle", textangle: 0,
      constraintext: "none", textfont: {size: [], color: []}, showlegend: false});
    const waits = makeTrace("waits"), tasks = makeTrace("tasks");
    for (const row of this.shown) {
      const pass = {labelled: null};
      for (const run of this.runsOf(row, from, to, pixel)) {
        const trace = run.wait ? waits : tasks;
        // A bar that reaches far outside of the view would lose its text.
        const begin = Math.max(run.begin, from), end = Math.min(run.end, to);
        const single = run.count === 1;
        trace.base.push(this.offset + begin * this.tick);
        trace.x.push(Math.max(end - begin, pixel / 2) * this.tick);
        trace.y.push(row.middle);
        trace.width.push(row.height);
        const [text, size] = this.inside(row, run, pass, (end - begin) / pixel);
        trace.text.push(text);
        trace.textfont.size.push(size);
        trace.hovertext.push(this.hover(row, run));
        trace.marker.color.push(single ? run.colour
          : paler(run.colour, run.busy / Math.max(1, run.end - run.begin)));
        trace.textfont.color.push(this.inks[this.label[run.span]]);
        // An edge tells kernels of one colour apart, where it does not hide them.
        trace.marker.line.width.push(single && end - begin > 5 * pixel ? 0.8 : 0);
      }
    }
    return [waits, tasks, ...this.pathTraces()];
  }

  // The critical path runs along the lower edge of the ranks' compute lanes.
  pathTraces() {
    if (!byId("show_path").checked || !this.path.length) return [];
    const edge = {};
    for (const row of this.shown) {
      if (row.lane === "compute") edge[row.class] = row.top + row.height;
    }
    const x = [], y = [];
    for (const [owner, begin, end] of this.path) {
      x.push(begin - this.pathOffset, end - this.pathOffset);
      y.push(edge[owner] ?? null, edge[owner] ?? null);
    }
    return [{type: "scatter", mode: "lines", x, y, hoverinfo: "skip", showlegend: false,
      line: {color: "#c2185b", width: 2}}];
  }

  rowText(row) {
    const owner = this.classes[row.class];
    if (row.lane !== "compute") return `<span style="color:#5b6672">${row.lane}</span>`;
    const stage = this.stages > 1 ? `<b>stage ${owner.stage}</b>  ` : "";
    return `${stage}rank ${owner.rank} (x${owner.ranks})`;
  }

  layout() {
    const {margin, height, shown, whole} = this;
    return dressed({height: height + margin.t + margin.b, margin, barmode: "overlay",
      dragmode: "zoom", hovermode: "closest", hoverdistance: 4,
      xaxis: {range: whole.slice(), title: {text: "time since the step's start (s)", standoff: 8},
        gridcolor: "#e7eaee", zeroline: false, minallowed: whole[0], maxallowed: whole[1]},
      yaxis: {range: [height, 0], fixedrange: true, showgrid: false, zeroline: false,
        ticks: "outside", ticklen: 5, tickcolor: "#fff",
        tickvals: shown.map((row) => row.middle), ticktext: shown.map((row) => this.rowText(row)),
        tickfont: {size: 10.5}}});
  }

  view() {
    const axis = this.place.layout && this.place.layout.xaxis;
    return axis ? axis.range.map(Number) : this.whole;
  }

  redraw() {
    const [left, right] = this.view();
    const width = Math.max(300, this.place.clientWidth - this.margin.l - this.margin.r);
    const from = (left - this.offset) / this.tick, to = (right - this.offset) / this.tick;
    const traces = this.traces(Math.max(0, from), to, (to - from) / width);
    return Plotly.react(this.place, traces, this.place.layout || this.layout(), config);
  }

  // Show or hide lanes: other rows, another height, the same stretch of time.
  rebuild() {
    const range = this.view();
    this.placeRows();
    const layout = this.layout();
    layout.xaxis.range = range;
    this.place.layout = layout;
    this.redraw();
  }

  // Zoom about a point (share of the view from the left); a factor under 1 shows less time.
  zoom(factor, about = 0.5) {
    const [left, right] = this.view(), [low, high] = this.whole;
    const size = Math.min((right - left) * factor, high - low);
    const begin = left + (right - left - size) * about;
    const at = Math.min(Math.max(begin, low), high - size);
    Plotly.relayout(this.place, {"xaxis.range": [at, at + size]});
  }

  start() {
    this.stages = new Set(Object.values(this.classes).map((owner) => owner.stage)).size;
    byId("show_path").parentElement.hidden = !this.path.length;
    byId("show_lanes").parentElement.hidden = this.rows.every((row) => row.lane === "compute");
    this.placeRows();
    this.redraw().then(() => this.listen());
    this.legend();
  }

  listen() {
    const whole = () => Plotly.relayout(this.place, {"xaxis.range": this.whole.slice()});
    this.place.on("plotly_relayout", (change) => {
      if (Object.keys(change).some((key) => key.startsWith("xaxis") || key === "autosize")) {
        this.redraw();
      }
    });
    this.place.on("plotly_doubleclick", whole);
    byId("zoom_whole").addEventListener("click", whole);
    byId("zoom_in").addEventListener("click", () => this.zoom(0.5));
    byId("zoom_out").addEventListener("click", () => this.zoom(2));
    byId("show_lanes").addEventListener("change", () => this.rebuild());
    byId("show_path").addEventListener("change", () => this.redraw());
    this.place.addEventListener("wheel", (event) => {
      if (!event.ctrlKey && !event.metaKey) return;
      event.preventDefault();
      const box = this.place.getBoundingClientRect();
      const width = this.place.clientWidth - this.margin.l - this.margin.r;
      const about = (event.clientX - box.left - this.margin.l) / width;
      this.zoom(event.deltaY < 0 ? 0.7 : 1 / 0.7, Math.min(1, Math.max(0, about)));
    }, {passive: false});
  }

  legend() {
    const seen = new Map();
    const waiting = "waiting for other ranks";
    for (const text of this.labels) seen.set(text.wait ? waiting : text.key, text.colour);
    const order = ["forward", "recompute", "backward", "gradients", "parameters", "optimizer"];
    const rank = (name) => name === waiting ? 99 : order.indexOf(name.split(",")[0]) + 1 || 50;
    const items = [...seen].sort((a, b) => rank(a[0]) - rank(b[0]) || (a[0] < b[0] ? -1 : 1));
    if (this.path.length) items.push(["critical path", "#c2185b", "line"]);
    for (const [name, colour, kind] of items) {
      const item = document.createElement("span"), swatch = document.createElement("i");
      swatch.style.background = colour;
      if (kind) swatch.className = kind;
      item.append(swatch, name);
      byId("timeline_legend").append(item);
    }
  }
}
