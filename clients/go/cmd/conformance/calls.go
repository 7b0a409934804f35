package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/perdure/perdure-go"
)

type object = map[string]any

func (p *program) runByName(ctx context.Context) error {
	run, err := p.client.Run(ctx, "greet", object{"name": "Ana"})
	if err != nil {
		return err
	}
	var two, one string
	if err := run.Result(ctx, &two); err != nil {
		return err
	}
	if err := p.client.Call(ctx, "greet", object{"name": "Ana"}, &one); err != nil {
		return err
	}
	return errors.Join(same(two, "hello Ana"), same(one, "hello Ana"))
}

// day is a date without a time.
type day struct{ time.Time }

func (d day) MarshalJSON() ([]byte, error) { return json.Marshal(d.Format(time.DateOnly)) }

func (d *day) UnmarshalJSON(data []byte) error {
	var text string
	err := json.Unmarshal(data, &text)
	if err == nil {
		d.Time, err = time.Parse(time.DateOnly, text)
	}
	return err
}

type address struct {
	City string `json:"city"`
	Zip  string `json:"zip"`
}

type order struct {
	Address address `json:"address"`
	Amount  float64 `json:"amount"`
	Due     day     `json:"due"`
}

type plan struct {
	order
	Note *string `json:"note"`
}

func (p *program) typedResult(ctx context.Context) error {
	given := order{address{"Lisboa", "1100-148"}, 2.5, day{time.Date(2028, 2, 28, 0, 0, 0, 0, time.UTC)}}
	var got plan
	if err := p.client.Call(ctx, "plan", object{"order": given}, &got); err != nil {
		return err
	}
	want := order{given.Address, 5, day{time.Date(2028, 2, 29, 0, 0, 0, 0, time.UTC)}}
	return same(got, plan{want, nil})
}

func (p *program) unreadableResult(ctx context.Context) error {
	var got any
	err := p.client.Call(ctx, "unreadable", nil, &got)
	var unreadable *perdure.EncodingError
	if !errors.As(err, &unreadable) {
		return fmt.Errorf("no *EncodingError: %v", err)
	}
	return nil
}

// refused is an error unless the call was refused for this reason, with this detail.
func refused(err error, reason perdure.Reason, key, value string) error {
	var refusal *perdure.Error
	if !errors.Is(err, reason) || !errors.As(err, &refusal) {
		return fmt.Errorf("not %s: %v", reason, err)
	}
	return same(refusal.Metadata[key], value)
}

func (p *program) unknownFunction(ctx context.Context) error {
	err := p.client.Call(ctx, "nothing", nil, nil)
	return refused(err, perdure.ErrFunctionNotFound, "function", "nothing")
}

func (p *program) wrongArguments(ctx context.Context) error {
	wrong := object{"address": address{}, "amount": 1, "due": "tomorrow"}
	err := p.client.Call(ctx, "plan", object{"order": wrong}, nil)
	return refused(err, perdure.ErrInvalidArguments, "pointer", "/order/due")
}

func (p *program) tooLarge(ctx context.Context) error {
	err := p.client.Call(ctx, "give_back_text", object{"value": largeText()}, nil)
	return refused(err, perdure.ErrPayloadTooLarge, "field", "source.entrypoint.arguments")
}

func (p *program) failure(ctx context.Context) error {
	err := p.client.Call(ctx, "fail", object{"text": "no money"}, nil)
	var failed *perdure.WorkflowFailed
	if !errors.As(err, &failed) {
		return fmt.Errorf("no *WorkflowFailed: %v", err)
	}
	if failed.Cause == nil {
		return errors.New("the failure has no cause")
	}
	return errors.Join(
		same(failed.Kind, perdure.FailureApplication),
		same(failed.Type, "builtins.ValueError"),
		same(failed.Message, "no money"),
		same(failed.TaskID, "fail"),
		same(failed.Cause.Type, "builtins.KeyError"),
	)
}

func (p *program) composeGraph(ctx context.Context) error {
	var graph perdure.Graph
	three := graph.Call("add", 1, 2)
	seven := graph.Call("add").Arg("a", three).Arg("b", 4)
	graph.Call("total", []any{three, seven, 10})
	run, err := p.client.RunGraph(ctx, &graph)
	if err != nil {
		return err
	}
	var got int
	if err := run.Result(ctx, &got); err != nil {
		return err
	}
	return same(got, 20)
}

func (p *program) actorCall(ctx context.Context) error {
	counter := p.client.Actor("counter", newID()).With(object{"start": 40})
	var first, second, again int
	requestID := newID()
	err := errors.Join(
		counter.Call(ctx, "add", object{"by": 2}, &first),
		counter.CallOnce(ctx, requestID, "add", object{"by": 3}, &second),
		counter.CallOnce(ctx, requestID, "add", object{"by": 3}, &again),
	)
	if err != nil {
		return err
	}
	err = counter.Call(ctx, "add", object{"by": 0}, nil)
	var failed *perdure.ActorCallFailed
	if !errors.As(err, &failed) {
		return fmt.Errorf("no *ActorCallFailed: %v", err)
	}
	return errors.Join(same(first, 42), same(second, 45), same(again, 45), same(failed.Type, "builtins.ValueError"))
}

func (p *program) actorQuery(ctx context.Context) error {
	counter := p.client.Actor("counter", newID())
	if err := counter.Call(ctx, "add", object{"by": 5}, nil); err != nil {
		return err
	}
	var got int
	if err := counter.Query(ctx, "peek", nil, &got); err != nil {
		return err
	}
	return same(got, 5)
}
