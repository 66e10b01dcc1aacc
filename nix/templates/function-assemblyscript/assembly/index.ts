// hello: measures the body and answers in JSON.
//
// It is run once per request, from the same memory each time.  Besides requests and answers the SDK
// has keys and values (kv), queues, streams, other functions (Call) and spans.

import { log, Request, Response, serve } from "@blixard/sdk";

function measure(request: Request): Response {
  const body = request.text();
  const lines = body.length == 0 ? 0 : body.split("\n").length;

  // See it with: blixard fn logs hello
  log.info("measured", [["characters", body.length.toString()]]);
  return Response.json('{"characters": ' + body.length.toString() + ', "lines": ' + lines.toString() + "}\n");
}

serve(measure);
