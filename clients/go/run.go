package perdure

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"

	pb "github.com/perdure/perdure-go/gen/perdure/v1"
)

// Policies of ids that were used before.
const (
	IDReuseReject              = pb.WorkflowIdReusePolicy_WORKFLOW_ID_REUSE_POLICY_REJECT
	IDReuseAllowIfUnsuccessful = pb.WorkflowIdReusePolicy_WORKFLOW_ID_REUSE_POLICY_ALLOW_IF_UNSUCCESSFUL
	IDReuseAllow               = pb.WorkflowIdReusePolicy_WORKFLOW_ID_REUSE_POLICY_ALLOW

	IDConflictFail           = pb.WorkflowIdConflictPolicy_WORKFLOW_ID_CONFLICT_POLICY_FAIL
	IDConflictUseExisting    = pb.WorkflowIdConflictPolicy_WORKFLOW_ID_CONFLICT_POLICY_USE_EXISTING
	IDConflictCancelExisting = pb.WorkflowIdConflictPolicy_WORKFLOW_ID_CONFLICT_POLICY_CANCEL_EXISTING
)

// RunOption changes how a workflow is run.
type RunOption func(*runSettings)

type runSettings struct {
	request  *pb.RunRequest
	version  string
	metadata map[string]any
}

// WorkflowID names the workflow; by default its name is the request id. An id of the caller's business makes a program
// that is started again find its own workflow.
func WorkflowID(id string) RunOption { return func(s *runSettings) { s.request.WorkflowId = id } }

// RequestID makes the request idempotent across calls of Run. By default each call has its own.
func RequestID(id string) RunOption { return func(s *runSettings) { s.request.RequestId = id } }

// Version asks for this version of the function instead of the newest one. It has no effect on graphs.
func Version(version string) RunOption { return func(s *runSettings) { s.version = version } }

// IDReuse says whether the id of a workflow that has ended may be used again.
func IDReuse(policy pb.WorkflowIdReusePolicy) RunOption {
	return func(s *runSettings) { s.request.IdReusePolicy = policy }
}

// IDConflict says what happens if a workflow with the id is at work.
func IDConflict(policy pb.WorkflowIdConflictPolicy) RunOption {
	return func(s *runSettings) { s.request.IdConflictPolicy = policy }
}

// Labels can be filtered by.
func Labels(labels map[string]string) RunOption {
	return func(s *runSettings) { s.request.Labels = labels }
}

// Metadata is kept with the workflow: values of JSON.
func Metadata(values map[string]any) RunOption { return func(s *runSettings) { s.metadata = values } }

// Run is a workflow that was started or found.
type Run struct {
	WorkflowID string
	RunID      string // empty: the last run of the id
	Started    bool   // false: it was there
	WatchToken string // with it, Watch shows what happens from here on
	client     *Client
}

// Run starts a call of a registered function, and returns when that is recorded. The arguments are any value that marshals
// to a JSON object, by parameter name; nil is none.
func (c *Client) Run(ctx context.Context, name string, arguments any, options ...RunOption) (*Run, error) {
	run, _, err := c.runFunction(ctx, name, arguments, options, 0)
	return run, err
}

// Call runs a registered function and waits for its value, as Run and Result do, with one request if it ends soon.
func (c *Client) Call(ctx context.Context, name string, arguments, out any, options ...RunOption) error {
	run, outcome, err := c.runFunction(ctx, name, arguments, options, pollTime)
	switch {
	case err != nil:
		return err
	case outcome == nil:
		return run.Result(ctx, out)
	}
	return run.read(ctx, outcome, out)
}

func (c *Client) runFunction(
	ctx context.Context, name string, arguments any, options []RunOption, wait time.Duration,
) (*Run, *pb.Outcome, error) {
	entrypoint := &pb.Entrypoint{Name: name}
	if arguments != nil {
		data, err := json.Marshal(arguments)
		if err != nil {
			return nil, nil, fmt.Errorf("perdure: the arguments of %q: %w", name, err)
		}
		entrypoint.Arguments = string(data)
	}
	source := &pb.WorkflowSource{Kind: &pb.WorkflowSource_Entrypoint{Entrypoint: entrypoint}}
	chosen := c.chosen(source, options)
	entrypoint.Version = chosen.version
	return c.run(ctx, chosen, wait)
}

func (c *Client) chosen(source *pb.WorkflowSource, options []RunOption) *runSettings {
	request := &pb.RunRequest{Namespace: c.namespace, RequestId: rand.Text(), Source: source}
	chosen := &runSettings{request: request}
	for _, option := range options {
		option(chosen)
	}
	return chosen
}

func (c *Client) run(ctx context.Context, chosen *runSettings, wait time.Duration) (*Run, *pb.Outcome, error) {
	if chosen.metadata != nil {
		metadata, err := structpb.NewStruct(chosen.metadata)
		if err != nil {
			return nil, nil, fmt.Errorf("perdure: the metadata: %w", err)
		}
		chosen.request.Metadata = metadata
	}
	if wait > 0 {
		chosen.request.Wait = durationpb.New(wait)
	}
	var answer *pb.RunResponse
	err := poll(ctx, func(ctx context.Context) (err error) {
		answer, err = c.workflows.Run(ctx, chosen.request)
		return err
	})
	if err != nil {
		return nil, nil, err
	}
	workflow := answer.GetWorkflow()
	run := &Run{workflow.GetWorkflowId(), workflow.GetRunId(), answer.GetStarted(), answer.GetWatchToken(), c}
	return run, answer.GetOutcome(), nil
}

// Existing is the last run of a workflow id, for its result. Nothing is asked of the service yet.
func (c *Client) Existing(workflowID string) *Run { return &Run{WorkflowID: workflowID, client: c} }

// Result waits until the workflow has ended, and unmarshals its value into what `out` points to; nil skips the value. The
// error is a *WorkflowFailed if the workflow failed or was canceled.
func (r *Run) Result(ctx context.Context, out any) error {
	request := &pb.GetOutputRequest{
		Namespace: r.client.namespace, WorkflowId: r.WorkflowID, RunId: r.RunID, Wait: durationpb.New(pollTime),
	}
	var answer *pb.GetOutputResponse
	for !answer.GetDone() {
		err := poll(ctx, func(ctx context.Context) (err error) {
			answer, err = r.client.workflows.GetOutput(ctx, request)
			return err
		})
		if err != nil {
			return err
		}
	}
	return r.read(ctx, answer.GetOutcome(), out)
}

func (r *Run) read(ctx context.Context, outcome *pb.Outcome, out any) error {
	if failure := outcome.GetFailure(); failure != nil {
		return &WorkflowFailed{r.WorkflowID, failureFrom(failure)}
	}
	return r.client.decode(ctx, outcome.GetOutput(), out)
}
