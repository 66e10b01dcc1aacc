// A function that sums up a log: POST JSON lines (one request per line: time, level, path, status,
// duration_ms, bytes), get a summary as JSON.  A command: body on standard input, answer on standard
// output with CGI header lines before it.

import { Fields, Scanner } from "./scanner";

const PATHS_SHOWN: i32 = 5;

class Route {
  count: i32 = 0;
  errors: i32 = 0;
  total_ms: f64 = 0;
  constructor(public path: string) {}
}

class Summary {
  lines: i32 = 0;
  broken: i32 = 0;
  bytes: f64 = 0;
  first: string = "";
  last: string = "";
  levels: Map<string, i32> = new Map();
  classes: Map<string, i32> = new Map();
  routes: Map<string, Route> = new Map();
  durations: f64[] = [];

  private count(table: Map<string, i32>, key: string): void {
    table.set(key, (table.has(key) ? table.get(key) : 0) + 1);
  }

  add(fields: Fields): void {
    this.lines++;
    const time = fields.text("time");
    if (time != "" && (this.first == "" || time < this.first)) this.first = time;
    if (time > this.last) this.last = time;
    this.bytes += fields.number("bytes", 0);
    this.count(this.levels, fields.text("level") == "" ? "none" : fields.text("level"));

    const status = <i32>fields.number("status", 0);
    if (status >= 100) this.count(this.classes, (status / 100).toString() + "xx");
    const duration = fields.number("duration_ms", -1);
    if (duration >= 0) this.durations.push(duration);

    const path = fields.text("path");
    if (path == "") return;
    if (!this.routes.has(path)) this.routes.set(path, new Route(path));
    const route = this.routes.get(path);
    route.count++;
    route.total_ms += Math.max(duration, 0);
    if (status >= 500) route.errors++;
  }

  // Nearest rank: the smallest value that at least `share` of all do not exceed.
  percentile(share: f64): f64 {
    if (this.durations.length == 0) return 0;
    const rank = <i32>Math.ceil(share * <f64>this.durations.length);
    return this.durations[max(rank, 1) - 1];
  }
}

function rounded(value: f64): string {
  return (Math.round(value * 100) / 100).toString();
}

function quoted(text: string): string {
  let out = '"';
  for (let i = 0; i < text.length; i++) {
    const char = text.charCodeAt(i);
    if (char == 0x22 || char == 0x5c) out += "\\" + text.charAt(i);
    else if (char < 0x20) out += "\\u" + char.toString(16).padStart(4, "0");
    else out += text.charAt(i);
  }
  return out + '"';
}

function counts(table: Map<string, i32>): string {
  const keys = table.keys().sort();
  const parts: string[] = [];
  for (let i = 0; i < keys.length; i++) parts.push(quoted(keys[i]) + ": " + table.get(keys[i]).toString());
  return "{" + parts.join(", ") + "}";
}

function routes(summary: Summary): string {
  const all = summary.routes.values();
  all.sort((a, b) => (a.count != b.count ? b.count - a.count : a.path < b.path ? -1 : 1));
  const parts: string[] = [];
  for (let i = 0; i < min(all.length, PATHS_SHOWN); i++) {
    const route = all[i];
    parts.push(
      `    {"path": ${quoted(route.path)}, "requests": ${route.count}, "errors": ${route.errors}, ` +
        `"mean_ms": ${rounded(route.total_ms / <f64>route.count)}}`
    );
  }
  return "[\n" + parts.join(",\n") + "\n  ]";
}

function report(summary: Summary): string {
  summary.durations.sort((a, b) => (a < b ? -1 : a > b ? 1 : 0));
  return `{
  "lines": ${summary.lines},
  "broken_lines": ${summary.broken},
  "from": ${quoted(summary.first)},
  "to": ${quoted(summary.last)},
  "levels": ${counts(summary.levels)},
  "statuses": ${counts(summary.classes)},
  "bytes": ${rounded(summary.bytes)},
  "duration_ms": {"p50": ${rounded(summary.percentile(0.5))}, "p95": ${rounded(summary.percentile(0.95))}, "p99": ${rounded(summary.percentile(0.99))}},
  "busiest": ${routes(summary)}
}
`;
}

function readAll(): string {
  let bytes = new Uint8Array(65536);
  let used = 0;
  const piece = new ArrayBuffer(16384);
  for (;;) {
    const got = <i32>process.stdin.read(piece);
    if (got <= 0) break;
    if (used + got > bytes.length) {
      const larger = new Uint8Array(bytes.length * 2);
      larger.set(bytes);
      bytes = larger;
    }
    bytes.set(Uint8Array.wrap(piece, 0, got), used);
    used += got;
  }
  return String.UTF8.decodeUnsafe(bytes.dataStart, used);
}

const summary = new Summary();
const lines = readAll().split("\n");
for (let i = 0; i < lines.length; i++) {
  if (lines[i].trim() == "") continue;
  const fields = new Scanner(lines[i]).object();
  if (fields == null) summary.broken++;
  else summary.add(fields);
}
process.stdout.write("Content-Type: application/json\n\n" + report(summary));
process.stderr.write(`summed up ${summary.lines} lines, ${summary.broken} broken\n`);
