// What test/integration/sdk_test.py asks of every SDK, by path.

import { Call, deadline, ENOENT, Fact, Fetch, fetchReason, HostError, kv, log, Message, metadata, Output, queue, quoted, Request, Response, secret, serve, Span, stream } from "@blixard/sdk";

function text(lines: string[]): Response {
  return Response.text(lines.join("\n") + "\n");
}

function show(request: Request): Response {
  const body = request.text();
  const name = request.parameter("name");
  const one = request.header("x-one");
  return text([
    request.method + " " + request.path + " " + request.query,
    quoted(name === null ? "" : name) + " " + (request.parameter("none") === null).toString(),
    quoted(one === null ? "" : one) + " " + (request.header("X-None") === null).toString(),
    body.length.toString(),
  ]).status(201).header("X-Answer", "yes");
}

function facts(): Response {
  const lines: string[] = [];
  for (let fact = Fact.Project; fact <= Fact.RequestId; fact++) lines.push(metadata(fact).value);
  lines.push(metadata(Fact.Traceparent).value.length.toString());
  lines.push((deadline() > 0 && deadline() <= 30000).toString());
  return text(lines);
}

function keys(): Response {
  const lines: string[] = ["none " + (kv.get("k/none").value === null).toString()];
  const first = kv.set("k/one", "one").value;
  const entry = kv.get("k/one").value;
  lines.push("get " + (entry !== null && entry.text == "one" && entry.revision == first).toString());
  lines.push("lost " + (kv.compareAndSet("k/one", "two", 0).value == 0).toString());
  lines.push("won " + (kv.compareAndSet("k/one", "two", first).value != 0).toString());
  for (let i = 0; i < 2; i++) {
    lines.push("update " + kv.update("k/two", "x", (old: string | null, given: string) => (old === null ? "" : old) + given).value);
  }
  kv.set("k/three", new ArrayBuffer(100000), 60000).value;
  const long = kv.get("k/three").value;
  lines.push("long " + (long === null ? 0 : long.bytes.byteLength).toString());
  lines.push("list " + kv.list("k/").value.join(" "));
  lines.push("after " + kv.list("k/", "k/one", 1).value.join(" "));
  lines.push("stale " + kv.delete("k/one", first).value.toString());
  lines.push("delete " + kv.delete("k/one").value.toString() + " " + kv.delete("k/one").value.toString());
  return text(lines);
}

function send(): Response {
  const message = Message.json('{"a":1}').attribute("kind", 'a "b"').priority(3);
  const lines: string[] = ["message " + (queue.send("jobs", message).value != "").toString()];
  lines.push("record " + stream.append("events", Message.text("record").key("ada").attribute("kind", "c")).value.sequence.toString());
  const nowhere = queue.send("nowhere", message);
  const error = nowhere.error;
  lines.push("nowhere " + (error === null ? 0 : error.errno).toString() + " " + (error !== null && error.errno == ENOENT).toString());
  return text(lines);
}

function call(): Response {
  const answer = new Call("other").method("PUT").path("/request?name=a%20b").header("X-One", "1").body("hello").send().value;
  const yes = answer.header("x-answer");
  const nobody = new Call("nobody").timeout(5000).send().error;
  return text([
    answer.status.toString() + " " + (yes === null ? "" : yes), answer.text.trim(), "nobody " + (nobody === null ? 0 : nobody.errno).toString(),
  ]);
}

function spans(): Response {
  const outer = Span.begin("outer").value;
  const inner = Span.begin("inner").value.set("why", "a test");
  inner.end("on purpose");
  outer.end();
  return text(["done"]);
}

function secrets(): Response {
  const other = secret("sdk-other").error;
  return text([secret("sdk-token").value + " " + (other === null ? 0 : other.errno).toString()]);
}

function pieces(request: Request, out: Output): void {
  out.write("first\n");
  out.flush();
  const piece = new ArrayBuffer(4096);
  let count = 0;
  for (let got = request.read(piece); got > 0; got = request.read(piece)) count += got;
  out.write(count.toString() + "\n");
}

function elsewhere(base: string): Response {
  const got = new Fetch(base + "/plain?a=b").send().value;
  const mark = got.header("x-one");
  const posted = new Fetch(base + "/plain").method("POST").header("X-Mine", "mine").body("hello").send().value;
  const large = new Fetch(base + "/big?n=3000000").timeout(20000).send().value;
  const refused = new Fetch("http://example.com/").send().error;
  return text([
    got.status.toString() + " " + (mark === null ? "none" : mark) + " " + got.text,
    posted.status.toString() + " " + posted.text,
    large.body.byteLength.toString(),
    refused === null ? "" : fetchReason(refused),
  ]);
}

function answer(request: Request): Response {
  const path = request.path;
  if (path == "/request") return show(request);
  if (path == "/facts") return facts();
  if (path == "/kv") return keys();
  if (path == "/send") return send();
  if (path == "/call") return call();
  if (path == "/fetch") return elsewhere(request.query);
  if (path == "/span") return spans();
  if (path == "/secret") return secrets();
  if (path == "/pieces") return Response.stream("text/plain", pieces);
  if (path == "/log") {
    log.warn("careful", [["who", "me"], ["what", 'a "word"']]);
    return new Response().status(204);
  }
  if (path == "/fail") return Response.failure(new HostError(0, "a reason"));
  if (path == "/header") return Response.text("x").header("X-Bad", "a\nb");
  if (path == "/throw") return text([queue.send("nowhere", Message.text("x")).value]);
  return new Response().status(404);
}

serve(answer);
