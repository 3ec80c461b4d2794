import { readFile } from "node:fs/promises";
import * as ort from "onnxruntime-web";
import { step } from "./step.mjs";

ort.env.wasm.numThreads = 1;
for (const mode of ["ternary", "binary"]) {
  console.log(await step(ort, "wasm", mode, async (path) => new Uint8Array(await readFile(path))));
}
