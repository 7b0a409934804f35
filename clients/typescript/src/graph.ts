import { create, type MessageInitShape, toBinary } from "@bufbuild/protobuf";

import { BlobRef, upload } from "./blobs.js";
import type { Channel } from "./channel.js";
import { type ArgSchema, type NodeSchema, type WorkflowSourceSchema, WorkflowSpecSchema } from "./gen/perdure/v1/spec_pb.js";
import { encode, Room } from "./payloads.js";

/** Larger graphs travel as blobs. */
const SPEC_BYTES_MAX = 2 << 20;

type ArgInit = MessageInitShape<typeof ArgSchema>;
type NodeInit = MessageInitShape<typeof NodeSchema>;
type SourceInit = MessageInitShape<typeof WorkflowSourceSchema>;

export interface NodeOptions {
  /** The id of the task, which keys the recorded output; by default the name of the function or the key of the event. */
  id?: string;
  /** Nodes to wait for whose values the call does not take. */
  after?: readonly Node[];
}

export interface CallOptions extends NodeOptions {
  /** Asks for this version of the function. */
  version?: string;
  /** Arguments by name, beside those by position. */
  named?: object;
}

/** A step of a graph. As an argument of another call, also inside of arrays and objects, it stands for its value. */
export class Node {
  /** @internal */
  constructor(
    readonly id: string,
    private readonly after: readonly Node[],
    private readonly kind: (inputs: Inputs) => Promise<NodeInit["kind"]>,
  ) {}

  /** @internal */
  async message(inputs: Inputs): Promise<NodeInit> {
    return { id: this.id, after: this.after.map(({ id }) => id), kind: await this.kind(inputs) };
  }

  /** @internal */
  get reference(): ArgInit {
    return { kind: { case: "node", value: { nodeId: this.id } } };
  }
}

/** A workflow of several calls. Its value is that of the last node, or of `output`. */
export class Graph {
  output: Node | undefined;
  readonly #nodes: Node[] = [];
  readonly #counts = new Map<string, number>();

  /** Adds a call of a registered function. The arguments, an array by position or an object by parameter name, are values
   * of JSON, Uint8Array, BlobRef and nodes. */
  call(name: string, args: readonly unknown[] | object = [], options: CallOptions = {}): Node {
    const positions: unknown[] = Array.isArray(args) ? args : [];
    const names = Array.isArray(args) ? { ...options.named } : { ...args, ...options.named };
    return this.#add(name, options, async (inputs) => ({
      case: "task",
      value: {
        function: { kind: { case: "registered", value: { name, version: options.version } } },
        args: await inputs.list(positions),
        kwargs: await inputs.map(names),
      },
    }));
  }

  /** Adds a wait for an event with this key. Its value is that of the event. */
  event(eventKey: string, options: NodeOptions = {}): Node {
    return this.#add(eventKey, options, async () => ({ case: "event", value: { eventKey } }));
  }

  #add(name: string, { id, after = [] }: NodeOptions, kind: (inputs: Inputs) => Promise<NodeInit["kind"]>): Node {
    const count = (this.#counts.get(name) ?? 0) + 1;
    this.#counts.set(name, count);
    const node = new Node(id ?? (count > 1 ? `${name}-${count}` : name), after, kind);
    this.#nodes.push(node);
    return node;
  }

  /** @internal What a service runs. Large arguments are uploaded for it. */
  async source(channel: Channel, signal?: AbortSignal): Promise<SourceInit> {
    const output = this.output ?? this.#nodes.at(-1);
    if (!output) throw new TypeError("the graph is empty");
    const nodes: NodeInit[] = [];
    for (const node of this.#nodes) nodes.push(await node.message(new Inputs(channel, signal)));
    const spec = create(WorkflowSpecSchema, { nodes, output: output.reference });
    const data = toBinary(WorkflowSpecSchema, spec);
    if (data.length <= SPEC_BYTES_MAX) return { kind: { case: "spec", value: spec } };
    const blob = await upload(channel, data, signal);
    return { kind: { case: "specBlob", value: blob.message } };
  }
}

/** The arguments of one call, which share what may travel inline. */
class Inputs {
  readonly #room = new Room();

  constructor(
    private readonly channel: Channel,
    private readonly signal: AbortSignal | undefined,
  ) {}

  async list(values: readonly unknown[]): Promise<ArgInit[]> {
    const made: ArgInit[] = [];
    for (const value of values) made.push(await this.#argument(value));
    return made;
  }

  async map(values: object): Promise<Record<string, ArgInit>> {
    const made: Record<string, ArgInit> = {};
    for (const [name, value] of Object.entries(values)) {
      if (value !== undefined) made[name] = await this.#argument(value);
    }
    return made;
  }

  /** A value, or a structure where nodes stand for values. */
  async #argument(value: unknown): Promise<ArgInit> {
    if (value instanceof Node) return value.reference;
    if (Array.isArray(value) && holdsReferences(value)) {
      return { kind: { case: "list", value: { items: await this.list(value) } } };
    }
    if (isPlain(value) && holdsReferences(value)) {
      return { kind: { case: "map", value: { entries: await this.map(value) } } };
    }
    return { kind: { case: "payload", value: await encode(this.channel, value, this.#room, this.signal) } };
  }
}

function holdsReferences(value: unknown): boolean {
  if (value instanceof Node || value instanceof BlobRef) return true;
  return (Array.isArray(value) || isPlain(value)) && Object.values(value).some(holdsReferences);
}

function isPlain(value: unknown): value is object {
  return typeof value === "object" && value !== null && Object.getPrototypeOf(value) === Object.prototype;
}
