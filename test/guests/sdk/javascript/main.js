// What test/integration/sdk_test.py asks of every SDK, by path.
import { deadline, flush, HostError, invoke, kv, log, metadata, queue, span, stream } from "blixard";

let early = "";
try {
    kv.get("early");
} catch (error) {
    early = error.code;
}

async function show(request) {
    const url = new URL(request.url);
    const body = await request.text();
    const lines = [
        `${request.method} ${url.pathname.replace(/^\/fn\/[^/]*/, "")} ${url.search.slice(1)}`,
        `${JSON.stringify(url.searchParams.get("name"))} ${url.searchParams.get("none") === null}`,
        `${JSON.stringify(request.headers.get("x-one"))} ${request.headers.get("X-None") === null}`,
        body.length,
    ];
    return new Response(lines.join("\n") + "\n", { status: 201, headers: { "X-Answer": "yes" } });
}

function facts() {
    const { project, function: name, version, requestId, traceparent } = metadata();
    return [project, name, version, requestId, traceparent.length, deadline() > 0 && deadline() <= 30000];
}

function keys() {
    const lines = [`none ${kv.get("k/none") === null}`];
    const first = kv.set("k/one", "one");
    const entry = kv.get("k/one");
    lines.push(`get ${entry.text() === "one" && entry.revision === first}`);
    lines.push(`lost ${kv.set("k/one", "two", { revision: 0 }) === null}`);
    lines.push(`won ${kv.set("k/one", "two", { revision: first }) !== null}`);
    for (let i = 0; i < 2; i++) lines.push(`update ${kv.update("k/two", (old) => (old ? old.text() : "") + "x")}`);
    kv.set("k/three", new Uint8Array(100000), { ttl: 60000 });
    lines.push(`long ${kv.get("k/three").bytes.length}`);
    lines.push(`list ${kv.list("k/").join(" ")}`, `after ${kv.list("k/", { after: "k/one", limit: 1 }).join(" ")}`);
    lines.push(`stale ${kv.delete("k/one", { revision: first })}`, `delete ${kv.delete("k/one")} ${kv.delete("k/one")}`);
    return lines;
}

function send() {
    const message = { type: "application/json", attributes: { kind: 'a "b"' }, priority: 3 };
    const lines = [`message ${queue.send("jobs", '{"a":1}', message) !== ""}`];
    lines.push(`record ${stream.append("events", "record", { key: "ada", attributes: { kind: "c" } }).sequence}`);
    try {
        queue.send("nowhere", {});
    } catch (error) {
        lines.push(`nowhere ${error.errno} ${error instanceof HostError && error.code === "ENOENT"}`);
    }
    return lines;
}

async function call() {
    const answer = invoke("other", { method: "PUT", path: "/request?name=a%20b", headers: { "X-One": "1" }, body: "hello" });
    let nobody = 0;
    try {
        invoke("nobody", { timeout: 5000 });
    } catch (error) {
        nobody = error.errno;
    }
    return [`${answer.status} ${answer.headers.get("x-answer")}`, (await answer.text()).trimEnd(), `nobody ${nobody}`];
}

async function spans() {
    await span("outer", async () => {
        const inner = span("inner").set("why", "a test");
        inner.end("on purpose");
    });
    return ["done"];
}

async function* pieces(request) {
    yield "first\n";
    flush();
    let count = 0;
    for await (const piece of request.body) count += piece.length;
    yield `${count}\n`;
}

const asked = {
    "/facts": facts, "/kv": keys, "/send": send, "/call": call, "/span": spans, "/early": () => [early],
    "/log": () => log.warn("careful", { who: "me", what: 'a "word"' }),
    "/fail": () => { throw new Error("a reason"); },
};

export default async function (request, environment, { path }) {
    if (path === "/request") return show(request);
    if (path === "/pieces") return new Response(pieces(request));
    const lines = await asked[path]();
    return lines ? new Response(lines.join("\n") + "\n") : new Response(null, { status: 204 });
}
