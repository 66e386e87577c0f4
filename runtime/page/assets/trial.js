// One trial: turn by turn, the patch, tests, rewards, defences, times, tokens, branches, siblings.
"use strict";

(function () {
  const { el, format, address } = LiveRL;
  const FIRST = 4000;

  // A text that an agent or a model wrote; a long one shows its beginning first.
  function words(text, kind) {
    const pre = el("pre", { class: kind, tabindex: "0" });
    if (text.length <= FIRST) { pre.textContent = text; return pre; }
    pre.textContent = text.slice(0, FIRST);
    const more = el("button", { type: "button", on: { click: () => { pre.textContent = text; more.remove(); } } }, "Show all " + text.length.toLocaleString("en") + " characters");
    return el("div", {}, pre, more);
  }

  function diff(changes) {
    return changes.map((change) => el("details", { class: "file", open: changes.length < 6 }, el("summary", {}, change.what + " ", el("code", {}, change.path), change.why && ", " + change.why),
      change.text && el("pre", { class: "diff", tabindex: "0", "aria-label": "Patch of " + change.path }, change.text.split("\n").map((line) => {
        const kind = /^(\+\+\+|---|diff|@@|new file|deleted file)/.test(line) ? "head" : line.startsWith("+") ? "add" : line.startsWith("-") ? "remove" : null;
        return el("span", { class: kind }, line + "\n");
      }))));
  }

  function waterfall(found) {
    const timings = found.record.timings || {};
    const parts = [["waiting for a place", "queue"], ["sandbox start", "setup"], ["agent", "agent"], ["artifacts out", "download"], ["verifier", "verifier"], ["sandbox stop", "teardown"]];
    let at = 0, begin = 0;
    const rows = [];
    for (const [label, key] of parts) {
      const seconds = Number(timings[key]) || 0;
      if (key === "agent") begin = at;
      rows.push({ label, start: at, seconds, kind: key === "agent" ? "outer" : "part" });
      at += seconds;
    }
    // Turns count from the opening of their session, which is made before the agent's sandbox is.
    const open = Math.min(...found.turns.map((turn) => turn.started_sec ?? Infinity));
    const shift = Number.isFinite(open) ? begin - Math.max(0, Math.min(open, begin)) : begin;
    const turns = found.turns.filter((turn) => typeof turn.started_sec === "number").map((turn) => ({ label: "turn " + turn.seq, start: shift + turn.started_sec, seconds: turn.generate_sec || 0, kind: "model" }));
    const whole = Math.max(at, ...turns.map((turn) => turn.start + turn.seconds), 1e-9);
    const bar = (row) => {
      const mark = el("span", { class: "bar " + row.kind, title: row.label + ": " + format.seconds(row.seconds) });
      mark.style.left = (100 * row.start) / whole + "%";
      mark.style.width = Math.max((100 * row.seconds) / whole, 0.15) + "%";
      return mark;
    };
    const line = (label, seconds, bars) => el("div", { class: "fall" }, el("span", {}, label), el("span", { class: "track" }, bars), el("span", { class: "number" }, format.seconds(seconds)));
    const model = turns.reduce((sum, turn) => sum + turn.seconds, 0);
    return el("div", { class: "falls" }, rows.slice(0, 3).map((row) => line(row.label, row.seconds, [bar(row)])), turns.length > 0 && line("model, " + turns.length + " turns", model, turns.slice(0, 1000).map(bar)), rows.slice(3).map((row) => line(row.label, row.seconds, [bar(row)])));
  }

  // Chains of turns as one node, a list inside where they fork.
  function tree(turns) {
    const children = new Map([[null, []]]);
    for (const turn of turns) children.set(turn.seq, []);
    for (const turn of turns) children.get(children.has(turn.parent) ? turn.parent : null).push(turn.seq);
    const link = (from, to) => el("a", { href: "#turn-" + from, on: { click: (event) => { event.preventDefault(); reveal(from); } } }, from === to ? "turn " + from : "turns " + from + " to " + to);
    const grow = (seqs) => seqs.length > 0 && el("ul", { class: "tree" }, seqs.map((seq) => {
      let last = seq;
      while (children.get(last).length === 1) [last] = children.get(last);
      return el("li", {}, link(seq, last), grow(children.get(last)));
    }));
    return grow(children.get(null)) || el("p", {}, "No turn was recorded.");
  }

  function reveal(seq) {
    const node = document.getElementById("turn-" + seq);
    if (!node) return;
    node.open = true;
    node.scrollIntoView({ block: "start" });
    node.querySelector("summary").focus({ preventScroll: true });
  }

  function fillTurn(turn, node) {
    const versions = turn.weight_versions;
    node.append(
      el("p", { class: "note" }, [turn.finish_reason && "ended: " + turn.finish_reason, turn.prompt_tokens + " tokens before, " + turn.completion_tokens + " written, " + (turn.cached_tokens || 0) + " from the cache", versions && "weights " + (versions[0] === versions[1] ? versions[0] : versions[0] + " to " + versions[1]), turn.generate_sec !== null && "model " + format.seconds(turn.generate_sec), turn.gap_sec !== null && turn.gap_sec !== undefined && "agent before it " + format.seconds(turn.gap_sec), turn.parse_status !== "ok" && "parsing: " + turn.parse_status].filter(Boolean).join(" · ")),
      ...turn.messages.map((message) => el("div", { class: "message" }, el("h3", {}, message.role), words(message.content, "said"))),
      turn.text ? el("div", { class: "message model" }, el("h3", {}, "model"), words(turn.text, "said")) : "",
      ...turn.tools.map((tool) => el("div", { class: "message tool" }, el("h3", {}, "calls " + tool.name), words(tool.arguments, "arguments"), tool.output === null ? el("p", { class: "note" }, "no answer was recorded") : el("div", {}, el("h3", {}, "it printed"), words(tool.output, "output")))));
  }

  function turnNode(turn, open) {
    const brief = turn.tools.length ? turn.tools.map((tool) => tool.name + " " + tool.arguments.slice(0, 120)).join("; ") : turn.text.slice(0, 160);
    const node = el("details", { class: "turn" + (turn.kind === "policy" ? "" : " side"), id: "turn-" + turn.seq },
      el("summary", {}, el("b", {}, "turn " + turn.seq), turn.kind !== "policy" && " (" + turn.kind + ")", turn.discarded && " (discarded)", " ", el("span", { class: "brief" }, brief)));
    let filled = false;
    const fill = () => { if (!filled && node.open) { filled = true; fillTurn(turn, node); } };
    node.addEventListener("toggle", fill);
    if (open) { node.open = true; fill(); }
    return node;
  }

  function verdict(found) {
    const { record, row } = found, outcomes = Object.entries(record.outcomes || {});
    const bad = outcomes.filter(([, outcome]) => outcome !== "passed");
    const facts = [["verdict", row.verdict], ["reward", format.number(row.reward)], ["ended", row.termination], ["trained on", row.trainable ? "yes" : "no"], ["set", row.task_set], ["step", row.step], ["group", row.group], ["attempt", row.attempt],
      ["isolation", row.isolation], ["weights", row.version_min === null ? "–" : row.version_min + " to " + row.version_max], ["verdict of equal work", record.reused_verdict ? "yes" : "no"], ["sampling", record.sampling ? "temperature " + record.sampling.temperature + ", seed " + record.sampling.seed : "–"]];
    return el("section", { class: "card", id: "verdict" }, el("h2", {}, "Verdict"),
      el("dl", { class: "facts" }, facts.map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", { dataset: { fact: name } }, value ?? "–")))),
      row.problem && el("p", { class: "warning" }, row.problem),
      el("h3", {}, "Defences"), record.defences && record.defences.length ? el("ul", { class: "chips" }, record.defences.map((one) => el("li", {}, one))) : el("p", {}, "None was recorded."),
      el("h3", {}, "Tests"), outcomes.length ? LiveRL.table([{ title: "test", cell: (one) => one[0] }, { title: "outcome", cell: (one) => one[1] }], [...bad, ...outcomes.filter(([, outcome]) => outcome === "passed")], { caption: outcomes.length - bad.length + " of " + outcomes.length + " passed", kind: "tests" }) : el("p", {}, "No outcome was recorded."),
      Object.keys(record.metrics || {}).length > 0 && LiveRL.table([{ title: "the agent's own figures", cell: (one) => one[0] }, { title: "value", number: true, cell: (one) => format.number(one[1]) }], Object.entries(record.metrics), { caption: "Said by the agent, not checked" }),
      found.verifier && el("details", {}, el("summary", {}, "What the verifier printed"), words(found.verifier, "output")),
      Object.entries(found.logs).map(([name, text]) => el("details", {}, el("summary", {}, "The agent's log ", el("code", {}, name)), words(text, "output"))));
  }

  function siblings(found, context) {
    const beside = el("div", { class: "beside" });
    const show = async () => {
      beside.replaceChildren(el("p", {}, "Loading."));
      const others = await Promise.all(found.siblings.slice(0, 8).map((row) => LiveRL.loadTrial(context.run, row.step, row.trial_id).catch((error) => ({ row, error }))));
      beside.replaceChildren(...others.map((other) => el("section", { class: "card" }, el("h3", {}, other.row.trial_id), other.error ? el("p", {}, other.error.message) : [
        el("p", { class: "note" }, [other.row.verdict, "reward " + format.number(other.row.reward), other.row.termination, format.number(other.row.model_calls) + " turns"].join(" · ")),
        diff(other.patch.changes), el("ol", { class: "steps", start: "0" }, other.turns.map((turn) => el("li", {}, turn.tools.length ? turn.tools.map((tool) => tool.name + " " + tool.arguments.slice(0, 200)).join("; ") : turn.text.slice(0, 200)))) ])));
    };
    return el("section", { class: "card", id: "siblings" }, el("h2", {}, "Siblings"), LiveRL.table([
      { title: "trial", cell: (row) => (row.trial_id === found.row.trial_id ? el("b", {}, row.trial_id) : el("a", { href: LiveRL.trialLink(context.run, row) }, row.trial_id)) },
      { title: "verdict", cell: (row) => row.verdict }, { title: "reward", number: true, cell: (row) => format.number(row.reward) }, { title: "ended", cell: (row) => row.termination },
      { title: "turns", number: true, cell: (row) => format.number(row.model_calls) }, { title: "tokens", number: true, cell: (row) => format.number(row.completion_tokens) }, { title: "time", number: true, cell: (row) => format.seconds(row.seconds) }], found.siblings, { caption: "All trials of the group at this step" }),
      found.siblings.length > 1 && el("button", { type: "button", id: "side-by-side", on: { click: show } }, "Side by side"), beside);
  }

  LiveRL.views.trial = {
    async show(main, context) {
      const step = context.query.get("step"), id = context.query.get("id");
      const found = await LiveRL.loadTrial(context.run, step, id);
      const forks = found.conversations.length > 1;
      const turns = el("section", { class: "card", id: "turns" }, el("h2", {}, found.turns.length + " turns"),
        el("p", {}, el("button", { type: "button", on: { click: () => { for (const node of turns.querySelectorAll("details.turn")) node.open = true; } } }, "Open all"), " ", el("button", { type: "button", on: { click: () => { for (const node of turns.querySelectorAll("details.turn")) node.open = false; } } }, "Close all")),
        found.turns.map((turn, index) => turnNode(turn, index === 0 || found.turns.length <= 12)));
      main.replaceChildren(el("p", {}, el("a", { href: address.of("trials", { run: context.run }) }, "All trials")), el("h1", {}, found.row.trial_id),
        found.missing.length || found.patch.missing.length ? el("p", { class: "warning" }, "Not here: " + [...found.missing, ...found.patch.missing].join("; ")) : "",
        el("div", { class: "columns" }, verdict(found), el("section", { class: "card", id: "patch" }, el("h2", {}, "Patch"), found.patch.changes.length ? diff(found.patch.changes) : el("p", {}, "No change was kept."))),
        el("section", { class: "card", id: "times" }, el("h2", {}, "Times"), waterfall(found)),
        el("section", { class: "card", id: "branches" }, el("h2", {}, forks ? found.conversations.length + " branches" : "One conversation"), tree(found.turns)),
        turns, LiveRL.tokensOf(found, context), siblings(found, context));
    },
  };
})();
