// URL and URLSearchParams: WHATWG URL.  Names of other scripts than ASCII become Punycode (RFC 3492)
// after NFKC and lower case, which is what UTS 46 makes of nearly all of them.
(function (native, web) {
    "use strict";

    const { define } = web;

    // ---- What is escaped where: what these do not allow ----

    const FRAGMENT = /[^!#-;=?-_a-~]/gu;
    const QUERY = /[^!$-;=?-~]/gu;
    const SPECIAL_QUERY = /[^!$-&(-;=?-~]/gu;
    const PATH = /[^!$-;=@-\]_a-z|~]/gu;
    const USERINFO = /[^!$-.0-9A-Z_a-z~]/gu;
    const CONTROL = /[^ -~]/gu;

    const percent = (character) => web.bytesOf(character).reduce((out, byte) => `${out}%${byte < 16 ? "0" : ""}${byte.toString(16).toUpperCase()}`, "");
    const escaped = (text, set) => text.replace(set, percent);

    function unescaped(text) {
        if (!text.includes("%")) return text;
        const bytes = web.bytesOf(text);
        const out = new Uint8Array(bytes.length);
        let used = 0;
        for (let i = 0; i < bytes.length; i++) {
            const digits = bytes[i] === 37 ? String.fromCharCode(bytes[i + 1] || 0, bytes[i + 2] || 0) : "";
            const isEscape = /^[0-9a-f]{2}$/i.test(digits);
            out[used++] = isEscape ? parseInt(digits, 16) : bytes[i];
            i += isEscape ? 2 : 0;
        }
        return native.decode(out.subarray(0, used));
    }

    // ---- application/x-www-form-urlencoded ----

    const fromForm = (text) => (text.includes("+") ? unescaped(text.replace(/\+/g, " ")) : unescaped(text));
    const toForm = (text) => text.replace(/[^*.0-9A-Z_a-z-]/gu, (character) => (character === " " ? "+" : percent(character)));

    const pairsOf = (text) => {
        const pairs = [];
        for (const part of text === "" ? [] : text.split("&")) {
            if (part === "") continue;
            const at = part.indexOf("=");
            pairs.push(at < 0 ? [fromForm(part), ""] : [fromForm(part.slice(0, at)), fromForm(part.slice(at + 1))]);
        }
        return pairs;
    };

    class URLSearchParams {
        #pairs;
        #changed;
        constructor(init = "", changed = undefined) {
            this.#changed = typeof changed === "function" ? changed : null;
            if (typeof init === "object" && init !== null) {
                this.#pairs = [];
                for (const pair of typeof init[Symbol.iterator] === "function" ? init : Object.entries(init)) {
                    const [name, value, ...more] = pair;
                    if (value === undefined || more.length > 0) throw new TypeError("a pair has a name and a value");
                    this.#pairs.push([`${name}`, `${value}`]);
                }
                return;
            }
            const text = `${init}`;
            this.#pairs = pairsOf(text[0] === "?" ? text.slice(1) : text);
        }
        #tell() { if (this.#changed !== null) this.#changed(this.toString()); }
        _follow(query) { this.#pairs = pairsOf(query); }
        get size() { return this.#pairs.length; }
        append(name, value) { this.#pairs.push([`${name}`, `${value}`]); this.#tell(); }
        delete(name, value = undefined) {
            this.#pairs = this.#pairs.filter(([n, v]) => n !== `${name}` || (value !== undefined && v !== `${value}`));
            this.#tell();
        }
        get(name) { const pair = this.#pairs.find(([n]) => n === `${name}`); return pair ? pair[1] : null; }
        getAll(name) { return this.#pairs.filter(([n]) => n === `${name}`).map(([, v]) => v); }
        has(name, value = undefined) { return this.#pairs.some(([n, v]) => n === `${name}` && (value === undefined || v === `${value}`)); }
        set(name, value) {
            const at = this.#pairs.findIndex(([n]) => n === `${name}`);
            if (at < 0) return this.append(name, value);
            this.#pairs = this.#pairs.filter(([n], i) => n !== `${name}` || i <= at);
            this.#pairs[at][1] = `${value}`;
            return this.#tell();
        }
        sort() { this.#pairs.sort(([a], [b]) => (a < b ? -1 : a > b ? 1 : 0)); this.#tell(); }
        forEach(visit, self) { for (const [n, v] of this.#pairs) visit.call(self, v, n, this); }
        entries() { return this.#pairs.map((pair) => [...pair])[Symbol.iterator](); }
        keys() { return this.#pairs.map(([n]) => n)[Symbol.iterator](); }
        values() { return this.#pairs.map(([, v]) => v)[Symbol.iterator](); }
        [Symbol.iterator]() { return this.entries(); }
        toString() { return this.#pairs.map(([n, v]) => `${toForm(n)}=${toForm(v)}`).join("&"); }
    }

    // ---- Hosts ----

    const wrong = (url) => new TypeError(`not a URL: ${url}`);

    function punycode(label) {
        const points = Array.from(label, (character) => character.codePointAt(0));
        let out = points.filter((point) => point < 128).map((point) => String.fromCharCode(point)).join("");
        let done = out.length;
        const basic = done;
        if (basic > 0) out += "-";
        for (let n = 128, delta = 0, bias = 72; done < points.length; delta++, n++) {
            const next = Math.min(...points.filter((point) => point >= n));
            delta += (next - n) * (done + 1);
            n = next;
            for (const point of points) {
                if (point < n) delta++;
                if (point !== n) continue;
                let q = delta;
                for (let k = 36; ; k += 36) {
                    const t = k <= bias ? 1 : k >= bias + 26 ? 26 : k - bias;
                    const digit = q < t ? q : t + ((q - t) % (36 - t));
                    out += String.fromCharCode(digit < 26 ? 97 + digit : 22 + digit);
                    if (q < t) break;
                    q = Math.floor((q - t) / (36 - t));
                }
                let left = Math.floor(delta / (done === basic ? 700 : 2));
                left += Math.floor(left / (done + 1));
                for (bias = 0; left > 455; bias += 36) left = Math.floor(left / 35);
                bias += Math.floor((36 * left) / (left + 38));
                delta = 0;
                done++;
            }
        }
        return `xn--${out}`;
    }

    // 127.1, 0x7f.0.0.1 and what else inet_aton() takes; null: one that is none.
    function ipv4(host) {
        const parts = host.split(".");
        if (parts.length > 1 && parts[parts.length - 1] === "") parts.pop();
        const numbers = parts.map((part) => (/^0x[0-9a-f]*$/i.test(part) ? Number(part.length === 2 ? 0 : part)
            : /^0[0-7]*$/.test(part) ? parseInt(part, 8) : /^[1-9][0-9]*$/.test(part) ? Number(part) : NaN));
        const last = numbers.pop();
        if (numbers.length > 3 || !(last < 256 ** (4 - numbers.length)) || !numbers.every((number) => number < 256)) return null;
        const whole = numbers.reduce((sum, number, i) => sum + number * 256 ** (3 - i), last);
        return [24, 16, 8, 0].map((shift) => Math.floor(whole / 2 ** shift) % 256).join(".");
    }

    function ipv6(text) {
        const dotted = /^(.*:)((?:(?:0|[1-9][0-9]{0,2})\.){3}(?:0|[1-9][0-9]{0,2}))$/.exec(text);
        if (dotted !== null) {
            const bytes = dotted[2].split(".").map(Number);
            if (bytes.some((byte) => byte > 255)) return null;
            text = `${dotted[1]}${((bytes[0] << 8) | bytes[1]).toString(16)}:${((bytes[2] << 8) | bytes[3]).toString(16)}`;
        }
        const sides = text.split("::");
        const words = sides.map((side) => (side === "" ? [] : side.split(":")));
        const count = words.reduce((sum, side) => sum + side.length, 0);
        if (sides.length > 2 || (sides.length === 2 ? count > 7 : count !== 8)) return null;
        if (!words.every((side) => side.every((word) => /^[0-9a-f]{1,4}$/i.test(word)))) return null;
        const all = sides.length === 2 ? [...words[0], ...new Array(8 - count).fill("0"), ...words[1]] : words[0];
        const short = all.map((word) => parseInt(word, 16).toString(16)).join(":");
        const runs = short.match(/\b0(?::0)+\b/g) || [];
        const longest = runs.reduce((best, run) => (run.length > best.length ? run : best), "");
        return longest === "" ? short : short.replace(new RegExp(`(^|:)${longest}(:|$)`), "::").replace(/:{3,}/, "::");
    }

    function parseHost(text, isSpecial) {
        if (text[0] === "[") {
            const address = text[text.length - 1] === "]" ? ipv6(text.slice(1, -1)) : null;
            return address === null ? null : `[${address}]`;
        }
        if (!isSpecial) return /[\0\t\n\r #/:<>?@[\\\]^|]/.test(text) ? null : escaped(text, CONTROL);
        let host = unescaped(text.replace(/\p{Surrogate}/gu, "\ufffd")).toLowerCase();
        if (host.includes("\ufffd")) return null;
        if (/[^ -~]/.test(host)) {
            host = host.normalize("NFKC").toLowerCase().replace(/[\u3002\uff0e\uff61]/g, ".").replace(/\u00ad/g, "")
                .split(".").map((label) => (/[^ -~]/.test(label) ? punycode(label) : label)).join(".");
        }
        if (host === "" || /[\0- "#%/:<>?@[\\\]^`{|}\x7f]/.test(host)) return null;
        return /(?:^|\.)(?:[0-9]+|0x[0-9a-f]*)\.?$/.test(host) ? ipv4(host) : host;
    }

    // A script asks for few hosts, again and again.
    const hosts = new Map();
    function hostOf(text, isSpecial) {
        const key = isSpecial ? text : `/${text}`;
        let host = hosts.get(key);
        if (host === undefined) {
            host = parseHost(text, isSpecial);
            if (hosts.size >= 64) hosts.clear();
            hosts.set(key, host);
        }
        return host;
    }

    // ---- URLs: { scheme, username, password, host (or null), port, path, isOpaque, query (or null), fragment (or null) } ----

    const ports = { http: "80", https: "443", ws: "80", wss: "443", ftp: "21", file: "" };
    const isSpecial = (url) => url.scheme in ports;

    // Of path segments that are escaped already.
    function withoutDots(path) {
        if (!/\/(?:\.|%2e)/i.test(path)) return path;
        const out = [];
        const parts = path.split("/").slice(1);
        parts.forEach((part, i) => {
            const plain = part.replace(/%2e/gi, ".");
            if (plain === "..") out.pop();
            else if (plain !== ".") out.push(part);
            if ((plain === ".." || plain === ".") && i === parts.length - 1) out.push("");
        });
        return `/${out.join("/")}`;
    }

    const queryOf = (url, text) => escaped(text, isSpecial(url) ? SPECIAL_QUERY : QUERY);
    const pathOf = (url, text) => withoutDots(escaped(isSpecial(url) ? text.replace(/\\/g, "/") : text, PATH));

    function portOf(url, text) {
        const port = Number(text);
        if (!/^[0-9]*$/.test(text) || port > 65535) return null;
        return text === "" || String(port) === ports[url.scheme] ? "" : String(port);
    }

    function takeAuthority(url, text) {
        const at = text.lastIndexOf("@");
        if (at >= 0) {
            const user = text.slice(0, at);
            const colon = user.indexOf(":");
            url.username = escaped(colon < 0 ? user : user.slice(0, colon), USERINFO);
            url.password = colon < 0 ? "" : escaped(user.slice(colon + 1), USERINFO);
        }
        const [, host, port = ""] = /^(\[[^\]]*\]|[^:]*)(?::(.*))?$/s.exec(text.slice(at + 1)) || [];
        if (host === undefined) return false;
        if (url.scheme === "file") {
            url.host = host === "" || /^localhost$/i.test(host) ? "" : hostOf(host, true);
            return url.host !== null && port === "" && at < 0;
        }
        url.host = host === "" && !isSpecial(url) && at < 0 && port === "" ? "" : host === "" ? null : hostOf(host, isSpecial(url));
        url.port = portOf(url, port);
        return url.host !== null && url.port !== null;
    }

    function takeHierarchy(url, rest, base) {
        if (isSpecial(url)) rest = rest.replace(/\\/g, "/");
        if (isSpecial(url) && url.scheme !== "file" && (base === null || rest.startsWith("//"))) rest = `//${rest.replace(/^\/+/, "")}`;
        if (rest.startsWith("//")) {
            const end = rest.indexOf("/", 2);
            if (!takeAuthority(url, end < 0 ? rest.slice(2) : rest.slice(2, end))) return false;
            rest = end < 0 ? "" : rest.slice(end);
            url.path = rest === "" ? (isSpecial(url) ? "/" : "") : pathOf(url, rest);
            return true;
        }
        if (base === null) {
            url.isOpaque = rest[0] !== "/" && url.scheme !== "file";
            url.host = url.scheme === "file" ? "" : null;
            url.path = url.isOpaque ? escaped(rest, CONTROL) : pathOf(url, rest[0] === "/" ? rest : `/${rest}`);
            return true;
        }
        Object.assign(url, { username: base.username, password: base.password, host: base.host, port: base.port });
        if (rest === "") {
            url.path = base.path;
            url.query = url.query === null ? base.query : url.query;
        } else if (rest[0] === "/") {
            url.path = pathOf(url, rest);
        } else {
            const folder = base.path.slice(0, base.path.lastIndexOf("/") + 1);
            url.path = withoutDots((folder === "" ? "/" : folder) + escaped(rest, PATH));
        }
        return true;
    }

    // What most are: nothing in it that would have to be changed.
    const PLAIN = /^(https?):\/\/((?:[a-z0-9-]+\.)*[a-z][a-z0-9-]*|127\.0\.0\.1)(?::([1-9][0-9]{0,3}|[1-5][0-9]{4}))?(\/[!$-;=@-\]_a-z|~]*)?(?:\?([!$-&(-;=?-~]*))?(?:#([!#-;=?-_a-~]*))?$/;

    function parse(input, base) {
        let text = `${input}`;
        const plain = PLAIN.exec(text);
        if (plain !== null) {
            const [, scheme, host, port = "", path = "/", query = null, fragment = null] = plain;
            if (!/[\\]|\/(?:\.|%2e)/i.test(path) && !host.includes("xn--")) {
                return { scheme, username: "", password: "", host, port: port === ports[scheme] ? "" : port, path, isOpaque: false, query, fragment };
            }
        }
        text = text.replace(/^[\0- ]+|[\0- ]+$/g, "").replace(/[\t\n\r]/g, "");
        const found = /^([a-z][a-z0-9+.-]*):/i.exec(text);
        if (found === null && base === null) return null;
        let rest = found === null ? text : text.slice(found[0].length);
        const take = (mark) => {
            const at = rest.indexOf(mark);
            const tail = at < 0 ? null : rest.slice(at + 1);
            rest = at < 0 ? rest : rest.slice(0, at);
            return tail;
        };
        const fragment = take("#");
        const query = take("?");
        const scheme = found === null ? base.scheme : found[1].toLowerCase();
        const url = { scheme, username: "", password: "", host: null, port: "", path: "", isOpaque: false, query: null, fragment: null };
        url.query = query === null ? null : queryOf(url, query);
        url.fragment = fragment === null ? null : escaped(fragment, FRAGMENT);
        if (found === null && base.isOpaque) {
            if (rest !== "" || query !== null || fragment === null) return null;
            return { ...base, fragment: url.fragment };
        }
        const isRelative = found === null || (base !== null && isSpecial(url) && base.scheme === scheme && !base.isOpaque);
        return takeHierarchy(url, rest, isRelative ? base : null) ? url : null;
    }

    function written(url) {
        const user = url.username !== "" || url.password !== "" ? `${url.username}${url.password !== "" ? `:${url.password}` : ""}@` : "";
        const authority = url.host === null ? (!url.isOpaque && url.path.startsWith("//") ? "/." : "")
            : `//${user}${url.host}${url.port !== "" ? `:${url.port}` : ""}`;
        return `${url.scheme}:${authority}${url.path}${url.query !== null ? `?${url.query}` : ""}${url.fragment !== null ? `#${url.fragment}` : ""}`;
    }

    const hasCredentials = (url) => url.host !== null && url.host !== "" && url.scheme !== "file";

    class URL {
        #url;
        #params = null;
        constructor(url, base = undefined) {
            const from = base === undefined ? null : base instanceof URL ? base.#url : parse(base, null);
            if (base !== undefined && from === null) throw wrong(base);
            this.#url = parse(url, from);
            if (this.#url === null) throw wrong(url);
        }
        static canParse(url, base = undefined) { return URL.parse(url, base) !== null; }
        static parse(url, base = undefined) {
            try {
                return new URL(url, base);
            } catch (error) {
                return null;
            }
        }
        get href() { return written(this.#url); }
        set href(value) {
            const url = parse(value, null);
            if (url === null) throw wrong(value);
            this.#url = url;
            this.#follow();
        }
        get origin() {
            const url = this.#url;
            return isSpecial(url) && url.scheme !== "file" ? `${url.scheme}://${this.host}` : "null";
        }
        get protocol() { return `${this.#url.scheme}:`; }
        set protocol(value) {
            const [, scheme] = /^([a-z][a-z0-9+.-]*)(?::|$)/i.exec(`${value}`) || [];
            const url = this.#url;
            if (scheme === undefined || isSpecial(url) !== (scheme.toLowerCase() in ports)) return;
            if (scheme.toLowerCase() === "file" && (url.username !== "" || url.password !== "" || url.port !== "")) return;
            if (url.scheme === "file" && url.host === "") return;
            url.scheme = scheme.toLowerCase();
            if (url.port === ports[url.scheme]) url.port = "";
        }
        get username() { return this.#url.username; }
        set username(value) { if (hasCredentials(this.#url)) this.#url.username = escaped(`${value}`, USERINFO); }
        get password() { return this.#url.password; }
        set password(value) { if (hasCredentials(this.#url)) this.#url.password = escaped(`${value}`, USERINFO); }
        get host() { return (this.#url.host || "") + (this.#url.port !== "" ? `:${this.#url.port}` : ""); }
        set host(value) { this.#setHost(value, true); }
        get hostname() { return this.#url.host || ""; }
        set hostname(value) { this.#setHost(value, false); }
        get port() { return this.#url.port; }
        set port(value) {
            if (!hasCredentials(this.#url)) return;
            const [digits] = /^[0-9]*/.exec(`${value}`.replace(/[\t\n\r]/g, ""));
            const port = portOf(this.#url, digits);
            if (port !== null && (digits !== "" || `${value}` === "")) this.#url.port = port;
        }
        get pathname() { return this.#url.path; }
        set pathname(value) {
            const url = this.#url;
            const text = `${value}`.replace(/[\t\n\r]/g, "");
            if (url.isOpaque) return;
            url.path = pathOf(url, text[0] === "/" || (isSpecial(url) && text[0] === "\\") ? text : `/${text}`);
        }
        get search() { return this.#url.query ? `?${this.#url.query}` : ""; }
        set search(value) {
            const text = `${value}`.replace(/[\t\n\r]/g, "");
            this.#url.query = text === "" ? null : queryOf(this.#url, text[0] === "?" ? text.slice(1) : text);
            this.#follow();
        }
        get searchParams() {
            if (this.#params === null) {
                this.#params = new URLSearchParams(this.#url.query || "", (query) => { this.#url.query = query === "" ? null : query; });
            }
            return this.#params;
        }
        get hash() { return this.#url.fragment ? `#${this.#url.fragment}` : ""; }
        set hash(value) {
            const text = `${value}`.replace(/[\t\n\r]/g, "");
            this.#url.fragment = text === "" ? null : escaped(text[0] === "#" ? text.slice(1) : text, FRAGMENT);
        }
        toString() { return this.href; }
        toJSON() { return this.href; }
        #follow() { if (this.#params !== null) this.#params._follow(this.#url.query || ""); }
        #setHost(value, withPort) {
            const url = this.#url;
            const [, text, digits] = /^(\[[^\]]*\]|[^:/?#\\]*)(?::([0-9]*))?/.exec(`${value}`.replace(/[\t\n\r]/g, ""));
            if (url.isOpaque || (text === "" && isSpecial(url))) return;
            const host = text === "" ? "" : hostOf(text, isSpecial(url));
            if (host === null) return;
            url.host = host;
            const port = withPort && digits ? portOf(url, digits) : null;
            if (port !== null) url.port = port;
        }
    }

    define("URL", URL);
    define("URLSearchParams", URLSearchParams);
    Object.assign(web, { URL, URLSearchParams });
})
