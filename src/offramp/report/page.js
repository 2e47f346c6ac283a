"use strict";
(function () {
  const report = JSON.parse(document.getElementById("report-data").textContent);
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const config = { displayModeBar: false, responsive: true };

  function layout(own) {
    const style = getComputedStyle(document.documentElement);
    const colour = (name) => style.getPropertyValue(name).trim();
    const axis = { gridcolor: colour("--line"), zerolinecolor: colour("--line"), linecolor: colour("--line"), automargin: true };
    const shared = {
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", margin: { l: 58, r: 14, t: 34, b: 48 },
      font: { family: "system-ui, Segoe UI, Roboto, sans-serif", size: 13, color: colour("--ink") },
      hoverlabel: { align: "left", bgcolor: colour("--card"), bordercolor: colour("--line"), font: { color: colour("--ink") } },
    };
    return Object.assign(shared, own, {
      xaxis: Object.assign({}, axis, own.xaxis), yaxis: Object.assign({}, axis, own.yaxis),
    });
  }

  function show(number) {
    const box = document.getElementById("trial-" + number);
    if (box) { box.open = true; box.scrollIntoView({ behavior: "smooth" }); }
  }

  function draw() {
    for (const [name, figure] of Object.entries(report.figures)) {
      const place = document.getElementById(name);
      Plotly.react(place, figure.data, layout(figure.layout), config);
      if (place.on && !place.dataset.bound) {
        place.dataset.bound = "1";
        place.on("plotly_click", (event) => show(event.points[0].customdata));
      }
    }
    explore();
  }

  const trial = document.getElementById("explorer-trial"), point = document.getElementById("explorer-point");

  function cell(row, text, left) {
    const td = row.insertCell();
    td.textContent = text;
    if (left) { td.className = "left"; }
    return td;
  }

  function number(value) { return Number.isFinite(value) ? String(Number(value.toPrecision(4))) : "–"; }

  function explore() {
    if (!trial) { return; }
    const chosen = report.explorer[Number(trial.value)], points = chosen.points;
    point.max = points.length - 1;
    const at = points[Math.min(Number(point.value), points.length - 1)];
    const accuracy = (p) => 100 * p.accuracy;
    const line = { type: "scatter", mode: "lines+markers", name: "curve", x: points.map((p) => p.energy_uj), y: points.map(accuracy),
      line: { color: "#0072b2", width: 2 }, marker: { size: 5 }, hovertemplate: "%{x:.4g} µJ, %{y:.2f} %<extra></extra>" };
    const mark = { type: "scatter", mode: "markers", name: "chosen", x: [at.energy_uj], y: [accuracy(at)],
      marker: { color: "#d55e00", size: 15, symbol: "star" }, hoverinfo: "skip" };
    const axes = { showlegend: false, xaxis: { title: { text: "energy per inference (µJ)" } }, yaxis: { title: { text: "accuracy, validation (%)" } } };
    Plotly.react("explorer-figure", [line, mark], layout(axes), config);
    const table = document.createElement("table"), head = table.createTHead().insertRow();
    ["exit", "threshold", "leaves here"].forEach((text, k) => {
      const th = document.createElement("th");
      th.textContent = text;
      if (!k) { th.className = "left"; }
      head.appendChild(th);
    });
    const body = table.createTBody();
    chosen.exits.forEach((name, k) => {
      const row = body.insertRow(), rate = (at.exit_rates || [])[k];
      cell(row, name, true);
      const least = (at.thresholds || [])[k];
      cell(row, k === chosen.exits.length - 1 ? "takes all" : least === null ? "nobody" : number(least));
      const bar = cell(row, "");
      bar.className = "bar";
      bar.style.setProperty("--share", rate || 0);
      const text = document.createElement("span");
      text.textContent = Number.isFinite(rate) ? (100 * rate).toFixed(1) + " %" : "–";
      bar.append(document.createElement("i"), text);
    });
    const sum = document.createElement("p");
    sum.textContent = `${accuracy(at).toFixed(2)} % at ${number(at.energy_uj)} µJ and ${number(at.latency_ms)} ms`;
    document.getElementById("explorer-table").replaceChildren(sum, table);
  }

  function nearest() {
    const chosen = report.explorer[Number(trial.value)];
    const gap = (p) => chosen.now === null ? 0 : Math.abs(p.energy_uj - chosen.now);
    point.max = chosen.points.length - 1;
    point.value = chosen.points.reduce((best, p, k, all) => (gap(p) < gap(all[best]) ? k : best), 0);
  }

  if (trial) {
    nearest();
    trial.addEventListener("change", () => { nearest(); explore(); });
    point.addEventListener("input", explore);
  }
  dark.addEventListener("change", draw);
  window.addEventListener("hashchange", () => show(location.hash.replace("#trial-", "")));
  draw();
})();
