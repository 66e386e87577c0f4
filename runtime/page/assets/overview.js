// The overview: how the run stands, its lamps, its curves, and those of other runs over them.
"use strict";

(function () {
  const { el, format, source } = LiveRL;
  const MARK = { ok: "●", warn: "▲", ill: "■", unknown: "○" };
  const WORD = { ok: "well", warn: "watch", ill: "ill", unknown: "unknown" };

  const interval = (point) => (point.low === null || point.low === undefined ? "" : " (" + format.share(point.low) + " to " + format.share(point.high) + ")");

  function tile(id, title, value, more) {
    return el("div", { class: "tile", id }, el("h2", {}, title), el("p", { class: "big" }, value), more && el("p", { class: "note" }, more));
  }

  function head(facts) {
    const steps = facts.step + (facts.total_steps ? " of " + facts.total_steps : "");
    const activity = facts.activity || {};
    const doing = activity.phase ? activity.phase + (activity.trials ? ", " + activity.done + " of " + activity.trials + " trials" : "") : facts.exit_cause;
    return el("div", { class: "tiles" },
      tile("tile-state", "State", facts.state, doing),
      tile("tile-step", "Step", steps, facts.resumed ? "resumed " + facts.resumed + " times" : null),
      tile("tile-time", facts.time_left === null ? "Time" : "Time left", format.seconds(facts.time_left === null ? facts.seconds : facts.time_left), facts.time_left === null ? null : format.seconds(facts.seconds) + " so far"),
      facts.scores.map((score, index) => {
        const node = tile("tile-score-" + index, score.held_out ? "Solved, " + score.name : "Solved in training", format.share(score.last.rate), "step " + score.last.step + interval(score.last) + (score.first.step < score.last.step ? "; from " + format.share(score.first.rate) + " at step " + score.first.step : ""));
        node.dataset.value = String(score.last.rate);
        return node;
      }));
  }

  function lamps(facts) {
    return el("section", { class: "card", "aria-labelledby": "lamps-title" }, el("h2", { id: "lamps-title" }, "Health"),
      el("ul", { class: "lamps" }, facts.lamps.map((lamp) => el("li", { class: "lamp " + lamp.state, dataset: { lamp: lamp.name, state: lamp.state } },
        el("span", { class: "mark", "aria-hidden": "true" }, MARK[lamp.state]), el("b", {}, lamp.name), el("span", { class: "word" }, WORD[lamp.state]), el("span", { class: "note" }, lamp.reason)))));
  }

  function controls(keys, addPanel) {
    const { settings } = LiveRL.plots;
    const amount = el("output", { for: "smoothing" }, String(settings.smoothing));
    const reset = el("button", { type: "button", id: "zoom-reset", disabled: LiveRL.plots.zoom === null, on: { click: () => LiveRL.plots.zoomTo(null) } }, "Show all steps");
    document.addEventListener("liverl-zoom", (event) => { reset.disabled = event.detail === null; });
    const list = el("datalist", { id: "metric-names" }, keys.map((key) => el("option", { value: key })));
    const wanted = el("input", { id: "metric", list: "metric-names", placeholder: "any metric", autocomplete: "off", on: { change: () => { if (keys.includes(wanted.value)) { addPanel(wanted.value); wanted.value = ""; } } } });
    return el("div", { class: "controls" },
      el("label", { for: "smoothing" }, "Smoothing ", el("input", { id: "smoothing", type: "range", min: "0", max: "0.98", step: "0.02", value: String(settings.smoothing), on: { input: (event) => { settings.smoothing = Number(event.target.value); amount.textContent = event.target.value; LiveRL.plots.redraw(); } } }), amount),
      el("label", {}, el("input", { type: "checkbox", id: "log-scale", checked: settings.log, on: { change: (event) => { settings.log = event.target.checked; LiveRL.plots.redraw(); } } }), " Log scale"),
      reset, el("label", { for: "metric" }, "Plot ", wanted), list,
      el("p", { class: "note" }, "Drag over a plot to zoom all; double-click to show all."));
  }

  function differences(found, runs) {
    if (!found.length) return null;
    return el("section", { class: "card", id: "differences", "aria-labelledby": "differences-title" }, el("h2", { id: "differences-title" }, "What differs in their specs"),
      found.map((one) => el("div", {}, el("h3", {}, runs[0] + " → " + one.b), one.error ? el("p", {}, one.error) : !one.sections.length ? el("p", {}, "They compile to the same artifacts.") : one.sections.map((section) =>
        LiveRL.table([{ title: "value", cell: (row) => row.path }, { title: "before", cell: (row) => row.old }, { title: "after", cell: (row) => row.new }, { title: "because of", cell: (row) => row.because.join(", ") }], section.changes, { caption: section.title })))));
  }

  function times(facts) {
    const whole = facts.time_by_part.filter(([name]) => !name.startsWith("train: ")).reduce((sum, [, seconds]) => sum + seconds, 0);
    return el("section", { class: "card", "aria-labelledby": "time-title" }, el("h2", { id: "time-title" }, "Where the time went"),
      LiveRL.table([{ title: "part", cell: (row) => row[0] }, { title: "time", number: true, cell: (row) => format.seconds(row[1]) }, { title: "share", number: true, cell: (row) => (whole ? format.share(row[1] / whole) : "–") }], facts.time_by_part, { caption: "Phases of the run, and the parts of training" }));
  }

  const short = (name, names) => (new Set(names.map((one) => one.split("/")[0])).size > 1 ? name.split("/")[0] : name.split("/")[1]);

  LiveRL.views.overview = {
    title: "Overview",
    async show(main, context) {
      const names = [context.run, ...context.others];
      const [panels, facts, curves, found, taught] = await Promise.all([source.panels(), source.run(context.run, "overview"),
        Promise.all(names.map((name) => source.run(name, "curves"))), names.length > 1 ? source.differences(names) : [],
        Promise.all(names.map((name) => source.run(name, "supervised")))]);
      const runs = names.map((name, index) => ({ name, short: short(name, names), curves: curves[index] }));
      // The stage before reinforcement has steps of its own.
      const stage = runs.map((run, index) => ({ ...run, curves: taught[index] })).filter((run) => run.curves.steps.length);
      LiveRL.plots.clear();
      const top = el("div", { id: "facts" });
      const fill = (now) => top.replaceChildren(head(now), now.warning ? el("p", { class: "warning", role: "status" }, "Warning: " + now.warning + ".") : "", lamps(now));
      fill(facts);
      const extra = el("div", { class: "panels" });
      const keys = [...new Set(curves.flatMap((one) => Object.keys(one.series)))].sort();
      const plots = [];
      const add = (key) => { const plot = LiveRL.plots.make({ id: "metric-" + plots.length, title: key, note: "", unit: "", log: false, lines: [{ key, label: key, dash: false }] }, runs); plots.push(plot); extra.append(plot.node); plot.draw(); };
      const sections = [...new Set(panels.filter((panel) => panel.view === "overview").map((panel) => panel.section))].map((title) => {
        const chosen = panels.filter((panel) => panel.section === title && panel.view === "overview").map((panel) => LiveRL.plots.make(panel, runs));
        plots.push(...chosen);
        return el("section", { class: "plots" }, el("h2", {}, title), el("div", { class: "panels" }, chosen.map((plot) => plot.node)));
      });
      const before = stage.length ? panels.filter((panel) => panel.view === "supervised").map((panel) => LiveRL.plots.make(panel, stage)) : [];
      if (before.length) sections.push(el("section", { class: "plots" }, el("h2", {}, before[0].panel.section), el("div", { class: "panels" }, before.map((plot) => plot.node))));
      main.replaceChildren(el("h1", {}, context.run), top, ...[differences(found, names)].filter(Boolean), controls(keys, add), extra, ...sections, times(facts));
      LiveRL.plots.redraw();
      return {
        async update(changed) {
          if (changed.includes(context.run)) fill(await source.run(context.run, "overview"));
          let grown = false;
          for (const run of runs) {
            if (!changed.includes(run.name)) continue;
            const last = run.curves.steps.at(-1);
            const more = await source.run(run.name, "curves", { since: last === undefined ? -1 : last });
            const text = JSON.stringify(more);
            if (text === run.newest) continue;
            run.newest = text;
            merge(run.curves, more);
            grown = true;
          }
          for (const run of stage) {
            if (!changed.includes(run.name)) continue;
            run.curves = await source.run(run.name, "supervised");
            for (const plot of before) plot.give(stage);
          }
          if (grown) for (const plot of plots) plot.give(runs);
        },
      };
    },
  };

  // The newest step may have got more numbers since: it comes again.
  function merge(curves, more) {
    const from = more.steps.length ? curves.steps.findIndex((step) => step >= more.steps[0]) : -1;
    const keep = from < 0 ? curves.steps.length : from;
    if (!more.steps.length) return;
    const steps = [...curves.steps.slice(0, keep), ...more.steps];
    for (const key of new Set([...Object.keys(curves.series), ...Object.keys(more.series)])) {
      const before = (curves.series[key] || []).slice(0, keep);
      while (before.length < keep) before.push(null);
      curves.series[key] = [...before, ...(more.series[key] || more.steps.map(() => null))];
    }
    curves.steps = steps;
  }
})();
