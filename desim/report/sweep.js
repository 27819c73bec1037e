"use strict";

// Of the points in a cell the best that meets the constraints; null where there is none.
function cells(heat, across, up) {
  const best = up.values.map(() => across.values.map(() => null));
  const shown = up.values.map(() => across.values.map(() => null));
  heat.cost.forEach((cost, point) => {
    if (cost === null || !heat.meets[point]) return;
    const row = up.at[point], column = across.at[point];
    if (best[row][column] === null || cost < best[row][column]) {
      best[row][column] = cost;
      shown[row][column] = heat.shown[point];
    }
  });
  return shown;
}

function heatFigure(heat, across, up) {
  const shown = cells(heat, across, up);
  const scale = [[0, "#0b2a4d"], [0.5, "#3f86c7"], [1, "#f3f5f8"]];
  const count = across.values.length * up.values.length;
  return {
    data: [{type: "heatmap", x: across.values, y: up.values, z: shown, xgap: 2, ygap: 2,
      colorscale: scale, reversescale: heat.maximise, texttemplate: count <= 150 ? "%{z:.4g}" : "",
      colorbar: {title: {text: heat.objective, side: "right"}, thickness: 10, outlinewidth: 0},
      hovertemplate: `${across.name} %{x}<br>${up.name} %{y}<br>${heat.objective} %{z:.6g}` +
        "<extra></extra>"}],
    layout: {height: 120 + Math.min(34 * Math.max(up.values.length, 3), 700),
      margin: {l: 120, r: 20, t: 10, b: 60},
      xaxis: {type: "category", title: {text: across.path, standoff: 8}},
      yaxis: {type: "category", title: {text: up.name, standoff: 8}, automargin: true}},
  };
}

const axes = data.heat.axes;
const only = {name: "all", path: "", values: ["all"], at: data.heat.cost.map(() => 0)};
const choices = [["heat_x", 0], ["heat_y", 1]];
for (const [id, first] of choices) {
  const choice = byId(id);
  (axes.length ? axes : [only]).forEach((axis, index) => choice.add(new Option(axis.name, index)));
  choice.value = Math.min(first, Math.max(axes.length - 1, 0));
  choice.hidden = axes.length < 3;
  choice.addEventListener("change", drawHeat);
}

function drawHeat() {
  const across = axes[byId("heat_x").value] || only;
  let up = axes[byId("heat_y").value] || only;
  if (up === across) up = only;
  draw("heat", heatFigure(data.heat, across, up));
}

drawHeat();
const alike = "Nothing to show: all points are alike in this.";
for (const id of ["parallel", "memory", "cost"]) draw(id, data[id], alike);
