// Diagnosis: known failures that this run shows, on what evidence and what to do; and those that it does not show.
"use strict";

(function () {
  const { el, source } = LiveRL;

  LiveRL.views.diagnosis = {
    title: "Diagnosis",
    async show(main, context) {
      const place = el("div", { id: "rules" });
      const fill = (found) => {
        const fired = found.rules.filter((rule) => rule.evidence !== null), rest = found.rules.filter((rule) => rule.evidence === null);
        place.replaceChildren(el("h2", {}, fired.length ? (fired.length === 1 ? "One known failure" : fired.length + " known failures") : "None of the known failures"),
          ...fired.map((rule) => el("article", { class: "card finding", dataset: { rule: rule.id } }, el("h3", {}, "■ " + rule.title), el("p", {}, el("b", {}, "Evidence: "), rule.evidence), el("p", {}, el("b", {}, "What to do: "), rule.advice))),
          el("details", {}, el("summary", {}, rest.length + " rules that do not fire"), el("ul", {}, rest.map((rule) => el("li", {}, el("b", {}, rule.title), ". " + rule.look)))));
      };
      main.replaceChildren(el("h1", {}, context.run), place);
      const first = await source.run(context.run, "diagnosis"), seen = { text: JSON.stringify(first) };
      fill(first);
      return {
        async update(changed) {
          if (!changed.includes(context.run)) return;
          const now = await source.run(context.run, "diagnosis");
          LiveRL.renew(place, seen, now, () => fill(now));
        },
      };
    },
  };
})();
