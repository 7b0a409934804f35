package perdure

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	pb "github.com/perdure/perdure-go/gen/perdure/v1"
)

// DefaultPatience is for how long a client repeats a call while no server answers.
const DefaultPatience = 30 * time.Second

// Client makes calls to a Perdure service. It is safe for concurrent use, and one serves a whole program.
type Client struct {
	address   string
	namespace string
	patience  time.Duration
	conn      *grpc.ClientConn
	workflows pb.WorkflowServiceClient
	actors    pb.ActorServiceClient
	blobs     pb.BlobServiceClient
}

// Option changes how Dial makes a client.
type Option func(*settings)

type settings struct {
	client *Client
	tls    *tls.Config
	token  string
}

// WithTLS encrypts the connections. Without it they are plain text.
func WithTLS(config *tls.Config) Option { return func(s *settings) { s.tls = config } }

// WithToken sends a bearer token with every call. It needs TLS, unless the address is a loopback address.
func WithToken(token string) Option { return func(s *settings) { s.token = token } }

// WithNamespace makes the calls in this namespace and not in "default".
func WithNamespace(name string) Option { return func(s *settings) { s.client.namespace = name } }

// WithPatience sets for how long a call is repeated while no server answers, instead of DefaultPatience.
func WithPatience(patience time.Duration) Option {
	return func(s *settings) { s.client.patience = patience }
}

// Dial makes a client of the service at an address such as "127.0.0.1:7373". It connects with the first call.
func Dial(address string, options ...Option) (*Client, error) {
	client := &Client{address: address, patience: DefaultPatience}
	chosen := settings{client: client}
	for _, option := range options {
		option(&chosen)
	}
	dialing := append(channelOptions(), grpc.WithChainUnaryInterceptor(client.repeatUnary))
	if chosen.tls != nil {
		dialing = append(dialing, grpc.WithTransportCredentials(credentials.NewTLS(chosen.tls)))
	} else {
		dialing = append(dialing, grpc.WithTransportCredentials(insecure.NewCredentials()))
	}
	if chosen.token != "" {
		if chosen.tls == nil && !isLoopback(address) {
			return nil, fmt.Errorf("perdure: a token for %s needs WithTLS, because others could read it", address)
		}
		dialing = append(dialing, grpc.WithPerRPCCredentials(bearer{chosen.token, chosen.tls != nil}))
	}
	conn, err := grpc.NewClient(address, dialing...)
	if err != nil {
		return nil, fmt.Errorf("perdure: the address %q: %w", address, err)
	}
	client.conn = conn
	client.workflows = pb.NewWorkflowServiceClient(conn)
	client.actors = pb.NewActorServiceClient(conn)
	client.blobs = pb.NewBlobServiceClient(conn)
	return client, nil
}

// Close ends the connections. Calls under way fail.
func (c *Client) Close() error { return c.conn.Close() }

// Conn is the connection, for the stubs in gen/perdure/v1 and calls that this package does not have. Those with one answer
// are repeated and give typed errors as well.
func (c *Client) Conn() grpc.ClientConnInterface { return c.conn }

func isLoopback(address string) bool {
	if strings.HasPrefix(address, "unix:") {
		return true
	}
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		host = address
	}
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// bearer is a token that goes with every call.
type bearer struct {
	token   string
	overTLS bool
}

func (b bearer) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{"authorization": "Bearer " + b.token}, nil
}

func (b bearer) RequireTransportSecurity() bool { return b.overTLS }
