"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const COLORS = ["#e8590c", "#1c7ed6", "#2f9e44", "#ae3ec9", "#e03131", "#0c8599", "#7048e8", "#a6761d", "#d6336c", "#66a80f", "#868e96", "#4263eb", "#12b886"];
// Of models, which fill areas: calmer than policies, and none of theirs, so that the two are not taken for each other.
const AREAS = ["#5b86b8", "#d6a650", "#6fa583", "#a586b5", "#c98574", "#6aa9b0", "#9a8f74", "#8b8fc2", "#b3a04a", "#7f9c5e", "#b57f9b", "#8a8a8a"];
const main = document.getElementById("main"), tip = document.getElementById("tip");
const SVG = "http://www.w3.org/2000/svg";

function node(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value); else if (value !== null) made.setAttribute(key, value);
  }
  made.append(...children);
  return made;
}
function shape(name, attributes = {}, text = null) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== null) made.textContent = text;
  return made;
}
function section(title, note, ...children) {
  const made = node("section", {}, node("h2", {}, title), ...(note ? [node("p", { class: "note" }, note)] : []), ...children);
  main.append(made);
  return made;
}
function number(value, digits = 3) {
  if (value === null || value === undefined) return "–";
  const size = Math.abs(value);
  if (size >= 1000) return Math.round(value).toLocaleString("en-US");
  return String(Number(value.toPrecision(digits)));
}
function percent(value) { return value === null ? "–" : `${Number((value < 1 ? Math.min(value * 100, 99.99) : 100).toFixed(2))} %`; }
function clock(seconds) {
  const whole = Math.round(seconds), hours = Math.floor(whole / 3600), minutes = Math.floor(whole / 60) % 60, rest = whole % 60;
  return hours ? `${hours}:${String(minutes).padStart(2, "0")} h` : `${minutes}:${String(rest).padStart(2, "0")} min`;
}
// On an axis: no more than it takes to read it.
function clockMark(seconds) {
  if (seconds >= 3600) return seconds % 3600 ? clock(seconds) : `${seconds / 3600} h`;
  return seconds === 0 ? "0" : seconds % 60 ? `${seconds} s` : `${seconds / 60} min`;
}
function ticks(high, count = 4, whole = false) {
  if (!(high > 0)) return [0, 1];
  const raw = whole ? Math.max(1, high / count) : high / count, power = 10 ** Math.floor(Math.log10(raw));
  const step = (whole ? [1, 2, 5, 10] : [1, 2, 2.5, 5, 10]).map((one) => one * power).find((one) => one >= raw);
  const found = [];
  for (let value = 0; value < high + step * 0.999; value += step) found.push(Number(value.toPrecision(12)));
  return found;
}
function timeTicks(end, wide) {
  const step = [15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 14400, 21600, 43200, 86400].find((one) => (end / one) * 74 <= wide - 60) || 86400;
  return Array.from({ length: Math.floor(end / step) + 1 }, (_, index) => index * step);
}
function showTip(event, text) {
  tip.hidden = false;
  tip.textContent = text;
  const box = tip.getBoundingClientRect();
  tip.style.left = `${Math.max(6, Math.min(event.clientX + 14, innerWidth - box.width - 8))}px`;
  tip.style.top = `${event.clientY + 18 + box.height > innerHeight ? event.clientY - box.height - 12 : event.clientY + 18}px`;
}
function hideTip() { tip.hidden = true; }
function css(name) { return getComputedStyle(document.documentElement).getPropertyValue(name).trim(); }
const redraws = [];
function redraw() { redraws.forEach((draw) => draw()); }
document.getElementById("theme").addEventListener("click", () => {
  const root = document.documentElement, dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
  redraw();
});
let width = innerWidth;
addEventListener("resize", () => { if (innerWidth !== width) { width = innerWidth; redraw(); } });

// In a short run some stretches are shorter than a tick and have no number: the mouse finds the next one that has.
function nearest(values, index) {
  for (let away = 0; away < 4; away++) for (const at of [index - away, index + away]) if ((values[at] ?? null) !== null) return at;
  return index;
}

