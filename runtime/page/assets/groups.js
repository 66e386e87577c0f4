// Groups and tasks: how groups came out by step, every task by step, and where trials and tokens went.
"use strict";

(function () {
  const { el, format, source, address } = LiveRL;
  const WORDS = { never: "never solved", flaky: "now and then", always: "always solved" };
  const PAGE = 40;

  function grid(found, run, state, again) {
    const steps = [...new Set(found.tasks.flatMap((task) => Object.keys(task.cells).map(Number)))].sort((a, b) => a - b);
    const chosen = found.tasks.filter((task) => (!state.kind || task.kind === state.kind) && (!state.set || task.set === state.set) && task.task.includes(state.words));
    chosen.sort((a, b) => a.solved / a.trials - b.solved / b.trials || (a.task < b.task ? -1 : 1));
    const pages = Math.max(1, Math.ceil(chosen.length / PAGE));
    state.page = Math.min(state.page, pages - 1);
    const shown = chosen.slice(state.page * PAGE, (state.page + 1) * PAGE);
    const columns = [
      { title: "task", cell: (task) => el("a", { href: address.of("trials", { run, task: task.task }) }, task.task) },
      { title: "set", cell: (task) => task.set }, { title: "how often", cell: (task) => WORDS[task.kind] },
      ...(found.tasks.some((task) => task.rate !== null) ? [{ title: "curriculum", cell: (task) => task.rate === null ? "" : (task.within ? "within" : "outside") + ", " + format.share(task.rate) }] : []),
      { title: "solved", number: true, cell: (task) => format.number(task.solved) + " of " + task.trials },
      ...steps.map((step) => ({
        title: String(step), number: true,
        cell(task) {
          const cell = task.cells[step];
          if (!cell) return el("td", { class: "cell" });
          const [trials, share] = cell;
          const level = share === 0 ? 1 : share >= 1 ? 4 : share < 0.5 ? 2 : 3;
          return el("td", { class: "cell m" + level, dataset: { task: task.task, step, share } }, el("a", { href: address.of("trials", { run, task: task.task, step, set: task.set }), title: Math.round(share * trials) + " of " + trials + " solved at step " + step }, Math.round(100 * share)));
        },
      })),
    ];
    const turn = (by) => { state.page += by; again(); };
    return [LiveRL.table(columns, shown, { caption: "Share solved in per cent, task by step: " + chosen.length + " tasks, hardest first", kind: "grid" }),
      el("p", { class: "pager" }, el("button", { type: "button", disabled: state.page === 0, on: { click: () => turn(-1) } }, "Earlier"), " page " + (state.page + 1) + " of " + pages + " ", el("button", { type: "button", disabled: state.page >= pages - 1, on: { click: () => turn(1) } }, "Later"))];
  }

  function by(found, name) {
    const rows = found.by[name];
    if (rows.length < 2 && !(rows[0] && rows[0].name)) return null;
    const count = (key) => (row) => format.number(row[key] || 0);
    return LiveRL.table([{ title: name, cell: (row) => row.name || "not said" }, { title: "tasks", number: true, cell: count("tasks") }, { title: "never", number: true, cell: count("never") }, { title: "now and then", number: true, cell: count("flaky") }, { title: "always", number: true, cell: count("always") }, { title: "trials", number: true, cell: count("trials") }, { title: "solved", number: true, cell: (row) => format.share(row.trials ? row.solved / row.trials : null) }], rows, { caption: "Tasks by " + name });
  }

  const counts = (title, table, head) => LiveRL.table([{ title: head, cell: (row) => row[0] || "none" }, { title: "number", number: true, cell: (row) => format.number(row[1]) }], Object.entries(table), { caption: title });

  LiveRL.views.groups = {
    title: "Groups and tasks",
    async show(main, context) {
      const [panels, curves, first] = await Promise.all([source.panels(), source.run(context.run, "curves"), source.run(context.run, "groups")]);
      let found = first;
      const runs = [{ name: context.run, short: context.run, curves }];
      LiveRL.plots.clear();
      const plots = panels.filter((panel) => panel.view === "groups").map((panel) => LiveRL.plots.make(panel, runs));
      const state = { kind: "", set: "", words: "", page: 0 };
      const place = el("div", { id: "grid" }), tables = el("div", { class: "panels tables" });
      const again = () => place.replaceChildren(...grid(found, context.run, state, again));
      const fill = () => tables.replaceChildren(...["set", "language", "family"].map((name) => by(found, name)).filter(Boolean),
        counts("How trials ended", found.terminations, "end"), counts("Trials without a grade or with a dead agent", found.failures, "end"), counts("Verdicts", found.verdicts, "verdict"), counts("What became of sampled tokens, validation included", found.tokens, "tokens"));
      const change = (name) => (event) => { state[name] = event.target.value; state.page = 0; again(); };
      const choose = (name, label, options) => el("label", {}, label + " ", el("select", { on: { change: change(name) } }, el("option", { value: "" }, "all"), options.map(([value, text]) => el("option", { value }, text))));
      main.replaceChildren(el("h1", {}, context.run), el("section", { class: "plots" }, el("h2", {}, "By step"), el("div", { class: "panels" }, plots.map((plot) => plot.node))),
        el("section", { class: "card" }, el("h2", {}, "Tasks"), el("div", { class: "controls" }, choose("kind", "Solved", Object.entries(WORDS)), choose("set", "Set", [...new Set(found.tasks.map((task) => task.set))].map((name) => [name, name])), el("label", {}, "Name ", el("input", { type: "search", on: { input: change("words") } }))), place),
        el("section", { class: "card" }, el("h2", {}, "Where trials and tokens went"), tables));
      again();
      fill();
      const seen = { text: JSON.stringify(found) };
      let known = JSON.stringify(curves);
      return {
        async update(changed) {
          if (!changed.includes(context.run)) return;
          const [more, now] = await Promise.all([source.run(context.run, "curves"), source.run(context.run, "groups")]);
          runs[0].curves = more;
          found = now;
          const text = JSON.stringify(more);
          if (text !== known) for (const plot of plots) plot.give(runs);
          known = text;
          LiveRL.renew(document.getElementById("main"), seen, found, () => { again(); fill(); });
        },
      };
    },
  };
})();
