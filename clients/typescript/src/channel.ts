import type { DescMessage, DescMethodStreaming, DescMethodUnary, MessageInitShape } from "@bufbuild/protobuf";
import { MethodOptions_IdempotencyLevel as Level } from "@bufbuild/protobuf/wkt";
import {
  type Client as Stub,
  type ContextValues,
  createClient,
  type StreamResponse,
  type Transport,
  type UnaryResponse,
} from "@connectrpc/connect";

import { typed } from "./errors.js";
import { ActorService } from "./gen/perdure/v1/actor_service_pb.js";
import { BlobService } from "./gen/perdure/v1/blob_service_pb.js";
import { WorkflowService } from "./gen/perdure/v1/workflow_service_pb.js";
import { Absence } from "./patience.js";

/** Header of a repeated call: the number of earlier tries. */
const REPEAT_KEY = "perdure-previous-attempts";
/** Header of a repeated call: the milliseconds since the first try. */
const AGE_KEY = "perdure-asked-ms-ago";
const PATIENCE_MS = 30_000;

export interface ChannelOptions {
  /** A bearer token, sent with every call. It needs https, unless the address is a loopback address. */
  token?: string;
  /** The namespace of the calls, instead of "default". */
  namespace?: string;
  /** For how long a call is repeated while no server answers. */
  patienceMs?: number;
}

/** A transport that repeats unary calls while no server answers, and throws errors of this package. A repeat says so, and
 * the service answers it as it would have answered the first try. */
export class Channel implements Transport {
  readonly namespace: string;
  readonly patienceMs: number;
  readonly workflows: Stub<typeof WorkflowService>;
  readonly actors: Stub<typeof ActorService>;
  readonly blobs: Stub<typeof BlobService>;
  isClosed = false;
  readonly #token: string | undefined;

  constructor(
    readonly address: string,
    private readonly inner: Transport,
    options: ChannelOptions,
  ) {
    this.namespace = options.namespace ?? "";
    this.patienceMs = options.patienceMs ?? PATIENCE_MS;
    this.#token = options.token;
    this.workflows = createClient(WorkflowService, this);
    this.actors = createClient(ActorService, this);
    this.blobs = createClient(BlobService, this);
  }

  async unary<I extends DescMessage, O extends DescMessage>(
    method: DescMethodUnary<I, O>,
    signal: AbortSignal | undefined,
    timeoutMs: number | undefined,
    header: HeadersInit | undefined,
    input: MessageInitShape<I>,
    contextValues?: ContextValues,
  ): Promise<UnaryResponse<I, O>> {
    const away = new Absence(this, signal);
    const first = performance.now();
    for (let attempts = 0; ; attempts++) {
      const headers = this.#headers(header);
      if (attempts) {
        headers.set(REPEAT_KEY, String(attempts));
        headers.set(AGE_KEY, String(Math.ceil(performance.now() - first)));
      }
      try {
        return await this.inner.unary(method, signal, timeoutMs, headers, input, contextValues);
      } catch (error) {
        const found = typed(error, this.address, signal);
        if (method.idempotency === Level.IDEMPOTENCY_UNKNOWN) throw found;
        await away.wait(found);
      }
    }
  }

  /** A single try. */
  stream<I extends DescMessage, O extends DescMessage>(
    method: DescMethodStreaming<I, O>,
    signal: AbortSignal | undefined,
    timeoutMs: number | undefined,
    header: HeadersInit | undefined,
    input: AsyncIterable<MessageInitShape<I>>,
    contextValues?: ContextValues,
  ): Promise<StreamResponse<I, O>> {
    return this.inner.stream(method, signal, timeoutMs, this.#headers(header), input, contextValues);
  }

  /** Opens a stream, and opens it again, where it was, whenever it breaks. */
  async *resumed<T>(open: () => AsyncIterable<T>, signal: AbortSignal | undefined): AsyncGenerator<T> {
    const away = new Absence(this, signal);
    for (;;) {
      try {
        for await (const message of open()) {
          away.end();
          yield message;
        }
        return;
      } catch (error) {
        await away.wait(typed(error, this.address, signal));
      }
    }
  }

  #headers(given: HeadersInit | undefined): Headers {
    const headers = new Headers(given);
    if (this.#token) headers.set("authorization", `Bearer ${this.#token}`);
    return headers;
  }
}
