package perdure

import (
	"context"
	"time"
)

const pollTime = 25 * time.Second // of one long poll, which is below the limit of services; the next one follows

// poll makes a long poll, which ends when the context does, but without telling the service the deadline. The service
// would answer "not yet" half a second before it, and all further polls at once, so the caller would spin for the rest.
func poll(ctx context.Context, call func(context.Context) error) error {
	polling, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	defer context.AfterFunc(ctx, cancel)()
	err := call(polling)
	if err != nil && ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}
