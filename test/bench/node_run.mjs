// node node_run.mjs MODULE.wasm: run a WASI command once, as it is.
import { readFileSync } from 'node:fs';
import { WASI } from 'node:wasi';

const wasi = new WASI({ version: 'preview1', args: ['kernels'], env: {}, returnOnExit: true });
const compiled = new WebAssembly.Module(readFileSync(process.argv[2]));
process.exitCode = wasi.start(new WebAssembly.Instance(compiled, wasi.getImportObject()));
