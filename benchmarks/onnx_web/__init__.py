"""mini-klein's onnx packs in onnxruntime-web: in node (wasm) and in a browser (WebGPU)."""
