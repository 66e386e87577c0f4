// Writes a line of JSON for each test that node's own runner tells of: its name with those of its groups before it, and
// what became of it. A program of its own: node --test-reporter=THIS --test-reporter-destination=REPORT FILE
export default async function* report(events) {
  const open = [];
  for await (const { type, data } of events) {
    if (type === "test:start") {
      open.length = data.nesting;
      open.push(data.name);
    } else if (type === "test:pass" || type === "test:fail") {
      if (data.details?.type === "suite") continue;
      const set = (value) => value !== undefined && value !== false;
      const skipped = set(data.skip) || set(data.todo);
      const outcome = skipped ? "skipped" : type === "test:pass" ? "passed" : "failed";
      yield `${JSON.stringify({ name: [...open.slice(0, data.nesting), data.name], outcome })}\n`;
    }
  }
  yield `${JSON.stringify({ event: "done" })}\n`;
}
