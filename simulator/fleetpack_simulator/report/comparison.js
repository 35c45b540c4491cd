const policies = data.policies, colorOf = Object.fromEntries(policies.map((name, index) => [name, COLORS[index % COLORS.length]]));
const models = data.models.map((model) => model.deployment), modelColor = Object.fromEntries(models.map((name, index) => [name, AREAS[index % AREAS.length]]));
const totals = data.rows.filter((row) => row.deployment === "total");
const shown = new Set(policies.slice(0, 3));
let chosenModel = models[0], mapped = policies[0];

function choice(label, values, current, change) {
  const list = node("select", { "aria-label": label, onchange: (event) => change(event.target.value) });
  values.forEach((value) => list.append(node("option", { value, ...(value === current ? { selected: "" } : {}) }, value)));
  return list;
}
function before(made) { const table = document.getElementById("table"); if (table) main.insertBefore(made, table); }

// --- cost against objective

const nines = (share) => -Math.log10(1 - Math.min(share, 0.9999));
function drawCost(host) {
  host.replaceChildren();
  const points = totals.filter((row) => row.values.inObjective && row.values.usdPerHour);
  const wide = Math.max(320, host.clientWidth), tall = wide < 560 ? 320 : 400, left = 52, right = wide < 560 ? 70 : 110, top = 16, bottom = 42;
  const bounds = points.filter((row) => row.values.boundUSDPerHour).map((row) => [row.values.inObjective.median, row.values.boundUSDPerHour.median]).sort((one, other) => one[0] - other[0]);
  const target = data.models.length === 1 && data.models[0].objectiveTTFTSeconds !== null ? data.models[0].objectivePercentile / 100 : null;
  const shares = points.flatMap((row) => [row.values.inObjective.lowest, row.values.inObjective.highest]).concat(target === null ? [] : [target]);
  const from = Math.max(0, nines(Math.min(...shares)) - 0.12), to = Math.max(...shares.map(nines)) + 0.12;
  const marks = ticks(Math.max(...points.map((row) => row.values.usdPerHour.highest)), 5), most = marks[marks.length - 1];
  const x = (share) => left + ((nines(share) - from) / (to - from)) * (wide - left - right), y = (usd) => top + (1 - usd / most) * (tall - top - bottom);
  const picture = shape("svg", { viewBox: `0 0 ${wide} ${tall}`, role: "img", "aria-label": "USD per hour against the share of requests in the objective" });
  for (const mark of marks) picture.append(shape("line", { class: "grid", x1: left, x2: wide - right, y1: y(mark), y2: y(mark) }), shape("text", { x: left - 7, y: y(mark) + 4, "text-anchor": "end" }, number(mark)));
  let lastMark = -99;
  for (const mark of [0, 0.2, 0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.925, 0.95, 0.96, 0.97, 0.98, 0.985, 0.99, 0.992, 0.995, 0.998, 0.999, 0.9995, 0.9999]) {
    if (nines(mark) < from || nines(mark) > to || x(mark) - lastMark < 46) continue;
    lastMark = x(mark);
    picture.append(shape("line", { class: "grid", x1: x(mark), x2: x(mark), y1: top, y2: tall - bottom }), shape("text", { x: x(mark), y: tall - bottom + 16, "text-anchor": "middle" }, mark === 0.9999 ? "≥ 99.99 %" : `${Number((mark * 100).toFixed(2))} %`));
  }
  picture.append(shape("text", { x: left, y: tall - 6 }, "share of requests in the objective  →  better"), shape("text", { x: left + 6, y: top + 10 }, "USD per hour"));
  if (target !== null) picture.append(shape("line", { x1: x(target), x2: x(target), y1: top, y2: tall - bottom, stroke: "var(--good)", "stroke-dasharray": "2 4" }), shape("text", { x: x(target) + 4, y: top + 10, style: "fill:var(--good)" }, "objective"));
  if (bounds.length) {
    picture.append(shape("polyline", { points: bounds.map(([share, usd]) => `${x(share)},${y(usd)}`).join(" "), fill: "none", stroke: "var(--muted)", "stroke-width": 2, "stroke-dasharray": "6 4" }));
    bounds.forEach(([share, usd]) => picture.append(shape("circle", { cx: x(share), cy: y(usd), r: 2.5, fill: "var(--muted)" })));
    picture.append(shape("text", { x: x(bounds[bounds.length - 1][0]) + 8, y: y(bounds[bounds.length - 1][1]) + 4 }, "clairvoyant"));
  }
  const labels = [];
  for (const row of [...points].reverse()) {
    const share = row.values.inObjective, usd = row.values.usdPerHour, color = colorOf[row.policy], own = row.policy === "fleetpack";
    if (share.lowest !== share.highest) picture.append(shape("line", { x1: x(share.lowest), x2: x(share.highest), y1: y(usd.median), y2: y(usd.median), stroke: color, opacity: 0.6 }));
    if (usd.lowest !== usd.highest) picture.append(shape("line", { x1: x(share.median), x2: x(share.median), y1: y(usd.lowest), y2: y(usd.highest), stroke: color, opacity: 0.6 }));
    const dot = shape("circle", { cx: x(share.median), cy: y(usd.median), r: own ? 7 : 5, fill: color, stroke: "var(--card)", "stroke-width": 1.5 });
    dot.addEventListener("pointermove", (event) => showTip(event, `${row.policy}\n${percent(share.median)} in the objective\n${number(usd.median)} USD per hour${row.values.timesBound ? `\n${number(row.values.timesBound.median)} times the bound` : ""}`));
    dot.addEventListener("pointerleave", hideTip);
    picture.append(dot);
    labels.push({ x: Math.max(x(share.median) + 10, x(share.highest) + 6), y: y(usd.median) + 4, wanted: y(usd.median) + 4, name: row.policy, own });
  }
  labels.sort((one, other) => one.y - other.y);
  for (let round = 0; round < 60; round++) {
    for (let first = 0; first < labels.length; first++) for (let second = first + 1; second < labels.length; second++) {
      const gap = 13 - (labels[second].y - labels[first].y);
      if (gap > 0 && Math.abs(labels[first].x - labels[second].x) < 75) { labels[first].y -= gap / 2; labels[second].y += gap / 2; }
    }
  }
  for (const label of labels) {
    if (Math.abs(label.y - label.wanted) > 8) picture.append(shape("line", { class: "axis", x1: label.x - 5, x2: label.x - 1, y1: label.wanted - 4, y2: label.y - 4 }));
    picture.append(shape("text", { x: label.x, y: label.y, ...(label.own ? { class: "strong" } : {}), style: label.own ? "" : `fill:${colorOf[label.name]}` }, label.name));
  }
  host.append(picture);
}
if (totals.some((row) => row.values.inObjective)) {
  const host = node("div"), made = section("Cost against objective", "Down and right is better. Each dot is a policy (bars: seeds). The dashed line is the least that anyone who knows the future would have paid for the same share; nobody can be below it, and it may be lower than what is possible.", host);
  before(made);
  redraws.push(() => drawCost(host));
}

