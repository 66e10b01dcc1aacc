// Blob, File, FormData: W3C File API, XMLHttpRequest's forms, multipart/form-data (RFC 7578).
(function (native, web) {
    "use strict";

    const { define, bytesOf, textOf, joined } = web;

    // ---- Blobs ----

    class Blob {
        #bytes;
        #type;
        constructor(parts = [], { type = "" } = {}) {
            const pieces = [];
            for (const part of parts) pieces.push(part instanceof Blob ? part.#bytes : bytesOf(part));
            this.#bytes = joined(pieces);
            this.#type = /[^ -~]/.test(type) ? "" : `${type}`.toLowerCase();
        }
        get size() { return this.#bytes.length; }
        get type() { return this.#type; }
        slice(start = 0, end = this.size, type = "") { return new Blob([this.#bytes.slice(start, end)], { type }); }
        async bytes() { return this.#bytes.slice(); }
        async arrayBuffer() { return this.#bytes.slice().buffer; }
        async text() { return textOf(this.#bytes); }
        stream() { return web.ReadableStream.from(this.size > 0 ? [this.#bytes.slice()] : []); }
        static _bytes(blob) { return blob.#bytes; }
    }
    const bytesOfBlob = Blob._bytes;
    delete Blob._bytes;

    class File extends Blob {
        #name;
        #modified;
        constructor(parts, name, { type, lastModified = Date.now() } = {}) {
            super(parts, { type });
            this.#name = `${name}`;
            this.#modified = Number(lastModified);
        }
        get name() { return this.#name; }
        get lastModified() { return this.#modified; }
    }

    // ---- Forms ----

    const partOf = (name, value, filename) => {
        if (!(value instanceof Blob)) return [`${name}`, `${value}`];
        const called = filename !== undefined ? `${filename}` : value instanceof File ? value.name : "blob";
        const isIt = value instanceof File && value.name === called;
        return [`${name}`, isIt ? value : new File([value], called, { type: value.type })];
    };

    class FormData {
        #parts = [];
        append(name, value, filename = undefined) { this.#parts.push(partOf(name, value, filename)); }
        delete(name) { this.#parts = this.#parts.filter(([n]) => n !== `${name}`); }
        get(name) { const part = this.#parts.find(([n]) => n === `${name}`); return part ? part[1] : null; }
        getAll(name) { return this.#parts.filter(([n]) => n === `${name}`).map(([, v]) => v); }
        has(name) { return this.#parts.some(([n]) => n === `${name}`); }
        set(name, value, filename = undefined) {
            const at = this.#parts.findIndex(([n]) => n === `${name}`);
            if (at < 0) return this.append(name, value, filename);
            this.#parts = this.#parts.filter(([n], i) => n !== `${name}` || i <= at);
            this.#parts[at] = partOf(name, value, filename);
            return undefined;
        }
        forEach(visit, self) { for (const [n, v] of this.#parts) visit.call(self, v, n, this); }
        entries() { return this.#parts.map((part) => [...part])[Symbol.iterator](); }
        keys() { return this.#parts.map(([n]) => n)[Symbol.iterator](); }
        values() { return this.#parts.map(([, v]) => v)[Symbol.iterator](); }
        [Symbol.iterator]() { return this.entries(); }
    }

    // ---- As bytes ----

    const quoted = (text) => text.replace(/\r\n|\r|\n/g, "%0D%0A").replace(/"/g, "%22");

    function writeForm(form, boundary) {
        const pieces = [];
        for (const [name, value] of form) {
            const isFile = value instanceof Blob;
            const file = isFile ? `; filename="${quoted(value.name)}"\r\nContent-Type: ${value.type || "application/octet-stream"}` : "";
            pieces.push(bytesOf(`--${boundary}\r\nContent-Disposition: form-data; name="${quoted(name)}"${file}\r\n\r\n`));
            pieces.push(isFile ? bytesOfBlob(value) : bytesOf(value.replace(/\r\n|\r|\n/g, "\r\n")), bytesOf("\r\n"));
        }
        return joined([...pieces, bytesOf(`--${boundary}--\r\n`)]);
    }

    function boundary() {
        const bytes = new Uint8Array(16);
        native.random(bytes);
        return `----blixard${Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("")}`;
    }

    const wrong = (what) => new TypeError(`not a form: ${what}`);

    // name="..." of a field, as browsers write it: %22 is a quote, %0D%0A a line's end.
    function parameter(field, name) {
        const found = new RegExp(`[;\\s]${name}=(?:"([^"]*)"|([^;\\s]*))`, "i").exec(field);
        if (found === null) return null;
        const text = found[1] === undefined ? found[2] : found[1];
        return text.replace(/%0D|%0A|%22/gi, (escape) => String.fromCharCode(parseInt(escape.slice(1), 16)));
    }

    function readPart(form, bytes) {
        const end = native.find(bytes, "\r\n\r\n", 0);
        if (end < 0) throw wrong("a part has no fields");
        const fields = textOf(bytes.subarray(0, end)).split("\r\n");
        const field = (name) => fields.find((line) => line.toLowerCase().startsWith(`${name}:`)) || "";
        const disposition = field("content-disposition");
        const name = parameter(disposition, "name");
        if (name === null || !/^content-disposition: *form-data *;/i.test(disposition)) throw wrong("a part has no name");
        const filename = parameter(disposition, "filename");
        const content = bytes.subarray(end + 4);
        const type = field("content-type").slice(13).trim();
        form.append(name, filename === null ? textOf(content) : new File([content], filename, { type: type || "text/plain" }));
    }

    function readForm(bytes, type) {
        const mark = parameter(type, "boundary");
        const form = new FormData();
        if (mark === null || mark === "" || mark.length > 70) throw wrong("it has no boundary");
        const delimiter = `\r\n--${mark}`;
        let at = native.find(bytes, delimiter.slice(2), 0) === 0 ? delimiter.length - 2 : native.find(bytes, delimiter, 0) + delimiter.length;
        if (at < delimiter.length - 2) throw wrong("its boundary is not there");
        while (textOf(bytes.subarray(at, at + 2)) !== "--") {
            const begin = native.find(bytes, "\r\n", at) + 2;
            const end = native.find(bytes, delimiter, begin - 2);
            if (begin < 2 || end < 0) throw wrong("its end is missing");
            readPart(form, bytes.subarray(begin, end));
            at = end + delimiter.length;
        }
        return form;
    }

    for (const [name, value] of Object.entries({ Blob, File, FormData })) define(name, value);
    Object.assign(web, { Blob, FormData, bytesOfBlob, writeForm, readForm, boundary });
})
