// Bodies piece by piece: WHATWG Streams, but for readers that bring their own buffers (BYOB).
(function (native, web) {
    "use strict";

    const { define } = web;

    const READ = Symbol("read");
    const CANCEL = Symbol("cancel");
    const HOLD = Symbol("hold");

    const later = () => {
        const one = {};
        one.promise = new Promise((resolve, reject) => Object.assign(one, { resolve, reject }));
        one.promise.catch(() => {}); // who does not look does not care
        return one;
    };

    class Reader {
        #stream;
        #closed = later();
        constructor(stream) {
            this.#stream = stream;
            stream[HOLD](this, this.#closed);
        }
        get closed() { return this.#closed.promise; }
        async read() {
            if (this.#stream === null) throw new TypeError("the reader was released");
            return this.#stream[READ]();
        }
        async cancel(reason) {
            if (this.#stream === null) throw new TypeError("the reader was released");
            return this.#stream[CANCEL](reason);
        }
        releaseLock() {
            if (this.#stream !== null) this.#stream[HOLD](null, null);
            this.#stream = null;
        }
    }

    class ReadableStream {
        #source;
        #controller;
        #queue = [];
        #reads = []; // who waits for a piece
        #reader = null;
        #closed = null; // of the reader
        #state = "readable";
        #error;
        #isStarted = false;
        #isClosing = false;
        #isPulling = false;
        #pullsAgain = false;
        #most;
        constructor(source = {}, { highWaterMark = source.type === "bytes" ? 0 : 1 } = {}) {
            if (source.type !== undefined && source.type !== "bytes") throw new TypeError(`a stream of ${source.type} is not known`);
            this.#source = source;
            this.#most = Number(highWaterMark);
            const free = () => this.#most - this.#queue.length;
            this.#controller = {
                get desiredSize() { return free(); },
                enqueue: (piece) => this.#enqueue(piece),
                close: () => this.#close(),
                error: (error) => this.#fail(error),
            };
            const begun = typeof source.start === "function" ? source.start(this.#controller) : undefined;
            Promise.resolve(begun).then(() => { this.#isStarted = true; this.#pull(); }, (error) => this.#fail(error));
        }
        static from(iterable) {
            const from = iterable[Symbol.asyncIterator] || iterable[Symbol.iterator];
            if (typeof from !== "function") throw new TypeError("ReadableStream.from() takes what can be iterated");
            const pieces = from.call(iterable);
            return new ReadableStream({
                async pull(controller) {
                    const { done, value } = await pieces.next();
                    if (done) controller.close();
                    else controller.enqueue(await value);
                },
                cancel: (reason) => (pieces.return ? pieces.return(reason) : undefined),
            }, { highWaterMark: 0 });
        }
        get locked() { return this.#reader !== null; }
        getReader({ mode } = {}) {
            if (mode !== undefined) throw new TypeError(`readers with mode ${mode} are not here`);
            return new Reader(this);
        }
        async cancel(reason) {
            if (this.locked) throw new TypeError("the stream has a reader");
            return this[CANCEL](reason);
        }
        tee() {
            const reader = this.getReader();
            const branches = [];
            const gone = new Set();
            const reasons = [];
            const cancelled = later();
            let isReading = false;
            const pull = async () => {
                if (isReading) return;
                isReading = true;
                try {
                    const { done, value } = await reader.read();
                    isReading = false;
                    for (const [i, branch] of branches.entries()) {
                        if (!gone.has(i)) done ? branch.close() : branch.enqueue(value);
                    }
                    if (done) cancelled.resolve();
                } catch (error) {
                    for (const branch of branches) branch.error(error);
                }
            };
            const branch = (i) => new ReadableStream({
                start: (controller) => { branches[i] = controller; },
                pull,
                cancel: (reason) => {
                    gone.add(i);
                    reasons[i] = reason;
                    if (gone.size === 2) cancelled.resolve(reader.cancel(reasons));
                    return cancelled.promise;
                },
            }, { highWaterMark: 0 });
            return [branch(0), branch(1)];
        }
        async pipeTo(into, { preventClose = false, preventAbort = false, preventCancel = false, signal } = {}) {
            const reader = this.getReader();
            const writer = into.getWriter();
            try {
                for (;;) {
                    if (signal) signal.throwIfAborted();
                    await writer.ready;
                    const { done, value } = await reader.read().catch(async (error) => {
                        if (!preventAbort) await writer.abort(error);
                        throw error;
                    });
                    if (done) break;
                    await writer.write(value);
                }
                if (!preventClose) await writer.close();
            } catch (error) {
                if (signal && signal.aborted && !preventAbort) await writer.abort(error);
                if (!preventCancel) await reader.cancel(error).catch(() => {});
                throw error;
            } finally {
                reader.releaseLock();
                writer.releaseLock();
            }
        }
        pipeThrough({ writable, readable }, options = {}) {
            this.pipeTo(writable, options).catch(() => {}); // who reads the other end is told
            return readable;
        }
        async *values({ preventCancel = false } = {}) {
            const reader = this.getReader();
            let isOver = false;
            try {
                for (;;) {
                    const { done, value } = await reader.read().catch((error) => { isOver = true; throw error; });
                    if (done) { isOver = true; return; }
                    yield value;
                }
            } finally {
                if (!isOver && !preventCancel) await reader.cancel();
                reader.releaseLock();
            }
        }
        [Symbol.asyncIterator](options) { return this.values(options); }

        // ---- What readers and the source do ----

        [HOLD](reader, closed) {
            if (reader !== null && this.#reader !== null) throw new TypeError("the stream has a reader already");
            if (reader === null) {
                for (const read of this.#reads.splice(0)) read.reject(new TypeError("the reader was released"));
                if (this.#state === "readable") this.#closed.reject(new TypeError("the reader was released"));
            }
            this.#reader = reader;
            this.#closed = closed;
            if (reader !== null && this.#state === "closed") closed.resolve();
            if (reader !== null && this.#state === "errored") closed.reject(this.#error);
        }
        async [READ]() {
            this._isDisturbed = true;
            if (this.#queue.length > 0) {
                const value = this.#queue.shift();
                if (this.#queue.length === 0 && this.#isClosing) this.#end();
                else this.#pull();
                return { done: false, value };
            }
            if (this.#state === "errored") throw this.#error;
            if (this.#state === "closed") return { done: true, value: undefined };
            const read = later();
            this.#reads.push(read);
            this.#pull();
            return read.promise;
        }
        async [CANCEL](reason) {
            this._isDisturbed = true;
            if (this.#state === "errored") throw this.#error;
            if (this.#state === "closed") return;
            this.#queue = [];
            this.#end();
            if (typeof this.#source.cancel === "function") await this.#source.cancel(reason);
        }
        #enqueue(piece) {
            if (this.#state !== "readable" || this.#isClosing) throw new TypeError("the stream takes no more");
            if (this.#reads.length > 0) this.#reads.shift().resolve({ done: false, value: piece });
            else this.#queue.push(piece);
            this.#pull();
        }
        #close() {
            if (this.#state !== "readable" || this.#isClosing) throw new TypeError("the stream is closed already");
            this.#isClosing = true;
            if (this.#queue.length === 0) this.#end();
        }
        #end() {
            this.#state = "closed";
            for (const read of this.#reads.splice(0)) read.resolve({ done: true, value: undefined });
            if (this.#closed !== null) this.#closed.resolve();
        }
        #fail(error) {
            if (this.#state !== "readable") return;
            this.#state = "errored";
            this.#error = error;
            this.#queue = [];
            for (const read of this.#reads.splice(0)) read.reject(error);
            if (this.#closed !== null) this.#closed.reject(error);
        }
        #pull() {
            if (!this.#isStarted || this.#state !== "readable" || this.#isClosing || typeof this.#source.pull !== "function") return;
            if (this.#reads.length === 0 && this.#queue.length >= this.#most) return;
            if (this.#isPulling) {
                this.#pullsAgain = true;
                return;
            }
            this.#isPulling = true;
            const over = () => {
                this.#isPulling = false;
                if (this.#pullsAgain) {
                    this.#pullsAgain = false;
                    this.#pull();
                }
            };
            Promise.resolve().then(() => this.#source.pull(this.#controller)).then(over, (error) => this.#fail(error));
        }
    }

    class Writer {
        #stream;
        #calls;
        constructor(stream, calls) {
            this.#stream = stream;
            this.#calls = calls;
        }
        #held() {
            if (this.#stream === null) throw new TypeError("the writer was released");
            return this.#calls;
        }
        get closed() { return this.#held().closed(); }
        get ready() { return this.#held().ready(); }
        get desiredSize() { return this.#held().desiredSize(); }
        async write(piece) { return this.#held().write(piece); }
        async close() { return this.#held().close(); }
        async abort(reason) { return this.#held().abort(reason); }
        releaseLock() {
            if (this.#stream !== null) this.#calls.release();
            this.#stream = null;
        }
    }

    class WritableStream {
        #sink;
        #most;
        #controller;
        #writer = null;
        #last; // of what was ordered: one after the other
        #count = 0; // pieces that are not written yet
        #ready = later();
        #closed = later();
        #isClosing = false;
        #isOver = false;
        #error = null; // [why]
        #abort = new AbortController();
        constructor(sink = {}, { highWaterMark = 1 } = {}) {
            this.#sink = sink;
            this.#most = Number(highWaterMark);
            this.#controller = { signal: this.#abort.signal, error: (error) => this.#fail(error) };
            this.#ready.resolve();
            this.#last = Promise.resolve(typeof sink.start === "function" ? sink.start(this.#controller) : undefined);
            this.#last.catch((error) => this.#fail(error));
        }
        get locked() { return this.#writer !== null; }
        getWriter() {
            if (this.locked) throw new TypeError("the stream has a writer already");
            this.#writer = new Writer(this, {
                closed: () => this.#closed.promise,
                ready: () => this.#ready.promise,
                desiredSize: () => (this.#error !== null ? null : this.#isOver ? 0 : this.#most - this.#count),
                write: (piece) => this.#write(piece),
                close: () => this.#close(),
                abort: (reason) => this.#abortNow(reason),
                release: () => { this.#writer = null; },
            });
            return this.#writer;
        }
        async close() { this.#unlocked(); return this.#close(); }
        async abort(reason) { this.#unlocked(); return this.#abortNow(reason); }
        #unlocked() { if (this.locked) throw new TypeError("the stream has a writer"); }
        #order(call) {
            const done = this.#last.then(() => {
                if (this.#error !== null) throw this.#error[0];
                return call();
            });
            this.#last = done.catch((error) => this.#fail(error));
            return done;
        }
        async #write(piece) {
            if (this.#error !== null) throw this.#error[0];
            if (this.#isClosing) throw new TypeError("the stream is closed");
            if (++this.#count >= this.#most) this.#ready = later();
            const written = this.#order(() => (typeof this.#sink.write === "function" ? this.#sink.write(piece, this.#controller) : undefined));
            const one = () => { if (--this.#count < this.#most) this.#ready.resolve(); };
            written.then(one, one);
            return written;
        }
        async #close() {
            if (this.#error !== null) throw this.#error[0];
            if (this.#isClosing) throw new TypeError("the stream is closed already");
            this.#isClosing = true;
            await this.#order(() => (typeof this.#sink.close === "function" ? this.#sink.close() : undefined));
            this.#isOver = true;
            this.#closed.resolve();
        }
        async #abortNow(reason) {
            if (this.#isOver || this.#error !== null) return;
            this.#fail(reason);
            this.#abort.abort(reason);
            if (typeof this.#sink.abort === "function") await this.#sink.abort(reason);
        }
        #fail(error) {
            if (this.#isOver || this.#error !== null) return;
            this.#error = [error];
            this.#ready.reject(error);
            this.#ready = later();
            this.#ready.reject(error);
            this.#closed.reject(error);
        }
    }

    class TransformStream {
        constructor(transformer = {}) {
            let output;
            let wanted = later();
            let input;
            const controller = {
                get desiredSize() { return output.desiredSize; },
                enqueue: (piece) => { wanted = later(); output.enqueue(piece); },
                error: (error) => { output.error(error); input.error(error); },
                terminate: () => { output.close(); input.error(new TypeError("the stream was terminated")); },
            };
            this.readable = new ReadableStream({
                start: (its) => { output = its; },
                pull: () => { wanted.resolve(); },
                cancel: (reason) => { input.error(reason); wanted.resolve(); },
            }, { highWaterMark: 0 });
            this.writable = new WritableStream({
                start: (its) => {
                    input = its;
                    return typeof transformer.start === "function" ? transformer.start(controller) : undefined;
                },
                async write(piece) {
                    await wanted.promise; // until a piece was given the reader wants one
                    if (typeof transformer.transform === "function") await transformer.transform(piece, controller);
                    else controller.enqueue(piece);
                },
                async close() {
                    if (typeof transformer.flush === "function") await transformer.flush(controller);
                    output.close();
                },
                abort: (reason) => output.error(reason),
            });
        }
    }

    class TextEncoderStream extends TransformStream {
        constructor() { super({ transform: (text, controller) => controller.enqueue(web.bytesOf(`${text}`)) }); }
        get encoding() { return "utf-8"; }
    }

    class TextDecoderStream extends TransformStream {
        constructor(label = "utf-8", options = {}) {
            const decoder = new web.TextDecoder(label, options);
            const say = (text, controller) => { if (text !== "") controller.enqueue(text); };
            super({
                transform: (bytes, controller) => say(decoder.decode(bytes, { stream: true }), controller),
                flush: (controller) => say(decoder.decode(), controller),
            });
        }
        get encoding() { return "utf-8"; }
    }

    const all = { ReadableStream, WritableStream, TransformStream, TextEncoderStream, TextDecoderStream };
    for (const [name, value] of Object.entries(all)) define(name, value);
    Object.assign(web, { ReadableStream });
})
