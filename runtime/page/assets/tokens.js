// The tokens of one sample: a strip over all of them, and below it those around a place, each with what is known of it.
"use strict";

(function () {
  const { el, format } = LiveRL;
  const PAGE = 600;

  // 0 for certain to 4 for surprising: natural logarithms of probability.
  const level = (logprob) => (logprob > -0.1 ? 0 : logprob > -0.7 ? 1 : logprob > -2.3 ? 2 : logprob > -4.6 ? 3 : 4);

  function strip(found, go) {
    const canvas = el("canvas", { class: "strip", role: "img", width: "1200", height: "40", "aria-label": found.response_ids.length + " response tokens; high where the policy wrote and was surprised" });
    const draw = canvas.getContext("2d"), count = found.response_ids.length, wide = canvas.width;
    const text = getComputedStyle(document.documentElement).getPropertyValue("--accent");
    draw.fillStyle = text;
    for (let x = 0; x < wide; x += 1) {
      const from = Math.floor((x * count) / wide), to = Math.max(from + 1, Math.floor(((x + 1) * count) / wide));
      let own = false, worst = 0;
      for (let at = from; at < to && at < count; at += 1) if (found.mask[at]) { own = true; worst = Math.min(worst, found.logprobs[at]); }
      if (own) { const high = 6 + Math.min(34, -worst * 5); draw.fillRect(x, 40 - high, 1, high); }
    }
    canvas.addEventListener("click", (event) => go(Math.floor((event.offsetX / canvas.clientWidth) * count)));
    return canvas;
  }

  function show(found) {
    const place = el("div", { class: "tokens", tabindex: "0", role: "region", "aria-label": "Tokens" }), about = el("p", { class: "note", id: "token-about", "aria-live": "polite" }, "Choose a token to read what is known of it.");
    const before = found.prompt_ids.length, count = before + found.response_ids.length;
    const named = (id) => { const text = found.texts[id]; return text === undefined || text === "" ? "⟨" + id + "⟩" : text; };
    let first = Math.max(0, before - 20);
    const tell = (at) => {
      const id = at < before ? found.prompt_ids[at] : found.response_ids[at - before], own = at >= before && found.mask[at - before];
      about.textContent = "token " + at + ": id " + id + (found.texts[id] ? " " + JSON.stringify(found.texts[id]) : "") + (at < before ? "; prompt" : own ? "; written by the policy, mask 1, log-probability of the rollout " + format.number(found.logprobs[at - before]) + (found.trained ? ", of the trainer " + format.number(found.trained[at - before]) : "") + ", weight version " + found.versions[at - before] : "; given to it, mask 0");
    };
    const range = el("span", {}), back = el("button", { type: "button", on: { click: () => go(first - PAGE) } }, "Earlier"), on = el("button", { type: "button", on: { click: () => go(first + PAGE) } }, "Later");
    function go(to) {
      first = Math.max(0, Math.min(to, count - 1));
      const last = Math.min(count, first + PAGE), nodes = [];
      let version = null;
      for (let at = first; at < last; at += 1) {
        const prompt = at < before, own = !prompt && found.mask[at - before], id = prompt ? found.prompt_ids[at] : found.response_ids[at - before];
        if (own && found.versions[at - before] !== version) { version = found.versions[at - before]; nodes.push(el("span", { class: "version" }, "weights " + version)); }
        const node = el("span", { class: "token " + (prompt ? "prompt" : own ? "own l" + level(found.logprobs[at - before]) : "given") }, named(id));
        node.dataset.at = at;
        nodes.push(node);
      }
      place.replaceChildren(...nodes);
      range.textContent = " tokens " + first + " to " + (last - 1) + " of " + count + " ";
      back.disabled = first === 0;
      on.disabled = last >= count;
    }
    const pick = (event) => { const at = event.target.dataset && event.target.dataset.at; if (at !== undefined) tell(Number(at)); };
    place.addEventListener("click", pick);
    place.addEventListener("mouseover", pick);
    let chosen = null;
    place.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!step) return;
      event.preventDefault();
      chosen = Math.max(0, Math.min(count - 1, chosen === null ? first : chosen + step));
      if (chosen < first || chosen >= first + PAGE) go(chosen);
      for (const old of place.querySelectorAll(".here")) old.classList.remove("here");
      const node = place.querySelector("[data-at='" + chosen + "']");
      if (node) node.classList.add("here");
      tell(chosen);
    });
    go(first);
    const jump = el("input", { type: "number", min: "0", max: String(count - 1), on: { change: (event) => go(Number(event.target.value)) } });
    return el("div", {}, strip(found, (at) => go(before + at)), el("p", { class: "pager" }, back, range, on, el("label", {}, " from token ", jump)), about, place,
      el("p", { class: "note" }, "Framed tokens were written by the policy (mask 1), the darker the less likely; plain ones were given to it, grey ones are the prompt." + (found.trained ? "" : " The trainer's log-probabilities are not kept for this sample; their agreement with the rollout's is a curve of the overview.")));
  }

  LiveRL.tokensOf = function tokensOf(found, context) {
    const place = el("div", {});
    const load = async (sample) => {
      place.replaceChildren(el("p", {}, "Loading."));
      try { place.replaceChildren(show(await LiveRL.loadTokens(context.run, found.row.step, found.row.trial_id, sample))); } catch (error) { place.replaceChildren(el("p", { role: "alert" }, error.message)); }
    };
    return el("section", { class: "card", id: "tokens" }, el("h2", {}, "Tokens"), found.samples.length === 0 ? el("p", {}, "No sample was kept.") : found.samples.map((sample, number) =>
      el("button", { type: "button", class: "sample", on: { click: () => load(number) } }, "sample " + number + ": " + sample.prompt.toLocaleString("en") + " prompt, " + sample.response.toLocaleString("en") + " response, " + sample.trained.toLocaleString("en") + " trained")), place);
  };
})();
