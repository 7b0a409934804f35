// Does what clients/conformance.yaml lists, each case over gRPC and then over the Connect protocol by fetch, as in browsers.
import { connect as connectByGrpc } from "perdure/node";
import { connect as connectByFetch } from "perdure/web";

import * as calls from "./calls.js";
import type { Case, Program } from "./program.js";
import * as waits from "./waits.js";

const CASE_MS = 120_000;

const cases: Record<string, Case> = {
  run_by_name: calls.runByName,
  typed_result: calls.typedResult,
  unreadable_result: calls.unreadableResult,
  unknown_function: calls.unknownFunction,
  wrong_arguments: calls.wrongArguments,
  failure: calls.failure,
  compose_graph: calls.composeGraph,
  event: waits.event,
  cancel: waits.cancel,
  actor_call: calls.actorCall,
  actor_query: calls.actorQuery,
  watch_across_restart: waits.watchAcrossRestart,
  large_value: waits.largeValue,
  values_together: waits.valuesTogether,
  too_large: calls.tooLarge,
  engine_away: waits.engineAway,
  cancellation_by_context: waits.cancellationBySignal,
};

const programs: Record<string, Program> = {
  gRPC: { client: connectByGrpc(process.env["PERDURE_ADDRESS"]!), canUpload: true },
  fetch: { client: connectByFetch(process.env["PERDURE_HTTP_ADDRESS"]!), canUpload: false },
};

/** Ends with an error if it takes too long. */
async function inTime(ended: Promise<void>): Promise<void> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`not in ${CASE_MS} ms`)), CASE_MS);
  });
  await Promise.race([ended, late]).finally(() => clearTimeout(timer));
}

for (const [id, does] of Object.entries(cases)) {
  let by = "";
  try {
    for (const [name, program] of Object.entries(programs)) {
      by = name;
      await inTime(does(program));
    }
    console.log("ok", id);
  } catch (error) {
    console.log(`failed ${id}: by ${by}: ${String(error).slice(0, 400).replaceAll("\n", " ")}`);
  }
}
for (const { client } of Object.values(programs)) client.close();
