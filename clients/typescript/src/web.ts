// The package in browsers, and wherever there is fetch: the Connect protocol, at the HTTP address of the service.
import { createConnectTransport } from "@connectrpc/connect-web";

import { urlOf } from "./address.js";
import { Client, type ConnectOptions } from "./client.js";

export * from "./api.js";

/** Makes a client of the service at the URL of its HTTP port, or of a proxy before it: "https://perdure.example", or "/perdure"
 * on the server that the page is from. */
export function connect(address: string, options: ConnectOptions = {}): Client {
  const { transport = createConnectTransport({ baseUrl: urlOf(address).href, useBinaryFormat: true }) } = options;
  return new Client(address, transport, options);
}
