// What the package has on every platform.
export { Code } from "@connectrpc/connect";

export { Actor, type ActorCallOptions, type QueryOptions } from "./actors.js";
export { BlobRef } from "./blobs.js";
export { type CancelOptions, Client, type ConnectOptions, type EventOptions } from "./client.js";
export { EncodingError, PerdureError, type Reason } from "./errors.js";
export { ActorCallFailed, Failure, WorkflowFailed } from "./failures.js";
export { FailureKind } from "./gen/perdure/v1/failure_pb.js";
export { type Task, TaskStatus, type Workflow, WorkflowStatus } from "./gen/perdure/v1/workflow_pb.js";
export { type CallOptions, Graph, Node, type NodeOptions } from "./graph.js";
export { bytes } from "./payloads.js";
export { type GraphOptions, Run, type RunOptions } from "./runs.js";
export { type Change, type WatchOptions } from "./watch.js";
