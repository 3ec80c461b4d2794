// One step of a pack's transformer: how far it is from the expected one, and how long it took.

export async function step(ort, provider, mode, bytesOf) {
  const weights = { path: "model.onnx.data", data: await bytesOf(`${mode}/model.onnx.data`) };
  const session = await ort.InferenceSession.create(await bytesOf(`${mode}/model.onnx`), {
    executionProviders: [provider],
    externalData: [weights],
  });
  const { velocity, ...feeds } = JSON.parse(
    new TextDecoder().decode(await bytesOf(`${mode}.json`)),
  );
  const tensors = {};
  for (const [name, { data, dims }] of Object.entries(feeds)) {
    tensors[name] = new ort.Tensor("float32", Float32Array.from(data), dims);
  }
  await session.run(tensors); // compiles
  const start = performance.now();
  const found = (await session.run(tensors)).velocity.data;
  const seconds = (performance.now() - start) / 1000;
  let distance = 0;
  let size = 0;
  velocity.data.forEach((value, k) => {
    distance += (found[k] - value) ** 2;
    size += value ** 2;
  });
  const error = Math.sqrt(distance / size).toExponential(1);
  return `${mode}, ${provider}: relative error ${error}, ${seconds.toFixed(2)} s`;
}
