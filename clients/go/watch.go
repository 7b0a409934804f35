package perdure

import (
	"context"
	"errors"
	"io"
	"iter"

	pb "github.com/perdure/perdure-go/gen/perdure/v1"
)

// WatchOptions say what Watch shows.
type WatchOptions struct {
	WorkflowIDs []string // only these; none: all that match Filter
	Filter      string   // as in ListWorkflows
	ResumeToken string   // where to start: that of a Change or a Run; empty: the state of WorkflowIDs now
	Tasks       bool     // also changes of tasks
	UntilFinal  bool     // ends when all WorkflowIDs have ended
}

// Change of a workflow or a task.
type Change struct {
	*pb.WatchEvent
	// ResumeToken starts a watch from here. Changes that were sent together with this one may come again.
	ResumeToken string
}

var errStopped = errors.New("the loop was left")

// Watch gives changes in their order, each at least once, until the context ends or the loop is left. It goes on where it
// was when the connection breaks. An error is the last thing that it gives. Without a token and WorkflowIDs, changes are
// missed if the connection breaks before the first message.
func (c *Client) Watch(ctx context.Context, options WatchOptions) iter.Seq2[*Change, error] {
	return func(yield func(*Change, error) bool) {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel() // ends the stream if the loop is left
		request := &pb.WatchRequest{
			Namespace:    c.namespace,
			WorkflowIds:  options.WorkflowIDs,
			Filter:       options.Filter,
			ResumeToken:  options.ResumeToken,
			IncludeTasks: options.Tasks,
			UntilFinal:   options.UntilFinal,
		}
		err := c.patiently(ctx, func(away *absence) error { return c.watch(ctx, request, away, yield) })
		if err != nil && err != errStopped {
			yield(nil, err)
		}
	}
}

// watch follows one stream, and keeps in the request where the next one begins.
func (c *Client) watch(
	ctx context.Context, request *pb.WatchRequest, away *absence, yield func(*Change, error) bool,
) error {
	stream, err := c.workflows.Watch(ctx, request)
	if err != nil {
		return err
	}
	for {
		answer, err := stream.Recv()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		away.end()
		for i, event := range answer.GetEvents() {
			token := request.ResumeToken
			if i == len(answer.GetEvents())-1 {
				token = answer.GetResumeToken()
			}
			if !yield(&Change{event, token}, nil) {
				return errStopped
			}
		}
		request.ResumeToken = answer.GetResumeToken()
	}
}
