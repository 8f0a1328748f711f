"use strict";
// Writes the report, a global of the page, into it: what was compared, #measured, #notes and #charts. All
// of its texts are set as text, never as HTML. The charts are in window.charts.

const colours = ["#3566c9", "#d4702a", "#3a923a", "#b4414f", "#7d5ba6", "#8a6248", "#c66aa8", "#6b6b6b"];
const ran = report.hooks.filter((hook) => hook.failure === null);

function bytesText(n) {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let unit = 0;
  for (; n >= 999.5 && unit < units.length - 1; unit++) n /= 1000;
  return Number(n.toPrecision(3)) + " " + units[unit];
}

function secondsText(s) {
  if (s < 1e-3) return Number((s * 1e6).toPrecision(3)) + " us";
  if (s < 1) return Number((s * 1e3).toPrecision(3)) + " ms";
  return Number(s.toPrecision(3)) + " s";
}

const numberText = (v) => String(Number(v.toPrecision(3)));

function header() {
  document.title = "pyhook compare: " + report.model;
  const set = (id, text) => { document.getElementById(id).textContent = text; };
  set("model", report.model);
  set("gradients", report.gradients);
  set("source", `${report.elements} elements in ${report.parameters} parameters and ${report.buckets} buckets; ${report.ranks} ranks on ${report.backend}, ` +
    `${report.steps} steps, seed ${report.seed}; torch ${report.torch}, Python ${report.python}`);
}

function notes() {
  const add = (hook, text, kind) => {
    const line = document.createElement("p");
    line.className = kind;
    line.textContent = hook.hook + ": " + text;
    document.getElementById("notes").append(line);
  };
  for (const hook of report.hooks) {
    if (hook.failure !== null) add(hook, hook.failure.message, "failure");
    for (const text of hook.warnings ?? []) add(hook, text, "");
  }
}

function measuredTable() {
  const table = document.getElementById("measured");
  const row = (cells, kind) => {
    const line = table.insertRow();
    for (const text of cells) {
      const cell = document.createElement(kind);
      cell.textContent = text;
      line.append(cell);
    }
  };
  row(["hook", "sent", "hook time", "collectives", "error", "accumulated", "cosine", "state"], "th");
  for (const hook of ran) {
    const half = hook.deviations.slice(Math.floor(hook.deviations.length / 2));
    const mean = (key) => half.reduce((sum, d) => sum + d[key], 0) / half.length;
    row([hook.hook, bytesText(hook.bytes), secondsText(hook.hook_seconds), secondsText(hook.collective_seconds), mean("error").toExponential(1),
      hook.deviations.at(-1).accumulated.toExponential(1), mean("cosine").toFixed(5), bytesText(hook.state_bytes)], "td");
  }
}

window.charts = {};

// logTick labels a logarithmic axis at 1, 2 and 5 times the powers of ten.
const logTick = (text) => (v) => ([1, 2, 5].includes(Number((v / 10 ** Math.floor(Math.log10(v) + 1e-9)).toPrecision(3))) ? text(v) : "");

// add draws one chart; axis texts, and what a value is under the pointer.
function add(name, caption, type, data, x, y, text, more = {}) {
  const figure = document.createElement("figure");
  const title = document.createElement("figcaption");
  title.textContent = caption;
  const frame = document.createElement("div");
  frame.className = "frame";
  const canvas = document.createElement("canvas");
  canvas.id = "chart-" + name;
  canvas.setAttribute("aria-label", caption);
  frame.append(canvas);
  figure.append(title, frame);
  document.getElementById("charts").append(figure);
  Chart.defaults.color = getComputedStyle(document.body).color;
  window.charts[name] = new Chart(canvas, {
    type,
    data,
    options: {
      animation: false,
      maintainAspectRatio: false,
      interaction: { mode: "index", intersect: false },
      plugins: { tooltip: { callbacks: { label: (item) => item.dataset.label + ": " + text(item.parsed.y) } } },
      scales: {
        x: { title: { display: true, text: x }, stacked: more.stacked, grid: { color: "#8883" } },
        y: { title: { display: true, text: y }, stacked: more.stacked, type: more.log ? "logarithmic" : "linear", grid: { color: "#8883" }, ticks: { callback: more.log ? logTick(text) : text } },
      },
    },
  });
}

const line = (i, label, values) => ({
  label, data: values, borderColor: colours[i % colours.length], backgroundColor: colours[i % colours.length],
  borderWidth: 2, pointRadius: 2, borderDash: i >= colours.length ? [6, 3] : [],
});

// A logarithmic axis has no 0: a hook without error has no points there.
const aboveZero = (v) => (v > 0 ? v : null);

function draw() {
  const names = ran.map((hook) => hook.hook);
  const steps = Array.from({ length: report.steps }, (_, i) => i + 1);
  const bySteps = (key) => ({ labels: steps, datasets: ran.map((hook, i) => line(i, hook.hook, hook.deviations.map((d) => aboveZero(d[key])))) });
  add("error", "Error to the exact mean, of each step", "line", bySteps("error"), "step", "relative error", numberText, { log: true });
  add("accumulated", "Accumulated error: of the sums over all steps so far", "line", bySteps("accumulated"), "step", "relative error", numberText, { log: true });
  add("bytes", "Sent by a rank in each step", "line",
    { labels: steps, datasets: ran.map((hook, i) => line(i, hook.hook, hook.bytes_by_step.map(aboveZero))) }, "step", "bytes", bytesText, { log: true });
  const bar = (i, label, key) => ({ label, data: ran.map((hook) => hook[key]), backgroundColor: colours[i] });
  add("time", "Time to reduce a step here", "bar", { labels: names, datasets: [bar(0, "hook", "hook_seconds"), bar(1, "collectives", "collective_seconds")] },
    "", "time", secondsText, { stacked: true });
  report.networks.forEach((network, n) => {
    const of = (hook) => hook.predicted.filter((p) => p.network === network.name);
    if (!ran.length) return;
    const whole = report.passes_seconds > 0;
    add("net" + n, `Predicted ${whole ? "step" : "reduction"} on ${network.name}`, "line",
      { labels: of(ran[0]).map((p) => p.ranks), datasets: ran.map((hook, i) => line(i, hook.hook, of(hook).map((p) => (whole ? p.step_seconds : p.seconds)))) },
      "ranks", "seconds", secondsText, { log: true });
  });
  const trained = ran.filter((hook) => hook.training !== null);
  if (trained.length) {
    const length = Math.max(...trained.map((hook) => hook.training.loss.length));
    add("loss", "Training the demo: loss, mean of 10 steps", "line", {
      labels: Array.from({ length: Math.floor(length / 10) }, (_, i) => 10 * (i + 1)),
      datasets: trained.map((hook, i) => line(i, hook.hook, Array.from({ length: Math.floor(hook.training.loss.length / 10) },
        (_, k) => aboveZero(hook.training.loss.slice(10 * k, 10 * k + 10).reduce((a, b) => a + b) / 10)))),
    }, "step", "loss", numberText, { log: true });
  }
}

header();
measuredTable();
notes();
draw();
