package perdure

import (
	"context"
	"crypto/rand"

	pb "github.com/perdure/perdure-go/gen/perdure/v1"
)

// Workflow is the state of a workflow, without its values.
type Workflow = pb.Workflow

// WorkflowStatus is where a workflow is. Newer services may have other states.
type WorkflowStatus = pb.WorkflowStatus

// States of a workflow.
const (
	StatusPending    = pb.WorkflowStatus_WORKFLOW_STATUS_PENDING
	StatusRunning    = pb.WorkflowStatus_WORKFLOW_STATUS_RUNNING
	StatusResumable  = pb.WorkflowStatus_WORKFLOW_STATUS_RESUMABLE
	StatusSuccessful = pb.WorkflowStatus_WORKFLOW_STATUS_SUCCESSFUL
	StatusFailed     = pb.WorkflowStatus_WORKFLOW_STATUS_FAILED
	StatusCanceled   = pb.WorkflowStatus_WORKFLOW_STATUS_CANCELED
)

// Status gets the state of a workflow.
func (c *Client) Status(ctx context.Context, workflowID string) (*Workflow, error) {
	answer, err := c.workflows.GetStatus(ctx, &pb.GetStatusRequest{Namespace: c.namespace, WorkflowId: workflowID})
	return answer.GetWorkflow(), err
}

// Cancel cancels a workflow. When it returns, that is recorded, and no further task of the workflow starts. The reason is
// for people, and may be empty.
func (c *Client) Cancel(ctx context.Context, workflowID, reason string) (*Workflow, error) {
	request := &pb.CancelRequest{Namespace: c.namespace, WorkflowId: workflowID, Reason: reason}
	answer, err := c.workflows.Cancel(ctx, request)
	return answer.GetWorkflow(), err
}

// SendEvent delivers a value to the workflow that waits, or will wait, for this key. When it returns, the event is
// recorded. A second event with the same id is not delivered again; an empty id is replaced by a new one.
func (c *Client) SendEvent(ctx context.Context, workflowID, key string, value any, eventID string) error {
	payload, err := c.payload(ctx, value, newRoom())
	if err != nil {
		return err
	}
	if eventID == "" {
		eventID = rand.Text()
	}
	_, err = c.workflows.SendEvent(ctx, &pb.SendEventRequest{
		Namespace: c.namespace, WorkflowId: workflowID, EventKey: key, EventId: eventID, Payload: payload,
	})
	return err
}
