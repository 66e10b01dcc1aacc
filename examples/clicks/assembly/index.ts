// Clicks: each is a record of a stream, which a trigger of that stream brings back here to be counted.

import { kv, log, Message, quoted, Request, Response, serve, stream } from "@blixard/sdk";
import { Count } from "./count";

const STREAM = "clicks";
const PREFIX = "clicks/";

// Somebody clicks.
function click(request: Request): Response {
  const page = request.parameter("page");
  if (page === null || page.length == 0 || page.length > 200) return Response.text("which page? ?page=/about\n").status(400);
  const written = stream.append(STREAM, Message.text(page).key(page));
  if (!written.ok) return Response.failure(written.error!);
  return new Response().status(202);
}

// The stream's trigger brings a record: its id is STREAM-PARTITION-SEQUENCE.
function count(request: Request, id: string): Response {
  const page = request.text();
  const sequence = U64.parseInt(id.substring(id.lastIndexOf("-") + 1));
  const written = kv.update(PREFIX + page, sequence, (old: string | null, sequence: u64) => Count.parse(old).add(sequence).toString());
  if (!written.ok) return Response.failure(written.error!); // it will come again
  log.info("counted", [["page", page], ["count", written.value]]);
  return new Response().status(204);
}

// All counts; there may be more keys than one list has.
function show(): Response {
  const lines: string[] = [];
  let after = "";
  do {
    const keys = kv.list(PREFIX, after);
    if (!keys.ok) return Response.failure(keys.error!);
    after = "";
    for (let i = 0; i < keys.value.length; i++) {
      after = keys.value[i];
      const entry = kv.get(after);
      if (!entry.ok) return Response.failure(entry.error!);
      const found = entry.value;
      const clicks = Count.parse(found === null ? null : found.text).clicks;
      lines.push(quoted(after.substring(PREFIX.length)) + ": " + clicks.toString());
    }
  } while (after != "");
  return Response.json("{" + lines.join(", ") + "}\n");
}

function answer(request: Request): Response {
  const id = request.header("ce-id");
  const source = request.header("ce-source");
  if (id !== null && source !== null && source == "/streams/" + STREAM) return count(request, id);
  if (request.method == "POST") return click(request);
  return request.method == "GET" ? show() : Response.text("GET or POST\n").status(405).header("Allow", "GET, POST");
}

serve(answer);
