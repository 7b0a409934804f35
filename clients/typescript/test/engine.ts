import { createHash } from "node:crypto";

import { create, type MessageInitShape } from "@bufbuild/protobuf";
import { Code, ConnectError, createRouterTransport, type HandlerContext } from "@connectrpc/connect";
import { type Client, connect, type ConnectOptions } from "perdure";
import { ErrorInfoSchema } from "perdure/gen/google/rpc/error_details_pb";
import { BlobService } from "perdure/gen/perdure/v1/blob_service_pb";
import { type Payload, PayloadSchema } from "perdure/gen/perdure/v1/payload_pb";
import {
  type RunRequest,
  type SendEventRequest,
  WorkflowService,
} from "perdure/gen/perdure/v1/workflow_service_pb";

export const content = new TextEncoder().encode("all of the content");
export const contentHash = createHash("sha256").update(content).digest("hex");

const away = () => new ConnectError("away", Code.Unavailable);

/** What a service would answer that goes away in between, and what it was asked. */
export class Engine {
  /** Calls that are not answered before one is. */
  failures = 0;
  output: MessageInitShape<typeof PayloadSchema> = { encoding: "binary/null" };
  readonly headers: Headers[] = [];
  readonly runs: RunRequest[] = [];
  readonly events: SendEventRequest[] = [];
  readonly tokens: string[] = [];
  readonly offsets: bigint[] = [];
  readonly uploads: number[] = [];
  /** Watches whose client hung up. */
  left = 0;

  client(options: ConnectOptions = {}): Client {
    return connect("127.0.0.1:1", { transport: this.#transport(), ...options });
  }

  #called({ requestHeader }: HandlerContext): void {
    this.headers.push(requestHeader);
    if (this.headers.length <= this.failures) throw away();
  }

  #transport() {
    const engine = this;
    return createRouterTransport(({ service }) => {
      service(WorkflowService, {
        run(request, context) {
          engine.#called(context);
          engine.runs.push(request);
          const outcome = { kind: { case: "output" as const, value: create(PayloadSchema, engine.output) as Payload } };
          return { workflow: { workflowId: request.requestId }, started: true, outcome };
        },
        sendEvent(request) {
          engine.events.push(request);
          return {};
        },
        cancel({ workflowId }) {
          const info = { domain: "perdure.v1", reason: "WORKFLOW_NOT_FOUND", metadata: { workflow_id: workflowId } };
          throw new ConnectError("no such workflow", Code.NotFound, undefined, [{ desc: ErrorInfoSchema, value: info }]);
        },
        async getOutput(_, { signal, timeoutMs }) {
          if (timeoutMs() !== undefined) throw new ConnectError("a long poll has a deadline", Code.InvalidArgument);
          await new Promise((resolve) => signal.addEventListener("abort", resolve));
          throw signal.reason;
        },
        async *watch({ resumeToken }, { signal }) {
          signal.addEventListener("abort", () => engine.left++);
          engine.tokens.push(resumeToken);
          const event = { sequence: BigInt(engine.tokens.length) };
          yield { events: [event, event], resumeToken: "t".repeat(engine.tokens.length) };
          if (engine.tokens.length < 3) throw away();
        },
      });
      service(BlobService, {
        async *downloadBlob({ offset }) {
          engine.offsets.push(offset);
          const isFirst = engine.offsets.length === 1;
          yield { chunk: { offset, data: content.subarray(Number(offset), isFirst ? 7 : undefined) } };
          if (isFirst) throw away();
        },
        async uploadBlob(requests) {
          let size = 0;
          for await (const { kind } of requests) if (kind.case === "chunk") size += kind.value.data.length;
          engine.uploads.push(size);
          if (engine.uploads.length <= engine.failures) throw away();
          return { blob: { sha256: contentHash, sizeBytes: BigInt(size) } };
        },
      });
    });
  }
}
