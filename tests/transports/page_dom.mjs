// Runs the page's script on as much of a document as it needs, against a gateway: argv is its URL and the script's path.
// Prints how many operations are shown, and what came of trying the first call as its example has it.
import fs from "node:fs";
import vm from "node:vm";

const [, , base, script] = process.argv;

class Element {
  constructor(name) {
    Object.assign(this, { tagName: name.toUpperCase(), children: [], attributes: {}, listeners: {}, dataset: {} });
    Object.assign(this, { hidden: false, open: false, value: "", textContent: "", required: false, disabled: false, id: "" });
  }
  setAttribute(name, value) {
    this.attributes[name] = value;
    if (name === "id") this.id = value;
  }
  append(...more) {
    this.children.push(...more);
  }
  addEventListener(kind, does) {
    (this.listeners[kind] ??= []).push(does);
  }
  all(wanted, found = []) {
    if (wanted(this)) found.push(this);
    for (const child of this.children) if (child instanceof Element) child.all(wanted, found);
    return found;
  }
}

const ids = ["version", "about", "who", "key", "find", "found", "contents", "operations", "schemas"];
const roots = Object.fromEntries(ids.map((id) => [id, Object.assign(new Element("div"), { id })]));
const document = { getElementById: (id) => roots[id] ?? null, createElement: (name) => new Element(name) };
const answered = [];
const fetching = (path, options) => {
  const answer = fetch(base + path, options);
  answered.push(answer);
  return answer;
};
const page = { ...globalThis, document, location: { hash: "" }, fetch: fetching, URLSearchParams, AbortController };
vm.runInContext(fs.readFileSync(script, "utf8"), vm.createContext({ ...page, performance, TextDecoderStream, console }));
await answered[0];
while (!roots.schemas.children.length) await new Promise((done) => setTimeout(done, 5));

const operations = roots.operations.all((one) => one.tagName === "DETAILS");
for (const one of operations) {
  one.open = true;
  one.listeners.toggle[0]();
}
const form = operations.find((one) => one.id === "callTool").all((one) => one.tagName === "FORM")[0];
await form.listeners.submit[0]({ preventDefault() {} });
roots.find.value = "approve";
roots.find.listeners.input[0]();
const said = (name, value) => form.all((one) => one.attributes[name] === value)[0].textContent;
console.log(
  JSON.stringify({
    operations: operations.length,
    status: said("role", "status"),
    answer: JSON.parse(said("aria-label", "Answer")),
    shown: operations.filter((one) => !one.hidden).map((one) => one.id),
    unlabelled: form.all((one) => ["INPUT", "TEXTAREA", "SELECT"].includes(one.tagName)).filter(
      (input) => !form.all((one) => one.attributes.for === input.id).length,
    ).length,
  }),
);
