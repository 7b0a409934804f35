package perdure

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"encoding/json"
	"errors"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	pb "github.com/perdure/perdure-go/gen/perdure/v1"
)

// engine answers as a service that goes away in between would.
type engine struct {
	pb.UnimplementedWorkflowServiceServer
	pb.UnimplementedBlobServiceServer
	mutex   sync.Mutex
	seen    []metadata.MD // of each call
	tokens  []string      // of each watch
	offsets []int64       // of each download
	refusal error         // of all calls of Cancel
}

func (e *engine) called(ctx context.Context) int {
	found, _ := metadata.FromIncomingContext(ctx)
	e.mutex.Lock()
	defer e.mutex.Unlock()
	e.seen = append(e.seen, found)
	return len(e.seen)
}

func (e *engine) calls() []metadata.MD {
	e.mutex.Lock()
	defer e.mutex.Unlock()
	return e.seen
}

func (e *engine) Run(ctx context.Context, request *pb.RunRequest) (*pb.RunResponse, error) {
	if e.called(ctx) < 3 {
		return nil, status.Error(codes.Unavailable, "away")
	}
	return &pb.RunResponse{Workflow: &pb.Workflow{WorkflowId: request.GetRequestId()}, Started: true}, nil
}

func (e *engine) Cancel(ctx context.Context, _ *pb.CancelRequest) (*pb.CancelResponse, error) {
	e.called(ctx)
	return nil, e.refusal
}

func (e *engine) GetOutput(ctx context.Context, _ *pb.GetOutputRequest) (*pb.GetOutputResponse, error) {
	e.called(ctx)
	if _, hasDeadline := ctx.Deadline(); hasDeadline {
		return nil, status.Error(codes.Internal, "a long poll has a deadline")
	}
	<-ctx.Done()
	return nil, ctx.Err()
}

func (e *engine) Watch(request *pb.WatchRequest, stream grpc.ServerStreamingServer[pb.WatchResponse]) error {
	e.tokens = append(e.tokens, request.GetResumeToken())
	event := &pb.WatchEvent{Sequence: int64(len(e.tokens))}
	token := strings.Repeat("t", len(e.tokens))
	if err := stream.Send(&pb.WatchResponse{Events: []*pb.WatchEvent{event, event}, ResumeToken: token}); err != nil {
		return err
	}
	if len(e.tokens) < 3 {
		return status.Error(codes.Unavailable, "away")
	}
	return nil
}

const content = "all of the content"

func (e *engine) DownloadBlob(
	request *pb.DownloadBlobRequest, stream grpc.ServerStreamingServer[pb.DownloadBlobResponse],
) error {
	e.offsets = append(e.offsets, request.GetOffset())
	rest := []byte(content)[request.GetOffset():]
	if len(e.offsets) == 1 {
		rest = rest[:7]
	}
	chunk := &pb.BlobChunk{Offset: request.GetOffset(), Data: rest}
	if err := stream.Send(&pb.DownloadBlobResponse{Chunk: chunk}); err != nil {
		return err
	}
	if len(e.offsets) == 1 {
		return status.Error(codes.Unavailable, "away")
	}
	return nil
}

// dialed is a client of a new engine.
func dialed(t *testing.T, options ...Option) (*Client, *engine) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := &engine{}
	server := grpc.NewServer()
	pb.RegisterWorkflowServiceServer(server, served)
	pb.RegisterBlobServiceServer(server, served)
	go server.Serve(listener)
	client, err := Dial(listener.Addr().String(), options...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		client.Close()
		server.Stop()
	})
	return client, served
}

func TestRepeatsSayThatTheyAreRepeats(t *testing.T) {
	client, engine := dialed(t, WithToken("secret"))
	run, err := client.Run(t.Context(), "greet", nil)
	if err != nil || !run.Started {
		t.Fatal(run, err)
	}
	for i, want := range []string{"", "1", "2"} {
		seen := engine.calls()[i]
		if got := strings.Join(seen.Get(repeatKey), ""); got != want {
			t.Errorf("call %d: %s is %q", i, repeatKey, got)
		}
		if hasAge := len(seen.Get(ageKey)) == 1; hasAge != (i > 0) {
			t.Errorf("call %d: %s is %v", i, ageKey, seen.Get(ageKey))
		}
		if got := seen.Get("authorization"); len(got) != 1 || got[0] != "Bearer secret" {
			t.Errorf("call %d: authorization is %v", i, got)
		}
	}
}

func TestPatienceEnds(t *testing.T) {
	client, engine := dialed(t, WithPatience(0))
	_, err := client.Run(t.Context(), "greet", nil)
	if !errors.Is(err, ErrUnreachable) || status.Code(err) != codes.Unavailable {
		t.Fatal(err)
	}
	if count := len(engine.calls()); count != 1 {
		t.Fatal(count, "calls")
	}
}

