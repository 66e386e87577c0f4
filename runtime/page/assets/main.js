// The frame: which run, which view, news from the server, light and dark.
"use strict";

(function () {
  const { el, source, address } = LiveRL;
  const top = document.getElementById("top"), main = document.getElementById("main"), foot = document.getElementById("foot");
  let runs = [], current = null, generation = 0, updating = null, complete = 0;
  const missed = new Set();
  const live = el("span", { class: "live", id: "live" }, source.fixed ? "static copy" : "connecting");

  function context() {
    const { view, query } = address.read();
    const newest = runs.length ? runs[runs.length - 1].name : null;
    const run = query.get("run") || newest;
    return { view: LiveRL.views[view] ? view : "overview", query, run, others: query.getAll("with").filter((name) => name !== run && runs.some((one) => one.name === name)) };
  }

  function frame() {
    const now = context();
    const picker = el("select", { id: "run", on: { change: (event) => { location.hash = address.of(now.view === "trial" ? "trials" : now.view, { run: event.target.value }); } } },
      [...runs].reverse().map((run) => el("option", { value: run.name, selected: run.name === now.run }, run.name + ", " + run.state)));
    const overlay = runs.length > 1 && now.view === "overview" && el("details", { class: "overlay" }, el("summary", {}, "Lay others over" + (now.others.length ? " (" + now.others.length + ")" : "")),
      el("fieldset", {}, el("legend", {}, "Runs to lay over"), [...runs].reverse().filter((run) => run.name !== now.run).slice(0, 50).map((run) => el("label", {}, el("input", { type: "checkbox", value: run.name, checked: now.others.includes(run.name), on: { change: (event) => address.change({ run: now.run, with: event.target.checked ? [...now.others, run.name] : now.others.filter((name) => name !== run.name) }) } }), " " + run.name))));
    const tabs = Object.entries(LiveRL.views).filter(([, view]) => view.title).map(([name, view]) => el("a", { href: address.of(name, { run: now.run }), "aria-current": name === now.view || (name === "trials" && now.view === "trial") ? "page" : null }, view.title));
    top.replaceChildren(el("div", { class: "topbar" }, el("span", { class: "brand" }, "LiveRL"), el("label", { for: "run", class: "hidden" }, "Run"), picker, overlay || "", live,
      el("button", { type: "button", id: "theme", on: { click: theme } }, "Light or dark")), el("nav", { "aria-label": "Views" }, tabs));
  }

  function theme() {
    const dark = getComputedStyle(document.documentElement).getPropertyValue("--scheme").trim() === "dark";
    document.documentElement.dataset.theme = dark ? "light" : "dark";
    LiveRL.remember("theme", document.documentElement.dataset.theme);
    LiveRL.plots.redraw();
  }

  async function show() {
    const mine = ++generation;
    const now = context();
    frame();
    document.title = "LiveRL: " + (now.run || "no runs");
    if (!now.run) {
      main.replaceChildren(el("h1", {}, "No runs yet"), el("p", {}, "They appear here as soon as the first one starts."));
      return;
    }
    main.setAttribute("aria-busy", "true");
    current = null;
    try {
      const stage = el("div", {});
      const shown = await LiveRL.views[now.view].show(stage, now, (ready) => { if (mine === generation) { main.replaceChildren(...ready.childNodes); } });
      if (mine !== generation) return;
      if (stage.childNodes.length) main.replaceChildren(...stage.childNodes);
      LiveRL.plots.redraw();
      current = shown || null;
    } catch (error) {
      if (mine === generation) main.replaceChildren(el("h1", {}, "This cannot be shown"), el("p", { role: "alert" }, error.message));
      console.error(error);
    } finally {
      if (mine === generation) main.removeAttribute("aria-busy");
    }
  }

  // Only those that changed, where these are few; all of them at times, for a run that was killed changes no file.
  async function take(names) {
    if (names.length > 50 || Date.now() - complete > 30000) {
      runs = await source.runs();
      complete = Date.now();
      return;
    }
    const found = new Map((await source.runs(names)).map((run) => [run.name, run]));
    const kept = runs.filter((run) => !names.includes(run.name) || found.has(run.name)).map((run) => found.get(run.name) || run);
    const fresh = [...found.values()].filter((run) => !kept.some((one) => one.name === run.name));
    const id = (run) => run.name.slice(run.name.indexOf("/") + 1);
    runs = fresh.length ? [...kept, ...fresh].sort((a, b) => (id(a) + "/" + a.name < id(b) + "/" + b.name ? -1 : 1)) : kept;
  }

  // News that come while an update is under way are taken together after it.
  async function news(changed) {
    for (const name of changed) missed.add(name);
    if (updating) return;
    updating = (async () => {
      while (missed.size) {
        const names = [...missed];
        missed.clear();
        const before = runs.map((run) => run.name + run.state).join();
        await take(names);
        if (runs.map((run) => run.name + run.state).join() !== before) frame();
        if (!current && runs.length) await show();
        else if (current && current.update) await current.update(names);
      }
    })().catch((error) => console.error(error)).finally(() => { updating = null; });
  }

  async function begin() {
    const kept = LiveRL.remember("theme");
    if (kept === "dark" || kept === "light") document.documentElement.dataset.theme = kept;
    foot.append(el("p", {}, "LiveRL. Plots by uPlot (MIT)."));
    try {
      runs = await source.runs();
      complete = Date.now();
    } catch (error) {
      main.replaceChildren(el("h1", {}, "No answer"), el("p", { role: "alert" }, error.message));
      return;
    }
    window.addEventListener("hashchange", show);
    await show();
    source.listen(news, (connected) => { if (!connected) complete = 0; live.textContent = connected ? "live" : "not connected"; live.dataset.state = connected ? "live" : "lost"; });
  }

  begin();
})();
