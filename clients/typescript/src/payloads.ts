import type { MessageInitShape } from "@bufbuild/protobuf";
import { base64Decode, base64Encode } from "@bufbuild/protobuf/wire";

import { BlobRef, download, upload } from "./blobs.js";
import type { Channel } from "./channel.js";
import { EncodingError } from "./errors.js";
import type { Payload, PayloadSchema } from "./gen/perdure/v1/payload_pb.js";

const JSON_PLAIN = "json/plain";
const BINARY_PLAIN = "binary/plain";
const BINARY_NULL = "binary/null";
/** Of all values of one call together; more travel as blobs. */
const INLINE_BYTES_MAX = 1 << 20;
/** Of a message around a value, or of a reference to a blob. */
const AROUND_VALUE_BYTES = 256;

export type PayloadInit = MessageInitShape<typeof PayloadSchema>;

/** The bytes that values of one call may still have inline. */
export class Room {
  #left = INLINE_BYTES_MAX;

  /** Tells whether there is room for so many bytes, and uses it. */
  take(size: number): boolean {
    this.#left -= AROUND_VALUE_BYTES;
    if (size > this.#left) return false;
    this.#left -= size;
    return true;
  }
}

/** The bytes of a value that is `bytes` in Python, or of a field that is: JSON has them as base64, in either alphabet. */
export function bytes(value: Uint8Array | string): Uint8Array {
  return typeof value === "string" ? base64Decode(value) : value;
}

/** The JSON of a value, where a Uint8Array is base64 as Python functions read it. `undefined` is null. */
export function toJson(value: unknown): string {
  const text = JSON.stringify(value ?? null, function (this: Record<string, unknown>, key, found: unknown) {
    const original = this[key]; // a Buffer of Node has another idea of its JSON
    return original instanceof Uint8Array ? base64Encode(original, "url") : found;
  });
  if (text === undefined) throw new TypeError(`a ${typeof value} has no JSON`);
  return text;
}

/** A value as it travels: bytes and blobs as they are, all else as JSON. One for which there is no room is uploaded. */
export async function encode(channel: Channel, value: unknown, room: Room, signal?: AbortSignal): Promise<PayloadInit> {
  if (value instanceof BlobRef) return { encoding: BINARY_PLAIN, body: { case: "blob", value: value.message } };
  const isBytes = value instanceof Uint8Array;
  const encoding = isBytes ? BINARY_PLAIN : JSON_PLAIN;
  const data = isBytes ? value : new TextEncoder().encode(toJson(value));
  if (room.take(data.length)) return { encoding, body: { case: "data", value: data } };
  const blob = await upload(channel, data, signal);
  return { encoding, body: { case: "blob", value: blob.message } };
}

export async function decode(channel: Channel, payload: Payload, signal?: AbortSignal): Promise<unknown> {
  const { encoding, codecs, body } = payload;
  if (codecs.length) throw new EncodingError([encoding, ...codecs].join("+"));
  if (encoding === BINARY_NULL) return null;
  if (encoding !== JSON_PLAIN && encoding !== BINARY_PLAIN) throw new EncodingError(encoding);
  const isBlob = body.case === "blob";
  const data = isBlob ? await download(channel, BlobRef.from(body.value), signal) : (body.value ?? new Uint8Array());
  return encoding === BINARY_PLAIN ? data : JSON.parse(new TextDecoder().decode(data));
}
