// What scripts find of the web's interfaces, looked at by a script: the answer names what is not so.
const failures = [];

const seen = (value) => JSON.stringify(value, (_, part) => (part instanceof Uint8Array ? [...part] : part === undefined ? "undefined" : part));
function same(what, is, expected) {
    if (seen(is) !== seen(expected)) failures.push(`${what}: ${seen(is)}, not ${seen(expected)}`);
}
function throws(what, call, name = "TypeError") {
    try {
        call();
        failures.push(`${what}: nothing was thrown`);
    } catch (error) {
        same(what, error.name, name);
    }
}
async function rejects(what, promise, name = "TypeError") {
    await promise.then(() => failures.push(`${what}: kept`), (error) => same(what, error.name, name));
}
const all = async (stream) => {
    const pieces = [];
    for await (const piece of stream) pieces.push(piece);
    return pieces;
};
const text = (bytes) => new TextDecoder().decode(bytes);

const tests = {
    encoding() {
        same("a half", [...new TextEncoder().encode("a\ud800b")], [97, 239, 191, 189, 98]);
        same("a pair", [...new TextEncoder().encode("😀")], [240, 159, 152, 128]);
        const into = new Uint8Array(4);
        same("into", new TextEncoder().encodeInto("aü😀", into), { read: 2, written: 3 });
        const decoder = new TextDecoder();
        const bytes = new TextEncoder().encode("a😀ü");
        same("streamed", [...bytes].map((byte) => decoder.decode(new Uint8Array([byte]), { stream: true })).join("|") + decoder.decode(), "a||||😀||ü");
        throws("fatal", () => new TextDecoder("utf-8", { fatal: true }).decode(new Uint8Array([255])));
        same("not fatal", new TextDecoder("utf8", { fatal: true }).decode(new TextEncoder().encode("\ufffd")), "\ufffd");
        same("a mark", new TextDecoder().decode(new Uint8Array([239, 187, 191, 97])), "a");
        same("its mark", new TextDecoder("utf-8", { ignoreBOM: true }).decode(new Uint8Array([239, 187, 191, 97])), "\ufeffa");
        throws("latin1", () => new TextDecoder("latin1"), "RangeError");
        same("base64", [btoa("hello"), atob(" aGVs bG8 ")], ["aGVsbG8=", "hello"]);
        throws("no base64", () => atob("a"), "InvalidCharacterError");
    },
    url() {
        const url = new URL("../c?x=1#y", "https://user:pass@Example.com:8443/a/b/");
        same("parts", [url.href, url.origin, url.host, url.pathname, url.search, url.hash, url.username, url.password],
             ["https://user:pass@example.com:8443/a/c?x=1#y", "https://example.com:8443", "example.com:8443", "/a/c", "?x=1", "#y", "user", "pass"]);
        url.searchParams.append("k", "ä b");
        same("a parameter", url.search, "?x=1&k=%C3%A4+b");
        url.search = "q=2";
        same("a search", [url.searchParams.get("q"), url.searchParams.size], ["2", 1]);
        url.pathname = "p q";
        url.port = "443";
        url.hash = "z";
        url.hostname = "other.org";
        url.protocol = "http";
        url.username = url.password = "";
        same("set", url.href, "http://other.org/p%20q?q=2#z");
        same("hosts", ["http://0x7f.1", "http://[0:0::1]", "http://münchen.de", "http://日本.jp"].map((one) => new URL(one).hostname),
             ["127.0.0.1", "[::1]", "xn--mnchen-3ya.de", "xn--wgv71a.jp"]);
        same("dots", new URL("http://h/a/./b/%2e%2E/c").pathname, "/a/c");
        same("opaque", [new URL("mailto:a@b").pathname, new URL("data:,x").origin], ["a@b", "null"]);
        for (const wrong of ["", "//h", "http://", "http://a b", "http://h:99999", "http://[::1", "http://256.1.1.1"]) throws(wrong, () => new URL(wrong));
        same("can be", [URL.canParse("a", "http://h"), URL.canParse("a"), URL.parse("x:y").href], [true, false, "x:y"]);
        const params = new URLSearchParams("?a=1&b=2&a=3&c");
        params.delete("a", "1");
        params.sort();
        same("parameters", [params.toString(), params.has("a", "3"), params.getAll("c"), [...params.keys()]], ["a=3&b=2&c=", true, [""], ["a", "b", "c"]]);
        same("made", [String(new URLSearchParams({ a: "1 2" })), String(new URLSearchParams([["é", "&"]]))], ["a=1+2", "%C3%A9=%26"]);
    },
    headers() {
        const headers = new Headers({ "X-B": " 1 ", A: "x" });
        headers.append("x-b", "2");
        headers.append("Set-Cookie", "a=1");
        headers.append("set-cookie", "b=2");
        same("pairs", [...headers], [["a", "x"], ["set-cookie", "a=1"], ["set-cookie", "b=2"], ["x-b", "1, 2"]]);
        same("cookies", headers.getSetCookie(), ["a=1", "b=2"]);
        const copy = new Headers(headers);
        copy.set("a", "y");
        same("a copy", [headers.get("A"), copy.get("a"), headers.has("none"), headers.get("none")], ["x", "y", false, null]);
        throws("a name", () => headers.set("a b", "c"));
        throws("a value", () => headers.set("a", "b\nc"));
    },
    async bodies() {
        const request = new Request("http://h/", { method: "post", body: "ü" });
        same("of text", [request.method, request.headers.get("content-type"), request.bodyUsed], ["POST", "text/plain;charset=UTF-8", false]);
        const copy = request.clone();
        same("twice", [await request.text(), await copy.text(), request.bodyUsed], ["ü", "ü", true]);
        await rejects("again", request.text());
        same("bytes", [...await new Response(new Uint8Array([1, 2, 3]).subarray(1)).bytes()], [2, 3]);
        same("a buffer", (await new Response(new Uint8Array([1, 2, 3]).subarray(1)).arrayBuffer()).byteLength, 2);
        same("json", await Response.json({ a: [1] }).json(), { a: [1] });
        same("a form", (await new Response(new URLSearchParams({ a: "b c" })).formData()).get("a"), "b c");
        same("a blob", await (await new Response(new Blob(["a", new Uint8Array([98])], { type: "Text/X" })).blob()).text(), "ab");
        same("its type", new Response(new Blob(["a"], { type: "text/x" })).headers.get("content-type"), "text/x");
        same("a generator", await new Response((function* () { yield "a"; yield new Uint8Array([98]); })()).text(), "ab");
        const streamed = new Response(new ReadableStream({ start(to) { to.enqueue("x"); to.enqueue("y"); to.close(); } }));
        const other = streamed.clone();
        same("a stream twice", [await streamed.text(), await other.text()], ["xy", "xy"]);
        same("none", [new Response().body, await new Response().text(), new Response(null).bodyUsed], [null, "", false]);
        const piece = new Response("abc").body.getReader();
        same("its stream", [text((await piece.read()).value), (await piece.read()).done], ["abc", true]);
        throws("204", () => new Response("x", { status: 204 }));
        throws("99", () => new Response("", { status: 99 }), "RangeError");
        throws("of GET", () => new Request("http://h/", { body: "x" }));
        const moved = new Request(new Request("http://h/", { method: "PUT", body: "m" }), { headers: { a: "b" } });
        same("moved", [moved.method, moved.headers.get("a"), await moved.text()], ["PUT", "b", "m"]);
        const changed = new Uint8Array([97]);
        const kept = new Response(changed);
        changed[0] = 98;
        same("as it was", await kept.text(), "a");
        same("redirected", [Response.redirect("http://x/").status, Response.redirect("/y", 301).headers.get("location"), Response.error().type], [302, "/y", "error"]);
    },
    async forms() {
        const form = new FormData();
        form.append("text", "a\nü");
        form.append("file", new File(["x\r\n--y", new Uint8Array([0, 255])], 'n"1.bin', { type: "image/x" }));
        form.append("file", new Blob(["b"]));
        form.set("only", "1");
        const request = new Request("http://h/", { method: "POST", body: form });
        const read = await request.formData();
        const file = read.get("file");
        same("there and back", [read.get("text"), file.name, file.type, [...await file.bytes()], read.getAll("file")[1].name, read.get("only"), [...read.keys()]],
             ["a\r\nü", 'n"1.bin', "image/x", [120, 13, 10, 45, 45, 121, 0, 255], "blob", "1", ["text", "file", "file", "only"]]);
        const curl = "--X\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\n1\r\n--X\r\nContent-Disposition: form-data; name=f; filename=t\r\n\r\n\r\n--X--\r\n";
        const typed = (type) => ({ headers: { "content-type": type } });
        const other = await new Response(curl, typed("multipart/form-data; boundary=X")).formData();
        same("curl's", [other.get("a"), other.get("f").size, other.get("f").type], ["1", 0, "text/plain"]);
        for (const wrong of ["", "--X", "--X\r\n\r\n", "--X\r\nA: b\r\n\r\n1\r\n--X--", curl.slice(0, -8)]) {
            await rejects(`wrong form ${wrong}`, new Response(wrong, typed("multipart/form-data; boundary=X")).formData());
        }
        await rejects("no form", new Response("{}", typed("application/json")).formData());
    },
    async streams() {
        same("from", await all(ReadableStream.from([1, 2])), [1, 2]);
        let made = 0;
        let why = null;
        const stream = new ReadableStream({ pull(to) { to.enqueue(++made); }, cancel(reason) { why = reason; } });
        const reader = stream.getReader();
        throws("two readers", () => stream.getReader());
        same("pulled", [(await reader.read()).value, (await reader.read()).value, stream.locked], [1, 2, true]);
        await reader.cancel("enough");
        same("cancelled", [why, (await reader.read()).done, await reader.closed], ["enough", true, undefined]);
        await rejects("a failure", new ReadableStream({ start(to) { to.error(new RangeError("no")); } }).getReader().read(), "RangeError");
        const [one, two] = ReadableStream.from(["a", "b"]).tee();
        same("branches", await Promise.all([all(one), all(two)]), [["a", "b"], ["a", "b"]]);
        const upper = new TransformStream({ transform(chunk, to) { to.enqueue(chunk.toUpperCase()); }, flush(to) { to.enqueue("."); } });
        same("through", await all(ReadableStream.from(["a", "b"]).pipeThrough(upper)), ["A", "B", "."]);
        const halves = [...new TextEncoder().encode("ü😀")].map((byte) => new Uint8Array([byte]));
        same("decoded", (await all(ReadableStream.from(halves).pipeThrough(new TextDecoderStream()))).join(""), "ü😀");
        same("encoded", (await all(ReadableStream.from(["ü"]).pipeThrough(new TextEncoderStream()))), [new Uint8Array([195, 188])]);
        const written = [];
        const sink = new WritableStream({ async write(chunk) { await new Promise((go) => setTimeout(go, 1)); written.push(chunk); }, close() { written.push("end"); } });
        await ReadableStream.from([1, 2]).pipeTo(sink);
        same("written", written, [1, 2, "end"]);
        await rejects("a sink's failure", ReadableStream.from([1]).pipeTo(new WritableStream({ write() { throw new RangeError("full"); } })), "RangeError");
        await rejects("a source's failure", (async () => all(ReadableStream.from((function* () { yield 1; throw new RangeError("gone"); })())))(), "RangeError");
    },
    async events() {
        const target = new EventTarget();
        const heard = [];
        target.addEventListener("a", (event) => heard.push(event.type), { once: true });
        target.addEventListener("a", { handleEvent(event) { heard.push(event.detail); } });
        target.dispatchEvent(new CustomEvent("a", { detail: 1 }));
        target.dispatchEvent(new CustomEvent("a", { detail: 2 }));
        same("heard", heard, ["a", 1, 2]);
        const controller = new AbortController();
        const any = AbortSignal.any([controller.signal, AbortSignal.timeout(60000)]);
        controller.abort();
        same("aborted", [any.aborted, any.reason.name, any.reason instanceof DOMException, any.reason.code], [true, "AbortError", true, 20]);
        const late = AbortSignal.timeout(1);
        await new Promise((go) => { late.onabort = go; });
        same("late", late.reason.name, "TimeoutError");
    },
    copies() {
        const value = { a: [1, new Date(5), /x/g], m: new Map([[1, new Set([2])]]), b: new Uint8Array([1, 2]) };
        value.self = value;
        const copy = structuredClone(value);
        same("a copy", [copy.self === copy, copy.a[1].getTime(), String(copy.a[2]), copy.m.get(1).has(2), [...copy.b], copy.b.buffer === value.b.buffer],
             [true, 5, "/x/g", true, [1, 2], false]);
        throws("a function", () => structuredClone(() => {}), "DataCloneError");
    },
    async time() {
        const order = [];
        setTimeout((what) => order.push(what), 2, "second");
        setTimeout(() => order.push("first"), 1);
        clearTimeout(setTimeout(() => order.push("never"), 0));
        await new Promise((go) => setTimeout(go, 3));
        same("timers", order, ["first", "second"]);
        same("chance", [crypto.randomUUID().length, crypto.getRandomValues(new Uint8Array(8)).length, self === globalThis], [36, 8, true]);
    },
};

export default async function (request) {
    for (const [name, test] of Object.entries(tests)) {
        try {
            await test();
        } catch (error) {
            failures.push(`${name}: ${error}\n${error.stack}`);
        }
    }
    same("asked", [request.method, new URL(request.url).pathname.slice(0, 4), request.headers.get("content-type"), request.headers.get("x-empty"),
                   request.headers.get("none")], ["POST", "/fn/", "text/plain", "", null]);
    const copy = request.clone();
    same("sent", [await request.text(), await copy.text(), request.bodyUsed], ["hello world!", "hello world!", true]);
    return Response.json({ tests: Object.keys(tests).length, failures: failures.splice(0) });
}
