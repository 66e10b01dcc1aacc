// What a script finds: the parts of the web's own interfaces that a function needs (WHATWG Fetch,
// URL, Encoding, HTML timers; W3C console), over the few natives of engine.c.
// The value of this file is a function that gets the natives and returns what answers a request.
(function (native) {
    "use strict";

    const define = (name, value) => Object.defineProperty(globalThis, name, { value, writable: true, configurable: true });
    const isBytes = (value) => value instanceof ArrayBuffer || ArrayBuffer.isView(value);

    // ---- Encoding ----

    class TextEncoder {
        get encoding() { return "utf-8"; }
        encode(text = "") { return new Uint8Array(native.encode(String(text))); }
    }

    class TextDecoder {
        #fatal;
        constructor(label = "utf-8", { fatal = false } = {}) {
            if (!/^\s*(utf-?8|unicode-1-1-utf-8)\s*$/i.test(label)) throw new RangeError(`encoding ${label} is not here: utf-8 is`);
            this.#fatal = fatal;
        }
        get encoding() { return "utf-8"; }
        get fatal() { return this.#fatal; }
        decode(bytes = new Uint8Array()) {
            const text = native.decode(bytes);
            if (this.#fatal && text.includes("\uFFFD")) throw new TypeError("not UTF-8");
            return text.charCodeAt(0) === 0xfeff ? text.slice(1) : text;
        }
    }

    const base64 = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

    function btoa(text) {
        text = String(text);
        let out = "";
        for (let i = 0; i < text.length; i += 3) {
            const [a, b, c] = [text.charCodeAt(i), text.charCodeAt(i + 1), text.charCodeAt(i + 2)];
            if (a > 255 || b > 255 || c > 255) throw new RangeError("btoa: a character above U+00FF");
            out += base64[a >> 2] + base64[((a & 3) << 4) | (b >> 4)] +
                (i + 1 < text.length ? base64[((b & 15) << 2) | (c >> 6)] : "=") +
                (i + 2 < text.length ? base64[c & 63] : "=");
        }
        return out;
    }

    function atob(text) {
        text = String(text).replace(/[\t\n\f\r ]/g, "");
        if (text.length % 4 === 0) text = text.replace(/==?$/, "");
        if (text.length % 4 === 1 || /[^A-Za-z0-9+/]/.test(text)) throw new RangeError("atob: not base64");
        let out = "";
        for (let i = 0, bits = 0, held = 0; i < text.length; i++) {
            held = (held << 6) | base64.indexOf(text[i]);
            bits += 6;
            if (bits >= 8) {
                bits -= 8;
                out += String.fromCharCode((held >> bits) & 255);
                held &= (1 << bits) - 1;
            }
        }
        return out;
    }

    // ---- Console ----

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
        if (Array.isArray(value) || ArrayBuffer.isView(value)) return `[${Array.from(value, inner).join(", ")}]`;
        if (value instanceof Map) return `Map {${Array.from(value, ([k, v]) => `${inner(k)} => ${inner(v)}`).join(", ")}}`;
        if (value instanceof Set) return `Set {${Array.from(value, inner).join(", ")}}`;
        if (value instanceof Date || value instanceof RegExp) return String(value);
        return `{${Object.entries(value).map(([k, v]) => `${k}: ${inner(v)}`).join(", ")}}`;
    }

    const say = (level) => (...values) => {
        for (const line of values.map((value) => show(value)).join(" ").split("\n")) native.log(level, line);
    };
    define("console", { log: say(6), info: say(6), debug: say(7), trace: say(7), warn: say(4), error: say(3) });

    // ---- URL ----

    const unescapeForm = (text) => {
        const bytes = [];
        for (const byte of new TextEncoder().encode(text.replace(/\+/g, " "))) bytes.push(byte);
        const out = [];
        for (let i = 0; i < bytes.length; i++) {
            const hex = bytes[i] === 37 ? parseInt(String.fromCharCode(bytes[i + 1] || 0, bytes[i + 2] || 0), 16) : NaN;
            const isEscape = bytes[i] === 37 && /^[0-9a-f]{2}$/i.test(String.fromCharCode(bytes[i + 1] || 0, bytes[i + 2] || 0));
            out.push(isEscape ? hex : bytes[i]);
            i += isEscape ? 2 : 0;
        }
        return native.decode(new Uint8Array(out));
    };
    const escapeForm = (text) => encodeURIComponent(text).replace(/[!'()~]/g, (c) => "%" + c.charCodeAt(0).toString(16).toUpperCase())
        .replace(/%20/g, "+");

    class URLSearchParams {
        #pairs = [];
        #changed;
        constructor(init = "", changed = undefined) {
            this.#changed = typeof changed === "function" ? changed : () => {};
            if (typeof init === "object" && init !== null) {
                for (const [name, value] of typeof init[Symbol.iterator] === "function" ? init : Object.entries(init)) {
                    this.#pairs.push([String(name), String(value)]);
                }
                return;
            }
            for (const part of String(init).replace(/^\?/, "").split("&")) {
                if (part === "") continue;
                const at = part.indexOf("=");
                this.#pairs.push(at < 0 ? [unescapeForm(part), ""] : [unescapeForm(part.slice(0, at)), unescapeForm(part.slice(at + 1))]);
            }
        }
        get size() { return this.#pairs.length; }
        append(name, value) { this.#pairs.push([String(name), String(value)]); this.#changed(this); }
        delete(name) { this.#pairs = this.#pairs.filter(([n]) => n !== name); this.#changed(this); }
        get(name) { const pair = this.#pairs.find(([n]) => n === name); return pair ? pair[1] : null; }
        getAll(name) { return this.#pairs.filter(([n]) => n === name).map(([, v]) => v); }
        has(name) { return this.#pairs.some(([n]) => n === name); }
        set(name, value) {
            const at = this.#pairs.findIndex(([n]) => n === name);
            if (at < 0) return this.append(name, value);
            this.#pairs = this.#pairs.filter(([n], i) => n !== name || i === at);
            this.#pairs[this.#pairs.findIndex(([n]) => n === name)][1] = String(value);
            this.#changed(this);
        }
        sort() { this.#pairs.sort(([a], [b]) => (a < b ? -1 : a > b ? 1 : 0)); this.#changed(this); }
        forEach(visit, self) { for (const [n, v] of this.#pairs) visit.call(self, v, n, this); }
        *entries() { yield* this.#pairs.map((pair) => [...pair]); }
        *keys() { for (const [n] of this.#pairs) yield n; }
        *values() { for (const [, v] of this.#pairs) yield v; }
        [Symbol.iterator]() { return this.entries(); }
        toString() { return this.#pairs.map(([n, v]) => `${escapeForm(n)}=${escapeForm(v)}`).join("&"); }
    }

    const ports = { "http:": "80", "https:": "443", "ws:": "80", "wss:": "443", "ftp:": "21" };
    const escapePath = (text, also) => Array.from(text, (c) => c <= " " || c > "~" || also.includes(c) ?
        Array.from(new TextEncoder().encode(c), (b) => "%" + b.toString(16).toUpperCase().padStart(2, "0")).join("") : c).join("");

    function withoutDots(path) {
        const out = [];
        const parts = path.split("/").slice(1);
        parts.forEach((part, i) => {
            const plain = part.replace(/%2e/gi, ".");
            if (plain === "..") out.pop();
            else if (plain !== ".") out.push(part);
            if ((plain === ".." || plain === ".") && i === parts.length - 1) out.push("");
        });
        return "/" + out.join("/");
    }

    class URL {
        #params;
        constructor(url, base = undefined) {
            const from = base === undefined ? null : new URL(base);
            url = String(url).trim();
            const whole = /^([a-z][a-z0-9+.-]*:)(.*)$/is.exec(url);
            if (!whole && !from) throw new TypeError(`not a URL: ${url}`);
            let rest = whole ? whole[2] : url;
            this.protocol = (whole ? whole[1] : from.protocol).toLowerCase();
            const take = (mark) => {
                const at = rest.indexOf(mark);
                const tail = at < 0 ? null : rest.slice(at + 1);
                rest = at < 0 ? rest : rest.slice(0, at);
                return tail;
            };
            const fragment = take("#");
            const query = take("?");
            this.hash = fragment ? "#" + escapePath(fragment, ' "<>`') : "";
            this.username = this.password = this.hostname = this.port = "";
            const isSpecial = this.protocol in ports;
            if (isSpecial) rest = rest.replace(/\\/g, "/");
            if (rest.startsWith("//") || (whole && isSpecial)) {
                const [, authority, path] = /^\/*([^/]*)(.*)$/s.exec(rest);
                const [, user, host, port] = /^(?:(.*)@)?(\[[0-9a-f:.]+\]|[^:@]*)(?::(\d*))?$/is.exec(authority) || [];
                if (host === undefined || (isSpecial && host === "") || /[\s<>^|%"`{}\\]/.test(host) || Number(port) > 65535) {
                    throw new TypeError(`not a URL: ${url}`);
                }
                const [, name, secret] = /^([^:]*):?(.*)$/s.exec(user || "");
                this.username = escapePath(name, ' "<>`?{}/:;=@[]^|');
                this.password = escapePath(secret, ' "<>`?{}/:;=@[]^|');
                this.hostname = host.toLowerCase();
                this.port = port && port !== ports[this.protocol] ? String(Number(port)) : "";
                rest = path;
            } else if (from) {
                this.username = from.username;
                this.password = from.password;
                this.hostname = from.hostname;
                this.port = from.port;
                if (rest === "") {
                    rest = from.pathname;
                    if (query === null) this.search = from.search;
                } else if (!rest.startsWith("/")) {
                    rest = from.pathname.replace(/[^/]*$/, "") + rest;
                }
            } else if (whole && !rest.startsWith("/")) {
                this.pathname = escapePath(rest, "");
            }
            this.pathname = this.pathname ?? withoutDots(escapePath(rest === "" ? "/" : rest, ' "<>`{}?#'));
            this.search = this.search ?? (query ? "?" + escapePath(query, ' "<>\'') : "");
            this.#params = new URLSearchParams(this.search, (all) => { this.search = all.size ? "?" + all : ""; });
        }
        get searchParams() { return this.#params; }
        get host() { return this.hostname + (this.port ? ":" + this.port : ""); }
        get origin() { return this.protocol in ports ? `${this.protocol}//${this.host}` : "null"; }
        get href() {
            const user = this.username || this.password ? this.username + (this.password ? ":" + this.password : "") + "@" : "";
            return this.protocol + (this.hostname || this.protocol in ports ? `//${user}${this.host}` : "") + this.pathname + this.search + this.hash;
        }
        toString() { return this.href; }
        toJSON() { return this.href; }
    }

    // ---- Fetch: Headers, Request, Response ----

    class Headers {
        #map = new Map();
        constructor(init = undefined) {
            if (init === undefined || init === null) return;
            for (const [name, value] of typeof init[Symbol.iterator] === "function" ? init : Object.entries(init)) this.append(name, value);
        }
        static #name(name) {
            name = String(name).toLowerCase();
            if (!/^[!#$%&'*+.^_`|~0-9a-z-]+$/.test(name)) throw new TypeError(`not a header's name: ${name}`);
            return name;
        }
        static #value(value) {
            value = String(value).replace(/^[\t\r\n ]+|[\t\r\n ]+$/g, "");
            if (/[\0\r\n]/.test(value)) throw new TypeError("a header's value has a line's end");
            return value;
        }
        append(name, value) {
            name = Headers.#name(name);
            this.#map.set(name, [...(this.#map.get(name) || []), Headers.#value(value)]);
        }
        set(name, value) { this.#map.set(Headers.#name(name), [Headers.#value(value)]); }
        get(name) { const all = this.#map.get(Headers.#name(name)); return all ? all.join(", ") : null; }
        has(name) { return this.#map.has(Headers.#name(name)); }
        delete(name) { this.#map.delete(Headers.#name(name)); }
        getSetCookie() { return [...(this.#map.get("set-cookie") || [])]; }
        forEach(visit, self) { for (const [n, v] of this) visit.call(self, v, n, this); }
        *entries() {
            for (const name of [...this.#map.keys()].sort()) {
                if (name === "set-cookie") for (const value of this.#map.get(name)) yield [name, value];
                else yield [name, this.#map.get(name).join(", ")];
            }
        }
        *keys() { for (const [n] of this.entries()) yield n; }
        *values() { for (const [, v] of this.entries()) yield v; }
        [Symbol.iterator]() { return this.entries(); }
    }

    const joined = (parts) => {
        const whole = new Uint8Array(parts.reduce((sum, part) => sum + part.byteLength, 0));
        let at = 0;
        for (const part of parts) {
            whole.set(new Uint8Array(part.buffer || part, part.byteOffset || 0, part.byteLength), at);
            at += part.byteLength;
        }
        return whole;
    };

    // A body: null, a string, bytes, URLSearchParams, or what gives strings and bytes one after the other.
    class Body {
        #body;
        #used = false;
        constructor(body) { this.#body = body ?? null; }
        static typeOf(body) {
            return typeof body === "string" ? "text/plain;charset=UTF-8" :
                body instanceof URLSearchParams ? "application/x-www-form-urlencoded;charset=UTF-8" : null;
        }
        get bodyUsed() { return this.#used; }
        get body() { return this.#body === null ? null : { [Symbol.asyncIterator]: () => this._pieces() }; }
        async *_pieces() {
            if (this.#used) throw new TypeError("the body was read already");
            this.#used = this.#body !== null;
            const body = this.#body instanceof URLSearchParams ? String(this.#body) : this.#body;
            if (body === null) return;
            if (typeof body === "string" || isBytes(body)) { yield body; return; }
            const pieces = typeof body === "function" ? body() : body;
            if (pieces[Symbol.asyncIterator] || pieces[Symbol.iterator]) {
                for await (const piece of pieces) yield piece;
                return;
            }
            yield String(body);
        }
        async arrayBuffer() { return (await this.bytes()).buffer; }
        async bytes() {
            const parts = [];
            for await (const piece of this._pieces()) parts.push(isBytes(piece) ? piece : new TextEncoder().encode(piece));
            return joined(parts);
        }
        async text() { return new TextDecoder().decode(await this.bytes()); }
        async json() { return JSON.parse(await this.text()); }
        async formData() {
            const type = this.headers.get("content-type") || "";
            if (!type.startsWith("application/x-www-form-urlencoded")) throw new TypeError(`formData() reads urlencoded forms, not ${type}`);
            return new URLSearchParams(await this.text());
        }
    }

    const withType = (headers, body) => {
        const type = Body.typeOf(body);
        if (type !== null && !headers.has("content-type")) headers.set("content-type", type);
        return headers;
    };

    class Request extends Body {
        constructor(input, init = {}) {
            const from = input instanceof Request ? input : null;
            const body = init.body !== undefined ? init.body : from && from.body;
            super(body);
            this.url = from ? from.url : String(new URL(input));
            this.method = String(init.method || (from ? from.method : "GET")).toUpperCase();
            this.headers = withType(new Headers(init.headers || (from ? from.headers : undefined)), init.body);
            this.redirect = init.redirect || (from ? from.redirect : "follow");
            this.signal = init.signal || (from ? from.signal : null);
            if (body !== null && body !== undefined && /^(GET|HEAD)$/.test(this.method)) throw new TypeError(`a ${this.method} has no body`);
        }
    }

    class Response extends Body {
        constructor(body = null, init = {}) {
            super(body);
            this.status = init.status === undefined ? 200 : Number(init.status);
            if (!(this.status >= 200 && this.status <= 599)) throw new RangeError(`${init.status} is not a status from 200 to 599`);
            this.statusText = init.statusText || "";
            this.headers = withType(new Headers(init.headers), body);
            this.url = init.url || "";
            this.redirected = false;
            this.type = "default";
        }
        get ok() { return this.status >= 200 && this.status < 300; }
        static json(value, init = {}) {
            const headers = new Headers(init.headers);
            if (!headers.has("content-type")) headers.set("content-type", "application/json");
            return new Response(JSON.stringify(value), { ...init, headers });
        }
        static redirect(url, status = 302) { return new Response(null, { status, headers: { location: String(url) } }); }
    }

    // ---- Fetch: elsewhere, as far as the function's list allows ----

    const named = (name, message) => Object.defineProperty(new Error(message), "name", { value: name, configurable: true });

    class AbortSignal {
        #listeners = new Set();
        #reason = undefined;
        #isAborted = false;
        onabort = null;
        get aborted() { return this.#isAborted; }
        get reason() { return this.#reason; }
        throwIfAborted() { if (this.#isAborted) throw this.#reason; }
        addEventListener(type, listener) { if (type === "abort") this.#listeners.add(listener); }
        removeEventListener(type, listener) { if (type === "abort") this.#listeners.delete(listener); }
        _abort(reason = named("AbortError", "the operation was aborted")) {
            if (this.#isAborted) return this;
            this.#isAborted = true;
            this.#reason = reason;
            const event = { type: "abort", target: this };
            if (typeof this.onabort === "function") this.onabort(event);
            for (const listener of [...this.#listeners]) (listener.handleEvent || listener).call(this, event);
            return this;
        }
        static abort(reason) { return new AbortSignal()._abort(reason); }
        static timeout(ms) {
            const signal = new AbortSignal();
            setTimeout(() => signal._abort(named("TimeoutError", "the operation took too long")), ms);
            return signal;
        }
    }

    class AbortController {
        signal = new AbortSignal();
        abort(reason) { this.signal._abort(reason); }
    }

    // Fetches that somebody waits for, by their numbers: what goes on when one can be taken or read.
    const awaited = new Map();
    const ready = (which) => new Promise((resolve) => awaited.set(which, resolve));

    // Refused with a TypeError, as everywhere; its `code` is the word that the node's sentence begins with.
    function answered(answer) {
        if (typeof answer !== "number" || answer >= 0) return answer;
        const text = native.why();
        const error = new TypeError(text || `fetch failed: error ${-answer} of the host`);
        error.code = (/^([a-z_]+): /.exec(text) || [null, "failed"])[1];
        throw error;
    }

    // Bodies that are not all here, the oldest first.
    const arriving = new Set();

    class Arriving {
        constructor(which, first) {
            this.which = which;
            this.parts = first.byteLength > 0 ? [first] : [];
            this.error = null;
            this.isRead = false;
            if (which > 0) arriving.add(this);
        }
        end(error = null) {
            this.which = 0;
            this.error = error;
            arriving.delete(this);
        }
        async fetchMore() {
            await ready(this.which);
            try {
                const piece = answered(native.fetchRead(this.which));
                if (piece.byteLength > 0) this.parts.push(new Uint8Array(piece));
                else this.end();
            } catch (error) {
                this.end(error);
            }
        }
        break(error) {
            if (this.which > 0) {
                awaited.delete(this.which);
                native.fetchClose(this.which);
                this.end(error);
            }
        }
        async *pieces() {
            this.isRead = true;
            try {
                for (;;) {
                    while (this.parts.length > 0) yield this.parts.shift();
                    if (this.error !== null) throw this.error;
                    if (this.which === 0) return;
                    await this.fetchMore();
                }
            } finally {
                this.break(null);
            }
        }
    }

    // The node has room for some at once.  A body that nobody reads is taken in when there is none left.
    async function beginFetch(...what) {
        for (;;) {
            const which = native.fetchBegin(...what);
            const unread = which === -19 ? [...arriving].find((body) => !body.isRead) : undefined;
            if (unread === undefined) return answered(which);
            while (unread.which > 0) await unread.fetchMore();
        }
    }

    function headersOf(text) {
        const headers = new Headers();
        for (const line of text.split("\r\n")) {
            const at = line.indexOf(":");
            if (at > 0) headers.append(line.slice(0, at), line.slice(at + 1));
        }
        return headers;
    }

    // u32 status, u32 length of the fields, the fields, what there is of the body.
    function arrived(bytes, rest, url) {
        const view = new DataView(bytes);
        const end = 8 + view.getUint32(4, true);
        const headers = headersOf(native.decode(new Uint8Array(bytes, 8, end - 8)));
        const from = headers.get("blixard-url");
        headers.delete("blixard-url");
        const body = new Arriving(rest, new Uint8Array(bytes, end));
        const response = new Response(() => body.pieces(), { status: view.getUint32(0, true), headers, url: from || url });
        response.redirected = from !== null;
        return [response, body];
    }

    async function fetch(input, init = {}) {
        const request = new Request(input, init);
        const signal = init.signal || (input instanceof Request ? input.signal : null) || null;
        const redirects = { follow: 0, manual: 4, error: 8 };
        if (!(request.redirect in redirects)) throw new TypeError(`redirect is follow, manual or error, not ${request.redirect}`);
        if (signal !== null) signal.throwIfAborted();
        const url = request.url.replace(/#.*$/s, "");
        const fields = [...request.headers].map(([name, value]) => `${name}: ${value}\r\n`).join("");
        const body = request.body === null ? null : await request.bytes();
        const which = await beginFetch(request.method, url, fields, body, 1 | redirects[request.redirect]);
        let stop = () => {};
        const whenReady = new Promise((resolve, reject) => {
            awaited.set(which, resolve);
            stop = () => { awaited.delete(which); native.fetchClose(which); reject(signal.reason); };
        });
        const onAbort = () => stop();
        if (signal !== null) signal.addEventListener("abort", onAbort);
        try {
            if (signal !== null && signal.aborted) stop();
            await whenReady;
            const [response, rest] = arrived(...answered(native.fetchTake(which)), url);
            stop = () => rest.break(signal.reason);
            return response;
        } catch (error) {
            if (signal !== null) signal.removeEventListener("abort", onAbort);
            throw error;
        }
    }

    // ---- Timers: due in order of time, then of making ----

    let timers = [];
    let timerCount = 0;
    const begin = (call, ms, repeats, values) => {
        timers.push({ id: ++timerCount, due: native.now() + Math.max(0, Number(ms) || 0), ms: Number(ms) || 0, repeats, call, values });
        return timerCount;
    };
    const end = (id) => { timers = timers.filter((timer) => timer.id !== id); };
    define("setTimeout", (call, ms, ...values) => begin(call, ms, false, values));
    define("setInterval", (call, ms, ...values) => begin(call, ms, true, values));
    define("clearTimeout", end);
    define("clearInterval", end);
    define("queueMicrotask", (call) => { Promise.resolve().then(call); });

    // Until one of the fetches that are waited for goes on, or this timer is due; false: it is.
    function wait(next) {
        let among = 0;
        for (const which of awaited.keys()) among |= 1 << (which - 1);
        const which = answered(native.fetchWait(among, next === null ? 0xffffffff : Math.ceil(next.due - native.now())));
        const go = awaited.get(which);
        awaited.delete(which);
        if (go) go();
        return which > 0 || next === null;
    }

    // A fetch that goes on, or one timer, after the time it needs; false: there is neither.
    function fire() {
        const next = timers.length === 0 ? null : timers.reduce((a, b) => (b.due < a.due ? b : a));
        if (awaited.size > 0 && wait(next)) return true;
        if (next === null) return false;
        native.sleep(next.due - native.now());
        if (next.repeats) next.due = native.now() + Math.max(1, next.ms);
        else end(next.id);
        next.call(...next.values);
        return true;
    }

    // ---- Chance and time ----

    const uuid = () => {
        const bytes = new Uint8Array(16);
        native.random(bytes);
        bytes[6] = (bytes[6] & 15) | 64;
        bytes[8] = (bytes[8] & 63) | 128;
        return Array.from(bytes, (b, i) => ([4, 6, 8, 10].includes(i) ? "-" : "") + b.toString(16).padStart(2, "0")).join("");
    };
    define("crypto", { getRandomValues(view) { native.random(view); return view; }, randomUUID: uuid });
    define("performance", { now: () => native.now() });
    // The engine's own generator would go on from the snapshot, the same in every request.
    Math.random = () => {
        const words = new Uint32Array(2);
        native.random(words);
        return ((words[0] >>> 5) * 67108864 + (words[1] >>> 6)) / 9007199254740992;
    };

    const all = {
        TextEncoder, TextDecoder, btoa, atob, URL, URLSearchParams, Headers, Request, Response, fetch, AbortController, AbortSignal,
    };
    for (const [name, value] of Object.entries(all)) {
        define(name, value);
    }

    // ---- The script, and a request ----

    let script = null;
    define("__take", (exports) => { script = exports; delete globalThis.__take; });

    function handlerOf() {
        const main = script.default;
        const found = typeof main === "function" ? main :
            main && typeof main.fetch === "function" ? main.fetch.bind(main) :
            typeof script.handle === "function" ? script.handle : null;
        if (found === null) throw new TypeError("main.js exports no handler: export default async function (request) { ... }");
        return found;
    }

    function* fieldsOf(environment) {
        for (const [name, value] of Object.entries(environment)) {
            if (name.startsWith("HTTP_")) yield [name.slice(5).toLowerCase().replace(/_/g, "-"), value];
        }
        if (environment.CONTENT_TYPE) yield ["content-type", environment.CONTENT_TYPE];
        if (environment.CONTENT_LENGTH) yield ["content-length", environment.CONTENT_LENGTH];
    }

    function* input() {
        for (let piece = native.read(); piece !== null; piece = native.read()) yield new Uint8Array(piece);
    }

    function requestOf(environment) {
        const host = environment.HTTP_HOST || `${environment.SERVER_NAME || "localhost"}:${environment.SERVER_PORT || 80}`;
        const method = environment.REQUEST_METHOD || "POST";
        return new Request(`http://${host}${environment.REQUEST_URI || "/"}`, {
            method, headers: [...fieldsOf(environment)], body: /^(GET|HEAD)$/.test(method) ? undefined : input,
        });
    }

    async function send(response) {
        if (!(response instanceof Response)) {
            response = typeof response === "string" || isBytes(response) || response === undefined ? new Response(response) : Response.json(response);
        }
        native.status(response.status);
        for (const [name, value] of response.headers) native.header(name, value);
        native.write("");
        for await (const piece of response._pieces()) native.write(isBytes(piece) ? piece : String(piece));
    }

    async function serve(environment) {
        const context = {
            environment, requestId: environment.BLIXARD_REQUEST_ID || "", path: environment.PATH_INFO || "/", client: environment.REMOTE_ADDR || "",
        };
        await send(await handlerOf()(requestOf(environment), environment, context));
    }

    return function () {
        awaited.clear(); // what the request before has left there is over
        arriving.clear();
        let isOver = false;
        let error = null;
        serve(native.environment()).then(() => { isOver = true; }, (why) => { error = why; isOver = true; });
        return {
            step() {
                if (error !== null) throw error;
                if (!isOver && !fire()) throw new TypeError("the handler waits for something that never comes");
                return isOver;
            },
        };
    };
})
