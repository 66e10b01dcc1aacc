// Timers, chance, and what time it is: HTML 8.6, W3C WebCrypto and High Resolution Time.
(function (native, web) {
    "use strict";

    const { define, awaited, answered } = web;

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

    Object.assign(web, { fire, after: (call, ms) => begin(call, ms, false, []) });
})
