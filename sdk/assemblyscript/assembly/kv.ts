// Keys and values of the project: docs/user-guide/kv.md.

import {
  bytesOf, numberAt, replyAt, replyOf, REPLY_BYTES, textOf, v1_kv_cas, v1_kv_delete, v1_kv_get, v1_kv_list, v1_kv_set,
} from "./raw";
import { EBUSY, ENOENT, errorOf, failed, Result, succeeded } from "./result";

// A value, and the revision it has: each write gives a new one.
export class Entry {
  constructor(
    readonly bytes: ArrayBuffer,
    readonly revision: u64,
  ) {}

  get text(): string {
    return textOf(this.bytes);
  }
}

export abstract class kv {
  // null: there is no such key.
  static get(key: string): Result<Entry | null> {
    const name = bytesOf(key);
    const length = v1_kv_get(changetype<usize>(name), name.byteLength, replyAt, REPLY_BYTES, numberAt);
    if (length == -ENOENT) return succeeded<Entry | null>(null);
    if (length < 0) return failed<Entry | null>(errorOf(length));
    const revision = load<u64>(numberAt);
    return succeeded<Entry | null>(new Entry(replyOf(length), revision));
  }

  // Write, whatever was there; the new revision.  ttl: milliseconds; 0: for good.
  static set<T>(key: string, value: T, ttl: u64 = 0): Result<u64> {
    const name = bytesOf(key);
    const bytes = bytesOf<T>(value);
    const r = v1_kv_set(changetype<usize>(name), name.byteLength, changetype<usize>(bytes), bytes.byteLength, ttl, numberAt);
    return r < 0 ? failed<u64>(errorOf(r)) : succeeded<u64>(load<u64>(numberAt));
  }

  // Write only if the key is at this revision (0: if there is no such key).  The new revision, or 0: somebody else was faster.
  static compareAndSet<T>(key: string, value: T, expected: u64, ttl: u64 = 0): Result<u64> {
    const name = bytesOf(key);
    const bytes = bytesOf<T>(value);
    const r = v1_kv_cas(
      changetype<usize>(name), name.byteLength, changetype<usize>(bytes), bytes.byteLength, ttl, expected, numberAt);
    if (r == -EBUSY) return succeeded<u64>(0);
    return r < 0 ? failed<u64>(errorOf(r)) : succeeded<u64>(load<u64>(numberAt));
  }

  // Write what `change` makes of the old text (null: there was none) and of `given`, again until nobody was faster; what was
  // written.  `given` stands for what a closure would have, which AssemblyScript does not.
  static update<G>(key: string, given: G, change: (old: string | null, given: G) => string, ttl: u64 = 0): Result<string> {
    while (true) {
      const old = kv.get(key);
      if (!old.ok) return failed<string>(old.error!);
      const entry = old.value;
      const text = change(entry === null ? null : entry.text, given);
      const written = kv.compareAndSet<string>(key, text, entry === null ? 0 : entry.revision, ttl);
      if (!written.ok) return failed<string>(written.error!);
      if (written.value != 0) return succeeded<string>(text);
    }
  }

  // Whether there was such a key, at this revision if one is given.
  static delete(key: string, expected: u64 = 0): Result<bool> {
    const name = bytesOf(key);
    const r = v1_kv_delete(changetype<usize>(name), name.byteLength, expected);
    if (r == -ENOENT || (r == -EBUSY && expected != 0)) return succeeded<bool>(false);
    return r < 0 ? failed<bool>(errorOf(r)) : succeeded<bool>(true);
  }

  // Keys that begin with `prefix` and come after `after`, in order, at most `limit` (0: 1,000).
  static list(prefix: string = "", after: string = "", limit: u32 = 0): Result<string[]> {
    const begin = bytesOf(prefix);
    const behind = bytesOf(after);
    const length = v1_kv_list(
      changetype<usize>(begin), begin.byteLength, changetype<usize>(behind), behind.byteLength, limit, replyAt, REPLY_BYTES);
    if (length < 0) return failed<string[]>(errorOf(length));
    const list = replyOf(length);
    const keys: string[] = [];
    for (let at: usize = 0; at + 4 <= <usize>list.byteLength; ) {
      const size: usize = load<u32>(changetype<usize>(list) + at);
      if (size > <usize>list.byteLength - at - 4) break;
      keys.push(String.UTF8.decodeUnsafe(changetype<usize>(list) + at + 4, size));
      at += 4 + size;
    }
    return succeeded<string[]>(keys);
  }
}
