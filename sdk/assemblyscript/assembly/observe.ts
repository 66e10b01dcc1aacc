// What others see of a function: its log and its spans; and what it can know of the request.

import { bytesOf, replyAt, replyOf, REPLY_BYTES, textOf, v1_deadline_ms, v1_log, v1_metadata, v1_span_attribute, v1_span_begin, v1_span_end } from "./raw";
import { errorOf, failed, Result, succeeded } from "./result";

function say(level: i32, text: string, fields: string[][]): void {
  let all = "";
  for (let i = 0; i < fields.length; i++) {
    for (let j = 0; j < 2; j++) all += (j < fields[i].length ? fields[i][j].replaceAll("\0", "") : "") + "\0";
  }
  const line = bytesOf(text);
  const more = bytesOf(all);
  v1_log(level, changetype<usize>(line), line.byteLength, changetype<usize>(more), more.byteLength);
}

// A line of the log with fields: log.info("sent", [["to", "Ada"]]).
export abstract class log {
  static error(text: string, fields: string[][] = []): void {
    say(3, text, fields);
  }
  static warn(text: string, fields: string[][] = []): void {
    say(4, text, fields);
  }
  static info(text: string, fields: string[][] = []): void {
    say(6, text, fields);
  }
  static debug(text: string, fields: string[][] = []): void {
    say(7, text, fields);
  }
}

// A span of the request's trace, from begin() to end().
export class Span {
  private constructor(private number: i32) {}

  static begin(name: string): Result<Span> {
    const text = bytesOf(name);
    const span = v1_span_begin(changetype<usize>(text), text.byteLength);
    return span < 0 ? failed<Span>(errorOf(span)) : succeeded<Span>(new Span(span));
  }

  set(name: string, value: string): this {
    const key = bytesOf(name);
    const text = bytesOf(value);
    v1_span_attribute(this.number, changetype<usize>(key), key.byteLength, changetype<usize>(text), text.byteLength);
    return this;
  }

  // failure: why it failed; "": it did not.
  end(failure: string = ""): void {
    const text = bytesOf(failure);
    v1_span_end(this.number, changetype<usize>(text), text.byteLength);
  }
}

// Milliseconds until this request must be answered.
export function deadline(): u64 {
  return v1_deadline_ms();
}

// Facts of the request, known from the node's side.
export enum Fact {
  Project,
  Function,
  Version,
  RequestId,
  Traceparent,
}

export function metadata(fact: Fact): Result<string> {
  const length = v1_metadata(fact, replyAt, REPLY_BYTES);
  return length < 0 ? failed<string>(errorOf(length)) : succeeded<string>(textOf(replyOf(length)));
}
