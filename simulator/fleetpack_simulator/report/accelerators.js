const best = new Map();
for (const one of data.answers) {
  const known = best.get(one.accelerator);
  const better = !known || (one.usdPerHour ?? Infinity) < (known.usdPerHour ?? Infinity) || (known.replicas === null && one.replicas !== null);
  if (better) best.set(one.accelerator, one);
}
const bars = node("div");
function drawBars() {
  bars.replaceChildren();
  const ordered = [...best.values()].sort((one, other) => (one.usdPerMillionOutputTokens ?? Infinity) - (other.usdPerMillionOutputTokens ?? Infinity) || (one.replicas === null) - (other.replicas === null) || (one.accelerator < other.accelerator ? -1 : 1));
  const wide = Math.max(320, bars.clientWidth), left = wide < 560 ? 108 : 150, row = 26, most = Math.max(...ordered.map((one) => one.usdPerMillionOutputTokens ?? 0), 1e-9);
  const picture = shape("svg", { viewBox: `0 0 ${wide} ${ordered.length * row + 8}`, role: "img", "aria-label": "USD per million output tokens by accelerator" });
  ordered.forEach((one, index) => {
    const y = index * row + 4, cost = one.usdPerMillionOutputTokens, length = cost === null ? 0 : Math.max(2, (cost / most) * (wide - left - 190));
    picture.append(shape("text", { x: left - 8, y: y + 15, "text-anchor": "end", ...(cost === null ? {} : { class: "strong" }) }, one.accelerator));
    if (length) picture.append(shape("rect", { x: left, y: y + 2, width: length, height: row - 8, rx: 4, fill: one.projected ? "var(--card)" : "var(--accent)", stroke: "var(--accent)", ...(one.projected ? { "stroke-dasharray": "4 3" } : {}) }));
    const told = cost !== null ? `${number(cost)} USD · ${one.replicas} × ${one.devicesPerReplica}` : one.replicas !== null ? `${one.replicas} × ${one.devicesPerReplica} devices · price unknown` : one.limit.length > (wide - left) / 6.4 ? `${one.limit.slice(0, Math.floor((wide - left) / 6.4))}…` : one.limit;
    picture.append(shape("text", { x: left + length + 8, y: y + 15 }, told));
  });
  bars.append(picture);
}
const made = section("USD per million output tokens", "The cheapest variant of each accelerator: replicas × devices per replica. Filled: calibrated on published serving numbers. Dashed: projected.", bars);
main.insertBefore(made, document.getElementById("table"));
redraws.push(drawBars);
main.append(node("footer", {}, "A constant fleet on the simulator's own engines. This file needs no network and holds the JSON that it was drawn from."));
redraw();
