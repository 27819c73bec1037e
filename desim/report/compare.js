"use strict";
// Timelines of several runs on one time axis: rows of each run under its name.

const HEAD = 24;

class Timelines extends Timeline {
  constructor(runs) {
    super(runs[0].timeline, runs[0].origin_s, runs[0].step_s);
    this.parts = runs.map((run) => {
      const part = new Timeline(run.timeline, run.origin_s, run.step_s);
      part.name = run.name;
      part.step = run.step_s;
      part.note = run.note;
      part.stages = run.stages;
      for (const row of part.rows) row.part = part;
      return part;
    });
    this.rows = this.parts.flatMap((part) => part.rows);
    this.labels = this.parts.flatMap((part) => part.labels);
    this.path = this.parts.flatMap((part) => part.path);
    this.whole = [Math.min(...this.parts.map((part) => part.whole[0])),
      Math.max(...this.parts.map((part) => part.whole[1]))];
  }

  placeRows() {
    let at = 0;
    for (const part of this.parts) {
      part.top = at;
      part.placeRows(at + HEAD);
      at = part.height + 10;
    }
    this.shown = this.parts.flatMap((part) => part.shown);
    this.height = at;
  }

  rowText(row) {
    return row.part.rowText(row);
  }

  redraw() {
    const [left, right] = this.view();
    const width = Math.max(300, this.place.clientWidth - this.margin.l - this.margin.r);
    const traces = this.parts.flatMap((part) => {
      const from = (left - part.offset) / part.tick, to = (right - part.offset) / part.tick;
      return part.traces(Math.max(0, from), to, (to - from) / width);
    });
    return Plotly.react(this.place, traces, this.place.layout || this.layout(), config);
  }

  layout() {
    const layout = super.layout();
    layout.shapes = this.parts.map((part) => ({type: "line", x0: part.step, x1: part.step,
      y0: part.top + HEAD - 4, y1: part.height + 2, line: {color: "#1c2530", width: 1.5,
        dash: "dot"}}));
    layout.annotations = this.parts.map((part) => ({text: `<b>${part.name}</b>  ${part.note}`,
      xref: "paper", x: 0, xanchor: "left", xshift: -this.margin.l + 8, y: part.top + HEAD / 2,
      showarrow: false, font: {size: 12.5}}));
    return layout;
  }
}

for (const id of ["time", "difference", "memory"]) draw(id, data[id]);
new Timelines(data.runs).start();