// Lines of a mean with the band between the least and the most, one group for each policy; all series have equal stretches of time.
function timeChart(host, title, unit, end, lines, whole = false) {
  const wide = Math.max(300, host.clientWidth), tall = wide < 560 ? 120 : 150, left = 46, bottom = 20, right = 8, top = 8;
  const high = Math.max(...lines.map((line) => Math.max(...line.values[2].map((value) => value ?? 0))), 0);
  const marks = ticks(high, 3, whole), most = marks[marks.length - 1];
  const x = (seconds) => left + (seconds / end) * (wide - left - right), y = (value) => top + (1 - value / most) * (tall - top - bottom);
  const picture = shape("svg", { viewBox: `0 0 ${wide} ${tall}`, role: "img", "aria-label": title });
  for (const mark of marks) {
    picture.append(shape("line", { class: "grid", x1: left, x2: wide - right, y1: y(mark), y2: y(mark) }), shape("text", { x: left - 6, y: y(mark) + 4, "text-anchor": "end" }, number(mark)));
  }
  for (const mark of timeTicks(end, wide)) picture.append(shape("text", { x: x(mark), y: tall - 4, "text-anchor": !mark ? "start" : x(mark) > wide - 30 ? "end" : "middle" }, clockMark(mark)));
  lines.forEach((line) => {
    const count = line.values[1].length, at = (index) => x(((index + 0.5) / count) * end), known = line.values[1].map((value, index) => index).filter((index) => line.values[1][index] !== null);
    if (!known.length) return;
    const upper = known.map((index) => `${at(index).toFixed(1)},${y(line.values[2][index]).toFixed(1)}`), lower = known.map((index) => `${at(index).toFixed(1)},${y(line.values[0][index]).toFixed(1)}`).reverse();
    picture.append(shape("polygon", { points: [...upper, ...lower].join(" "), fill: line.color, opacity: 0.16 }));
    picture.append(shape("polyline", { points: known.map((index) => `${at(index).toFixed(1)},${y(line.values[1][index]).toFixed(1)}`).join(" "), fill: "none", stroke: line.color, "stroke-width": line.strong ? 2.2 : 1.4, "stroke-linejoin": "round" }));
  });
  const cursor = shape("line", { class: "axis", y1: top, y2: tall - bottom, visibility: "hidden" });
  picture.append(cursor);
  picture.addEventListener("pointermove", (event) => {
    const box = picture.getBoundingClientRect(), inside = ((event.clientX - box.left) / box.width) * wide;
    const count = lines[0].values[1].length, index = Math.min(count - 1, Math.max(0, Math.floor(((inside - left) / (wide - left - right)) * count)));
    cursor.setAttribute("visibility", "visible");
    cursor.setAttribute("x1", x(((index + 0.5) / count) * end));
    cursor.setAttribute("x2", x(((index + 0.5) / count) * end));
    const texts = lines.map((line) => { const at = nearest(line.values[1], index); return `${line.name}: ${number(line.values[1][at])} (${number(line.values[0][at])} to ${number(line.values[2][at])})`; });
    showTip(event, `${clock((index / count) * end)} + ${clock(end / count)}\n${texts.join("\n")}`);
  });
  picture.addEventListener("pointerleave", () => { hideTip(); cursor.setAttribute("visibility", "hidden"); });
  host.append(node("div", { class: "chart" }, node("h3", {}, title, node("span", {}, ` ${unit}`)), picture));
}

// Tables sort by the number behind each cell; rows of models stay under their policy.
document.querySelectorAll("table").forEach((table) => {
  table.querySelectorAll("th").forEach((head, column) => {
    head.tabIndex = 0;
    const sort = () => {
      const upwards = head.getAttribute("aria-sort") === "descending";
      table.querySelectorAll("th").forEach((one) => one.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", upwards ? "ascending" : "descending");
      const groups = [];
      table.querySelectorAll("tbody tr").forEach((row) => { if (row.classList.contains("model") && groups.length) groups[groups.length - 1].push(row); else groups.push([row]); });
      const key = (group) => { const value = group[0].cells[column].dataset.value; return value === undefined || value === "" ? null : Number.isNaN(Number(value)) ? value : Number(value); };
      groups.sort((one, other) => {
        const first = key(one), second = key(other);
        if (first === null || second === null) return (first === null) - (second === null);
        return (first < second ? -1 : first > second ? 1 : 0) * (upwards ? 1 : -1);
      });
      table.tBodies[0].append(...groups.flat());
    };
    head.addEventListener("click", sort);
    head.addEventListener("keydown", (event) => { if (event.key === "Enter") sort(); });
  });
});
