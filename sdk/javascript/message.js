// Headers, Request, Response: WHATWG Fetch.
//
// A request costs a function what it looks at: its URL and fields are made of the node's variables
// when they are asked for, and a body of one piece is neither copied nor made a stream.
(function (native, web) {
    "use strict";

    const { define, isBytes, bytesOf, textOf, joined, Blob, FormData } = web;

    const MAP = Symbol("map");

    // ---- Headers ----

    // What scripts write, to what it is: names are few.
    const names = new Map();
    function nameOf(text) {
        const known = names.get(text);
        if (known !== undefined) return known;
        const name = `${text}`.toLowerCase();
        if (!/^[!#$%&'*+.^_`|~0-9a-z-]+$/.test(name)) throw new TypeError(`not a header's name: ${name}`);
        if (names.size >= 512) names.clear();
        if (typeof text === "string") names.set(text, name);
        return name;
    }
    function valueOf(text) {
        let value = `${text}`;
        if (/^[\t\r\n ]|[\t\r\n ]$/.test(value)) value = value.replace(/^[\t\r\n ]+|[\t\r\n ]+$/g, "");
        if (/[\0\r\n]/.test(value)) throw new TypeError("a header's value has a line's end");
        return value;
    }

    // A map of names to values; that of set-cookie is an array of them.
    class Headers {
        constructor(init = undefined) {
            this[MAP] = new Map();
            if (init === undefined || init === null) return;
            if (typeof init !== "object") throw new TypeError("headers are pairs or an object");
            if (init instanceof Headers) {
                for (const [name, value] of init[MAP]) this[MAP].set(name, typeof value === "string" ? value : [...value]);
                return;
            }
            if (typeof init[Symbol.iterator] !== "function") {
                for (const name of Object.keys(init)) this.append(name, init[name]);
                return;
            }
            for (const pair of init) {
                const [name, value, ...more] = pair;
                if (value === undefined || more.length > 0) throw new TypeError("a header is a name and a value");
                this.append(name, value);
            }
        }
        append(name, value) {
            const key = nameOf(name);
            const text = valueOf(value);
            const old = this[MAP].get(key);
            if (key === "set-cookie") this[MAP].set(key, [...(old || []), text]);
            else this[MAP].set(key, old === undefined ? text : `${old}, ${text}`);
        }
        set(name, value) {
            const key = nameOf(name);
            const text = valueOf(value);
            this[MAP].set(key, key === "set-cookie" ? [text] : text);
        }
        get(name) {
            const value = this[MAP].get(nameOf(name));
            return value === undefined ? null : typeof value === "string" ? value : value.join(", ");
        }
        has(name) { return this[MAP].has(nameOf(name)); }
        delete(name) { this[MAP].delete(nameOf(name)); }
        getSetCookie() { return [...(this[MAP].get("set-cookie") || [])]; }
        forEach(visit, self) { for (const [n, v] of pairsOf(this)) visit.call(self, v, n, this); }
        entries() { return pairsOf(this)[Symbol.iterator](); }
        keys() { return pairsOf(this).map(([n]) => n)[Symbol.iterator](); }
        values() { return pairsOf(this).map(([, v]) => v)[Symbol.iterator](); }
        [Symbol.iterator]() { return this.entries(); }
    }

    function pairsOf(headers) {
        const pairs = [];
        for (const name of [...headers[MAP].keys()].sort()) {
            const value = headers[MAP].get(name);
            if (typeof value === "string") pairs.push([name, value]);
            else for (const one of value) pairs.push([name, one]);
        }
        return pairs;
    }

    function headersOf(map) {
        const headers = new Headers();
        headers[MAP] = map;
        return headers;
    }

    // ---- Bodies: null, a string, bytes, or what gives strings and bytes one after the other ----

    const BODY = Symbol("body");
    const USED = Symbol("used");
    const STREAM = Symbol("stream"); // of the body, once somebody has asked for it

    function typeOf(body) {
        if (typeof body === "string") return "text/plain;charset=UTF-8";
        if (body instanceof web.URLSearchParams) return "application/x-www-form-urlencoded;charset=UTF-8";
        return body instanceof Blob && body.type !== "" ? body.type : null;
    }

    // What a body is sent as, and its type: a form's parts are parted by what comes by chance.
    function bodyOf(value) {
        if (!(value instanceof FormData)) return [taken(value), typeOf(value)];
        const boundary = web.boundary();
        return [web.writeForm(value, boundary), `multipart/form-data; boundary=${boundary}`];
    }

    // As it was when it was given: bytes and parameters may change afterwards.
    function taken(body) {
        if (body === null || body === undefined) return null;
        if (body instanceof web.URLSearchParams || (typeof body !== "object" && typeof body !== "function")) return `${body}`;
        if (isBytes(body)) return web.viewOf(body).slice();
        if (body instanceof Blob) return web.bytesOfBlob(body);
        if (body instanceof web.ReadableStream) {
            if (body.locked || body._isDisturbed) throw new TypeError("the stream that is to be a body was read already");
            return body;
        }
        if (typeof body === "function" || body[Symbol.asyncIterator] || body[Symbol.iterator]) return body;
        return `${body}`;
    }

    // What a body that is no string and no bytes gives.
    async function* piecesOf(body) {
        const pieces = typeof body === "function" ? body() : body;
        for await (const piece of pieces) yield isBytes(piece) ? piece : `${piece}`;
    }

    // The body, which is read by this: a string, bytes, or an async iterator.
    function take(message) {
        if (message.bodyUsed) throw new TypeError("the body was read already");
        const body = message[BODY];
        message[USED] = body !== null;
        if (message[STREAM] === null) return body === null || typeof body === "string" || isBytes(body) ? body : piecesOf(body);
        return message[STREAM].values();
    }

    // ... a string, or bytes.
    async function whole(message) {
        if (message[BODY] instanceof Input && message[STREAM] === null && !message[USED]) {
            message[USED] = true;
            return message[BODY].rest();
        }
        const body = take(message);
        if (body === null) return "";
        if (typeof body === "string" || isBytes(body)) return body;
        const parts = [];
        for await (const piece of body) parts.push(bytesOf(piece));
        return parts.length === 1 ? parts[0] : joined(parts);
    }

    // What a client sends, as it arrives.
    class Input {
        next() {
            const piece = native.read();
            return piece === null ? { done: true, value: undefined } : { done: false, value: new Uint8Array(piece) };
        }
        [Symbol.iterator]() { return this; }
        rest() {
            const parts = [];
            for (let piece = native.read(); piece !== null; piece = native.read()) parts.push(new Uint8Array(piece));
            return parts.length === 1 ? parts[0] : joined(parts);
        }
    }

    class Body {
        get bodyUsed() { return this[USED] || (this[STREAM] !== null && this[STREAM]._isDisturbed === true); }
        get body() {
            if (this[STREAM] === null && this[BODY] !== null) {
                const body = this[BODY];
                const pieces = this[USED] ? [] : typeof body === "string" || isBytes(body) ? (body.length > 0 ? [body] : []) : piecesOf(body);
                const bytes = (async function* () { for await (const piece of pieces) yield bytesOf(piece); })();
                this[STREAM] = body instanceof web.ReadableStream ? body : web.ReadableStream.from(bytes);
            }
            return this[STREAM];
        }
        async bytes() { return bytesOf(await whole(this)); }
        async arrayBuffer() {
            const { buffer, byteOffset, byteLength } = bytesOf(await whole(this));
            return byteLength === buffer.byteLength ? buffer : buffer.slice(byteOffset, byteOffset + byteLength);
        }
        async text() {
            const body = await whole(this);
            return typeof body === "string" ? body : textOf(body);
        }
        async json() { return JSON.parse(await this.text()); }
        async blob() { return new Blob([await whole(this)], { type: this.headers.get("content-type") || "" }); }
        async formData() {
            const type = this.headers.get("content-type") || "";
            const form = new FormData();
            if (/^multipart\/form-data *;/i.test(type)) return web.readForm(bytesOf(await whole(this)), type);
            if (!/^application\/x-www-form-urlencoded *(;|$)/i.test(type)) throw new TypeError(`formData() reads forms, not "${type}"`);
            for (const [name, value] of new web.URLSearchParams(await this.text())) form.append(name, value);
            return form;
        }
    }

    // Two bodies of one.
    function copyBody(from, into) {
        if (from.bodyUsed || (from[STREAM] !== null && from[STREAM].locked)) throw new TypeError("the body was read already");
        const body = from[BODY];
        into[BODY] = body;
        if (body === null || ((typeof body === "string" || isBytes(body)) && from[STREAM] === null)) return into;
        const [one, other] = from.body.tee();
        from[STREAM] = from[BODY] = one;
        into[STREAM] = into[BODY] = other;
        return into;
    }

    function begin(message, body) {
        message[BODY] = body;
        message[USED] = false;
        message[STREAM] = null;
        return message;
    }

    // ---- Requests ----

    const URL_ = Symbol("url");
    const HEADERS = Symbol("headers");
    const ENVIRONMENT = Symbol("environment");

    class Request extends Body {
        constructor(input, init = {}) {
            super();
            const from = input instanceof Request ? input : null;
            begin(this, null);
            const method = init.method === undefined ? (from ? from.method : "GET") : `${init.method}`;
            if (!/^[!#$%&'*+.^_`|~0-9A-Za-z-]+$/.test(method)) throw new TypeError(`not a method: ${method}`);
            const upper = method.toUpperCase();
            this.method = /^(DELETE|GET|HEAD|OPTIONS|PATCH|POST|PUT)$/.test(upper) ? upper : method;
            this[URL_] = from ? from.url : new web.URL(input).href;
            this[HEADERS] = new Headers(init.headers || (from ? from.headers : undefined));
            this.redirect = init.redirect || (from ? from.redirect : "follow");
            this.signal = init.signal || (from ? from.signal : null);
            const hasBody = init.body !== undefined && init.body !== null;
            if ((hasBody || (from && init.body === undefined && from[BODY] !== null)) && /^(GET|HEAD)$/.test(this.method)) {
                throw new TypeError(`a ${this.method} has no body`);
            }
            if (hasBody) {
                const [bytes, type] = bodyOf(init.body);
                this[BODY] = bytes;
                if (type !== null && !this[HEADERS].has("content-type")) this[HEADERS].set("content-type", type);
            } else if (from && init.body === undefined && from[BODY] !== null) {
                if (from.bodyUsed) throw new TypeError("the body was read already");
                this[BODY] = from[BODY];
                this[STREAM] = from[STREAM];
                from[BODY] = "";
                from[STREAM] = null;
                from[USED] = true;
            }
        }
        get url() {
            if (this[URL_] === null) this[URL_] = urlOf(this[ENVIRONMENT]);
            return this[URL_];
        }
        get headers() {
            if (this[HEADERS] === null) this[HEADERS] = fieldsOf(this[ENVIRONMENT]);
            return this[HEADERS];
        }
        clone() {
            const copy = begin(Object.create(Request.prototype), null);
            Object.assign(copy, { method: this.method, redirect: this.redirect, signal: this.signal });
            copy[URL_] = this.url;
            copy[HEADERS] = new Headers(this.headers);
            return copyBody(this, copy);
        }
    }

    function urlOf(environment) {
        const host = environment.HTTP_HOST || `${environment.SERVER_NAME || "localhost"}:${environment.SERVER_PORT || 80}`;
        return new web.URL(`http://${host}${environment.REQUEST_URI || "/"}`).href;
    }

    // HTTP_X_REQUEST_ID is x-request-id.
    const fieldNames = new Map([["CONTENT_TYPE", "content-type"], ["CONTENT_LENGTH", "content-length"]]);
    function fieldName(variable) {
        const name = variable.startsWith("HTTP_") ? variable.slice(5).toLowerCase().replace(/_/g, "-") : null;
        if (fieldNames.size < 512) fieldNames.set(variable, name);
        return name;
    }
    function fieldsOf(environment) {
        const map = new Map();
        for (const variable of Object.keys(environment)) {
            const known = fieldNames.get(variable);
            const name = known === undefined ? fieldName(variable) : known;
            const isSaid = environment[variable] !== "" || variable.startsWith("HTTP_"); // an empty field is one
            if (name !== null && isSaid) map.set(name, environment[variable]);
        }
        return headersOf(map);
    }

    // The request that the node's variables describe, and whose body comes from the client.
    web.requestOf = (environment) => {
        const method = environment.REQUEST_METHOD || "POST";
        const request = begin(Object.create(Request.prototype), method === "GET" || method === "HEAD" ? null : new Input());
        request.method = method;
        request.redirect = "follow";
        request.signal = null;
        request[URL_] = request[HEADERS] = null;
        request[ENVIRONMENT] = environment;
        return request;
    };

    // ---- Responses ----

    const hasNoBody = (status) => status === 204 || status === 205 || status === 304;

    class Response extends Body {
        constructor(body = null, init = {}) {
            super();
            const status = init.status === undefined ? 200 : Number(init.status);
            if (!(status >= 200 && status <= 599)) throw new RangeError(`${init.status} is not a status from 200 to 599`);
            if (body !== null && body !== undefined && hasNoBody(status)) throw new TypeError(`an answer with status ${status} has no body`);
            const [bytes, type] = bodyOf(body);
            fill(this, bytes, Math.trunc(status), init.statusText || "", null);
            if (init.headers !== undefined) {
                this[HEADERS] = new Headers(init.headers);
                if (type !== null && !this[HEADERS].has("content-type")) this[HEADERS].set("content-type", type);
            } else if (type !== null) {
                this[HEADERS] = headersOf(new Map([["content-type", type]]));
            }
        }
        get headers() {
            if (this[HEADERS] === null) this[HEADERS] = new Headers();
            return this[HEADERS];
        }
        get ok() { return this.status >= 200 && this.status < 300; }
        clone() {
            const copy = fill(Object.create(Response.prototype), null, this.status, this.statusText, new Headers(this.headers));
            Object.assign(copy, { url: this.url, redirected: this.redirected, type: this.type });
            return copyBody(this, copy);
        }
        static json(value, init = {}) {
            const text = JSON.stringify(value);
            if (text === undefined) throw new TypeError("this value is none in JSON");
            const headers = new Headers(init.headers);
            if (!headers.has("content-type")) headers.set("content-type", "application/json");
            return new Response(text, { ...init, headers });
        }
        static redirect(url, status = 302) {
            if (![301, 302, 303, 307, 308].includes(status)) throw new RangeError(`${status} does not redirect`);
            return new Response(null, { status, headers: { location: String(url) } });
        }
        static error() {
            const response = fill(Object.create(Response.prototype), null, 0, "", null);
            response.type = "error";
            return response;
        }
    }

    function fill(response, body, status, statusText, headers) {
        begin(response, body);
        response.status = status;
        response.statusText = statusText;
        response.url = "";
        response.redirected = false;
        response.type = "default";
        response[HEADERS] = headers;
        return response;
    }

    // One that came from elsewhere.
    web.responseOf = (body, status, headers) => fill(Object.create(Response.prototype), body, status, "", headers);

    // To the client: what a handler returned.
    web.send = async (answer) => {
        let response = answer;
        if (!(response instanceof Response)) {
            response = typeof answer === "string" || isBytes(answer) || answer === undefined || answer === null ? new Response(answer) : Response.json(answer);
        }
        if (response.status === 0) throw new TypeError("Response.error() is no answer");
        const body = take(response);
        native.status(response.status);
        if (response[HEADERS] !== null) {
            for (const [name, value] of response[HEADERS][MAP]) {
                if (typeof value === "string") native.header(name, value);
                else for (const one of value) native.header(name, one);
            }
        }
        if (body === null || typeof body === "string" || isBytes(body)) {
            native.write(body === null ? "" : body);
            return;
        }
        native.write("");
        for await (const piece of body) native.write(isBytes(piece) ? piece : `${piece}`);
    };

    web.wholeOf = whole;
    for (const [name, value] of Object.entries({ Headers, Request, Response })) define(name, value);
    Object.assign(web, { Headers, Request, Response });
})
