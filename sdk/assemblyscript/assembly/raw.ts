// The import module blixard_v1 as it is (docs/user-guide/host-api.md), and what of WASI a request needs.

// @ts-ignore: decorator
@external("blixard_v1", "log")
export declare function v1_log(level: i32, text: usize, length: usize, fields: usize, fieldsLength: usize): i32;
// @ts-ignore: decorator
@external("blixard_v1", "kv_get")
export declare function v1_kv_get(key: usize, keyLength: usize, value: usize, size: usize, revision: usize): i32;
// @ts-ignore: decorator
@external("blixard_v1", "kv_set")
export declare function v1_kv_set(key: usize, keyLength: usize, value: usize, length: usize, ttl: u64, revision: usize): i32;
// @ts-ignore: decorator
@external("blixard_v1", "kv_cas")
export declare function v1_kv_cas(key: usize, keyLength: usize, value: usize, length: usize, ttl: u64, expected: u64, revision: usize): i32;
// @ts-ignore: decorator
@external("blixard_v1", "kv_delete")
export declare function v1_kv_delete(key: usize, keyLength: usize, expected: u64): i32;
// @ts-ignore: decorator
@external("blixard_v1", "kv_list")
export declare function v1_kv_list(prefix: usize, prefixLength: usize, after: usize, afterLength: usize, max: u32, list: usize, size: usize): i32;
// @ts-ignore: decorator
@external("blixard_v1", "secret_get")
export declare function v1_secret_get(name: usize, nameLength: usize, value: usize, size: usize): i32;
// @ts-ignore: decorator
@external("blixard_v1", "queue_send")
export declare function v1_queue_send(queue: usize, queueLength: usize, body: usize, length: usize, type: usize, typeLength: usize, attributes: usize, attributesLength: usize, group: usize, groupLength: usize, delay: u64, priority: u32, id: usize, size: usize): i32;
// @ts-ignore: decorator
@external("blixard_v1", "stream_append")
export declare function v1_stream_append(stream: usize, streamLength: usize, key: usize, keyLength: usize, body: usize, length: usize, type: usize, typeLength: usize, attributes: usize, attributesLength: usize, sequence: usize): i32;
// @ts-ignore: decorator
@external("blixard_v1", "invoke")
export declare function v1_invoke(name: usize, nameLength: usize, method: usize, methodLength: usize, path: usize, pathLength: usize, fields: usize, fieldsLength: usize, body: usize, length: usize, timeout: u32, buffer: usize, size: usize): i32;
// @ts-ignore: decorator
@external("blixard_v1", "fetch")
export declare function v1_fetch(method: usize, methodLength: usize, url: usize, urlLength: usize, fields: usize, fieldsLength: usize, body: usize, length: usize, timeout: u32, how: u32, buffer: usize, size: usize, rest: usize): i32;
// @ts-ignore: decorator
@external("blixard_v1", "fetch_read")
export declare function v1_fetch_read(which: u32, bytes: usize, size: usize): i32;
// @ts-ignore: decorator
@external("blixard_v1", "deadline_ms")
export declare function v1_deadline_ms(): u64;
// @ts-ignore: decorator
@external("blixard_v1", "metadata")
export declare function v1_metadata(which: u32, text: usize, size: usize): i32;
// @ts-ignore: decorator
@external("blixard_v1", "span_begin")
export declare function v1_span_begin(name: usize, length: usize): i32;
// @ts-ignore: decorator
@external("blixard_v1", "span_attribute")
export declare function v1_span_attribute(span: i32, name: usize, nameLength: usize, value: usize, length: usize): i32;
// @ts-ignore: decorator
@external("blixard_v1", "span_end")
export declare function v1_span_end(span: i32, failure: usize, length: usize): i32;
// @ts-ignore: decorator
@external("blixard_v1", "flush")
export declare function v1_flush(): i32;
// @ts-ignore: decorator
@external("blixard_v1", "reply_read")
export declare function v1_reply_read(from: u32, bytes: usize, size: usize): i32;
// @ts-ignore: decorator
@external("blixard_v1", "error_message")
export declare function v1_error_message(text: usize, size: usize): i32;

// @ts-ignore: decorator
@external("wasi_snapshot_preview1", "fd_read")
export declare function wasi_fd_read(fd: i32, parts: usize, count: usize, read: usize): i32;
// @ts-ignore: decorator
@external("wasi_snapshot_preview1", "fd_write")
export declare function wasi_fd_write(fd: i32, parts: usize, count: usize, wrote: usize): i32;
// @ts-ignore: decorator
@external("wasi_snapshot_preview1", "environ_sizes_get")
export declare function wasi_environ_sizes_get(count: usize, bytes: usize): i32;
// @ts-ignore: decorator
@external("wasi_snapshot_preview1", "environ_get")
export declare function wasi_environ_get(variables: usize, bytes: usize): i32;
// @ts-ignore: decorator
@external("wasi_snapshot_preview1", "proc_exit")
export declare function wasi_proc_exit(status: i32): void;

// Where an import puts a number of 8 bytes, or two of 4.
export const numberAt: usize = memory.data(16, 8);

// Where an import puts its answer's beginning.
export const REPLY_BYTES: i32 = 4096;
export const replyAt: usize = memory.data(4096, 8);

// All of the last answer, whose beginning is in the reply's place.
export function replyOf(length: i32): ArrayBuffer {
  const bytes = new ArrayBuffer(length);
  const at = changetype<usize>(bytes);
  const there = min(length, REPLY_BYTES);
  memory.copy(at, replyAt, there);
  if (length > there) v1_reply_read(there, at + there, length - there);
  return bytes;
}

export function textOf(bytes: ArrayBuffer): string {
  return String.UTF8.decode(bytes);
}

// The bytes of a string (UTF-8), an ArrayBuffer or a Uint8Array.
export function bytesOf<T>(value: T): ArrayBuffer {
  if (isString<T>()) return String.UTF8.encode(changetype<string>(value));
  if (value instanceof ArrayBuffer) return value;
  if (value instanceof Uint8Array) return value.buffer.slice(value.byteOffset, value.byteOffset + value.byteLength);
  ERROR("a string, an ArrayBuffer or a Uint8Array is expected");
}

// A string of JSON (RFC 8259, section 7).
export function quoted(text: string): string {
  let out = '"';
  for (let i = 0; i < text.length; i++) {
    const char = text.charCodeAt(i);
    if (char == 0x22 || char == 0x5c) out += "\\" + text.charAt(i);
    else if (char < 0x20) out += "\\u" + char.toString(16).padStart(4, "0");
    else out += text.charAt(i);
  }
  return out + '"';
}