func TestRefusalsAreTyped(t *testing.T) {
	client, engine := dialed(t)
	info := &errdetails.ErrorInfo{
		Domain: errorDomain, Reason: string(ErrWorkflowNotFound), Metadata: map[string]string{"workflow_id": "w"},
	}
	refusal, err := status.New(codes.NotFound, "no such workflow").WithDetails(info)
	if err != nil {
		t.Fatal(err)
	}
	engine.refusal = refusal.Err()
	_, err = client.Cancel(t.Context(), "w", "")
	var found *Error
	if !errors.As(err, &found) || found.Metadata["workflow_id"] != "w" || found.Code != codes.NotFound {
		t.Fatal(err)
	}
	if !errors.Is(err, ErrWorkflowNotFound) || errors.Is(err, ErrTaskNotFound) {
		t.Fatal(err)
	}
}

func TestLongPollsEndWithTheContext(t *testing.T) {
	client, engine := dialed(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Second/10)
	defer cancel()
	if err := client.Existing("w").Result(ctx, nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatal(err)
	}
	if count := len(engine.calls()); count != 1 {
		t.Fatal(count, "calls")
	}
}

func TestWatchesGoOnWhereTheyWere(t *testing.T) {
	client, engine := dialed(t)
	var changes []string
	for change, err := range client.Watch(t.Context(), WatchOptions{ResumeToken: "begin"}) {
		if err != nil {
			t.Fatal(err)
		}
		changes = append(changes, change.ResumeToken)
	}
	if got := strings.Join(engine.tokens, " "); got != "begin t tt" {
		t.Error(got)
	}
	if got := strings.Join(changes, " "); got != "begin t t tt tt ttt" {
		t.Error(got)
	}
	for range client.Watch(t.Context(), WatchOptions{}) {
		break
	}
}

func TestDownloadsGoOnWhereTheyWere(t *testing.T) {
	client, engine := dialed(t)
	digest := sha256.Sum256([]byte(content))
	blob := BlobRef{hex.EncodeToString(digest[:]), int64(len(content))}
	var got bytes.Buffer
	if err := client.Download(t.Context(), blob, &got); err != nil || got.String() != content {
		t.Fatal(got.String(), err)
	}
	if len(engine.offsets) != 2 || engine.offsets[1] != 7 {
		t.Fatal(engine.offsets)
	}
	blob.SHA256 = strings.Repeat("0", 64)
	if err := client.Download(t.Context(), blob, &got); err == nil {
		t.Fatal("another content is taken for the blob")
	}
}

func TestTokensAreNotSentInPlainTextToOtherMachines(t *testing.T) {
	for address, isFine := range map[string]bool{
		"127.0.0.1:1": true, "localhost:1": true, "[::1]:1": true, "unix:/tmp/s": true, "10.0.0.1:1": false, "a.example:1": false,
	} {
		if _, err := Dial(address, WithToken("t")); (err == nil) != isFine {
			t.Errorf("%s: %v", address, err)
		}
		if _, err := Dial(address, WithToken("t"), WithTLS(&tls.Config{})); err != nil {
			t.Errorf("%s: %v", address, err)
		}
	}
}

func TestBytesAreReadInBothAlphabets(t *testing.T) {
	for _, text := range []string{`"-_8="`, `"+/8="`, `"-_8"`} {
		var got Bytes
		if err := json.Unmarshal([]byte(text), &got); err != nil || !bytes.Equal(got, []byte{0xfb, 0xff}) {
			t.Errorf("%s: %v %v", text, got, err)
		}
	}
}

func TestNodesOfOneFunctionHaveTheirOwnIDs(t *testing.T) {
	client, _ := dialed(t)
	var graph Graph
	first := graph.Call("add", 1)
	graph.Call("add", []any{first, map[string]any{"x": first, "y": 1}}).Arg("b", first).After(first)
	spec, err := client.spec(t.Context(), &graph)
	if err != nil {
		t.Fatal(err)
	}
	second := spec.GetNodes()[1]
	items := second.GetTask().GetArgs()[0].GetList().GetItems()
	references := []*pb.Arg{items[0], items[1].GetMap().GetEntries()["x"], second.GetTask().GetKwargs()["b"]}
	for _, reference := range references {
		if reference.GetNode().GetNodeId() != "add" {
			t.Error(reference)
		}
	}
	if second.GetId() != "add-2" || spec.GetOutput().GetNode().GetNodeId() != "add-2" || second.GetAfter()[0] != "add" {
		t.Error(second)
	}
}

func TestValuesOfOneCallShareTheRoom(t *testing.T) {
	inline := newRoom()
	sizes := []int{inlineBytesMax, 600_000, 600_000, 400_000}
	for i, want := range []bool{false, true, false, true} {
		if got := inline.take(sizes[i]); got != want {
			t.Errorf("%d bytes: %v", sizes[i], got)
		}
	}
}
