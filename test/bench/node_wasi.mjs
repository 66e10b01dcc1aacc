// The comparison: node serving a WASI module that exports handle() over HTTP, a fresh instance per request.
//
//     node --expose-gc node_wasi.mjs MODULE.wasm     prints its port; ends when standard input does
//
// Standard input and output of the module are files in memory (/dev/shm), the way node:wasi wants them.
import { closeSync, openSync, readFileSync, ftruncateSync, readSync, writeSync, unlinkSync } from 'node:fs';
import { createServer } from 'node:http';
import { WASI } from 'node:wasi';

const compiled = new WebAssembly.Module(readFileSync(process.argv[2]));
const name = `/dev/shm/blixard-bench-${process.pid}`;
const answer = Buffer.alloc(1 << 20);

// What instances leave is given back by the collector, which may come too late for the next one's memory.
function instantiate(imports) {
  try {
    return new WebAssembly.Instance(compiled, imports);
  } catch (error) {
    if (!(error instanceof RangeError)) throw error;
    globalThis.gc();
    return new WebAssembly.Instance(compiled, imports);
  }
}

function call(body) {
  const input = openSync(`${name}-in`, 'w+');
  const output = openSync(`${name}-out`, 'w+');
  if (body.length > 0) writeSync(input, body, 0, body.length, 0);
  const wasi = new WASI({ version: 'preview1', args: ['function'], env: {}, stdin: input, stdout: output, returnOnExit: true });
  const instance = instantiate(wasi.getImportObject());
  wasi.initialize(instance);
  instance.exports.handle();
  const length = readSync(output, answer, 0, answer.length, 0);
  ftruncateSync(input, 0);
  closeSync(input);
  closeSync(output);
  return answer.subarray(0, length);
}

const server = createServer((request, response) => {
  const parts = [];
  request.on('data', (part) => parts.push(part));
  request.on('end', () => {
    const text = call(Buffer.concat(parts));
    const head = text.indexOf('\n\n');
    const isCgi = head > 0 && /^[\w-]+:/.test(text.subarray(0, head).toString('latin1'));
    const body = isCgi ? text.subarray(head + 2) : text;
    response.writeHead(200, { 'Content-Type': 'text/plain', 'Content-Length': body.length });
    response.end(body);
  });
});

server.listen(0, '127.0.0.1', () => console.log(server.address().port));
process.stdin.resume();
process.stdin.on('end', () => {
  for (const end of ['in', 'out']) {
    try { unlinkSync(`${name}-${end}`); } catch { /* never made */ }
  }
  process.exit(0);
});
