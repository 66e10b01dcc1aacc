// One request and its answer: CGI (RFC 3875) below, nothing of it above.

import { log } from "./observe";
import {
  bytesOf, numberAt, textOf, v1_flush, wasi_environ_get, wasi_environ_sizes_get, wasi_fd_read, wasi_fd_write, wasi_proc_exit,
} from "./raw";
import { HostError } from "./result";

const partAt: usize = memory.data(8, 8);

function writeAll(bytes: ArrayBuffer): bool {
  let at = changetype<usize>(bytes);
  let left: usize = bytes.byteLength;
  while (left > 0) {
    store<usize>(partAt, at);
    store<usize>(partAt, left, 4);
    if (wasi_fd_write(1, partAt, 1, numberAt) != 0) return false;
    const wrote = load<u32>(numberAt);
    at += wrote;
    left -= wrote;
  }
  return true;
}

function readEnvironment(): Map<string, string> {
  const variables = new Map<string, string>();
  if (wasi_environ_sizes_get(numberAt, numberAt + 4) != 0) return variables;
  const count = load<u32>(numberAt);
  const names = new ArrayBuffer(4 * count);
  const bytes = new ArrayBuffer(load<u32>(numberAt, 4));
  if (wasi_environ_get(changetype<usize>(names), changetype<usize>(bytes)) != 0) return variables;
  const end = changetype<usize>(bytes) + bytes.byteLength;
  for (let i: u32 = 0; i < count; i++) {
    const at: usize = load<u32>(changetype<usize>(names) + 4 * i);
    const text = String.UTF8.decodeUnsafe(at, end - at, true);
    const equals = text.indexOf("=");
    if (equals > 0) variables.set(text.substring(0, equals), text.substring(equals + 1));
  }
  return variables;
}

function hexOf(char: i32): i32 {
  if (char >= 0x30 && char <= 0x39) return char - 0x30;
  const lower = char | 0x20;
  return lower >= 0x61 && lower <= 0x66 ? lower - 0x61 + 10 : -1;
}

// Percent-encoded and '+' for a space, as forms have it.
function decoded(text: string): string {
  const bytes = Uint8Array.wrap(bytesOf(text));
  const out = new Uint8Array(bytes.length);
  let used = 0;
  for (let i = 0; i < bytes.length; i++) {
    const high = bytes[i] == 0x25 && i + 2 < bytes.length ? hexOf(bytes[i + 1]) : -1;
    const low = high >= 0 ? hexOf(bytes[i + 2]) : -1;
    if (low >= 0) {
      out[used++] = <u8>((high << 4) | low);
      i += 2;
    } else {
      out[used++] = bytes[i] == 0x2b ? 0x20 : bytes[i];
    }
  }
  return textOf(out.buffer.slice(0, used));
}

// The request being answered.
export class Request {
  readonly environment: Map<string, string> = readEnvironment();

  private variable(name: string): string {
    return this.environment.has(name) ? this.environment.get(name) : "";
  }

  get method(): string {
    return this.variable("REQUEST_METHOD");
  }

  // Behind the function's own: "" or what begins with '/', percent-decoded.
  get path(): string {
    return this.variable("PATH_INFO");
  }

  // As it was sent, without the '?'.
  get query(): string {
    return this.variable("QUERY_STRING");
  }

  // The first value of this name in the query, decoded; null: there is none.
  parameter(name: string): string | null {
    const pairs = this.query.split("&");
    for (let i = 0; i < pairs.length; i++) {
      const at = pairs[i].indexOf("=");
      if (decoded(at < 0 ? pairs[i] : pairs[i].substring(0, at)) == name) return at < 0 ? "" : decoded(pairs[i].substring(at + 1));
    }
    return null;
  }

  // A header field, by any case of its name; null: there is none.
  header(name: string): string | null {
    const upper = name.toUpperCase().replaceAll("-", "_");
    const key = upper == "CONTENT_TYPE" || upper == "CONTENT_LENGTH" ? upper : "HTTP_" + upper;
    return this.environment.has(key) ? this.environment.get(key) : null;
  }

