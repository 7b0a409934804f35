import { deepEqual, equal, ok, rejects, throws } from "node:assert/strict";
import { test } from "node:test";

import { BlobRef, Code, connect, PerdureError } from "perdure";
import { connect as connectByFetch } from "perdure/web";

import { content, contentHash, Engine } from "./engine.js";

test("repeats say that they are repeats", async () => {
  const engine = new Engine();
  engine.failures = 2;
  const run = await engine.client({ token: "secret" }).run("greet");
  ok(run.started);
  deepEqual(engine.headers.map((each) => each.get("perdure-previous-attempts")), [null, "1", "2"]);
  deepEqual(engine.headers.map((each) => each.has("perdure-asked-ms-ago")), [false, true, true]);
  deepEqual(new Set(engine.headers.map((each) => each.get("authorization"))), new Set(["Bearer secret"]));
});

test("patience ends", async () => {
  const engine = new Engine();
  engine.failures = 9;
  await rejects(engine.client({ patienceMs: 0 }).run("greet"), (error) => {
    ok(error instanceof PerdureError);
    deepEqual([error.reason, error.code, error.metadata], ["UNREACHABLE", Code.Unavailable, { address: "127.0.0.1:1" }]);
    return true;
  });
  equal(engine.headers.length, 1);
});

test("nobody at an address is unreachable, by either transport", async () => {
  for (const made of [connect, connectByFetch]) {
    const client = made("127.0.0.1:1", { patienceMs: 100 });
    await rejects(client.status("w"), { name: "PerdureError", reason: "UNREACHABLE", code: Code.Unavailable });
    await rejects(client.watch({ workflowIds: ["w"] }).next(), { name: "PerdureError", reason: "UNREACHABLE" });
  }
});

test("a closed client repeats nothing", async () => {
  const engine = new Engine();
  engine.failures = 9;
  const client = engine.client();
  const ended = client.run("greet");
  client.close();
  await rejects(ended, { reason: "UNREACHABLE" });
});

test("refusals are typed", async () => {
  await rejects(new Engine().client().cancel("w"), (error) => {
    ok(error instanceof PerdureError);
    deepEqual([error.reason, error.code, error.message], ["WORKFLOW_NOT_FOUND", Code.NotFound, "no such workflow"]);
    equal(error.metadata["workflow_id"], "w");
    return true;
  });
});

test("calls end with their signal, by its reason", async () => {
  const why = new Error("not needed");
  const soon = () => {
    const stop = new AbortController();
    setTimeout(() => stop.abort(why), 50);
    return stop.signal;
  };
  const client = new Engine().client();
  await rejects(client.existing("w").result(soon()), why);
  await rejects(client.existing("w").result(AbortSignal.abort(why)), why);
  const away = new Engine();
  away.failures = 99;
  await rejects(away.client().run("greet", {}, { signal: soon() }), why);
});

test("watches go on where they were", async () => {
  const engine = new Engine();
  const changes: string[] = [];
  for await (const { resumeToken } of engine.client().watch({ resumeToken: "begin" })) changes.push(resumeToken);
  deepEqual(engine.tokens, ["begin", "t", "tt"]);
  deepEqual(changes, ["begin", "t", "t", "tt", "tt", "ttt"]);
});

test("a watch whose loop is left ends its stream", async () => {
  const engine = new Engine();
  for await (const change of engine.client().watch()) {
    equal(change.sequence, 1n);
    break;
  }
  equal(engine.left, 1);
});

test("downloads go on where they were, and are verified", async () => {
  const engine = new Engine();
  deepEqual(await engine.client().download(new BlobRef(contentHash, content.length)), content);
  deepEqual(engine.offsets, [0n, 7n]);
  await rejects(engine.client().download(new BlobRef("0".repeat(64), content.length)), /another length or hash/);
});

test("uploads are made again as a whole", async () => {
  for (const bytes of [content, new Blob([content])]) {
    const engine = new Engine();
    engine.failures = 1;
    deepEqual(await engine.client().upload(bytes), new BlobRef(contentHash, content.length));
    deepEqual(engine.uploads, [content.length, content.length]);
  }
});

test("uploads by fetch are refused at once", async () => {
  const refused = connectByFetch("127.0.0.1:1").upload(content);
  await rejects(refused, { name: "PerdureError", reason: "CAPABILITY_MISSING", code: Code.Unimplemented });
});

test("tokens are not sent in plain text to other machines", () => {
  const options = { token: "t" };
  for (const address of ["127.0.0.1:1", "localhost:1", "[::1]:1", "https://a.example"]) connect(address, options);
  for (const address of ["10.0.0.1:1", "a.example:1", "http://a.example", "127.0.0.1.example:1"]) {
    throws(() => connect(address, options), TypeError);
  }
});