// --- over time

const charts = node("div"), chips = node("div", { class: "controls" });
function drawTimes() {
  charts.replaceChildren();
  const picked = policies.filter((name) => shown.has(name) && data.details[name]);
  if (!picked.length) { charts.append(node("p", { class: "note" }, "Choose a policy.")); return; }
  const end = Math.max(...picked.map((name) => data.details[name].endSeconds)), load = data.load[chosenModel];
  const stretch = (values, own) => own >= end * 0.9999 ? values : values.map((one) => [...one, ...Array(Math.round((one.length * (end - own)) / own)).fill(null)]);
  timeChart(charts, "Load", `requests per second, ${number(load.requests)} in all`, data.details[policies[0]].endSeconds, [{ name: "load", color: css("--muted"), values: load.requestsPerSecond }]);
  for (const [field, title, unit, whole] of [["ready", "Replicas", "that serve", true], ["waiting", "Queue", "requests that wait, in engines and at the gateway", true], ["usdPerHour", "Cost", "USD per hour, this model's replicas", false]]) {
    timeChart(charts, title, unit, end, picked.map((name) => ({ name, color: colorOf[name], strong: name === "fleetpack", values: stretch(data.details[name].series[chosenModel][field], data.details[name].endSeconds) })), whole);
  }
}
function drawChips() {
  chips.replaceChildren(...policies.map((name) => node("button", { type: "button", class: "chip", style: `--chip:${colorOf[name]}`, "aria-pressed": String(shown.has(name)), onclick: () => { if (shown.has(name)) shown.delete(name); else shown.add(name); drawChips(); drawTimes(); } }, name)));
  if (models.length > 1) chips.append(choice("model", models, chosenModel, (value) => { chosenModel = value; drawTimes(); }));
}
if (Object.keys(data.details).length) {
  section("Over time", `Seed ${data.seeds[0]}. Lines are means of ${data.buckets} equal stretches of time, bands reach from the least to the most in each.`, chips, charts);
  drawChips();
  redraws.push(drawTimes);
}

