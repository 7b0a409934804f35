import { Code, ConnectError } from "@connectrpc/connect";

import { ErrorInfoSchema } from "./gen/google/rpc/error_details_pb.js";
import { ErrorReason } from "./gen/perdure/v1/errors_pb.js";

const DOMAIN = "perdure.v1";

/** Why a call was refused: a value of ErrorReason, whose comments tell the keys of the metadata. Newer services may have
 * others; an error that the service did not send has none. */
export type Reason = keyof typeof ErrorReason | (string & {});

/** A refusal of a call, by the service or because no server answers. */
export class PerdureError extends Error {
  override name = "PerdureError";

  constructor(
    message: string,
    readonly reason: Reason,
    readonly code: Code,
    readonly metadata: Readonly<Record<string, string>> = {},
    options?: ErrorOptions,
  ) {
    super(message, options);
  }
}

/** A value exists but cannot be read from TypeScript. */
export class EncodingError extends Error {
  override name = "EncodingError";

  constructor(readonly encoding: string) {
    super(
      encoding.startsWith("python/pickle")
        ? `the value is ${encoding}, which only Python reads: the function has to declare its result type, one that JSON can hold`
        : `the value has the encoding "${encoding}", which this client does not read`,
    );
  }
}

// The service sends an ErrorInfo with every error. These codes without one come from the way to it: a refused or broken
// connection, a stream that was cut off (which looks like a violation of the protocol), a proxy.
const ON_THE_WAY: ReadonlySet<Code> = new Set([Code.Unavailable, Code.Canceled, Code.Aborted, Code.Internal, Code.Unknown]);

/** What the caller gets for an error of a transport: the reason of its signal, or an error of this package. */
export function typed(error: unknown, address: string, signal: AbortSignal | undefined): unknown {
  if (signal?.aborted) return signal.reason;
  if (!(error instanceof ConnectError)) return error;
  const { code, rawMessage } = error;
  const info = error.findDetails(ErrorInfoSchema).find(({ domain }) => domain === DOMAIN);
  if (info) return new PerdureError(rawMessage, info.reason, code, info.metadata, { cause: error });
  if (ON_THE_WAY.has(code)) {
    const message = `no server answers at ${address}: ${rawMessage}`;
    return new PerdureError(message, "UNREACHABLE", Code.Unavailable, { address }, { cause: error });
  }
  const isTooLarge = code === Code.ResourceExhausted && rawMessage.includes("larger than");
  return new PerdureError(rawMessage, isTooLarge ? "PAYLOAD_TOO_LARGE" : "", code, {}, { cause: error });
}

/** Whether the call may be answered later, or by another server. */
export function isAway(error: unknown): boolean {
  return error instanceof PerdureError && (error.code === Code.Unavailable || error.reason === "SLOW_CONSUMER");
}
