package perdure

import (
	"context"
	"fmt"
	"strings"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

const errorDomain = "perdure.v1"

// Reason says why a call was refused. The constants are targets of errors.Is; newer services may have others.
type Reason string

func (r Reason) Error() string { return "perdure: " + string(r) }

// Error is a refusal of a call, by the service or because no server answers.
type Error struct {
	Reason   Reason
	Code     codes.Code
	Message  string
	Metadata map[string]string // details by name; the comment of the reason says which
}

func (e *Error) Error() string {
	if e.Reason == "" {
		return fmt.Sprintf("perdure: %v: %s", e.Code, e.Message)
	}
	return fmt.Sprintf("perdure: %s: %s", string(e.Reason), e.Message)
}

// Is reports whether the target is the reason of this error.
func (e *Error) Is(target error) bool {
	reason, ok := target.(Reason)
	return ok && reason == e.Reason
}

// GRPCStatus is for google.golang.org/grpc/status.
func (e *Error) GRPCStatus() *status.Status { return status.New(e.Code, e.Message) }

// typed makes an error of gRPC one of this package, or of the context that ended. Others stay as they are.
func (c *Client) typed(ctx context.Context, err error) error {
	found, ok := status.FromError(err)
	if !ok {
		return err
	}
	code := found.Code()
	_, hasDeadline := ctx.Deadline()
	switch {
	case ctx.Err() != nil && (code == codes.Canceled || code == codes.DeadlineExceeded || code == codes.Unavailable):
		return ctx.Err()
	case hasDeadline && code == codes.DeadlineExceeded: // the clock of the other side was a little ahead
		return context.DeadlineExceeded
	}
	for _, detail := range found.Details() {
		if info, ok := detail.(*errdetails.ErrorInfo); ok && info.GetDomain() == errorDomain {
			return &Error{Reason(info.GetReason()), code, found.Message(), info.GetMetadata()}
		}
	}
	switch {
	case code == codes.Unavailable || code == codes.Canceled: // we canceled nothing, so a dying server or proxy did
		address := map[string]string{"address": c.address}
		message := fmt.Sprintf("no server answers at %s: %s", c.address, found.Message())
		return &Error{ErrUnreachable, codes.Unavailable, message, address}
	case code == codes.ResourceExhausted && strings.Contains(found.Message(), "larger than max"):
		return &Error{Reason: ErrPayloadTooLarge, Code: code, Message: found.Message()}
	}
	return &Error{Code: code, Message: found.Message()}
}
