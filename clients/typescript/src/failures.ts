import { type Failure as FailureMessage, FailureKind } from "./gen/perdure/v1/failure_pb.js";

/** Why user code, or the system under it, gave no value. Its `message` is that of the exception. */
export class Failure extends Error {
  override name = "Failure";
  /** Newer services may have other kinds. */
  readonly kind: FailureKind;
  /** As "builtins.ValueError". */
  readonly type: string;
  /** What `type` derives from, nearest first. */
  readonly baseTypes: readonly string[];
  /** Of the worker. */
  readonly stackTrace: string;
  /** The task that failed; empty if the workflow itself did. */
  readonly taskId: string;
  readonly attempts: number;
  declare readonly cause?: Failure;

  constructor(from: FailureMessage) {
    super(from.message, from.cause && { cause: new Failure(from.cause) });
    this.kind = from.kind;
    this.type = from.type;
    this.baseTypes = from.baseTypes;
    this.stackTrace = from.stackTrace;
    this.taskId = from.taskId;
    this.attempts = from.attempts;
  }
}

/** A workflow ended without a value. */
export class WorkflowFailed extends Failure {
  override name = "WorkflowFailed";

  constructor(from: FailureMessage, readonly workflowId: string) {
    super(from);
  }
}

/** A method of an actor ended without a value. */
export class ActorCallFailed extends Failure {
  override name = "ActorCallFailed";

  constructor(from: FailureMessage, readonly actorId: string, readonly method: string) {
    super(from);
  }
}
