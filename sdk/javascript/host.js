// The module "blixard": what a function may ask its host, over the natives of host.c.
// The value of this file is a function that gets the natives and returns what the module exports.
//
// Answers are there when a call returns; to `await` one does no harm.  What the host refuses is a
// HostError: `code` ("ENOENT", "EBUSY", ...), `errno`, and the node's sentence as `message`.
(function (native) {
    "use strict";

    const codes = {
        2: "EACCES", 6: "EAGAIN", 8: "EBADF", 10: "EBUSY", 11: "ECANCELED", 19: "EDQUOT", 20: "EEXIST", 28: "EINVAL", 29: "EIO",
        35: "EMSGSIZE", 44: "ENOENT", 48: "ENOMEM", 51: "ENOSPC", 52: "ENOSYS", 58: "ENOTSUP", 63: "EPERM", 65: "EPROTO", 73: "ETIMEDOUT",
    };

    class HostError extends Error {
        constructor(errno, message) {
            super(message || `error ${errno} of the host`);
            this.errno = errno;
            this.code = codes[errno] || `E${errno}`;
        }
        get name() { return "HostError"; }
    }

    const isRefusal = (answer) => typeof answer === "number" && answer < 0;

    function checked(answer) {
        if (isRefusal(answer)) throw new HostError(-answer, native.why());
        return answer;
    }

    // The same, but `codes` are no errors: they are this value.
    function or(value, expected, answer) {
        return isRefusal(answer) && expected.includes(codes[-answer]) ? value : checked(answer);
    }

    const isBytes = (value) => value instanceof ArrayBuffer || ArrayBuffer.isView(value);

    // What is sent: bytes and strings as they are, anything else as JSON.
    const payload = (value) => (typeof value === "string" || isBytes(value) ? value : JSON.stringify(value));
    const typeOf = (value, type) => type || (typeof value === "string" ? "text/plain;charset=UTF-8" : isBytes(value) ? "" : "application/json");
    function count(value) {
        const number = value === undefined ? 0 : Math.ceil(Number(value));
        if (Number.isNaN(number)) throw new TypeError(`${JSON.stringify(value)} is no number`);
        return Math.max(0, number);
    }
    // A time that is over ends at once: the host's 0 is "none".
    const lasting = (value) => (Number(value) < 0 ? 1 : count(value));
    const attributesOf = (map) => (map === undefined ? "" : JSON.stringify(Object.fromEntries(Object.entries(map).map(([n, v]) => [n, String(v)]))));

    class Entry {
        constructor(bytes, revision) {
            this.bytes = new Uint8Array(bytes);
            this.revision = revision;
        }
        text() { return new TextDecoder().decode(this.bytes); }
        json() { return JSON.parse(this.text()); }
    }

    const kv = {
        // An Entry, or null: there is no such key.
        get(key) {
            const found = or(null, ["ENOENT"], native.kvGet(String(key)));
            return found && new Entry(...found);
        },
        // The new revision.  { ttl }: milliseconds; { revision }: only if the key is at it, 0 if there is none; null: it is another.
        set(key, value, { ttl, revision } = {}) {
            return revision === undefined
                ? checked(native.kvSet(String(key), payload(value), lasting(ttl)))
                : or(null, ["EBUSY"], native.kvCas(String(key), payload(value), lasting(ttl), count(revision)));
        },
        // Write what `change` makes of the Entry (or null), again until nobody was faster; what was written.
        update(key, change, options = {}) {
            for (;;) {
                const old = kv.get(key);
                const value = change(old);
                if (kv.set(key, value, { ...options, revision: old ? old.revision : 0 }) !== null) return value;
            }
        },
        // Whether there was such a key, at this revision if one is given.
        delete(key, { revision } = {}) {
            return or(false, revision === undefined ? ["ENOENT"] : ["ENOENT", "EBUSY"], native.kvDelete(String(key), count(revision))) === 0;
        },
        // Keys that begin with `prefix`, in order.  { after }: behind this key; { limit }: at most so many (default 1,000).
        list(prefix = "", { after = "", limit = 0 } = {}) {
            return checked(native.kvList(String(prefix), String(after), count(limit)));
        },
    };

    const queue = {
        // The message's id.  { type, attributes, group, delay (milliseconds), priority (0 to 9) }
        send(name, body, { type, attributes, group = "", delay, priority } = {}) {
            return checked(native.queueSend(String(name), payload(body), typeOf(body, type), attributesOf(attributes), String(group),
                                            count(delay), count(priority)));
        },
    };

    const stream = {
        // { partition, sequence }.  Records with the same { key } keep their order.
        append(name, body, { type, attributes, key = "" } = {}) {
            const [partition, sequence] = checked(
                native.streamAppend(String(name), String(key), payload(body), typeOf(body, type), attributesOf(attributes)));
            return { partition, sequence };
        },
    };

    // u32 status, u32 length of the fields, the fields, the body.
    function responseOf(bytes) {
        const view = new DataView(bytes);
        const end = 8 + view.getUint32(4, true);
        const headers = new Headers();
        for (const line of new TextDecoder().decode(new Uint8Array(bytes, 8, end - 8)).split("\r\n")) {
            const at = line.indexOf(":");
            if (at > 0) headers.append(line.slice(0, at), line.slice(at + 1));
        }
        return new Response(new Uint8Array(bytes, end), { status: view.getUint32(0, true), headers });
    }

    // Call "NAME", "NAME:ALIAS" or "NAME:VERSION" of this project: a Response, whatever its status.
    // { method, path (with its query), headers, body, timeout (milliseconds) }
    function invoke(name, { method = "POST", path = "/", headers, body = "", timeout } = {}) {
        const all = new Headers(headers);
        if (typeOf(body) !== "" && body !== "" && !all.has("content-type")) all.set("content-type", typeOf(body));
        const fields = [...all].map(([field, value]) => `${field}: ${value}\r\n`).join("");
        return responseOf(checked(native.invoke(String(name), method, path, fields, payload(body), lasting(timeout))));
    }

    class Span {
        #number;
        constructor(name) { this.#number = checked(native.spanBegin(String(name))); }
        set(name, value) { checked(native.spanAttribute(String(name), String(value), this.#number)); return this; }
        end(failure = "") { checked(native.spanEnd(String(failure), this.#number)); }
    }

    // span(name): one to end(); span(name, work): around work(span), sync or async, and its value; what it throws is the span's failure.
    function span(name, work = undefined) {
        const begun = new Span(name);
        if (work === undefined) return begun;
        const failed = (error) => { begun.end(String(error)); throw error; };
        let value;
        try {
            value = work(begun);
        } catch (error) {
            failed(error);
        }
        if (value && typeof value.then === "function") return value.then((end) => { begun.end(); return end; }, failed);
        begun.end();
        return value;
    }

    const fieldsOf = (fields) => Object.entries(fields).map(([n, v]) => `${n}\0${String(v).replace(/\0/g, "")}\0`).join("");
    const say = (level) => (text, fields = {}) => { checked(native.log(String(text), fieldsOf(fields), level)); };
    const log = { error: say(3), warn: say(4), info: say(6), debug: say(7) };

    const facts = ["project", "function", "version", "requestId", "traceparent"];
    const metadata = () => Object.fromEntries(facts.map((name, which) => [name, checked(native.metadata(which))]));

    // Milliseconds until this request must be answered.
    const deadline = () => native.deadline();

    // A secret that the function's configuration names, as it is now: text, or with { bytes: true } its bytes.
    function secret(name, { bytes = false } = {}) {
        const value = new Uint8Array(checked(native.secretGet(String(name))));
        return bytes ? value : new TextDecoder().decode(value);
    }

    // What the body's generator has yielded goes to the client now.
    const flush = () => { checked(native.flush()); };

    return { kv, queue, stream, invoke, span, log, deadline, metadata, flush, secret, HostError };
})
