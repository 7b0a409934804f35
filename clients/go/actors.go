package perdure

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"

	"google.golang.org/protobuf/types/known/durationpb"

	pb "github.com/perdure/perdure-go/gen/perdure/v1"
)

// Actor is a virtual actor: an object whose state is durable, and whose methods are called one at a time.
type Actor struct {
	ID          string
	class       string
	constructor any
	client      *Client
}

// Actor is the actor of a registered class with this id. The first call makes it, if there is none.
func (c *Client) Actor(class, id string) *Actor { return &Actor{ID: id, class: class, client: c} }

// With gives the arguments of the constructor, for an actor that has to be made: a value that marshals to a JSON object.
func (a *Actor) With(arguments any) *Actor {
	made := *a
	made.constructor = arguments
	return &made
}

// Call calls a method and waits for its value. The arguments are any value that marshals to a JSON object, by parameter
// name; nil is none. The call happens once, also if it has to be repeated. The error is an *ActorCallFailed if the method
// failed.
func (a *Actor) Call(ctx context.Context, method string, arguments, out any) error {
	return a.CallOnce(ctx, rand.Text(), method, arguments, out)
}

// CallOnce is Call with an id of the caller's. A second call with the same id gets the value of the first.
func (a *Actor) CallOnce(ctx context.Context, requestID, method string, arguments, out any) error {
	c := a.client
	given, err := c.arguments(ctx, arguments)
	if err != nil {
		return err
	}
	request := &pb.CallActorRequest{
		Namespace: c.namespace, ActorId: a.ID, Method: method, Arguments: given, RequestId: requestID,
		Wait: durationpb.New(pollTime),
	}
	var answer interface {
		GetDone() bool
		GetOutcome() *pb.Outcome
	}
	err = poll(ctx, func(ctx context.Context) error {
		err := a.made(ctx, func() (err error) { answer, err = c.actors.CallActor(ctx, request); return err })
		for err == nil && !answer.GetDone() {
			answer, err = c.actors.GetActorCall(ctx, &pb.GetActorCallRequest{
				Namespace: c.namespace, ActorId: a.ID, CallId: requestID, Wait: durationpb.New(pollTime),
			})
		}
		return err
	})
	if err != nil {
		return err
	}
	return a.read(ctx, method, answer.GetOutcome(), out)
}

// Query calls a method that its class declares readonly, on the last state and beside all other calls. It is not
// recorded.
func (a *Actor) Query(ctx context.Context, method string, arguments, out any) error {
	c := a.client
	given, err := c.arguments(ctx, arguments)
	if err != nil {
		return err
	}
	request := &pb.QueryActorRequest{Namespace: c.namespace, ActorId: a.ID, Method: method, Arguments: given}
	var answer *pb.QueryActorResponse
	err = a.made(ctx, func() (err error) { answer, err = c.actors.QueryActor(ctx, request); return err })
	if err != nil {
		return err
	}
	return a.read(ctx, method, answer.GetOutcome(), out)
}

// made makes a call, and makes the actor first if it turns out that there is none.
func (a *Actor) made(ctx context.Context, call func() error) error {
	if err := call(); !errors.Is(err, ErrActorNotFound) {
		return err
	}
	given, err := a.client.arguments(ctx, a.constructor)
	if err != nil {
		return err
	}
	named := &pb.FunctionRef_Registered{Registered: &pb.RegisteredFunction{Name: a.class}}
	_, err = a.client.actors.GetOrCreateActor(ctx, &pb.GetOrCreateActorRequest{
		Namespace:  a.client.namespace,
		ActorId:    a.ID,
		ActorClass: &pb.ActorClass{Function: &pb.FunctionRef{Kind: named}},
		Arguments:  given,
	})
	if err != nil {
		return err
	}
	return call()
}

func (a *Actor) read(ctx context.Context, method string, outcome *pb.Outcome, out any) error {
	if failure := outcome.GetFailure(); failure != nil {
		return &ActorCallFailed{a.ID, method, failureFrom(failure)}
	}
	return a.client.decode(ctx, outcome.GetOutput(), out)
}

// arguments are the members of a JSON object, each a value of its own.
func (c *Client) arguments(ctx context.Context, value any) (*pb.MethodArguments, error) {
	made := &pb.MethodArguments{}
	if value == nil {
		return made, nil
	}
	data, err := json.Marshal(value)
	if err != nil {
		return nil, fmt.Errorf("perdure: the arguments: %w", err)
	}
	var members map[string]json.RawMessage
	if err := json.Unmarshal(data, &members); err != nil {
		return nil, fmt.Errorf("perdure: the arguments are a JSON object by parameter name: %w", err)
	}
	inline := newRoom()
	made.Kwargs = make(map[string]*pb.Payload, len(members))
	for name, member := range members {
		if made.Kwargs[name], err = c.payload(ctx, member, inline); err != nil {
			return nil, err
		}
	}
	return made, nil
}
