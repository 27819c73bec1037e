"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const font = {family: "system-ui, -apple-system, Segoe UI, Roboto, DejaVu Sans, sans-serif",
  size: 12, color: "#1c2530"};
const config = {displayModeBar: false, responsive: true, doubleClick: "reset"};
const dressed = (layout) => ({font, paper_bgcolor: "#fff", plot_bgcolor: "#fff",
  hoverlabel: {font: {size: 12, color: "#1c2530"}, align: "left", bgcolor: "#fff",
    bordercolor: "#aab2bc"}, ...layout});
const byId = (id) => document.getElementById(id);

function draw(id, figure, nothing = "Nothing to show for this run.") {
  const place = byId(id);
  if (!figure || !figure.data.length) {
    place.textContent = nothing;
    place.className = "hint";
    return;
  }
  Plotly.react(place, figure.data, dressed(figure.layout), config);
}
