import type { MessageInitShape } from "@bufbuild/protobuf";
import { Code, ConnectError } from "@connectrpc/connect";

import type { Channel } from "./channel.js";
import { PerdureError, typed } from "./errors.js";
import type { UploadBlobRequestSchema } from "./gen/perdure/v1/blob_service_pb.js";
import type { BlobRef as BlobMessage } from "./gen/perdure/v1/payload_pb.js";
import { Absence } from "./patience.js";

const CHUNK_BYTES = 512 << 10;

/** Names stored bytes by their content. As an argument of a call in a graph it stands for these bytes. */
export class BlobRef {
  constructor(
    /** Hexadecimal. */
    readonly sha256: string,
    readonly size: number,
  ) {}

  static from(message: BlobMessage): BlobRef {
    return new BlobRef(message.sha256, Number(message.sizeBytes));
  }

  get message() {
    return { sha256: this.sha256, sizeBytes: BigInt(this.size) };
  }
}

export async function upload(channel: Channel, content: Uint8Array | Blob, signal?: AbortSignal): Promise<BlobRef> {
  const away = new Absence(channel, signal);
  const sha256 = content instanceof Uint8Array ? await digest(content) : undefined;
  for (;;) {
    try {
      const answer = await channel.blobs.uploadBlob(messages(channel.namespace, content, sha256), { signal });
      if (!answer.blob) throw new ConnectError("the answer names no blob", Code.Internal);
      return BlobRef.from(answer.blob);
    } catch (error) {
      if (cannotStream(error)) {
        const message = "an upload is a stream, which only gRPC sends: upload from Node, or pass less than 1 MiB";
        throw new PerdureError(message, "CAPABILITY_MISSING", Code.Unimplemented, { capability: "uploads" }, { cause: error });
      }
      await away.wait(typed(error, channel.address, signal));
    }
  }
}

/** fetch sends no streams, and says so with an error of its own before it asks a server. */
function cannotStream(error: unknown): boolean {
  return error instanceof ConnectError && (error.code === Code.Unimplemented || error.rawMessage.startsWith("The fetch API"));
}

async function* messages(
  namespace: string,
  content: Uint8Array | Blob,
  sha256: string | undefined,
): AsyncGenerator<MessageInitShape<typeof UploadBlobRequestSchema>> {
  const size = content instanceof Uint8Array ? content.length : content.size;
  // With the hash the service need not read what it has. A Blob may be larger than memory, and is not read for that.
  yield { kind: { case: "header", value: { namespace, sizeBytes: BigInt(size), sha256 } } };
  for (let offset = 0; offset < size; offset += CHUNK_BYTES) {
    const end = Math.min(offset + CHUNK_BYTES, size);
    const data =
      content instanceof Uint8Array
        ? content.subarray(offset, end)
        : new Uint8Array(await content.slice(offset, end).arrayBuffer());
    yield { kind: { case: "chunk", value: { offset: BigInt(offset), data } } };
  }
}

/** The bytes, not verified, in pieces. It goes on where it was if the connection breaks. */
export async function* pieces(channel: Channel, blob: BlobRef, signal?: AbortSignal): AsyncGenerator<Uint8Array> {
  let offset = 0;
  const open = () =>
    channel.blobs.downloadBlob(
      { namespace: channel.namespace, sha256: blob.sha256, offset: BigInt(offset), chunkBytes: CHUNK_BYTES },
      { signal },
    );
  for await (const { chunk } of channel.resumed(open, signal)) {
    if (!chunk) continue;
    offset += chunk.data.length;
    yield chunk.data;
  }
}

export async function download(channel: Channel, blob: BlobRef, signal?: AbortSignal): Promise<Uint8Array> {
  const whole = new Uint8Array(blob.size);
  let end = 0;
  for await (const piece of pieces(channel, blob, signal)) {
    whole.set(piece, end);
    end += piece.length;
  }
  if (end !== blob.size || ((await digest(whole)) ?? blob.sha256) !== blob.sha256) {
    throw new Error("what was downloaded has another length or hash than the blob");
  }
  return whole;
}

/** Nothing in a page that came by plain HTTP: browsers have no hashes there, as they could not be trusted. */
async function digest(content: Uint8Array): Promise<string | undefined> {
  const found = await globalThis.crypto.subtle?.digest("SHA-256", content as Uint8Array<ArrayBuffer>);
  return found && Array.from(new Uint8Array(found), (byte) => byte.toString(16).padStart(2, "0")).join("");
}