// --- the map of cores

// Machines whose lives do not overlap share a row, so that there are as many rows as there ever were machines at once.
function lanesOf(detail) {
  const lanes = [], laneOf = new Map(), key = (name, from) => `${name}@${from}`;
  detail.machines.map((machine) => [...machine]).sort((one, other) => (one[1] < other[1] ? -1 : one[1] > other[1] ? 1 : one[3] - other[3])).forEach(([name, type, cores, from, to]) => {
    const until = to === null ? detail.endSeconds : to;
    let lane = lanes.find((one) => one.type === type && one.until <= from);
    if (!lane) { lane = { type, cores, until: 0, machines: [], placements: [] }; lanes.push(lane); }
    lane.until = until;
    lane.machines.push({ name, from, until });
    laneOf.set(key(name, from), lane);
  });
  for (const [replica, deployment, on, cores, from, to] of detail.placements) {
    const lane = lanes.find((one) => one.machines.some((machine) => machine.name === on && machine.from <= from + 0.2 && machine.until >= from - 0.2));
    if (!lane) continue;
    const ranges = cores.split(",").map((part) => part.split("-").map(Number)).map(([first, last]) => [first, last ?? first]);
    lane.placements.push({ replica, deployment, on, cores, ranges, from, to: to === null ? detail.endSeconds : to });
  }
  return lanes;
}
const mapHost = node("div"), mapControls = node("div", { class: "controls" });
function drawMap() {
  mapHost.replaceChildren();
  const detail = data.details[mapped], lanes = lanesOf(detail), wide = Math.max(300, mapHost.clientWidth), left = wide < 560 ? 0 : 96, end = detail.endSeconds;
  if (!lanes.length) { mapHost.append(node("p", { class: "note" }, "There was never a machine.")); return; }
  const cores = lanes.reduce((sum, lane) => sum + lane.cores, 0), row = Math.max(1, Math.min(5, Math.floor((460 - 4 * lanes.length) / cores))), gap = row > 2 ? 5 : 2;
  let tall = 0;
  lanes.forEach((lane) => { lane.top = tall; tall += lane.cores * row + gap; });
  const sharp = devicePixelRatio || 1, canvas = node("canvas", { width: wide * sharp, height: (tall + 22) * sharp, style: `height:${tall + 22}px`, role: "img", "aria-label": `Which model had which cores when, under ${mapped}` });
  const pen = canvas.getContext("2d"), x = (seconds) => left + (seconds / end) * (wide - left);
  pen.scale(sharp, sharp);
  pen.font = `11px ${getComputedStyle(document.body).fontFamily}`;
  lanes.forEach((lane) => {
    pen.fillStyle = css("--idle");
    lane.machines.forEach((machine) => pen.fillRect(x(machine.from), lane.top, Math.max(0.5, x(machine.until) - x(machine.from)), lane.cores * row));
    lane.placements.forEach((one) => {
      pen.fillStyle = modelColor[one.deployment];
      one.ranges.forEach(([first, last]) => pen.fillRect(x(one.from), lane.top + first * row, Math.max(0.6, x(one.to) - x(one.from) - 0.4), (last - first + 1) * row - (row > 3 ? 1 : row > 1 ? 0.3 : 0)));
    });
    if (left && lane.cores * row >= 10) { pen.fillStyle = css("--muted"); pen.textAlign = "right"; pen.fillText(lane.type, left - 7, lane.top + Math.min(lane.cores * row / 2 + 4, lane.cores * row)); }
  });
  pen.fillStyle = css("--muted");
  timeTicks(end, wide).forEach((mark) => { pen.textAlign = mark ? (x(mark) > wide - 25 ? "right" : "center") : "left"; pen.fillText(clockMark(mark), x(mark), tall + 15); });
  canvas.addEventListener("pointermove", (event) => {
    const box = canvas.getBoundingClientRect(), at = ((event.clientX - box.left - left) / (wide - left)) * end, height = event.clientY - box.top;
    const lane = lanes.find((one) => height >= one.top && height < one.top + one.cores * row), core = lane && Math.floor((height - lane.top) / row);
    const machine = lane && lane.machines.find((one) => one.from <= at && at <= one.until);
    if (!machine) { hideTip(); return; }
    const found = lane.placements.find((one) => one.from <= at && at <= one.to && one.ranges.some(([first, last]) => core >= first && core <= last));
    showTip(event, `${clock(at)}, core ${core}\n${machine.name} (${lane.type})\n${found ? `${found.replica}\ncores ${found.cores}, ${clock(found.from)} to ${clock(found.to)}` : "idle"}`);
  });
  canvas.addEventListener("pointerleave", hideTip);
  const legend = node("div", { class: "legend" }, ...models.map((name) => node("span", {}, node("i", { style: `background:${modelColor[name]}` }), name)), node("span", {}, node("i", { style: "background:var(--idle)" }), "paid for and idle, or booting"));
  mapHost.append(legend, canvas, node("p", { class: "note" }, `${detail.machines.length} machines${detail.machinesLeftOut ? ` (and ${number(detail.machinesLeftOut)} short-lived ones that this file leaves out)` : ""} in ${lanes.length} rows, ${detail.placements.length} replicas${detail.placementsLeftOut ? ` (and ${number(detail.placementsLeftOut)} short-lived ones that this file leaves out)` : ""}. Machines that were never there at the same time share a row.`));
}
if (Object.keys(data.details).length) {
  section("The map of cores", "Each row is a machine, each line in it a core (or a device that is counted whole), time runs to the right.", mapControls, mapHost);
  mapControls.append(choice("policy", policies, mapped, (value) => { mapped = value; drawMap(); }));
  redraws.push(drawMap);
}

