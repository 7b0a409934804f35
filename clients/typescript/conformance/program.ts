import { deepEqual, equal } from "node:assert/strict";

import { type Client, PerdureError } from "perdure";

/** What a case is given. */
export interface Program {
  readonly client: Client;
  /** Whether the client sends streams, as uploads need. */
  readonly canUpload: boolean;
}

export type Case = (program: Program) => Promise<void>;

/** Asks the control endpoint for something that no client can do. */
export async function tell(what: string): Promise<void> {
  const answer = await fetch(process.env["PERDURE_CONTROL"] + what, { method: "POST" });
  equal(answer.status, 200);
}

/** The error of something that should fail, of this type. */
export async function failing<E extends Error>(type: abstract new (...given: never[]) => E, ended: Promise<unknown>): Promise<E> {
  const found: unknown = await ended.then(
    (value) => new Error(`it gave ${JSON.stringify(value)}`),
    (error: unknown) => error,
  );
  if (found instanceof type) return found;
  throw found;
}

/** Refused for this reason, with these details among others. */
export async function refused(ended: Promise<unknown>, reason: string, details: Record<string, string>): Promise<void> {
  const error = await failing(PerdureError, ended);
  equal(error.reason, reason);
  deepEqual({ ...error.metadata, ...details }, error.metadata);
}
