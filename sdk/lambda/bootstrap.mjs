// Runs `exports.handler = async (event, context)`, or an exported function of a module, against the Runtime API
// (AWS_LAMBDA_RUNTIME_API).  _HANDLER is FILE.FUNCTION; FILE.js, .mjs or .cjs is in LAMBDA_TASK_ROOT.
import { existsSync, readFileSync, readdirSync } from "node:fs";
import http from "node:http";
import path from "node:path";
import { Writable } from "node:stream";
import { finished } from "node:stream/promises";
import { pathToFileURL } from "node:url";

const prefix = "/2018-06-01/runtime/";
const [host, port] = process.env.AWS_LAMBDA_RUNTIME_API.split(":");
const agent = new http.Agent({ keepAlive: true, maxSockets: 1 });

function call(method, target, body, fields) {
  return new Promise((resolve, reject) => {
    const request = http.request({ host, port, agent, method, path: prefix + target, headers: fields }, (answer) => {
      const parts = [];
      answer.on("data", (part) => parts.push(part));
      answer.on("end", () => resolve({ fields: answer.headers, body: Buffer.concat(parts).toString() }));
    });
    request.setTimeout(0);
    request.on("error", reject);
    request.end(body);
  });
}

function errorOf(error) {
  const isError = error instanceof Error;
  return JSON.stringify({
    errorType: isError ? error.name : typeof error,
    errorMessage: isError ? error.message : String(error),
    trace: isError && error.stack ? error.stack.split("\n") : [],
  });
}

function contextOf(fields) {
  const deadline = Number(fields["lambda-runtime-deadline-ms"]);
  const name = process.env.AWS_LAMBDA_FUNCTION_NAME;
  return {
    awsRequestId: fields["lambda-runtime-aws-request-id"],
    invokedFunctionArn: fields["lambda-runtime-invoked-function-arn"],
    functionName: name,
    functionVersion: process.env.AWS_LAMBDA_FUNCTION_VERSION,
    memoryLimitInMB: process.env.AWS_LAMBDA_FUNCTION_MEMORY_SIZE,
    logGroupName: "/aws/lambda/" + name,
    logStreamName: fields["lambda-runtime-aws-request-id"],
    callbackWaitsForEmptyEventLoop: false,
    getRemainingTimeInMillis: () => Math.max(0, deadline - Date.now()),
  };
}

// What streamifyResponse(handler) hands to it: a stream whose head goes out with the first piece.
const streaming = Symbol("streaming");
const preludeType = "application/vnd.awslambda.http-integration-response";

class ResponseStream extends Writable {
  constructor(target) {
    super();
    this.target = target;
    this.contentType = "application/octet-stream";
  }

  setContentType(type) {
    this.contentType = type;
  }

  begin() {
    if (this.request) {
      return;
    }
    this.done = new Promise((resolve, reject) => {
      this.request = http.request({
        host, port, agent, method: "POST", path: prefix + this.target + "/response",
        headers: {
          "Lambda-Runtime-Function-Response-Mode": "streaming",
          "Content-Type": this.contentType,
          "Transfer-Encoding": "chunked",
          Trailer: "Lambda-Runtime-Function-Error-Type, Lambda-Runtime-Function-Error-Body",
        },
      }, (answer) => answer.resume().on("end", resolve));
      this.request.on("error", reject);
      this.request.flushHeaders();
    });
    this.done.catch(() => {});
  }

  _write(piece, encoding, callback) {
    this.begin();
    this.request.write(piece, encoding, callback);
  }

  _final(callback) {
    this.begin();
    this.request.end();
    callback();
  }

  fail(error) {
    const { errorType, errorMessage } = JSON.parse(errorOf(error));
    const json = JSON.stringify({ errorType, errorMessage: errorMessage.slice(0, 2048) });
    this.request.addTrailers({
      "Lambda-Runtime-Function-Error-Type": errorType.replace(/[^ -~]/g, "?"),
      "Lambda-Runtime-Function-Error-Body": Buffer.from(json).toString("base64"),
    });
    this.request.end();
  }
}

globalThis.awslambda = {
  streamifyResponse: (handler) => Object.assign(handler, { [streaming]: true }),
  HttpResponseStream: {
    from(stream, prelude) {
      stream.setContentType(preludeType);
      stream.write(Buffer.concat([Buffer.from(JSON.stringify(prelude)), Buffer.alloc(8)]));
      return stream;
    },
  },
};

// The stream is over when it was ended, which may be after the handler has returned.
async function runStreaming(handler, event, context, target) {
  const stream = new ResponseStream(target);
  const ended = finished(stream, { readable: false });
  ended.catch(() => {});
  try {
    await handler(event, stream, context);
    await ended;
  } catch (error) {
    if (!stream.request) {
      throw error;
    }
    console.error(error);
    stream.fail(error);
  }
  await stream.done;
}

async function findHandler() {
  const name = process.env._HANDLER;
  const dot = name.lastIndexOf(".");
  const stem = path.join(process.env.LAMBDA_TASK_ROOT, name.slice(0, dot));
  const file = [".js", ".mjs", ".cjs"].map((end) => stem + end).find(existsSync);
  if (dot < 1 || file === undefined) {
    throw new Error(`there is no module for the handler ${name}`);
  }
  const module = await import(pathToFileURL(file));
  const handler = module[name.slice(dot + 1)] ?? module.default?.[name.slice(dot + 1)];
  if (typeof handler !== "function") {
    throw new Error(`${path.basename(file)} exports no function ${name.slice(dot + 1)}`);
  }
  return handler;
}

// Written before each invocation: never part of what all of them begin with.
function takeSecrets() {
  const folder = "/run/secrets";
  for (const name of existsSync(folder) ? readdirSync(folder) : []) {
    process.env[name] = readFileSync(path.join(folder, name), "utf8");
  }
}

// With a third argument it may answer by callback; a promise that is returned counts all the same.
function run(handler, event, context) {
  return new Promise((resolve, reject) => {
    const done = (error, value) => (error ? reject(error) : resolve(value));
    const returned = handler(event, context, done);
    if (typeof returned?.then === "function") {
      returned.then(resolve, reject);
    } else if (handler.length < 3) {
      resolve(returned);
    }
  });
}

// Node.js would end here, with status 13 and no word: nothing is left that could settle what the handler waits for.
let abandon;
process.on("beforeExit", () => abandon?.(Object.assign(
  new Error("the handler waits for a promise that nothing is left to settle"), { name: "Runtime.NodeJsExit" })));

function settled(work) {
  return Promise.race([work, new Promise((resolve, reject) => {
    abandon = reject;
  })]).finally(() => {
    abandon = undefined;
  });
}

let handler;
try {
  handler = await findHandler();
} catch (error) {
  console.error(error);
  await call("POST", "init/error", errorOf(error), { "Lambda-Runtime-Function-Error-Type": "Runtime.ImportModuleError" });
  process.exit(1);
}
for (;;) {
  const next = await call("GET", "invocation/next");
  const target = "invocation/" + next.fields["lambda-runtime-aws-request-id"];
  process.env._X_AMZN_TRACE_ID = next.fields["lambda-runtime-trace-id"] ?? "";
  try {
    takeSecrets();
    const event = JSON.parse(next.body);
    const context = contextOf(next.fields);
    if (handler[streaming]) {
      await settled(runStreaming(handler, event, context, target));
    } else {
      await call("POST", target + "/response", JSON.stringify(await settled(run(handler, event, context))) ?? "null");
    }
  } catch (error) {
    console.error(error);
    await call("POST", target + "/error", errorOf(error));
  }
}
