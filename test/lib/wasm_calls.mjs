// Calls of exports in V8: each line of the input is {module, calls: [[export, parameter types, result types, values]]}, each line of
// the output the list of answers, as a script of `fn run` gives them; of traps what V8 tells apart.  Without calls: whether the module
// is valid, {valid: HEX}.
import fs from "node:fs";

const traps = [
  [/unreachable/, "unreachable"], [/divide by zero|remainder by zero/, "integer divide by zero"],
  [/divide result unrepresentable/, "integer overflow"], [/float unrepresentable/, "conversion"],
  [/memory access out of bounds/, "out of bounds memory access"], [/null function or function signature/, "call"],
  [/table|element segment/, "table"], [/stack size/, "call stack exhausted"]];

function trapName(message) {
  const found = traps.find(([words]) => words.test(message));
  return found ? found[1] : message;
}

function call(instance, [name, parameters, results, values]) {
  const given = values.map((value, i) => value === "null" ? null : parameters[i] === "i64" ? BigInt(value) : Number(value));
  try {
    const returned = instance.exports[name](...given);
    const list = results.length === 1 ? [returned] : [...(returned ?? [])];
    const texts = results.map((type, i) => `${type}:${type === "funcref" && list[i] !== null ? "function" : list[i]}`);
    return ["ok", ...texts].join(" ");
  } catch (error) {
    return `trap ${trapName(error.message)}`;
  }
}

function answer({module, calls, valid}) {
  try {
    const code = new WebAssembly.Module(valid === undefined ? fs.readFileSync(module) : Buffer.from(valid, "hex"));
    const instance = valid === undefined ? new WebAssembly.Instance(code, {}) : null;
    return instance === null ? "" : calls.map(one => call(instance, one));
  } catch (error) {
    return error.message;
  }
}

for (const line of fs.readFileSync(0, "utf8").split("\n").filter(Boolean)) {
  console.log(JSON.stringify(answer(JSON.parse(line))));
}
