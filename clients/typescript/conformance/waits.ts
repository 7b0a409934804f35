import { equal, ok } from "node:assert/strict";
import { randomBytes, randomUUID } from "node:crypto";

import { bytes, type Client, FailureKind, Graph, type Run, WorkflowFailed, WorkflowStatus } from "perdure";

import { largeText } from "./calls.js";
import { type Case, failing, refused, tell } from "./program.js";

const LARGE_BYTES = 64 << 20;

/** Starts a workflow that waits for an event with its own id as the key. */
function waiting(client: Client): Promise<Run> {
  const workflowId = randomUUID();
  return client.run("greet_when_told", { key: workflowId }, { workflowId });
}

function tellName(client: Client, { workflowId }: Run): Promise<void> {
  return client.sendEvent(workflowId, workflowId, "Ana", { eventId: "the-name" });
}

export const event: Case = async ({ client }) => {
  const run = await waiting(client);
  await tellName(client, run);
  await tellName(client, run);
  equal(await run.result<string>(), "hello Ana");
};

export const cancel: Case = async ({ client }) => {
  const run = await waiting(client);
  await client.cancel(run.workflowId, { reason: "not needed" });
  equal((await client.status(run.workflowId)).status, WorkflowStatus.CANCELED);
  const failed = await failing(WorkflowFailed, run.result());
  equal(failed.kind, FailureKind.CANCELED);
};

export const watchAcrossRestart: Case = async ({ client }) => {
  const run = await waiting(client);
  const seen: unknown[] = [];
  for await (const { workflow } of client.watch({ workflowIds: [run.workflowId], untilFinal: true })) {
    seen.push(workflow?.status);
    if (seen.length === 1) {
      await tell("/restart");
      await tellName(client, run);
    }
  }
  ok(seen.length > 1);
  equal(seen.at(-1), WorkflowStatus.SUCCESSFUL);
};

/** Runs a graph of one call. */
async function inGraph<T>(client: Client, name: string, ...args: unknown[]): Promise<T> {
  const graph = new Graph();
  graph.call(name, args);
  return (await client.runGraph(graph)).result<T>();
}

export const largeValue: Case = async ({ client, canUpload }) => {
  const sent = randomBytes(LARGE_BYTES);
  if (!canUpload) return refused(client.upload(sent), "CAPABILITY_MISSING", { capability: "uploads" });
  const blob = await client.upload(sent);
  ok(sent.equals(await client.download(blob)));
  ok(sent.equals(bytes(await inGraph<string>(client, "give_back", blob))));
  equal(await inGraph<string>(client, "give_back_text", largeText), largeText);
};

export const valuesTogether: Case = async ({ client, canUpload }) => {
  const first = "a".repeat(600 << 10);
  const second = "b".repeat(600 << 10);
  const joined = inGraph<string>(client, "join", first, second);
  if (!canUpload) return refused(joined, "CAPABILITY_MISSING", { capability: "uploads" });
  equal(await joined, first + second);
};

export const engineAway: Case = async ({ client }) => {
  const run = await waiting(client);
  const ended = run.result<string>();
  ended.catch(() => {}); // it is awaited below, after what may fail as well
  await tell("/away?seconds=3");
  await tellName(client, run);
  equal(await ended, "hello Ana");
};

export const cancellationBySignal: Case = async ({ client }) => {
  const run = await waiting(client);
  const stop = new AbortController();
  setTimeout(() => stop.abort(), 200);
  for (const [signal, name] of [[stop.signal, "AbortError"], [AbortSignal.timeout(1_000), "TimeoutError"]] as const) {
    const began = performance.now();
    equal((await failing(DOMException, run.result(signal))).name, name);
    ok(performance.now() - began < 5_000);
  }
  equal((await client.status(run.workflowId)).status, WorkflowStatus.RUNNING);
  await client.cancel(run.workflowId);
};
