package perdure

import (
	"encoding/json"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"
)

const (
	messageBytesMax = 8 << 20 // what the service sends and reads at most
	keepaliveTime   = 30 * time.Second
	connectTimeout  = 5 * time.Second
)

// channelOptions are those of every connection. A lost one is opened again soon, because calls wait for it.
func channelOptions() []grpc.DialOption {
	soon := backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 2 * time.Second}
	return []grpc.DialOption{
		grpc.WithDefaultServiceConfig(serviceConfig()),
		grpc.WithDisableServiceConfig(), // one that DNS names would replace ours
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: soon, MinConnectTimeout: connectTimeout}),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: keepaliveTime}),
		grpc.WithDefaultCallOptions(
			grpc.MaxCallRecvMsgSize(messageBytesMax), grpc.MaxCallSendMsgSize(messageBytesMax),
		),
	}
}

// serviceConfig lets gRPC retry the methods that the protos mark NO_SIDE_EFFECTS. The others are repeated by this package
// alone: retries of gRPC do not say when the call was made first, which the service must know.
func serviceConfig() string {
	type name struct {
		Service string `json:"service"`
		Method  string `json:"method"`
	}
	var safe []name
	protoregistry.GlobalFiles.RangeFilesByPackage("perdure.v1", func(file protoreflect.FileDescriptor) bool {
		for i := range file.Services().Len() {
			service := file.Services().Get(i)
			for j := range service.Methods().Len() {
				method := service.Methods().Get(j)
				options := method.Options().(*descriptorpb.MethodOptions)
				if options.GetIdempotencyLevel() == descriptorpb.MethodOptions_NO_SIDE_EFFECTS {
					safe = append(safe, name{string(service.FullName()), string(method.Name())})
				}
			}
		}
		return true
	})
	type object = map[string]any
	retry := object{
		"maxAttempts":          5,
		"initialBackoff":       "0.05s",
		"maxBackoff":           "1s",
		"backoffMultiplier":    2,
		"retryableStatusCodes": []string{"UNAVAILABLE"},
	}
	config, err := json.Marshal(object{
		"methodConfig":        []object{{"name": safe, "retryPolicy": retry}},
		"retryThrottling":     object{"maxTokens": 100, "tokenRatio": 0.1},
		"loadBalancingConfig": []object{{"round_robin": object{}}},
	})
	if err != nil {
		panic(err) // strings and numbers can be marshaled
	}
	return string(config)
}
