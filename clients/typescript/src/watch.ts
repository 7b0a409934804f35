import { timestampDate } from "@bufbuild/protobuf/wkt";

import type { Channel } from "./channel.js";
import type { Workflow } from "./gen/perdure/v1/workflow_pb.js";
import type { TaskChange, WatchEvent } from "./gen/perdure/v1/workflow_service_pb.js";

export interface WatchOptions {
  /** Only these; none: all that match `filter`. */
  workflowIds?: string[];
  /** As in ListWorkflows. */
  filter?: string;
  /** Where to start: that of a change or a run; none: the state of `workflowIds` now. */
  resumeToken?: string;
  /** Also changes of tasks. */
  tasks?: boolean;
  /** Ends when all `workflowIds` have ended. */
  untilFinal?: boolean;
  signal?: AbortSignal;
}

/** A workflow or a task as it is after a change, or the id of a workflow that was deleted. */
export interface Change {
  readonly workflow?: Workflow;
  readonly task?: TaskChange;
  readonly deletedWorkflowId?: string;
  readonly time?: Date;
  /** Position in the log of changes. Grows. */
  readonly sequence: bigint;
  /** Starts a watch from here. Changes that were sent together with this one may come again. */
  readonly resumeToken: string;
}

export async function* watch(channel: Channel, options: WatchOptions): AsyncGenerator<Change> {
  let { resumeToken = "" } = options;
  const { workflowIds, filter, tasks: includeTasks, untilFinal, signal } = options;
  const open = () =>
    channel.workflows.watch(
      { namespace: channel.namespace, workflowIds, filter, resumeToken, includeTasks, untilFinal },
      { signal },
    );
  for await (const { events, resumeToken: next } of channel.resumed(open, signal)) {
    for (const [index, event] of events.entries()) {
      yield changeOf(event, index === events.length - 1 ? next : resumeToken);
    }
    resumeToken = next;
  }
}

function changeOf({ kind, time, sequence }: WatchEvent, resumeToken: string): Change {
  const what = kind.case && { [kind.case]: kind.value };
  return { ...what, time: time && timestampDate(time), sequence, resumeToken };
}
