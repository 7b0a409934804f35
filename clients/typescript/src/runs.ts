import type { JsonObject, MessageInitShape } from "@bufbuild/protobuf";
import { durationFromMs } from "@bufbuild/protobuf/wkt";

import type { Channel } from "./channel.js";
import { WorkflowFailed } from "./failures.js";
import type { WorkflowSourceSchema } from "./gen/perdure/v1/spec_pb.js";
import type { Outcome } from "./gen/perdure/v1/workflow_pb.js";
import { WorkflowIdConflictPolicy, WorkflowIdReusePolicy } from "./gen/perdure/v1/workflow_service_pb.js";
import { newId } from "./ids.js";
import { decode, toJson } from "./payloads.js";

/** Of one long poll, which is below the limit of services; the next one follows. No deadline is sent with it: the service
 * would answer "not yet" before it, and all further polls at once. */
export const POLL_MS = 25_000;

export interface GraphOptions {
  /** Names the workflow; by default its name is the request id. An id of the caller's business makes a program that is
   * started again find its own workflow. */
  workflowId?: string;
  /** Makes the request idempotent across calls. By default each call has its own. */
  requestId?: string;
  /** Whether the id of a workflow that has ended may be used again. */
  idReuse?: keyof typeof WorkflowIdReusePolicy;
  /** What happens if a workflow with the id is at work. */
  idConflict?: keyof typeof WorkflowIdConflictPolicy;
  /** Can be filtered by. */
  labels?: Record<string, string>;
  /** Is kept with the workflow. */
  metadata?: JsonObject;
  /** The request that starts the workflow waits so long for its end, at most 30 seconds. */
  waitMs?: number;
  signal?: AbortSignal;
}

export interface RunOptions extends GraphOptions {
  /** Asks for this version of the function instead of the newest one. */
  version?: string;
}

/** A workflow that was started or found. */
export class Run {
  #outcome: Outcome | undefined;

  constructor(
    private readonly channel: Channel,
    readonly workflowId: string,
    /** Empty: the last run of the id. */
    readonly runId = "",
    /** False: it was there. */
    readonly started = false,
    /** With it, `watch` shows what happens from here on. */
    readonly watchToken = "",
    outcome?: Outcome,
  ) {
    this.#outcome = outcome;
  }

  /** Waits until the workflow has ended. Throws a WorkflowFailed if it failed or was canceled. */
  async result<T = unknown>(signal?: AbortSignal): Promise<T> {
    const { kind } = (this.#outcome ??= await this.#ended(signal));
    if (kind.case === "failure") throw new WorkflowFailed(kind.value, this.workflowId);
    return (kind.value && (await decode(this.channel, kind.value, signal))) as T;
  }

  async #ended(signal: AbortSignal | undefined): Promise<Outcome> {
    for (;;) {
      const answer = await this.channel.workflows.getOutput(
        {
          namespace: this.channel.namespace,
          workflowId: this.workflowId,
          runId: this.runId,
          wait: durationFromMs(POLL_MS),
        },
        { signal },
      );
      if (answer.outcome) return answer.outcome;
    }
  }
}

export function runFunction(channel: Channel, name: string, args: object | undefined, options: RunOptions): Promise<Run> {
  const entrypoint = { name, version: options.version, arguments: args && toJson(args) };
  return start(channel, { kind: { case: "entrypoint", value: entrypoint } }, options);
}

/** Starts a workflow, and returns when that is recorded, or it has ended within `waitMs`. */
export async function start(
  channel: Channel,
  source: MessageInitShape<typeof WorkflowSourceSchema>,
  options: GraphOptions,
): Promise<Run> {
  const { idReuse = "UNSPECIFIED", idConflict = "UNSPECIFIED", waitMs, signal } = options;
  const answer = await channel.workflows.run(
    {
      namespace: channel.namespace,
      workflowId: options.workflowId,
      requestId: options.requestId ?? newId(),
      source,
      idReusePolicy: WorkflowIdReusePolicy[idReuse],
      idConflictPolicy: WorkflowIdConflictPolicy[idConflict],
      labels: options.labels,
      metadata: options.metadata,
      wait: waitMs ? durationFromMs(waitMs) : undefined,
    },
    { signal },
  );
  const { workflowId = "", runId } = answer.workflow ?? {};
  return new Run(channel, workflowId, runId, answer.started, answer.watchToken, answer.outcome);
}
