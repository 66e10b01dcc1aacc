// What the host answered, or why it did not.

import { v1_error_message, replyAt, REPLY_BYTES } from "./raw";

// Numbers that a program may want to tell apart; those of wasi_snapshot_preview1.
export const EACCES: i32 = 2;
export const EAGAIN: i32 = 6;
export const EBUSY: i32 = 10;
export const EDQUOT: i32 = 19;
export const EEXIST: i32 = 20;
export const EINVAL: i32 = 28;
export const EMSGSIZE: i32 = 35;
export const ENOENT: i32 = 44;
export const ENOSPC: i32 = 51;
export const EPERM: i32 = 63;
export const ETIMEDOUT: i32 = 73;

export class HostError {
  constructor(
    readonly errno: i32,
    readonly message: string,
  ) {}

  toString(): string {
    return this.message;
  }
}

// AssemblyScript has no exceptions that could be caught: a call has a value or an error.
export class Result<T> {
  constructor(
    private inner: T,
    readonly error: HostError | null,
  ) {}

  get ok(): bool {
    return this.error === null;
  }

  // The value; where there is none the function ends (502), with the error in its log.
  get value(): T {
    const error = this.error;
    if (error !== null) throw new Error(error.message);
    return this.inner;
  }

  // The value, or this one.
  or(fallback: T): T {
    return this.error === null ? this.inner : fallback;
  }
}

export function succeeded<T>(value: T): Result<T> {
  return new Result<T>(value, null);
}

export function failed<T>(error: HostError): Result<T> {
  if (isReference<T>()) return new Result<T>(changetype<T>(0), error);
  // @ts-ignore: a number
  return new Result<T>(<T>0, error);
}

// Of a negative result.
export function errorOf(result: i32): HostError {
  const length = v1_error_message(replyAt, REPLY_BYTES);
  const text = String.UTF8.decodeUnsafe(replyAt, max(0, min(length, REPLY_BYTES)));
  return new HostError(-result, text.length > 0 ? text : "error " + (-result).toString() + " of the host");
}
