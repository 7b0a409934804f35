// The package in Node: gRPC over HTTP/2.
import { createGrpcTransport, Http2SessionManager } from "@connectrpc/connect-node";

import { urlOf } from "./address.js";
import { Client, type ConnectOptions } from "./client.js";

export * from "./api.js";

/** What the service sends and reads at most. */
const MESSAGE_BYTES_MAX = 8 << 20;
const PING_INTERVAL_MS = 30_000;
const CONNECT_TIMEOUT_MS = 5_000;

/** Makes a client of the service at an address such as "127.0.0.1:7373" or "https://perdure.example:7373". It connects with
 * the first call. */
export function connect(address: string, options: ConnectOptions = {}): Client {
  if (options.transport) return new Client(address, options.transport, options);
  const baseUrl = urlOf(address).href;
  const sessionManager = new Http2SessionManager(baseUrl, {
    pingIntervalMs: PING_INTERVAL_MS,
    connectTimeoutMs: CONNECT_TIMEOUT_MS,
  });
  const limits = { readMaxBytes: MESSAGE_BYTES_MAX, writeMaxBytes: MESSAGE_BYTES_MAX };
  const transport = createGrpcTransport({ baseUrl, sessionManager, ...limits });
  return new Client(address, transport, options, () => sessionManager.abort());
}
