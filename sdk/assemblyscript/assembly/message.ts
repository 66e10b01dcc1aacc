// What queues and streams take: docs/user-guide/queues-and-streams.md.

import { bytesOf, numberAt, quoted, replyAt, replyOf, REPLY_BYTES, textOf, v1_queue_send, v1_stream_append } from "./raw";
import { errorOf, failed, Result, succeeded } from "./result";

// A message of a queue, or a record of a stream.
export class Message {
  readonly attributes: string[] = [];
  group: string = "";
  delayMs: u64 = 0;
  urgency: u32 = 0;

  constructor(
    readonly body: ArrayBuffer,
    readonly type: string = "application/octet-stream",
  ) {}

  static text(text: string): Message {
    return new Message(bytesOf(text), "text/plain; charset=utf-8");
  }

  // A body that is JSON.
  static json(text: string): Message {
    return new Message(bytesOf(text), "application/json");
  }

  attribute(name: string, value: string): this {
    this.attributes.push(quoted(name) + ":" + quoted(value));
    return this;
  }

  // In a stream, records with the same key keep their order; in a FIFO queue, messages do.
  key(key: string): this {
    this.group = key;
    return this;
  }

  // In a queue: nobody gets it before so many milliseconds.
  delay(ms: u64): this {
    this.delayMs = ms;
    return this;
  }

  // In a queue: 0 to 9; the highest goes first.
  priority(priority: u32): this {
    this.urgency = priority;
    return this;
  }

  encodedAttributes(): ArrayBuffer {
    return bytesOf(this.attributes.length == 0 ? "" : "{" + this.attributes.join(",") + "}");
  }
}

export abstract class queue {
  // The message's id.
  static send(queue: string, message: Message): Result<string> {
    const name = bytesOf(queue);
    const type = bytesOf(message.type);
    const attributes = message.encodedAttributes();
    const group = bytesOf(message.group);
    const length = v1_queue_send(
      changetype<usize>(name), name.byteLength, changetype<usize>(message.body), message.body.byteLength,
      changetype<usize>(type), type.byteLength, changetype<usize>(attributes), attributes.byteLength,
      changetype<usize>(group), group.byteLength, message.delayMs, message.urgency, replyAt, REPLY_BYTES);
    return length < 0 ? failed<string>(errorOf(length)) : succeeded<string>(textOf(replyOf(length)));
  }
}

// Where a record stands.
export class Position {
  constructor(
    readonly partition: i32,
    readonly sequence: u64,
  ) {}
}

export abstract class stream {
  static append(stream: string, record: Message): Result<Position> {
    const name = bytesOf(stream);
    const type = bytesOf(record.type);
    const attributes = record.encodedAttributes();
    const key = bytesOf(record.group);
    const partition = v1_stream_append(
      changetype<usize>(name), name.byteLength, changetype<usize>(key), key.byteLength, changetype<usize>(record.body),
      record.body.byteLength, changetype<usize>(type), type.byteLength, changetype<usize>(attributes), attributes.byteLength,
      numberAt);
    if (partition < 0) return failed<Position>(errorOf(partition));
    return succeeded<Position>(new Position(partition, load<u64>(numberAt)));
  }
}
