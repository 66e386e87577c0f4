// The list of trials: filters, order, pages. In a static copy the list is here whole, and is sifted here.
"use strict";

(function () {
  const { el, format, source, address } = LiveRL;
  const COLUMNS = [
    ["step", "step", true, (row) => row.step], ["task", "task", false, null], ["set", null, false, (row) => row.task_set],
    ["reward", "reward", true, (row) => format.number(row.reward)], ["verdict", null, false, (row) => row.verdict],
    ["ended", "termination", false, (row) => row.termination], ["turns", "turns", true, (row) => format.number(row.model_calls)],
    ["tokens", "tokens", true, (row) => format.number(row.completion_tokens)], ["time", "seconds", true, (row) => format.seconds(row.seconds)],
    ["weights", null, true, (row) => (row.version_min === null ? "–" : row.version_min === row.version_max ? row.version_min : row.version_min + "–" + row.version_max)],
    ["problem", null, false, (row) => row.problem || ""],
  ];
  const FIELD = { step: "step", id: "trial_id", task: "task", reward: "reward", termination: "termination", seconds: "seconds", turns: "model_calls", tokens: "completion_tokens", started: "started" };
  const SIZE = 50;

  // What the server does for a live page.
  function sift(all, query) {
    const has = (name) => query.get(name) !== null && query.get(name) !== "";
    const chosen = all.rows.filter((row) => (!has("task") || row.task === query.get("task")) && (!has("set") || row.task_set === query.get("set"))
      && (!has("step") || row.step === Number(query.get("step"))) && (!has("group") || row.group === query.get("group"))
      && (query.get("failed") !== "1" || row.reward === null || row.problem !== null) && (!has("verdict") || row.verdict === query.get("verdict"))
      && (!has("termination") || row.termination === query.get("termination"))
      && (!has("words") || row.trial_id.includes(query.get("words")) || (row.problem || "").includes(query.get("words"))));
    const field = FIELD[query.get("sort")] || "started", sign = query.get("order") === "up" ? 1 : -1;
    chosen.sort((a, b) => (a[field] === null) - (b[field] === null) || (a[field] < b[field] ? -sign : a[field] > b[field] ? sign : a.trial_id < b.trial_id ? -1 : 1));
    const page = Math.min(Number(query.get("page")) || 0, Math.max(0, Math.ceil(chosen.length / SIZE) - 1));
    return { rows: chosen.slice(page * SIZE, (page + 1) * SIZE), total: chosen.length, page, size: SIZE, choices: all.choices };
  }

  const ask = async (run, query) => (source.fixed ? sift(await source.static(await source.name(run, "trials")), query) : source.run(run, "trials", Object.fromEntries([...query].filter(([name]) => name !== "run"))));

  LiveRL.trialLink = (run, row) => address.of("trial", { run, step: row.step, id: row.trial_id });

  function table(found, context) {
    const sort = context.query.get("sort") || "started", descending = context.query.get("order") !== "up";
    const columns = COLUMNS.map(([title, key, number, cell]) => ({
      title, key, number, cell: cell || ((row) => (source.fixed && !row.file ? row.trial_id : el("a", { href: LiveRL.trialLink(context.run, row), class: "trial" }, row.trial_id))),
      sort: key && (() => address.change({ sort: key, order: sort === key && descending ? "up" : "down", page: "" })),
    }));
    return LiveRL.table(columns, found.rows, { caption: found.total.toLocaleString("en") + " trials", sorted: { key: sort, descending }, kind: "list" });
  }

  LiveRL.views.trials = {
    title: "Trials",
    async show(main, context) {
      const place = el("div", { id: "trials" });
      let found = await ask(context.run, context.query);
      const set = (name) => (event) => address.change({ [name]: event.target.type === "checkbox" ? (event.target.checked ? "1" : "") : event.target.value, page: "" });
      const choose = (name, label) => el("label", {}, label + " ", el("select", { id: "filter-" + name, on: { change: set(name) } }, el("option", { value: "" }, "all"),
        found.choices[name].map((one) => el("option", { value: one, selected: String(one) === context.query.get(name) }, one === "" ? "none" : one))));
      const word = (name, label) => el("label", {}, label + " ", el("input", { type: "search", id: "filter-" + name, value: context.query.get(name) || "", on: { change: set(name) } }));
      const fill = () => {
        const pages = Math.max(1, Math.ceil(found.total / found.size)), go = (page) => () => address.change({ page: String(page) });
        place.replaceChildren(table(found, context), el("p", { class: "pager" },
          el("button", { type: "button", disabled: found.page === 0, on: { click: go(found.page - 1) } }, "Earlier"), " page " + (found.page + 1) + " of " + pages + " ",
          el("button", { type: "button", id: "later", disabled: found.page >= pages - 1, on: { click: go(found.page + 1) } }, "Later")));
      };
      main.replaceChildren(el("h1", {}, context.run), el("div", { class: "controls" }, choose("step", "Step"), choose("set", "Set"), choose("verdict", "Verdict"), choose("termination", "Ended"),
        word("task", "Task"), word("words", "Words"), el("label", {}, el("input", { type: "checkbox", id: "filter-failed", checked: context.query.get("failed") === "1", on: { change: set("failed") } }), " failed only"),
        context.query.get("group") && el("span", {}, "group " + context.query.get("group") + " ", el("button", { type: "button", on: { click: () => address.change({ group: "" }) } }, "all groups"))), place);
      fill();
      const seen = { text: JSON.stringify(found) };
      return { async update(changed) { if (changed.includes(context.run)) { found = await ask(context.run, context.query); LiveRL.renew(place, seen, found, fill); } } };
    },
  };

  LiveRL.loadTrial = async function loadTrial(run, step, id) {
    if (!source.fixed) return source.run(run, "trial", { step, id });
    const row = (await source.static(await source.name(run, "trials"))).rows.find((one) => one.step === Number(step) && one.trial_id === id);
    if (!row || !row.file) throw new Error("This static copy does not hold that trial.");
    return source.static("trial-" + row.file);
  };
  LiveRL.loadTokens = async function loadTokens(run, step, id, sample) {
    if (!source.fixed) return source.run(run, "tokens", { step, id, sample });
    const row = (await source.static(await source.name(run, "trials"))).rows.find((one) => one.step === Number(step) && one.trial_id === id);
    return source.static("tokens-" + row.file + "-" + sample);
  };
})();
