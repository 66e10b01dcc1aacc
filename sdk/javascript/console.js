// What goes to the function's log: WHATWG Console, as far as a log has it.
(function (native, web) {
    "use strict";

    const { define } = web;

    function show(value, depth = 0, seen = []) {
        switch (typeof value) {
        case "string": return depth === 0 ? value : JSON.stringify(value);
        case "bigint": return `${value}n`;
        case "function": return `[function ${value.name || "(anonymous)"}]`;
        case "object": break;
        default: return String(value);
        }
        if (value === null) return "null";
        if (value instanceof Error) return value.stack ? `${value}\n${value.stack}`.trimEnd() : String(value);
        if (seen.includes(value)) return "[circular]";
        if (depth > 4) return Array.isArray(value) ? "[...]" : "{...}";
        const inner = (part) => show(part, depth + 1, [...seen, value]);
        if (Array.isArray(value) || (ArrayBuffer.isView(value) && !(value instanceof DataView))) return `[${Array.from(value, inner).join(", ")}]`;
        if (value instanceof Map) return `Map {${Array.from(value, ([k, v]) => `${inner(k)} => ${inner(v)}`).join(", ")}}`;
        if (value instanceof Set) return `Set {${Array.from(value, inner).join(", ")}}`;
        if (value instanceof Date || value instanceof RegExp) return String(value);
        return `{${Object.entries(value).map(([k, v]) => `${k}: ${inner(v)}`).join(", ")}}`;
    }

    // "%s is %d": a text with places for values, where the first value is one that has them.
    function fill(values) {
        if (typeof values[0] !== "string" || values.length < 2 || !values[0].includes("%")) return values;
        let at = 1;
        const text = values[0].replace(/%[sdifoOcj%]/g, (place) => {
            if (place === "%%") return "%";
            if (at >= values.length) return place;
            const value = values[at++];
            switch (place) {
            case "%d": case "%i": return String(typeof value === "bigint" ? value : place === "%i" ? parseInt(value, 10) : Number(value));
            case "%f": return String(parseFloat(value));
            case "%c": return "";
            case "%j": return JSON.stringify(value);
            default: return show(value, place === "%s" ? 0 : 1);
            }
        });
        return [text, ...values.slice(at)];
    }

    let indent = "";
    const say = (level) => (...values) => {
        for (const line of fill(values).map((value) => show(value)).join(" ").split("\n")) native.log(level, indent + line);
    };
    const [info, debug, warn, error] = [say(6), say(7), say(4), say(3)];
    const counts = new Map();
    const begun = new Map();
    const lasted = (name) => `${name}: ${(native.now() - begun.get(name)).toFixed(3)} ms`;
    define("console", {
        log: info, info, debug, trace: debug, warn, error, dir: (value) => info(value), table: (value) => info(value),
        assert(is, ...values) { if (!is) error("Assertion failed", ...values); },
        count(name = "default") { counts.set(name, (counts.get(name) || 0) + 1); info(`${name}: ${counts.get(name)}`); },
        countReset(name = "default") { counts.delete(name); },
        time(name = "default") { begun.set(name, native.now()); },
        timeLog(name = "default", ...values) { if (begun.has(name)) info(lasted(name), ...values); },
        timeEnd(name = "default") { if (begun.has(name)) info(lasted(name)); begun.delete(name); },
        group(...values) { if (values.length > 0) info(...values); indent += "  "; },
        groupCollapsed(...values) { this.group(...values); },
        groupEnd() { indent = indent.slice(2); },
        clear() {},
    });
    web.forgetIndent = () => { indent = ""; };
})
