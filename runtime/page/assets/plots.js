// Plots of series by step on uPlot: smoothing, logarithms, one zoom for all, keys, and the numbers as a table.
"use strict";

(function () {
  const { el, format } = LiveRL;
  // Okabe and Ito's colours, which people with any kind of colour blindness can tell apart; yellow is too pale on white.
  const COLOURS = { light: ["#0072b2", "#d55e00", "#007a5a", "#aa4499", "#8a6100", "#2b7fb8", "#555555"], dark: ["#56b4e9", "#e69f00", "#2fc79a", "#cc79a7", "#f0e442", "#ff8a4c", "#bbbbbb"] };
  // Between two ticks lies a whole number of steps.
  const STEPS = Array.from({ length: 12 }, (_, power) => [1, 2, 5].map((one) => one * 10 ** power)).flat();
  const DASHES = [[], [6, 4], [2, 3], [10, 3, 2, 3]];
  const settings = { smoothing: 0, log: false };
  let shown = [];
  let zoom = null;
  let zooming = false;

  const dark = () => getComputedStyle(document.documentElement).getPropertyValue("--scheme").trim() === "dark";
  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  // Exponential average without the pull towards a first value of 0; `weight` of what was before.
  function smooth(values, weight) {
    let sum = 0, share = 0;
    return values.map((value) => {
      if (value === null || value === undefined) return null;
      sum = weight * sum + (1 - weight) * value;
      share = weight * share + (1 - weight);
      return sum / share;
    });
  }

  // The series of a panel in one run's curves: [{label, key, dash, values}].
  function linesOf(panel, curves) {
    const found = [];
    for (const line of panel.lines) {
      if (!line.key.endsWith("*")) {
        if (curves.series[line.key]) found.push({ ...line, values: curves.series[line.key] });
        continue;
      }
      const start = line.key.slice(0, -1);
      for (const key of Object.keys(curves.series)) {
        if (key.startsWith(start) && !/\/(low|high)$/.test(key)) found.push({ key, label: line.label + key.slice(start.length), dash: false, values: curves.series[key] });
      }
    }
    const there = found.filter((line) => line.values.some((value) => value !== null && value !== undefined));
    // The ends of an interval follow their line and are drawn as a band.
    return there.map((line) => ({ ...line, low: curves.series[line.key + "/low"], high: curves.series[line.key + "/high"] }));
  }

  // One list of steps for all runs, and what each line has there.
  function joined(panel, runs) {
    const steps = [...new Set(runs.flatMap((run) => run.curves.steps))].sort((a, b) => a - b);
    const at = new Map(steps.map((step, index) => [step, index]));
    const lines = runs.flatMap((run, number) => {
      let found = linesOf(panel, run.curves);
      if (runs.length > 1) {
        found = found.filter((line) => !line.dash);
        if (found.length > 4) found = found.slice(0, 1);
      }
      return found.map((line, index) => {
        const spread = (from) => {
          const to = steps.map(() => null);
          run.curves.steps.forEach((step, place) => { to[at.get(step)] = from[place] ?? null; });
          return to;
        };
        const values = spread(line.values), band = line.low && line.high ? { low: spread(line.low), high: spread(line.high) } : null;
        const many = runs.length > 1;
        return { ...line, run: run.name, values, band, colour: many ? number : index, pattern: many ? index % DASHES.length : line.dash ? 1 : Math.floor(index / 7) % DASHES.length, label: many ? run.short + ", " + line.label : line.label };
      });
    });
    return { steps, lines };
  }

  // The ends of the value axis: some room around the values, more where they hardly differ, none beyond what is possible.
  function room(low, high, share) {
    if (low === null || low === undefined) return [0, 1];
    const flat = high - low < 1e-4 * Math.max(Math.abs(low), Math.abs(high));
    const pad = flat ? Math.abs(high) * 0.05 || (share ? 0.05 : 1) : (high - low) * 0.06;
    return [low >= 0 ? Math.max(0, low - pad) : low - pad, share && high <= 1 ? Math.min(1, high + pad) : high + pad];
  }

  class Plot {
    constructor(panel, runs) {
      this.panel = panel;
      this.log = panel.log;
      this.box = el("div", { class: "canvas", tabindex: "0", role: "img" });
      this.legend = el("ul", { class: "legend" });
      this.readout = el("p", { class: "readout", "aria-live": "polite" });
      this.numbers = el("details", { class: "numbers", on: { toggle: () => this.tabulate() } }, el("summary", {}, "Numbers"));
      this.node = el("figure", { class: "panel", id: "panel-" + panel.id },
        el("figcaption", {}, el("h3", {}, panel.title), panel.note && el("p", { class: "note" }, panel.note)),
        this.box, this.readout, this.legend, this.numbers);
      this.box.addEventListener("keydown", (event) => this.key(event));
      this.give(runs);
    }

    give(runs) {
      Object.assign(this, joined(this.panel, runs));
      this.node.hidden = this.lines.length === 0;
      const newest = this.lines.map((line) => {
        const index = line.values.findLastIndex((value) => value !== null);
        return line.label + " " + format.unit(line.values[index], this.panel.unit) + " at step " + this.steps[index];
      });
      this.box.setAttribute("aria-label", this.panel.title + ". Newest: " + newest.slice(0, 6).join("; ") + ". Arrow keys read values, plus and minus zoom, 0 shows all.");
      this.tabulate();
      if (this.node.isConnected) this.draw();
    }

    draw() {
      const wide = Math.floor(this.box.clientWidth);
      if (this.node.hidden || wide < 40) return;
      const palette = COLOURS[dark() ? "dark" : "light"], text = css("--text"), grid = css("--line");
      const log = settings.log || this.log, share = this.panel.unit === "share";
      const clean = (values) => (log ? values.map((value) => (value > 0 ? value : null)) : values);
      const series = [{}], data = [this.steps], bands = [];
      for (const line of this.lines) {
        const stroke = palette[line.colour % palette.length], dash = DASHES[line.pattern], points = { show: this.steps.length < 60, size: 4 };
        if (line.band && settings.smoothing === 0) {
          bands.push({ series: [series.length, series.length + 1], fill: stroke + "30" });
          series.push({ stroke: stroke + "60", width: 1, spanGaps: true, points: { show: false } }, { stroke: stroke + "60", width: 1, spanGaps: true, points: { show: false } });
          data.push(clean(line.band.high), clean(line.band.low));
        }
        if (settings.smoothing > 0 && this.lines.length < 5) {
          series.push({ stroke: stroke + "55", width: 1, dash, spanGaps: true, points: { show: false } });
          data.push(clean(line.values));
        }
        series.push({ label: line.label, stroke, width: 2, dash, spanGaps: true, points: settings.smoothing > 0 ? { show: false } : points });
        data.push(clean(settings.smoothing > 0 ? smooth(line.values, settings.smoothing) : line.values));
      }
      const axis = { stroke: text, grid: { stroke: grid, width: 1 }, ticks: { stroke: grid, width: 1 }, font: "12px system-ui, sans-serif" };
      const options = {
        width: wide, height: 190, legend: { show: false },
        scales: { x: { time: false, range: (u, low, high) => zoom || (low === null || low === undefined ? [0, 1] : low === high ? [low - 1, high + 1] : [low, high]) }, y: log ? { distr: 3 } : { range: (u, low, high) => room(low, high, share) } },
        axes: [{ ...axis, size: 30, incrs: STEPS },
          { ...axis, size: 58, values: (u, ticks) => ticks.map((tick) => (tick === null ? "" : share ? Number((100 * tick).toPrecision(3)) + " %" : Math.abs(tick) >= 1e5 || (tick !== 0 && Math.abs(tick) < 1e-3) ? tick.toExponential(0) : String(Number(tick.toPrecision(5))))) }],
        cursor: { sync: { key: "steps", setSeries: false }, drag: { x: true, y: false }, points: { size: 7 } },
        series, bands,
        hooks: {
          setCursor: [(u) => this.read(u.cursor.idx)],
          setSelect: [(u) => { if (u.select.width > 4) LiveRL.plots.zoomTo([u.posToVal(u.select.left, "x"), u.posToVal(u.select.left + u.select.width, "x")]); }],
        },
      };
      if (this.plot) this.plot.destroy();
      this.plot = new uPlot(options, data, this.box);
      this.plot.over.addEventListener("dblclick", () => LiveRL.plots.zoomTo(null));
      this.legend.replaceChildren(...this.lines.map((line) => {
        const swatch = el("span", { class: "swatch", "aria-hidden": "true" });
        swatch.style.borderTopColor = palette[line.colour % palette.length];
        swatch.style.borderTopStyle = line.pattern ? (line.pattern === 2 ? "dotted" : "dashed") : "solid";
        const value = line.values.findLast((one) => one !== null);
        return el("li", {}, swatch, line.label || this.panel.title, " ", el("b", { dataset: { value: String(value) } }, format.unit(value, this.panel.unit)), line.band && " (" + format.unit(line.band.low.findLast((one) => one !== null), this.panel.unit) + " to " + format.unit(line.band.high.findLast((one) => one !== null), this.panel.unit) + ")");
      }));
    }

    read(index) {
      if (index === null || index === undefined) { this.readout.textContent = ""; return; }
      if (document.activeElement !== this.box && !this.box.matches(":hover")) return;
      const words = this.lines.map((line) => (line.label || this.panel.title) + " " + format.unit(line.values[index], this.panel.unit));
      this.readout.textContent = "step " + this.steps[index] + ": " + words.slice(0, 8).join(" · ");
    }

    key(event) {
      if (!this.plot) return;
      const last = this.steps.length - 1;
      const to = { ArrowLeft: (this.at ?? last + 1) - 1, ArrowRight: (this.at ?? -1) + 1, Home: 0, End: last }[event.key];
      if (to !== undefined) {
        this.at = Math.min(last, Math.max(0, to));
        this.plot.setCursor({ left: this.plot.valToPos(this.steps[this.at], "x"), top: 10 });
        this.read(this.at);
      } else if (event.key === "0") LiveRL.plots.zoomTo(null);
      else if ("+-=".includes(event.key)) {
        const { min, max } = this.plot.scales.x, middle = this.at === undefined ? (min + max) / 2 : this.steps[this.at];
        const half = ((max - min) / 2) * (event.key === "-" ? 2 : 0.5);
        LiveRL.plots.zoomTo(half >= last || half * 2 >= this.steps[last] - this.steps[0] ? null : [middle - half, middle + half]);
      } else return;
      event.preventDefault();
    }

    tabulate() {
      const old = this.numbers.querySelector(".scroll");
      if (old) old.remove();
      if (!this.numbers.open) return;
      const columns = [{ title: "step", number: true, cell: (index) => this.steps[index] },
        ...this.lines.map((line) => ({ title: line.label || line.key, number: true, cell: (index) => el("td", { class: "number", dataset: { key: line.key, step: this.steps[index], value: line.values[index] === null ? "" : String(line.values[index]) } }, format.unit(line.values[index], this.panel.unit)) }))];
      this.numbers.append(LiveRL.table(columns, this.steps.map((_, index) => index), { caption: this.panel.title + " by step" }));
    }
  }

  LiveRL.plots = {
    settings,
    make(panel, runs) { const plot = new Plot(panel, runs); shown.push(plot); return plot; },
    clear() { for (const plot of shown) if (plot.plot) plot.plot.destroy(); shown = []; },
    redraw() { for (const plot of shown) plot.draw(); },
    zoomTo(range) {
      if (zooming) return;
      zooming = true;
      zoom = range;
      for (const plot of shown) if (plot.plot) plot.plot.setData(plot.plot.data, true);
      zooming = false;
      document.dispatchEvent(new CustomEvent("liverl-zoom", { detail: range }));
    },
    get zoom() { return zoom; },
  };
  let pending = 0;
  window.addEventListener("resize", () => { cancelAnimationFrame(pending); pending = requestAnimationFrame(() => LiveRL.plots.redraw()); });
})();