  // More of the body: how many bytes, 0 at its end, -1 when it broke off.
  read(into: ArrayBuffer): i32 {
    store<usize>(partAt, changetype<usize>(into));
    store<usize>(partAt, into.byteLength, 4);
    return wasi_fd_read(0, partAt, 1, numberAt) == 0 ? load<i32>(numberAt) : -1;
  }

  // All of the body.
  bytes(): ArrayBuffer {
    let all = new ArrayBuffer(16384);
    let used = 0;
    while (true) {
      if (used == all.byteLength) {
        const larger = new ArrayBuffer(2 * used);
        memory.copy(changetype<usize>(larger), changetype<usize>(all), used);
        all = larger;
      }
      store<usize>(partAt, changetype<usize>(all) + used);
      store<usize>(partAt, all.byteLength - used, 4);
      if (wasi_fd_read(0, partAt, 1, numberAt) != 0) throw new Error("the request broke off");
      if (load<i32>(numberAt) == 0) return all.slice(0, used);
      used += load<i32>(numberAt);
    }
  }

  // All of the body as UTF-8.
  text(): string {
    return textOf(this.bytes());
  }
}

// Where a body that is written in pieces goes.
export class Output {
  // false: nobody takes it any more.
  write<T>(piece: T): bool {
    return writeAll(bytesOf<T>(piece));
  }

  // What was written so far goes to the client now.
  flush(): bool {
    return v1_flush() >= 0;
  }
}

function isToken(text: string): bool {
  for (let i = 0; i < text.length; i++) {
    const char = text.charCodeAt(i);
    const isWord = (char >= 0x30 && char <= 0x39) || ((char | 0x20) >= 0x61 && (char | 0x20) <= 0x7a);
    if (!isWord && "!#$%&'*+-.^_`|~".indexOf(text.charAt(i)) < 0) return false;
  }
  return text.length > 0;
}

function isValue(text: string): bool {
  for (let i = 0; i < text.length; i++) {
    const char = text.charCodeAt(i);
    if ((char < 0x20 && char != 9) || char == 0x7f) return false;
  }
  return true;
}

// What a handler answers.
export class Response {
  private code: i32 = 200;
  private fields: string = "";
  private problem: string = "";
  private pieces: ((request: Request, out: Output) => void) | null = null;

  constructor(private body: ArrayBuffer = new ArrayBuffer(0)) {}

  static text(text: string): Response {
    return new Response(bytesOf(text)).header("Content-Type", "text/plain; charset=utf-8");
  }

  static html(text: string): Response {
    return new Response(bytesOf(text)).header("Content-Type", "text/html; charset=utf-8");
  }

  // A body that is JSON already.
  static json(text: string): Response {
    return new Response(bytesOf(text)).header("Content-Type", "application/json");
  }

  static bytes(type: string, bytes: ArrayBuffer): Response {
    return new Response(bytes).header("Content-Type", type);
  }

  // A body that is written piece by piece, after status and fields have been sent.
  static stream(type: string, write: (request: Request, out: Output) => void): Response {
    const response = new Response().header("Content-Type", type);
    response.pieces = write;
    return response;
  }

  // 500; why goes to the log and not to the client.
  static failure(error: HostError): Response {
    log.error(error.message);
    return Response.text("the function failed; its log says why\n").status(500);
  }

  // 200 to 599.
  status(status: i32): this {
    if (status < 200 || status > 599) this.problem = status.toString() + " is not a status from 200 to 599";
    this.code = status;
    return this;
  }

  // One more header field.  What is none makes the answer a 500, and the log says why.
  header(name: string, value: string): this {
    if (!isToken(name) || !isValue(value)) this.problem = name + ": " + value + " is not a header field";
    else this.fields += name + ": " + value + "\r\n";
    return this;
  }

  send(request: Request): bool {
    if (this.problem.length > 0) return Response.failure(new HostError(0, this.problem)).send(request);
    if (!writeAll(bytesOf("Status: " + this.code.toString() + "\r\n" + this.fields + "\r\n"))) return false;
    const pieces = this.pieces;
    if (pieces === null) return writeAll(this.body);
    pieces(request, new Output());
    return true;
  }
}

// Answer the request: the last line of a function's index.ts.
export function serve(handler: (request: Request) => Response): void {
  const request = new Request();
  if (!handler(request).send(request)) wasi_proc_exit(1); // nobody takes the answer: it is not whole
}
