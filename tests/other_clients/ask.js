// Asks a server as a stranger would: descriptors by reflection, default options throughout. Prints one JSON object.
//
//     NODE_PATH=build/node/node_modules node tests/other_clients/ask.js 127.0.0.1:50051
const grpc = require("@grpc/grpc-js");
const { GrpcReflection } = require("grpc-js-reflection-client");

const target = process.argv[2];
const open = grpc.credentials.createInsecure();
const numbers = (tensor, kind) => new kind(Uint8Array.from(tensor.data).buffer);

const once = (client, method, question) =>
  new Promise((answered, failed) => client[method](question, (error, answer) => (error ? failed(error) : answered(answer))));

// The messages of a stream: how many, how large the largest array and all arrays, and what `each` makes of them.
const streamed = (client, method, question, each = () => {}) =>
  new Promise((ended, failed) => {
    const seen = { messages: 0, bytes: 0 };
    client[method](question)
      .on("data", (message) => {
        seen.messages += 1;
        for (const field of Object.values(message)) if (field && field.data) seen.bytes += field.data.length;
        each(message);
      })
      .on("error", failed)
      .on("end", () => ended(seen));
  });

async function main() {
  const reflection = new GrpcReflection(target, open);
  const descriptor = await reflection.getDescriptorBySymbol("polysem.v1.NeuronService");
  const { polysem } = descriptor.getPackageObject({ keepCase: true, enums: String, longs: Number, defaults: true });
  const client = new polysem.v1.NeuronService(target, open);

  const info = await once(client, "GetServerInfo", {});
  let neurons = 0;
  const clusters = [];
  const all = await streamed(client, "ClusterNeurons", { neurons: [{}], algorithm: "ALGORITHM_HAC" }, (message) => {
    const n = message.neurons ? message.neurons.shape[0] : 0;
    neurons += n;
    if (n) clusters.push(...numbers(message.n_clusters, Int32Array));
  });
  const embeddings = await streamed(client, "EmbedNeurons", { neurons: [{}] });
  const refusal = await streamed(client, "ClusterNeurons", { neurons: [{ layer: 99 }] }).then(
    () => null,
    (error) => ({
      code: error.code,
      message: error.details,
      status: error.metadata.get("grpc-status-details-bin").map((blob) => blob.toString("latin1")).join(),
    }),
  );
  console.log(JSON.stringify({ services: await reflection.listServices(), info, neurons, clusters, all, embeddings, refusal }));
  process.exit(0);
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
