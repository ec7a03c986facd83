"use strict";
// Reads out the values under the pointer. The page is complete without it.
for (const figure of document.querySelectorAll("figure.chart")) {
  const plot = figure.querySelector(".plot");
  if (!plot) continue;
  const data = JSON.parse(figure.querySelector("script").textContent);
  const add = (parent, tag, name) => {
    const element = document.createElement(tag);
    element.className = name;
    parent.append(element);
    return element;
  };
  const line = add(plot, "i", "cursor");
  const tip = add(plot, "div", "tip");
  const head = add(tip, "p", "at");
  const rows = data.series.map((series) => {
    const row = add(tip, "p", "");
    add(row, "i", "swatch c" + series.colour);
    add(row, "span", "who").textContent = data.series.length > 1 ? series.name : "";
    const value = add(row, "b", "");
    const dot = add(plot, "i", "dot c" + series.colour);
    return { row, value, dot, points: series.points };
  });
  const nearest = (points, at) => {
    let low = 0, high = points.length - 1;
    while (high - low > 1) {
      const middle = (low + high) >> 1;
      if (points[middle][0] < at) low = middle; else high = middle;
    }
    return at - points[low][0] < points[high][0] - at ? points[low] : points[high];
  };
  const hide = () => plot.classList.remove("read");
  plot.addEventListener("pointermove", (event) => {
    const box = plot.getBoundingClientRect();
    const at = Math.max(0, Math.min(1000, (1000 * (event.clientX - box.left)) / box.width));
    let first = null;
    for (const { row, value, dot, points } of rows) {
      const point = points.length ? nearest(points, at) : null;
      // A line that ends before the pointer has nothing to say there.
      const far = !point || (points.length > 1 && Math.abs(point[0] - at) > 120);
      row.hidden = dot.hidden = far;
      if (far) continue;
      first ??= point;
      // Evaluations are where they are, not where the pointer is.
      value.textContent = point[2] + (point[1] === first[1] ? "" : " at " + point[1]);
      dot.style.left = point[0] / 10 + "%";
      dot.style.top = point[3] / 10 + "%";
    }
    if (!first) return hide();
    head.textContent = first[1] + " " + data.x;
    line.style.left = first[0] / 10 + "%";
    tip.style.left = first[0] / 10 + "%";
    tip.classList.toggle("left", first[0] > 500);
    plot.classList.add("read");
  });
  plot.addEventListener("pointerleave", hide);
  plot.addEventListener("pointercancel", hide);
}
// Facts that are folded on the screen are open on paper; of completions the first and the last are enough.
addEventListener("beforeprint", () => {
  for (const details of document.querySelectorAll("details.card, .facts details")) {
    if (!details.open) details.dataset.folded = "";
    details.open = true;
  }
});
addEventListener("afterprint", () => {
  for (const details of document.querySelectorAll("details[data-folded]")) {
    delete details.dataset.folded;
    details.open = false;
  }
});
// What the page looks like, for a test that has no eyes.
addEventListener("load", () => {
  const root = document.documentElement;
  const pictures = [...document.querySelectorAll("svg")].map((svg) => svg.getBoundingClientRect());
  const drawn = pictures.every((box) => box.width > 50 && box.height > 50);
  root.dataset.overflow = Math.max(0, root.scrollWidth - root.clientWidth);
  root.dataset.pictures = pictures.length;
  root.dataset.layout = drawn && root.scrollWidth <= root.clientWidth ? "sane" : "broken";
});
