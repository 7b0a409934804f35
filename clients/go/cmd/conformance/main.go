// Command conformance does what clients/conformance.yaml lists, and writes a line for each case.
package main

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"time"

	"github.com/perdure/perdure-go"
)

const caseTimeout = 2 * time.Minute

// A program tests one client.
type program struct {
	client  *perdure.Client
	control string // URL of what kills and starts the engine
}

type testCase struct {
	id string
	do func(*program, context.Context) error
}

var cases = []testCase{
	{"run_by_name", (*program).runByName},
	{"typed_result", (*program).typedResult},
	{"unreadable_result", (*program).unreadableResult},
	{"unknown_function", (*program).unknownFunction},
	{"wrong_arguments", (*program).wrongArguments},
	{"failure", (*program).failure},
	{"compose_graph", (*program).composeGraph},
	{"event", (*program).event},
	{"cancel", (*program).cancel},
	{"actor_call", (*program).actorCall},
	{"actor_query", (*program).actorQuery},
	{"watch_across_restart", (*program).watchAcrossRestart},
	{"large_value", (*program).largeValue},
	{"values_together", (*program).valuesTogether},
	{"too_large", (*program).tooLarge},
	{"engine_away", (*program).engineAway},
	{"cancellation_by_context", (*program).cancellationByContext},
}

func main() {
	client, err := perdure.Dial(os.Getenv("PERDURE_ADDRESS"))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	defer client.Close()
	tested := &program{client, os.Getenv("PERDURE_CONTROL")}
	for _, each := range cases {
		ctx, cancel := context.WithTimeout(context.Background(), caseTimeout)
		if err := each.do(tested, ctx); err != nil {
			fmt.Printf("failed %s: %q\n", each.id, err.Error())
		} else {
			fmt.Println("ok", each.id)
		}
		cancel()
	}
}

// tell asks the control endpoint for something that no client can do.
func (p *program) tell(ctx context.Context, what string) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, p.control+what, nil)
	if err != nil {
		return err
	}
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", what, answer.Status)
	}
	return nil
}

// same is an error unless both values are equal.
func same[T comparable](got, want T) error {
	if got != want {
		return fmt.Errorf("got %.200v, want %.200v", got, want)
	}
	return nil
}
