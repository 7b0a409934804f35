import { deepEqual, equal, ok, rejects } from "node:assert/strict";
import { test } from "node:test";

import { BlobRef, bytes, EncodingError, Graph } from "perdure";
import type { Arg, Node, TaskNode, WorkflowSpec } from "perdure/gen/perdure/v1/spec_pb";

import { contentHash, Engine } from "./engine.js";

/** The nodes that the engine gets for a graph. */
async function sent(graph: Graph): Promise<WorkflowSpec & { engine: Engine }> {
  const engine = new Engine();
  await engine.client().runGraph(graph);
  const kind = engine.runs[0]?.source?.kind;
  ok(kind?.case === "spec");
  return { ...kind.value, engine };
}

function task(node: Node | undefined): TaskNode {
  ok(node?.kind.case === "task");
  return node.kind.value;
}

test("nodes stand for their values, also inside of arrays and objects", async () => {
  const graph = new Graph();
  const first = graph.call("add", [1]);
  graph.call("add", [[first, { x: first, y: 1 }]], { named: { b: first }, after: [first] });
  const { nodes, output } = await sent(graph);
  const reference = { case: "node", id: "add" };
  const seen = (arg: Arg | undefined) => arg?.kind.case === "node" && { case: "node", id: arg.kind.value.nodeId };
  const second = task(nodes[1]);
  const list = second.args[0]?.kind;
  ok(list?.case === "list");
  const map = list.value.items[1]?.kind;
  ok(map?.case === "map");
  deepEqual([list.value.items[0], map.value.entries["x"], second.kwargs["b"]].map(seen), [reference, reference, reference]);
  deepEqual([nodes[1]?.id, nodes[1]?.after], ["add-2", ["add"]]);
  deepEqual(seen(output), { case: "node", id: "add-2" });
});

test("an empty graph is refused", async () => {
  await rejects(new Engine().client().runGraph(new Graph()), TypeError);
});

test("values of one call share what may travel inline", async () => {
  const graph = new Graph();
  const sizes = [1 << 20, 600_000, 600_000, 400_000];
  graph.call("join", sizes.map((size) => new Uint8Array(size)));
  const { nodes, engine } = await sent(graph);
  const ways = task(nodes[0]).args.map(({ kind }) => kind.case === "payload" && kind.value.body.case);
  deepEqual(ways, ["blob", "data", "blob", "data"]);
  deepEqual(engine.uploads, [1 << 20, 600_000]);
});

test("bytes travel as they are, and as base64 inside of JSON", async () => {
  const engine = new Engine();
  const client = engine.client();
  for (const made of [(found: number[]) => new Uint8Array(found), (found: number[]) => Buffer.from(found)]) {
    await client.sendEvent("w", "k", made([251, 255]));
    await client.sendEvent("w", "k", { at: made([251, 255]) });
  }
  await client.sendEvent("w", "k", new BlobRef(contentHash, 3));
  await client.sendEvent("w", "k", undefined);
  const seen = engine.events.map(({ payload }) => {
    const { encoding, body } = payload ?? {};
    return [encoding, body?.case === "data" ? Buffer.from(body.value).toString("latin1") : body?.case];
  });
  const each = [["binary/plain", "\xfb\xff"], ["json/plain", '{"at":"-_8"}']];
  deepEqual(seen, [...each, ...each, ["binary/plain", "blob"], ["json/plain", "null"]]);
  await rejects(client.sendEvent("w", "k", () => 1), TypeError);
});

test("bytes are read in both alphabets", () => {
  for (const text of ["-_8=", "+/8=", "-_8"]) deepEqual(bytes(text), new Uint8Array([251, 255]));
});

test("results have the type of their encoding", async () => {
  const engine = new Engine();
  const result = async (encoding: string, text: string, codecs: string[] = []) => {
    engine.output = { encoding, codecs, body: { case: "data", value: new TextEncoder().encode(text) } };
    return engine.client().call("f");
  };
  deepEqual(await result("json/plain", '{"a":[1,null]}'), { a: [1, null] });
  equal(await result("binary/null", ""), null);
  deepEqual(await result("binary/plain", "ab"), new Uint8Array([97, 98]));
  await rejects(result("json/plain", "1", ["zstd"]), EncodingError);
  await rejects(result("python/pickle", ""), /has to declare its result type/);
});
