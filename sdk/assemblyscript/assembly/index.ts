// Functions on Blixard: requests and answers, and what a function may ask its host.
//
//     import { kv, Request, Response, serve } from "@blixard/sdk";
//
//     serve((request: Request): Response => Response.text("Hello, " + request.text() + "!\n"));

export { Answer, Call } from "./call";
export { Fetch, fetchReason, Redirects } from "./fetch";
export { Output, Request, Response, serve } from "./http";
export { Entry, kv } from "./kv";
export { Message, Position, queue, stream } from "./message";
export { deadline, Fact, log, metadata, Span } from "./observe";
export { quoted } from "./raw";
export { secret, secretBytes } from "./secret";
export {
  EACCES, EAGAIN, EBUSY, EDQUOT, EEXIST, EINVAL, EMSGSIZE, ENOENT, ENOSPC, EPERM, ETIMEDOUT, HostError, Result,
} from "./result";
