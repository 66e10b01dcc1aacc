// Events, what aborts others, the errors that these interfaces throw, and copies: WHATWG DOM, Web IDL, HTML 2.7.
(function (native, web) {
    "use strict";

    const { define } = web;

    const legacyCodes = {
        InvalidCharacterError: 5, NotSupportedError: 9, InvalidStateError: 11, SyntaxError: 12, AbortError: 20, TimeoutError: 23, DataCloneError: 25,
    };

    class DOMException extends Error {
        #name;
        constructor(message = "", name = "Error") {
            super(message);
            this.#name = String(name);
        }
        get name() { return this.#name; }
        get code() { return legacyCodes[this.#name] || 0; }
    }
    web.failure = (name, message) => new DOMException(message, name);

    class Event {
        #type;
        #cancelable;
        #isPrevented = false;
        constructor(type, { cancelable = false } = {}) {
            this.#type = String(type);
            this.#cancelable = Boolean(cancelable);
            this.timeStamp = native.now();
            this.target = this.currentTarget = null;
            this._isOver = false;
        }
        get type() { return this.#type; }
        get cancelable() { return this.#cancelable; }
        get defaultPrevented() { return this.#isPrevented; }
        preventDefault() { this.#isPrevented = this.#isPrevented || this.#cancelable; }
        stopPropagation() {}
        stopImmediatePropagation() { this._isOver = true; }
    }

    class CustomEvent extends Event {
        constructor(type, init = {}) {
            super(type, init);
            this.detail = init.detail === undefined ? null : init.detail;
        }
    }

    class EventTarget {
        #listeners = []; // { type, listener, once }
        addEventListener(type, listener, options = {}) {
            if (listener === null || listener === undefined) return;
            const { once = false, signal } = typeof options === "object" ? options : {};
            if (signal && signal.aborted) return;
            if (this.#listeners.some((known) => known.type === type && known.listener === listener)) return;
            this.#listeners.push({ type, listener, once });
            if (signal) signal.addEventListener("abort", () => this.removeEventListener(type, listener));
        }
        removeEventListener(type, listener) {
            this.#listeners = this.#listeners.filter((known) => known.type !== type || known.listener !== listener);
        }
        dispatchEvent(event) {
            event.target = event.currentTarget = this;
            const own = this[`on${event.type}`];
            const called = this.#listeners.filter(({ type }) => type === event.type);
            if (typeof own === "function") called.unshift({ listener: own });
            for (const { listener, once } of called) {
                if (event._isOver) break;
                if (once) this.removeEventListener(event.type, listener);
                try {
                    if (typeof listener === "function") listener.call(this, event);
                    else listener.handleEvent(event);
                } catch (error) { // one listener's failure is not the others'
                    console.error(error);
                }
            }
            return !event.defaultPrevented;
        }
    }

    class AbortSignal extends EventTarget {
        #reason = undefined;
        #isAborted = false;
        onabort = null;
        get aborted() { return this.#isAborted; }
        get reason() { return this.#reason; }
        throwIfAborted() { if (this.#isAborted) throw this.#reason; }
        _abort(reason = web.failure("AbortError", "the operation was aborted")) {
            if (this.#isAborted) return this;
            this.#isAborted = true;
            this.#reason = reason;
            this.dispatchEvent(new Event("abort"));
            return this;
        }
        static abort(reason) { return new AbortSignal()._abort(reason); }
        static timeout(ms) {
            const signal = new AbortSignal();
            web.after(() => signal._abort(web.failure("TimeoutError", "the operation took too long")), ms);
            return signal;
        }
        static any(signals) {
            const signal = new AbortSignal();
            for (const one of signals) {
                if (one.aborted) return signal._abort(one.reason);
            }
            for (const one of signals) one.addEventListener("abort", () => signal._abort(one.reason), { once: true });
            return signal;
        }
    }

    class AbortController {
        signal = new AbortSignal();
        abort(reason) { this.signal._abort(reason); }
    }

    const views = new Set([
        DataView, Int8Array, Uint8Array, Uint8ClampedArray, Int16Array, Uint16Array, Int32Array, Uint32Array, Float32Array, Float64Array,
        BigInt64Array, BigUint64Array,
    ]);
    const errors = { Error, EvalError, RangeError, ReferenceError, SyntaxError, TypeError, URIError };

    function copyOf(value, known) {
        if (typeof value === "function" || typeof value === "symbol") throw web.failure("DataCloneError", `a ${typeof value} cannot be copied`);
        if (typeof value !== "object" || value === null) return value;
        if (known.has(value)) return known.get(value);
        const keep = (copy) => { known.set(value, copy); return copy; };
        if (value instanceof Date) return keep(new Date(value.getTime()));
        if (value instanceof RegExp) return keep(new RegExp(value.source, value.flags));
        if (value instanceof ArrayBuffer) return keep(value.slice(0));
        if (views.has(value.constructor)) {
            const count = value instanceof DataView ? value.byteLength : value.length;
            return keep(new value.constructor(copyOf(value.buffer, known), value.byteOffset, count));
        }
        if (value instanceof Boolean || value instanceof Number || value instanceof String) return keep(Object(value.valueOf()));
        if (value instanceof Map) {
            const map = keep(new Map());
            for (const [key, item] of [...value]) map.set(copyOf(key, known), copyOf(item, known));
            return map;
        }
        if (value instanceof Set) {
            const set = keep(new Set());
            for (const item of [...value]) set.add(copyOf(item, known));
            return set;
        }
        if (value instanceof Error) {
            const error = keep(new (errors[value.name] || Error)(value.message));
            Object.defineProperty(error, "stack", { value: value.stack, writable: true, configurable: true });
            return error;
        }
        if (value instanceof Promise || value instanceof WeakMap || value instanceof WeakSet) throw web.failure("DataCloneError", "this object cannot be copied");
        const copy = keep(Array.isArray(value) ? new Array(value.length) : {});
        for (const name of Object.keys(value)) copy[name] = copyOf(value[name], known);
        return copy;
    }
    function structuredClone(value) { return copyOf(value, new Map()); }

    const all = { DOMException, Event, CustomEvent, EventTarget, AbortSignal, AbortController, structuredClone };
    for (const [name, value] of Object.entries(all)) define(name, value);
    Object.assign(web, { AbortSignal });
})
