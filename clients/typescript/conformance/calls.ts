import { deepEqual, equal } from "node:assert/strict";
import { randomUUID } from "node:crypto";

import { ActorCallFailed, EncodingError, FailureKind, Graph, WorkflowFailed } from "perdure";

import { type Case, failing, type Program, refused } from "./program.js";

export const largeText = "text".repeat((2 << 20) / 4);

export const runByName: Case = async ({ client }) => {
  const run = await client.run("greet", { name: "Ana" });
  equal(await run.result<string>(), "hello Ana");
  equal(await client.call<string>("greet", { name: "Ana" }), "hello Ana");
};

/** A date without a time. */
class Day {
  constructor(readonly date: Date) {}

  static of(text: string): Day {
    return new Day(new Date(`${text}T00:00:00Z`));
  }

  toJSON(): string {
    return this.date.toISOString().slice(0, 10);
  }
}

interface Order {
  address: { city: string; zip: string };
  amount: number;
  due: Day;
}

interface Plan extends Order {
  note: string | null;
}

export const typedResult: Case = async ({ client }) => {
  const order: Order = { address: { city: "Lisboa", zip: "1100-148" }, amount: 2.5, due: Day.of("2028-02-28") };
  const { due, ...rest } = await client.call<Omit<Plan, "due"> & { due: string }>("plan", { order });
  const plan: Plan = { ...rest, due: Day.of(due) };
  deepEqual(plan, { address: order.address, amount: 5, due: Day.of("2028-02-29"), note: null });
};

export const unreadableResult: Case = async ({ client }) => {
  const error = await failing(EncodingError, client.call("unreadable"));
  equal(error.message.includes("has to declare its result type"), true);
};

export const unknownFunction: Case = ({ client }) =>
  refused(client.call("nothing"), "FUNCTION_NOT_FOUND", { function: "nothing" });

export const wrongArguments: Case = ({ client }) => {
  const order = { address: { city: "", zip: "" }, amount: 1, due: "tomorrow" };
  return refused(client.call("plan", { order }), "INVALID_ARGUMENTS", { pointer: "/order/due" });
};

export const tooLarge: Case = ({ client }) => {
  const field = "source.entrypoint.arguments";
  return refused(client.call("give_back_text", { value: largeText }), "PAYLOAD_TOO_LARGE", { field });
};

export const failure: Case = async ({ client }) => {
  const failed = await failing(WorkflowFailed, client.call("fail", { text: "no money" }));
  const { kind, type, message, taskId } = failed;
  deepEqual(
    { kind, type, message, taskId },
    { kind: FailureKind.APPLICATION, type: "builtins.ValueError", message: "no money", taskId: "fail" },
  );
  equal(failed.cause?.type, "builtins.KeyError");
};

export const composeGraph: Case = async ({ client }) => {
  const graph = new Graph();
  const three = graph.call("add", [1, 2]);
  const seven = graph.call("add", { a: three, b: 4 });
  graph.call("total", [[three, seven, 10]]);
  equal(await (await client.runGraph(graph)).result<number>(), 20);
};

export const actorCall: Case = async ({ client }) => {
  const counter = client.actor("counter", randomUUID(), { start: 40 });
  const requestId = randomUUID();
  equal(await counter.call<number>("add", { by: 2 }), 42);
  equal(await counter.call<number>("add", { by: 3 }, { requestId }), 45);
  equal(await counter.call<number>("add", { by: 3 }, { requestId }), 45);
  const failed = await failing(ActorCallFailed, counter.call("add", { by: 0 }));
  equal(failed.type, "builtins.ValueError");
};

export const actorQuery: Case = async ({ client }: Program) => {
  const counter = client.actor("counter", randomUUID());
  await counter.call("add", { by: 5 });
  equal(await counter.query<number>("peek"), 5);
};
