// Secrets that the function's configuration names (`secrets:` of blixard.yaml).

import { bytesOf, replyAt, replyOf, REPLY_BYTES, textOf, v1_secret_get } from "./raw";
import { errorOf, failed, Result, succeeded } from "./result";

// The value as it is now; EACCES: the configuration does not name it.
export function secretBytes(name: string): Result<ArrayBuffer> {
  const key = bytesOf(name);
  const length = v1_secret_get(changetype<usize>(key), key.byteLength, replyAt, REPLY_BYTES);
  return length < 0 ? failed<ArrayBuffer>(errorOf(length)) : succeeded<ArrayBuffer>(replyOf(length));
}

// The same, of a value that is text.
export function secret(name: string): Result<string> {
  const bytes = secretBytes(name);
  return bytes.ok ? succeeded<string>(textOf(bytes.value)) : failed<string>(bytes.error!);
}
