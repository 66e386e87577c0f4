// What every view uses: elements, words for numbers, where data comes from, and the address of what is shown.
// Everything from a run is hostile text: it becomes text of an element or nothing. No HTML is ever made from strings.
"use strict";

const LiveRL = { views: {}, data: {} };

LiveRL.el = function el(tag, attributes, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "on") for (const [event, handler] of Object.entries(value)) node.addEventListener(event, handler);
    else if (name === "class") node.className = value;
    else if (name === "dataset") Object.assign(node.dataset, value);
    else if (name === "value") node.value = value;
    else if (name === "checked") node.checked = value;
    else node.setAttribute(name, value === true ? "" : String(value));
  }
  node.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false)
    .map((child) => (child instanceof Node ? child : String(child))));
  return node;
};

LiveRL.format = {
  number(value) {
    if (value === null || value === undefined) return "–";
    if (Number.isInteger(value)) return value.toLocaleString("en");
    const size = Math.abs(value);
    return size !== 0 && (size < 1e-3 || size >= 1e6) ? value.toExponential(2) : String(Number(value.toPrecision(4)));
  },
  share(value, digits = 1) {
    return value === null || value === undefined ? "–" : (100 * value).toFixed(digits) + " %";
  },
  unit(value, unit) {
    return unit === "share" ? this.share(value) : this.number(value) + (unit && value !== null && value !== undefined ? " " + unit : "");
  },
  seconds(value) {
    if (value === null || value === undefined) return "–";
    if (value < 10) return value.toFixed(2) + " s";
    const whole = Math.round(value), hours = Math.floor(whole / 3600), minutes = Math.floor(whole / 60) % 60;
    if (whole < 60) return whole + " s";
    if (hours >= 48) return Math.floor(hours / 24) + " d " + (hours % 24) + " h";
    return hours ? hours + " h " + minutes + " min" : minutes + " min " + (whole % 60) + " s";
  },
};

// A table from columns {title, cell, number?} and rows. `caption` is read aloud and shown.
LiveRL.table = function table(columns, rows, { caption, sorted, kind } = {}) {
  const { el } = LiveRL;
  const head = columns.map((column) => el("th", { scope: "col", class: column.number && "number", "aria-sort": sorted && sorted.key === column.key ? (sorted.descending ? "descending" : "ascending") : null }, column.sort ? el("button", { type: "button", class: "plain", on: { click: column.sort } }, column.title, sorted && sorted.key === column.key ? (sorted.descending ? " ↓" : " ↑") : "") : column.title));
  const body = rows.map((row) => el("tr", {}, columns.map((column) => {
    const content = column.cell(row);
    return content instanceof Node && content.tagName === "TD" ? content : el("td", { class: column.number && "number" }, content);
  })));
  return el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": caption || "Table" },
    el("table", { class: kind }, caption && el("caption", {}, caption), el("thead", {}, el("tr", {}, head)), el("tbody", {}, body)));
};

