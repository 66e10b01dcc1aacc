// @NAME@: measures the body and answers in JSON.
//
// A command: it is run once per request, from the same memory each time.  The body is standard
// input, what the request says besides is in the environment (CGI, RFC 3875), the answer is
// standard output: header lines, an empty line, the body.

function readAll(): string {
  const parts: string[] = [];
  const piece = new ArrayBuffer(65536);
  let length = process.stdin.read(piece);
  while (length > 0) {
    parts.push(String.UTF8.decodeUnsafe(changetype<usize>(piece), length));
    length = process.stdin.read(piece);
  }
  return parts.join("");
}

const body = readAll();
const lines = body.length == 0 ? 0 : body.split("\n").length;

process.stderr.write("measured " + body.length.toString() + " characters\n"); // see: blixard fn logs @NAME@

process.stdout.write("Content-Type: application/json\n\n");
process.stdout.write('{"characters": ' + body.length.toString() + ', "lines": ' + lines.toString() + "}\n");
