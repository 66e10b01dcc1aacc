// The script, and what answers a request: the value of this file's function.
(function (native, web) {
    "use strict";

    let script = null;
    let handler = null;

    function handlerOf() {
        const main = script.default;
        const found = typeof main === "function" ? main :
            main && typeof main.fetch === "function" ? main.fetch.bind(main) :
            typeof script.handle === "function" ? script.handle : null;
        if (found === null) throw new TypeError("main.js exports no handler: export default async function (request) { ... }");
        return found;
    }

    web.define("__take", (exports) => { script = exports; delete globalThis.__take; });

    async function serve(environment) {
        const context = {
            environment, requestId: environment.BLIXARD_REQUEST_ID || "", path: environment.PATH_INFO || "/", client: environment.REMOTE_ADDR || "",
        };
        if (handler === null) handler = handlerOf();
        await web.send(await handler(web.requestOf(environment), environment, context));
    }

    return function () {
        web.awaited.clear(); // what the request before has left there is over
        web.arriving.clear();
        web.forgetIndent();
        let isOver = false;
        let error = null;
        serve(native.environment()).then(() => { isOver = true; }, (why) => { error = why; isOver = true; });
        return {
            step() {
                if (error !== null) throw error;
                if (!isOver && !web.fire()) throw new TypeError("the handler waits for something that never comes");
                return isOver;
            },
        };
    };
})
