// Package perdure is a client of Perdure: durable workflows of Python functions, behind a gRPC service.
//
// A function that workers have registered is called by its name, with any value that marshals to a JSON object:
//
//	client, err := perdure.Dial("127.0.0.1:7373")
//	...
//	var greeting string
//	err = client.Call(ctx, "greet", map[string]any{"name": "Ana"}, &greeting)
//
// All calls end when their context does. While no server answers, a call is repeated for the patience of the client,
// and the service recognizes the repeat by its ids, so nothing happens twice. Refusals are of the type *Error and match a
// reason: errors.Is(err, perdure.ErrFunctionNotFound). A workflow that failed gives a *WorkflowFailed.
package perdure
