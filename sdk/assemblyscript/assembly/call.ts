// Calling another function of the project.

import { bytesOf, replyAt, replyOf, REPLY_BYTES, textOf, v1_invoke } from "./raw";
import { errorOf, failed, Result, succeeded } from "./result";

// What was answered.
export class Answer {
  constructor(
    readonly status: i32,
    readonly fields: string, // "Name: value\r\n" each
    readonly body: ArrayBuffer,
  ) {}

  get text(): string {
    return textOf(this.body);
  }

  // The first field of this name, in any case; null: there is none.
  header(name: string): string | null {
    const wanted = name.toLowerCase();
    const lines = this.fields.split("\r\n");
    for (let i = 0; i < lines.length; i++) {
      const at = lines[i].indexOf(":");
      if (at > 0 && lines[i].substring(0, at).toLowerCase() == wanted) return lines[i].substring(at + 1).trim();
    }
    return null;
  }
}

// u32 status, u32 length of the fields, the fields, the body.
export function answerOf(bytes: ArrayBuffer): Answer {
  if (bytes.byteLength < 8) return new Answer(0, "", new ArrayBuffer(0));
  const at = changetype<usize>(bytes);
  const end = min(8 + <u64>load<u32>(at, 4), <u64>bytes.byteLength);
  return new Answer(load<u32>(at), textOf(bytes.slice(8, <i32>end)), bytes.slice(<i32>end));
}

// A call of "NAME", "NAME:ALIAS" or "NAME:VERSION": a POST to "/" unless something else is said.
export class Call {
  private verb: string = "POST";
  private target: string = "/";
  private fields: string = "";
  private content: ArrayBuffer = new ArrayBuffer(0);
  private limit: u32 = 0;

  constructor(private name: string) {}

  method(method: string): this {
    this.verb = method;
    return this;
  }

  // With its query.
  path(path: string): this {
    this.target = path;
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

  // Any status is an answer; an error is a call that came to nothing.
  send(): Result<Answer> {
    const name = bytesOf(this.name);
    const method = bytesOf(this.verb);
    const path = bytesOf(this.target);
    const fields = bytesOf(this.fields);
    const length = v1_invoke(
      changetype<usize>(name), name.byteLength, changetype<usize>(method), method.byteLength, changetype<usize>(path),
      path.byteLength, changetype<usize>(fields), fields.byteLength, changetype<usize>(this.content), this.content.byteLength,
      this.limit, replyAt, REPLY_BYTES);
    return length < 0 ? failed<Answer>(errorOf(length)) : succeeded<Answer>(answerOf(replyOf(length)));
  }
}
