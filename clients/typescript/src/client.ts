import type { Transport } from "@connectrpc/connect";

import { Actor } from "./actors.js";
import { checkToken, urlOf } from "./address.js";
import { BlobRef, download, pieces, upload } from "./blobs.js";
import { Channel, type ChannelOptions } from "./channel.js";
import type { Workflow } from "./gen/perdure/v1/workflow_pb.js";
import type { Graph } from "./graph.js";
import { newId } from "./ids.js";
import { encode, Room } from "./payloads.js";
import { type GraphOptions, POLL_MS, Run, runFunction, type RunOptions, start } from "./runs.js";
import { type Change, watch, type WatchOptions } from "./watch.js";

export interface ConnectOptions extends ChannelOptions {
  /** How calls travel, instead of the way of this platform: any transport of Connect. */
  transport?: Transport;
}

export interface EventOptions {
  /** A second event with the same id is not delivered again. By default each has its own. */
  eventId?: string;
  signal?: AbortSignal;
}

export interface CancelOptions {
  /** For people. */
  reason?: string;
  signal?: AbortSignal;
}

/** Makes calls to a Perdure service. One serves a whole program. An AbortSignal ends a call, and not what it started. */
export class Client {
  readonly #channel: Channel;
  readonly #close: () => void;

  /** @internal Use `connect`. */
  constructor(address: string, transport: Transport, options: ChannelOptions, close: () => void = () => {}) {
    if (options.token) checkToken(urlOf(address));
    this.#channel = new Channel(address, transport, options);
    this.#close = close;
  }

  /** Ends the connections. Calls under way fail. */
  close(): void {
    this.#channel.isClosed = true;
    this.#close();
  }

  /** For the stubs in perdure/gen and calls that this class does not have. Those with one answer are repeated, and throw
   * errors of this package, as well. */
  get transport(): Transport {
    return this.#channel;
  }

  /** Starts a call of a registered function, and returns when that is recorded. The arguments are an object by parameter
   * name that has a JSON form. */
  run(name: string, args?: object, options: RunOptions = {}): Promise<Run> {
    return runFunction(this.#channel, name, args, options);
  }

  /** Runs a registered function and waits for its value: with one request, if it ends soon. */
  async call<T = unknown>(name: string, args?: object, options: RunOptions = {}): Promise<T> {
    const run = await this.run(name, args, { waitMs: POLL_MS, ...options });
    return run.result<T>(options.signal);
  }

  /** Starts a graph, and returns when it is recorded. Large arguments are uploaded first. */
  async runGraph(graph: Graph, options: GraphOptions = {}): Promise<Run> {
    return start(this.#channel, await graph.source(this.#channel, options.signal), options);
  }

  /** The last run of a workflow id, for its result. Nothing is asked of the service yet. */
  existing(workflowId: string): Run {
    return new Run(this.#channel, workflowId);
  }

  /** Delivers a value to the workflow that waits, or will wait, for this key. When it returns, the event is recorded. */
  async sendEvent(workflowId: string, eventKey: string, value: unknown, options: EventOptions = {}): Promise<void> {
    const { eventId = newId(), signal } = options;
    const payload = await encode(this.#channel, value, new Room(), signal);
    const { namespace } = this.#channel;
    await this.#channel.workflows.sendEvent({ namespace, workflowId, eventKey, eventId, payload }, { signal });
  }

  /** Cancels a workflow. When it returns, that is recorded, and no further task of the workflow starts. */
  async cancel(workflowId: string, { reason, signal }: CancelOptions = {}): Promise<Workflow> {
    const { namespace, workflows } = this.#channel;
    return known((await workflows.cancel({ namespace, workflowId, reason }, { signal })).workflow);
  }

  /** The state of a workflow, without its values. */
  async status(workflowId: string, signal?: AbortSignal): Promise<Workflow> {
    const { namespace, workflows } = this.#channel;
    return known((await workflows.getStatus({ namespace, workflowId }, { signal })).workflow);
  }

  /** Changes in their order, each at least once. It goes on where it was when the connection breaks. Without a token and
   * `workflowIds`, changes are missed if the connection breaks before the first message. */
  watch(options: WatchOptions = {}): AsyncGenerator<Change> {
    return watch(this.#channel, options);
  }

  /** Stores bytes; a Blob, such as a file, is read piece by piece. Over gRPC only. A blob that no workflow uses is removed
   * after some time. */
  upload(content: Uint8Array | Blob, signal?: AbortSignal): Promise<BlobRef> {
    return upload(this.#channel, content, signal);
  }

  /** The bytes of a blob. */
  download(blob: BlobRef, signal?: AbortSignal): Promise<Uint8Array> {
    return download(this.#channel, blob, signal);
  }

  /** The bytes of a blob, piece by piece, for one that is larger than memory. Their hash is not verified. */
  pieces(blob: BlobRef, signal?: AbortSignal): AsyncGenerator<Uint8Array> {
    return pieces(this.#channel, blob, signal);
  }

  /** The actor of a registered class with this id; `args` are those of the constructor, for one that has to be made. */
  actor(className: string, id: string, args?: object): Actor {
    return new Actor(this.#channel, className, id, args);
  }
}

function known(workflow: Workflow | undefined): Workflow {
  if (!workflow) throw new Error("the answer has no workflow");
  return workflow;
}
