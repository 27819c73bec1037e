"use strict";
for (const id of ["time_share", "links", "critical_path", "kernels"]) draw(id, data[id]);

const choice = byId("memory_class");
data.memory.figures.forEach((figure, index) => choice.add(new Option(figure.title, index)));
choice.addEventListener("change", () => draw("memory", data.memory.figures[choice.value]));
choice.hidden = data.memory.figures.length < 2;
choice.value = data.memory.first;
draw("memory", data.memory.figures[data.memory.first]);

if (data.timeline.rows.length) new Timeline(data.timeline, data.origin_s, data.step_s).start();
else draw("timeline", null);
