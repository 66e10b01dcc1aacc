// What test/integration/sdk_test.py asks of every SDK, by path.
import { deadline, flush, HostError, invoke, kv, log, metadata, queue, secret, span, stream } from "blixard";

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
    kv.set("over", "", { ttl: -1 });
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

async function elsewhere(base) {
    const got = await fetch(`${base}/plain?a=b`);
    const lines = [`${got.status} ${got.headers.get("x-one")} ${await got.text()}`];
    const posted = await fetch(new URL("/plain", base), { method: "POST", headers: { "X-Mine": "mine" }, body: "hello" });
    lines.push(`${posted.status} ${await posted.text()}`, (await (await fetch(`${base}/big?n=3000000`)).arrayBuffer()).byteLength);
    return [...lines, await fetch("http://example.com/").catch((error) => error.code)];
}

// What only fetch() of the web has.
const webs = {
    async json(base) {
        const answer = await fetch(new Request(`${base}/echo`, { method: "PUT", body: new URLSearchParams({ a: "b c" }) }));
        const { method, body, fields } = await answer.json();
        return [answer.ok, answer.url === `${base}/echo`, answer.redirected, method, body, fields["content-type"]];
    },
    // The first two are answered when the third is asked.
    async together(base) {
        const order = [];
        const all = await Promise.all([0, 1, 2].map(async (n) => {
            const text = await (await fetch(`${base}/held?n=${n}`)).text();
            order.push(n);
            return text;
        }));
        return [...all, order.length];
    },
    async redirect(base) {
        const followed = await fetch(`${base}/redirect?to=/plain`);
        const manual = await fetch(`${base}/redirect?to=/plain`, { redirect: "manual" });
        const refused = await fetch(`${base}/redirect?to=/plain`, { redirect: "error" }).catch((error) => error.code);
        return [followed.redirected, followed.url === `${base}/plain`, followed.headers.has("blixard-url"), manual.status,
                manual.headers.get("location"), refused];
    },
    // More than are under way at once, whose bodies nobody reads; then they are read.
    async many(base) {
        const all = [];
        for (let i = 0; i < 20; i++) all.push(await fetch(`${base}/big?n=${100000 + i}`));
        const sizes = [];
        for (const answer of all) sizes.push((await answer.bytes()).length - 100000);
        return [sizes.join(" ")];
    },
    async abort(base) {
        const controller = new AbortController();
        setTimeout(() => controller.abort(), 10);
        const aborted = await fetch(`${base}/silent`, { signal: controller.signal }).catch((error) => error.name);
        const late = await fetch(`${base}/silent`, { signal: AbortSignal.timeout(10) }).catch((error) => error.name);
        const before = await fetch(`${base}/plain`, { signal: AbortSignal.abort() }).catch((error) => error.name);
        const answer = await fetch(`${base}/endless`, { signal: new AbortController().signal });
        for await (const piece of answer.body) if (piece.length > 0) break;
        return [aborted, late, before, (await fetch(`${base}/plain`)).status];
    },
    async wrong(base) {
        const codes = [];
        const tries = ["file:///etc/passwd", "http://a b/", `${base}/close`, `${base}/garbage`, "http://user@127.0.0.1/"];
        for (const url of tries) codes.push(await fetch(url).then(() => "fine", (error) => (error instanceof TypeError ? error.code : error.name)));
        codes.push(await fetch(`${base}/cut`).then((answer) => answer.text()).catch((error) => error.code));
        codes.push(await fetch(`${base}/plain`, { redirect: "never" }).catch((error) => error.name));
        return codes;
    },
};

async function spans() {
    await span("outer", async () => {
        const inner = span("inner").set("why", "a test");
        inner.end("on purpose");
    });
    return ["done"];
}

function secrets() {
    let other = 0;
    try {
        secret("sdk-other");
    } catch (error) {
        other = error.errno;
    }
    return [`${secret("sdk-token")} ${other}`];
}

async function* pieces(request) {
    yield "first\n";
    flush();
    let count = 0;
    for await (const piece of request.body) count += piece.length;
    yield `${count}\n`;
}

const asked = {
    "/facts": facts, "/kv": keys, "/send": send, "/call": call, "/span": spans, "/secret": secrets, "/early": () => [early],
    "/log": () => log.warn("careful", { who: "me", what: 'a "word"' }),
    "/units": () => kv.set("units", "", { ttl: "10m" }),
    "/fail": () => { throw new Error("a reason"); },
};

export default async function (request, environment, { path }) {
    if (path === "/request") return show(request);
    if (path === "/pieces") return new Response(pieces(request));
    const base = new URL(request.url).search.slice(1);
    if (path === "/fetch") return new Response((await elsewhere(base)).join("\n") + "\n");
    if (path.startsWith("/web/")) return new Response((await webs[path.slice(5)](base)).join("\n") + "\n");
    if (path === "/through") return fetch(base, request);
    const lines = await asked[path]();
    return lines ? new Response(lines.join("\n") + "\n") : new Response(null, { status: 204 });
}
