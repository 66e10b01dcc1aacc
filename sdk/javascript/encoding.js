// UTF-8 and base64: WHATWG Encoding, HTML 8.3.
//
// Each of these files is a function of `native` (what engine.c gives) and `web` (what files after it
// want of those before: scripts may change the globals, and these go on as they are).
(function (native, web) {
    "use strict";

    web.define = (name, value) => Object.defineProperty(globalThis, name, { value, writable: true, configurable: true });
    web.isBytes = (value) => value instanceof ArrayBuffer || ArrayBuffer.isView(value);
    const { define, isBytes } = web;

    class TextEncoder {
        get encoding() { return "utf-8"; }
        encode(text = "") { return new Uint8Array(native.encode(`${text}`)); }
        encodeInto(text, into) {
            let read = 0;
            let written = 0;
            for (const character of `${text}`) {
                const bytes = new Uint8Array(native.encode(character));
                if (written + bytes.length > into.length) break;
                into.set(bytes, written);
                written += bytes.length;
                read += character.length;
            }
            return { read, written };
        }
    }

    // How many bytes at the end begin a character that goes on behind it.
    function unfinished(bytes) {
        for (let back = 1; back <= 3 && back <= bytes.length; back++) {
            const byte = bytes[bytes.length - back];
            if (byte >= 0xc2) return back < (byte >= 0xf0 ? 4 : byte >= 0xe0 ? 3 : 2) ? back : 0;
            if (byte < 0x80) return 0;
        }
        return 0;
    }

    const isSame = (one, other) => one.length === other.length && one.every((byte, i) => byte === other[i]);

    const viewOf = (bytes) => (bytes instanceof Uint8Array ? bytes
        : ArrayBuffer.isView(bytes) ? new Uint8Array(bytes.buffer, bytes.byteOffset, bytes.byteLength) : new Uint8Array(bytes));

    class TextDecoder {
        #fatal;
        #ignoreBOM;
        #held = null; // of the piece before
        #isBegun = false;
        constructor(label = "utf-8", { fatal = false, ignoreBOM = false } = {}) {
            if (!/^[\t\n\f\r ]*(utf-?8|unicode-1-1-utf-8|unicode11utf8|unicode20utf8|x-unicode20utf8)[\t\n\f\r ]*$/i.test(label)) {
                throw new RangeError(`encoding ${label} is not here: utf-8 is`);
            }
            this.#fatal = Boolean(fatal);
            this.#ignoreBOM = Boolean(ignoreBOM);
        }
        get encoding() { return "utf-8"; }
        get fatal() { return this.#fatal; }
        get ignoreBOM() { return this.#ignoreBOM; }
        decode(bytes = new Uint8Array(), { stream = false } = {}) {
            if (!isBytes(bytes)) throw new TypeError("decode() takes an ArrayBuffer or a view of one");
            let piece = bytes;
            if (stream || this.#held !== null) {
                piece = viewOf(bytes);
                piece = this.#held === null ? piece : web.joined([this.#held, piece]);
                const left = stream ? unfinished(piece) : 0;
                this.#held = left > 0 ? piece.slice(piece.length - left) : null;
                piece = piece.subarray(0, piece.length - left);
            }
            const text = native.decode(piece);
            if (this.#fatal && text.includes("\uFFFD") && !isSame(viewOf(piece), new Uint8Array(native.encode(text)))) {
                throw new TypeError("not UTF-8");
            }
            const isFirst = !this.#isBegun && text !== "";
            this.#isBegun = stream && (this.#isBegun || text !== "");
            return isFirst && !this.#ignoreBOM && text.charCodeAt(0) === 0xfeff ? text.slice(1) : text;
        }
    }

    web.joined = (parts) => {
        const whole = new Uint8Array(parts.reduce((sum, part) => sum + part.byteLength, 0));
        let at = 0;
        for (const part of parts) {
            whole.set(viewOf(part), at);
            at += part.byteLength;
        }
        return whole;
    };
    web.viewOf = viewOf;
    web.bytesOf = (piece) => (isBytes(piece) ? viewOf(piece) : new Uint8Array(native.encode(`${piece}`)));
    // Without the mark of UTF-8 that may be in front.
    web.textOf = (bytes) => {
        const text = native.decode(bytes);
        return text.charCodeAt(0) === 0xfeff ? text.slice(1) : text;
    };

    const base64 = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

    function btoa(text) {
        text = String(text);
        let out = "";
        for (let i = 0; i < text.length; i += 3) {
            const [a, b, c] = [text.charCodeAt(i), text.charCodeAt(i + 1), text.charCodeAt(i + 2)];
            if (a > 255 || b > 255 || c > 255) throw web.failure("InvalidCharacterError", "btoa: a character above U+00FF");
            out += base64[a >> 2] + base64[((a & 3) << 4) | (b >> 4)] +
                (i + 1 < text.length ? base64[((b & 15) << 2) | (c >> 6)] : "=") +
                (i + 2 < text.length ? base64[c & 63] : "=");
        }
        return out;
    }

    function atob(text) {
        text = String(text).replace(/[\t\n\f\r ]/g, "");
        if (text.length % 4 === 0) text = text.replace(/==?$/, "");
        if (text.length % 4 === 1 || /[^A-Za-z0-9+/]/.test(text)) throw web.failure("InvalidCharacterError", "atob: not base64");
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

    for (const [name, value] of Object.entries({ TextEncoder, TextDecoder, btoa, atob })) define(name, value);
    define("self", globalThis);
    Object.assign(web, { TextDecoder });
})