// Where data comes from: the server, or beside this file when it is a static copy (data-static on <html>).
LiveRL.source = (function () {
  const fixed = document.documentElement.hasAttribute("data-static");
  const waiting = new Map();
  // A static copy opened from a file may load scripts and nothing else: each answer is a script with one text in it.
  LiveRL.receive = (name, text) => { const take = waiting.get(name); waiting.delete(name); if (take) take(JSON.parse(text)); };
  const policy = fixed && window.trustedTypes ? window.trustedTypes.createPolicy("liverl-data", {
    createScriptURL(url) {
      if (!/^data\/[a-z0-9-]+\.js$/.test(url)) throw new TypeError("not a data file");
      return url;
    },
  }) : { createScriptURL: (url) => url };
  const kept = new Map();

  function load(name) {
    if (!kept.has(name)) {
      kept.set(name, new Promise((resolve, reject) => {
        waiting.set(name, resolve);
        const script = document.createElement("script");
        script.src = policy.createScriptURL("data/" + name + ".js");
        script.onerror = () => reject(new Error("This static copy does not hold it."));
        document.head.append(script);
      }));
    }
    return kept.get(name);
  }

  async function ask(path, parameters) {
    const query = new URLSearchParams();
    for (const [name, value] of Object.entries(parameters || {})) {
      for (const one of Array.isArray(value) ? value : [value]) if (one !== null && one !== undefined && one !== "") query.append(name, one);
    }
    const answer = await fetch("api/" + path + (query.size ? "?" + query : ""), { headers: { Accept: "application/json" } });
    if (answer.status === 422) throw new Error(await answer.text());
    if (!answer.ok) throw new Error(answer.status === 404 ? "There is no such thing here (any more)." : "The server answered " + answer.status + ".");
    return answer.json();
  }

  return {
    fixed,
    // All of them, or those that are named.
    runs: (names) => (fixed ? load("runs") : ask("runs", { run: names })),
    panels: () => (fixed ? load("panels") : ask("panels")),
    differences: async (runs) => (fixed ? ((await load("differences"))[runs[0]] || []).filter((one) => runs.includes(one.b)) : ask("differences", { run: runs })),
    // In a static copy the run that it was made of has the plain names, one that is laid over it has its number in front.
    name: async (run, what) => {
      const found = (await load("runs")).find((one) => one.name === run);
      return found && found.number ? "run" + found.number + "-" + what : what;
    },
    run: async (run, what, parameters) => (fixed ? load(await LiveRL.source.name(run, what)) : ask("run/" + run.split("/").map(encodeURIComponent).join("/") + "/" + what, parameters)),
    static: load,
    // Calls `changed(names)` for news; returns a function that ends it.
    listen(changed, alive) {
      if (fixed) return () => {};
      const events = new EventSource("events");
      events.addEventListener("change", (event) => changed(JSON.parse(event.data)));
      events.onopen = () => alive(true);
      events.onerror = () => alive(false);
      return () => events.close();
    },
  };
})();

// The address: "#/view?name=value". What is in it can be sent to somebody.
LiveRL.address = {
  read() {
    const [, view, query] = /^#\/([a-z]*)\??(.*)$/.exec(location.hash) || [null, "", ""];
    return { view: view || "overview", query: new URLSearchParams(query) };
  },
  of(view, values) {
    const query = new URLSearchParams();
    for (const [name, value] of Object.entries(values)) {
      for (const one of Array.isArray(value) ? value : [value]) if (one !== null && one !== undefined && one !== "") query.append(name, one);
    }
    return "#/" + view + (query.size ? "?" + query : "");
  },
  // This view with other values.
  change(values) {
    const { view, query } = this.read();
    const merged = {};
    for (const name of new Set(query.keys())) merged[name] = query.getAll(name);
    location.hash = this.of(view, { ...merged, ...values });
  },
};

// Fill a place again because of news, only if they differ from what it shows, and leave the keyboard where it was.
LiveRL.renew = function renew(place, seen, answer, fill) {
  const text = JSON.stringify(answer);
  if (text === seen.text) return;
  seen.text = text;
  const before = place.contains(document.activeElement) ? document.activeElement : null;
  const top = [...place.querySelectorAll(".scroll")].map((node) => [node.scrollTop, node.scrollLeft]);
  fill();
  [...place.querySelectorAll(".scroll")].forEach((node, index) => { if (top[index]) [node.scrollTop, node.scrollLeft] = top[index]; });
  if (!before) return;
  const same = [...place.querySelectorAll(before.tagName)].find((node) => node.textContent === before.textContent && node.getAttribute("href") === before.getAttribute("href"));
  if (same) same.focus({ preventScroll: true });
};

LiveRL.remember = function remember(name, value) {
  try {
    if (value === undefined) return localStorage.getItem("liverl-" + name);
    localStorage.setItem("liverl-" + name, value);
  } catch { /* a file without storage: nothing is remembered */ }
  return null;
};