// --- decisions

let decided = policies[0], sought = "", reason = "", limit = 200;
const list = node("ol", { class: "decisions" }), found = node("p", { class: "note" }), decisionControls = node("div", { class: "controls" });
function drawDecisions() {
  const detail = data.details[decided], words = sought.toLowerCase();
  const every = detail.decisions.filter((one) => (!reason || one[5] === reason) && (!words || `${one[1]} ${one[2]} ${one[5]} ${one[6]}`.toLowerCase().includes(words)));
  list.replaceChildren(...every.slice(0, limit).map(([at, subject, kind, was, is, why, message]) => node("li", {}, node("time", {}, clock(at)), node("span", {}, subject), node("span", {}, was === is ? kind : `${kind} ${was} → ${is}`), node("b", {}, why), node("p", {}, message))));
  if (every.length > limit) list.append(node("li", {}, node("button", { type: "button", onclick: () => { limit += 400; drawDecisions(); } }, "more")));
  found.textContent = `${number(every.length)} of ${number(detail.decisions.length)} decisions${detail.decisionsLeftOut ? `; ${number(detail.decisionsLeftOut)} more that this file leaves out` : ""}`;
}
function drawDecisionControls() {
  const reasons = [...new Set(data.details[decided].decisions.map((one) => one[5]))].sort();
  decisionControls.replaceChildren(
    choice("policy", policies, decided, (value) => { decided = value; reason = ""; limit = 200; drawDecisionControls(); drawDecisions(); }),
    choice("reason", ["every reason", ...reasons], reason || "every reason", (value) => { reason = value === "every reason" ? "" : value; drawDecisions(); }),
    node("input", { class: "grow", type: "search", placeholder: "Search subjects and messages", "aria-label": "Search", value: sought, oninput: (event) => { sought = event.target.value; drawDecisions(); } }));
}
if (Object.keys(data.details).length) {
  section("Decisions", "What was decided and why, when it differed from the last time. With other policies than fleetpack the planner only places what they want.", decisionControls, found, list);
  drawDecisionControls();
  drawDecisions();
}
main.append(node("footer", {}, "Simulated in virtual time with the operator's own planner. This file needs no network and holds the JSON that it was drawn from."));
redraw();
