import type { MessageInitShape } from "@bufbuild/protobuf";
import { durationFromMs } from "@bufbuild/protobuf/wkt";

import type { Channel } from "./channel.js";
import { PerdureError } from "./errors.js";
import { ActorCallFailed } from "./failures.js";
import type { MethodArgumentsSchema } from "./gen/perdure/v1/actor_service_pb.js";
import type { Outcome } from "./gen/perdure/v1/workflow_pb.js";
import { newId } from "./ids.js";
import { decode, encode, type PayloadInit, Room } from "./payloads.js";
import { POLL_MS } from "./runs.js";

export interface QueryOptions {
  signal?: AbortSignal;
}

export interface ActorCallOptions extends QueryOptions {
  /** A second call with the same id gets the value of the first. By default each call has its own. */
  requestId?: string;
}

/** A virtual actor: an object whose state is durable, and whose methods are called one at a time. The first call makes it,
 * if there is none. Arguments are objects by parameter name. */
export class Actor {
  /** @internal */
  constructor(
    private readonly channel: Channel,
    readonly className: string,
    readonly id: string,
    private readonly constructorArgs: object | undefined,
  ) {}

  /** Calls a method and waits for its value. The call happens once, also if it has to be repeated. Throws an
   * ActorCallFailed if the method failed. */
  async call<T = unknown>(method: string, args?: object, { requestId = newId(), signal }: ActorCallOptions = {}): Promise<T> {
    const { namespace, actors } = this.channel;
    const wait = durationFromMs(POLL_MS);
    const given = await this.#arguments(args, signal);
    const request = { namespace, actorId: this.id, method, arguments: given, requestId, wait };
    let { outcome } = await this.#made(() => actors.callActor(request, { signal }), signal);
    while (!outcome) {
      const asked = { namespace, actorId: this.id, callId: requestId, wait };
      ({ outcome } = await actors.getActorCall(asked, { signal }));
    }
    return this.#read(method, outcome, signal);
  }

  /** Calls a method that its class declares readonly, on the last state and beside all other calls. Not recorded. */
  async query<T = unknown>(method: string, args?: object, { signal }: QueryOptions = {}): Promise<T> {
    const { namespace, actors } = this.channel;
    const request = { namespace, actorId: this.id, method, arguments: await this.#arguments(args, signal) };
    const { outcome } = await this.#made(() => actors.queryActor(request, { signal }), signal);
    return this.#read(method, outcome, signal);
  }

  /** Makes a call, and makes the actor first if it turns out that there is none. */
  async #made<R>(call: () => Promise<R>, signal: AbortSignal | undefined): Promise<R> {
    try {
      return await call();
    } catch (error) {
      if (!(error instanceof PerdureError) || error.reason !== "ACTOR_NOT_FOUND") throw error;
    }
    const { namespace, actors } = this.channel;
    const actorClass = { function: { kind: { case: "registered", value: { name: this.className } } } } as const;
    const given = await this.#arguments(this.constructorArgs, signal);
    await actors.getOrCreateActor({ namespace, actorId: this.id, actorClass, arguments: given }, { signal });
    return call();
  }

  async #arguments(args: object = {}, signal?: AbortSignal): Promise<MessageInitShape<typeof MethodArgumentsSchema>> {
    const room = new Room();
    const kwargs: Record<string, PayloadInit> = {};
    for (const [name, value] of Object.entries(args)) {
      if (value !== undefined) kwargs[name] = await encode(this.channel, value, room, signal);
    }
    return { kwargs };
  }

  async #read<T>(method: string, outcome: Outcome | undefined, signal: AbortSignal | undefined): Promise<T> {
    const kind = outcome?.kind;
    if (kind?.case === "failure") throw new ActorCallFailed(kind.value, this.id, method);
    return (kind?.value && (await decode(this.channel, kind.value, signal))) as T;
  }
}
