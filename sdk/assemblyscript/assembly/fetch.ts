// Asking other servers by HTTP and HTTPS: those on the function's list (`fetch.allow` in blixard.yaml).

import { Answer, answerOf } from "./call";
import { bytesOf, numberAt, replyAt, replyOf, REPLY_BYTES, v1_fetch, v1_fetch_read } from "./raw";
import { errorOf, failed, HostError, Result, succeeded } from "./result";

// How redirects are meant.
export enum Redirects {
  Follow = 0,
  Manual = 4,
  Refuse = 8,
}

const PIECE_BYTES: i32 = 65536;

// A GET of a URL, unless something else is said.
export class Fetch {
  private verb: string = "GET";
  private fields: string = "";
  private content: ArrayBuffer = new ArrayBuffer(0);
  private limit: u32 = 0;
  private how: u32 = 0;

  constructor(private url: string) {}

  method(method: string): this {
    this.verb = method;
    return this;
  }

  // The node refuses what is not a header field.
  header(name: string, value: string): this {
    this.fields += name + ": " + value.replaceAll("\r", " ").replaceAll("\n", " ") + "\r\n";
    return this;
  }

  body<T>(body: T): this {
    this.content = bytesOf<T>(body);
    return this;
  }

  // Default: what is left of this request's own time.
  timeout(ms: u32): this {
    this.limit = ms;
    return this;
  }

  redirects(how: Redirects): this {
    this.how = how;
    return this;
  }

  // The whole answer.  Any status is one; an error's message begins with one word for why (fetchReason).
  send(): Result<Answer> {
    const url = bytesOf(this.url);
    const method = bytesOf(this.verb);
    const fields = bytesOf(this.fields);
    const length = v1_fetch(
      changetype<usize>(method), method.byteLength, changetype<usize>(url), url.byteLength, changetype<usize>(fields),
      fields.byteLength, changetype<usize>(this.content), this.content.byteLength, this.limit, this.how, replyAt, REPLY_BYTES,
      numberAt);
    if (length < 0) return failed<Answer>(errorOf(length));
    const rest = load<u32>(numberAt);
    const answer = answerOf(replyOf(length));
    if (rest == 0) return succeeded<Answer>(answer);
    let whole = Uint8Array.wrap(answer.body);
    let used = whole.byteLength;
    let got = 1;
    while (got > 0) {
      if (whole.byteLength - used < PIECE_BYTES) {
        const larger = new Uint8Array((used + PIECE_BYTES) * 2);
        memory.copy(larger.dataStart, whole.dataStart, used);
        whole = larger;
      }
      got = v1_fetch_read(rest, whole.dataStart + used, PIECE_BYTES);
      if (got < 0) return failed<Answer>(errorOf(got));
      used += got;
    }
    return succeeded<Answer>(new Answer(answer.status, answer.fields, whole.buffer.slice(0, used)));
  }
}

// The word that the error of a fetch begins with: "connect", "timeout", ...
export function fetchReason(error: HostError): string {
  const at = error.message.indexOf(": ");
  return at > 0 ? error.message.substring(0, at) : "";
}
