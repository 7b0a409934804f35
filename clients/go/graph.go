package perdure

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"google.golang.org/protobuf/proto"

	pb "github.com/perdure/perdure-go/gen/perdure/v1"
)

const specBytesMax = 2 << 20 // larger graphs travel as blobs

// Graph is a workflow of several calls. Its zero value is an empty one. The value of the workflow is that of the last
// node, or of Output.
type Graph struct {
	Output *Node
	nodes  []*Node
	ids    map[string]int
}

// Node is a step of a graph. As an argument of another call, also inside of []any and map[string]any, it stands for its
// value.
type Node struct {
	id        string
	function  string
	version   string
	event     string
	positions []any
	names     map[string]any
	after     []*Node
}

// Call adds a call of a registered function. Arguments are values that marshal to JSON, []byte, BlobRef and nodes.
func (g *Graph) Call(function string, arguments ...any) *Node {
	return g.add(&Node{function: function, positions: arguments}, function)
}

// Event adds a wait for an event with this key. Its value is that of the event.
func (g *Graph) Event(key string) *Node { return g.add(&Node{event: key}, key) }

func (g *Graph) add(node *Node, name string) *Node {
	if g.ids == nil {
		g.ids = map[string]int{}
	}
	g.ids[name]++
	node.id = name
	if count := g.ids[name]; count > 1 {
		node.id = fmt.Sprintf("%s-%d", name, count)
	}
	g.nodes = append(g.nodes, node)
	return node
}

// ID names the node instead of the function or the event: the id of its task, which keys the recorded output.
func (n *Node) ID(id string) *Node { n.id = id; return n }

// Version asks for this version of the function.
func (n *Node) Version(version string) *Node { n.version = version; return n }

// Arg adds an argument by the name of its parameter.
func (n *Node) Arg(name string, value any) *Node {
	if n.names == nil {
		n.names = map[string]any{}
	}
	n.names[name] = value
	return n
}

// After has the node wait for others whose values it does not take.
func (n *Node) After(nodes ...*Node) *Node { n.after = append(n.after, nodes...); return n }

// RunGraph starts a graph, and returns when it is recorded. Large arguments are uploaded first.
func (c *Client) RunGraph(ctx context.Context, graph *Graph, options ...RunOption) (*Run, error) {
	spec, err := c.spec(ctx, graph)
	if err != nil {
		return nil, err
	}
	source := &pb.WorkflowSource{Kind: &pb.WorkflowSource_Spec{Spec: spec}}
	if proto.Size(spec) > specBytesMax {
		data, err := proto.Marshal(spec)
		if err != nil {
			return nil, fmt.Errorf("perdure: %w", err)
		}
		blob, err := c.Upload(ctx, bytes.NewReader(data))
		if err != nil {
			return nil, err
		}
		source.Kind = &pb.WorkflowSource_SpecBlob{SpecBlob: blob.message()}
	}
	run, _, err := c.run(ctx, c.chosen(source, options), 0)
	return run, err
}

func (c *Client) spec(ctx context.Context, graph *Graph) (*pb.WorkflowSpec, error) {
	if len(graph.nodes) == 0 {
		return nil, errors.New("perdure: the graph is empty")
	}
	output := graph.Output
	if output == nil {
		output = graph.nodes[len(graph.nodes)-1]
	}
	spec := &pb.WorkflowSpec{Output: output.reference()}
	for _, node := range graph.nodes {
		made, err := c.node(ctx, node)
		if err != nil {
			return nil, fmt.Errorf("node %q: %w", node.id, err)
		}
		spec.Nodes = append(spec.Nodes, made)
	}
	return spec, nil
}

func (c *Client) node(ctx context.Context, node *Node) (*pb.Node, error) {
	made := &pb.Node{Id: node.id}
	for _, before := range node.after {
		made.After = append(made.After, before.id)
	}
	if node.event != "" {
		made.Kind = &pb.Node_Event{Event: &pb.EventNode{EventKey: node.event}}
		return made, nil
	}
	registered := &pb.RegisteredFunction{Name: node.function, Version: node.version}
	function := &pb.FunctionRef{Kind: &pb.FunctionRef_Registered{Registered: registered}}
	inline := newRoom()
	positions, err := c.list(ctx, node.positions, inline)
	if err != nil {
		return nil, err
	}
	names, err := c.entries(ctx, node.names, inline)
	if err != nil {
		return nil, err
	}
	made.Kind = &pb.Node_Task{Task: &pb.TaskNode{Function: function, Args: positions, Kwargs: names}}
	return made, nil
}

func (n *Node) reference() *pb.Arg {
	return &pb.Arg{Kind: &pb.Arg_Node{Node: &pb.NodeRef{NodeId: n.id}}}
}

// argument is a value, or a structure where nodes stand for values.
func (c *Client) argument(ctx context.Context, value any, inline *room) (*pb.Arg, error) {
	if node, ok := value.(*Node); ok {
		return node.reference(), nil
	}
	if holdsNodes(value) {
		switch value := value.(type) {
		case []any:
			items, err := c.list(ctx, value, inline)
			return &pb.Arg{Kind: &pb.Arg_List{List: &pb.ArgList{Items: items}}}, err
		case map[string]any:
			entries, err := c.entries(ctx, value, inline)
			return &pb.Arg{Kind: &pb.Arg_Map{Map: &pb.ArgMap{Entries: entries}}}, err
		}
	}
	payload, err := c.payload(ctx, value, inline)
	return &pb.Arg{Kind: &pb.Arg_Payload{Payload: payload}}, err
}

func (c *Client) list(ctx context.Context, values []any, inline *room) ([]*pb.Arg, error) {
	made := make([]*pb.Arg, len(values))
	for i, value := range values {
		var err error
		if made[i], err = c.argument(ctx, value, inline); err != nil {
			return nil, err
		}
	}
	return made, nil
}

func (c *Client) entries(ctx context.Context, values map[string]any, inline *room) (map[string]*pb.Arg, error) {
	made := make(map[string]*pb.Arg, len(values))
	for name, value := range values {
		var err error
		if made[name], err = c.argument(ctx, value, inline); err != nil {
			return nil, err
		}
	}
	return made, nil
}

func holdsNodes(value any) bool {
	switch value := value.(type) {
	case *Node, BlobRef:
		return true
	case []any:
		for _, each := range value {
			if holdsNodes(each) {
				return true
			}
		}
	case map[string]any:
		for _, each := range value {
			if holdsNodes(each) {
				return true
			}
		}
	}
	return false
}
