// Other servers, as far as the function's list allows: WHATWG Fetch, over the natives of host.c.
(function (native, web) {
    "use strict";

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
        const headers = new web.Headers();
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
        const response = web.responseOf(() => body.pieces(), view.getUint32(0, true), headers);
        response.url = from || url;
        response.redirected = from !== null;
        return [response, body];
    }

    async function fetch(input, init = {}) {
        const request = new web.Request(input, init);
        const signal = request.signal;
        const redirects = { follow: 0, manual: 4, error: 8 };
        if (!(request.redirect in redirects)) throw new TypeError(`redirect is follow, manual or error, not ${request.redirect}`);
        if (signal !== null) signal.throwIfAborted();
        const url = request.url.replace(/#.*$/s, "");
        const fields = [...request.headers].map(([name, value]) => `${name}: ${value}\r\n`).join("");
        const body = await web.wholeOf(request);
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

    web.define("fetch", fetch);
    Object.assign(web, { awaited, arriving, answered });
})
