package perdure

import (
	"context"
	"errors"
	"strconv"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
)

const (
	repeatKey  = "perdure-previous-attempts" // metadata of a repeated call: the number of earlier tries
	ageKey     = "perdure-asked-ms-ago"      // metadata of a repeated call: the milliseconds since the first try
	pauseFirst = 50 * time.Millisecond
	pauseMax   = time.Second
)

// repeatUnary makes a call again while no server answers. A repeat says so, and the service answers it as it would have
// answered the first try. Errors become those of this package.
func (c *Client) repeatUnary(
	ctx context.Context, method string, request, reply any, conn *grpc.ClientConn, invoke grpc.UnaryInvoker,
	options ...grpc.CallOption,
) error {
	first := time.Now()
	attempts := 0
	return c.patiently(ctx, func(*absence) error {
		try := ctx
		if attempts > 0 {
			age := time.Since(first).Milliseconds() + 1 // rounded up: the service looks at least that far back
			try = metadata.AppendToOutgoingContext(
				ctx, repeatKey, strconv.Itoa(attempts), ageKey, strconv.FormatInt(age, 10),
			)
		}
		attempts++
		return invoke(try, method, request, reply, conn, options...)
	})
}

// patiently repeats something until a server answers, the context ends, or no server has answered for the patience of the
// client. A stream that makes progress tells the absence.
func (c *Client) patiently(ctx context.Context, try func(*absence) error) error {
	away := absence{patience: c.patience}
	for {
		err := try(&away)
		if err == nil {
			return nil
		}
		if err = c.typed(ctx, err); !isAway(err) {
			return err
		}
		if err = away.wait(ctx, err); err != nil {
			return err
		}
	}
}

// isAway tells whether the call may be answered later, or by another server.
func isAway(err error) bool {
	var refusal *Error
	return errors.As(err, &refusal) && (refusal.Code == codes.Unavailable || refusal.Reason == ErrSlowConsumer)
}

// absence of servers, as one call sees it: it begins with the first try without an answer.
type absence struct {
	patience time.Duration
	began    time.Time
	pause    time.Duration
}

// end says that a server has answered.
func (a *absence) end() { a.began = time.Time{} }

// wait pauses before the next try. It gives the error back once the patience is used up.
func (a *absence) wait(ctx context.Context, err error) error {
	if a.began.IsZero() {
		a.began, a.pause = time.Now(), pauseFirst
	}
	left := a.patience - time.Since(a.began)
	if left <= 0 {
		return err
	}
	// The last try is made when patience ends, not one pause earlier.
	timer := time.NewTimer(min(a.pause, left))
	defer timer.Stop()
	a.pause = min(a.pause*2, pauseMax)
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}
