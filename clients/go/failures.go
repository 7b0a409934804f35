package perdure

import (
	"fmt"

	pb "github.com/perdure/perdure-go/gen/perdure/v1"
)

// FailureKind says what failed. Newer services may have other kinds.
type FailureKind = pb.FailureKind

// Kinds of failures.
const (
	FailureApplication         = pb.FailureKind_FAILURE_KIND_APPLICATION          // the function raised an exception
	FailureTimeout             = pb.FailureKind_FAILURE_KIND_TIMEOUT              // a time-out passed
	FailureCanceled            = pb.FailureKind_FAILURE_KIND_CANCELED             // canceled by a request
	FailureSystem              = pb.FailureKind_FAILURE_KIND_SYSTEM               // workers were lost, again and again
	FailureFunctionUnavailable = pb.FailureKind_FAILURE_KIND_FUNCTION_UNAVAILABLE // a worker could not load the function
	FailureSerialization       = pb.FailureKind_FAILURE_KIND_SERIALIZATION        // a value could not be read or written
)

// Failure is why user code, or the system under it, gave no value.
type Failure struct {
	Kind       FailureKind
	Type       string // as "builtins.ValueError"
	Message    string
	StackTrace string
	TaskID     string // the task that failed; empty if the workflow itself did
	Attempts   int
	BaseTypes  []string // what Type derives from, nearest first
	Cause      *Failure
}

func (f *Failure) Error() string { return fmt.Sprintf("%s: %s", f.Type, f.Message) }

// Unwrap gives the cause.
func (f *Failure) Unwrap() error {
	if f.Cause == nil {
		return nil
	}
	return f.Cause
}

// WorkflowFailed says that a workflow ended without a value.
type WorkflowFailed struct {
	WorkflowID string
	Failure
}

func (f *WorkflowFailed) Error() string {
	return fmt.Sprintf("perdure: workflow %q failed: %v", f.WorkflowID, &f.Failure)
}

// Unwrap gives the failure, which errors.As finds as a *Failure.
func (f *WorkflowFailed) Unwrap() error { return &f.Failure }

// ActorCallFailed says that a method of an actor ended without a value.
type ActorCallFailed struct {
	ActorID string
	Method  string
	Failure
}

func (f *ActorCallFailed) Error() string {
	return fmt.Sprintf("perdure: method %q of actor %q failed: %v", f.Method, f.ActorID, &f.Failure)
}

// Unwrap gives the failure, which errors.As finds as a *Failure.
func (f *ActorCallFailed) Unwrap() error { return &f.Failure }

func failureFrom(m *pb.Failure) Failure {
	failure := Failure{
		Kind:       m.GetKind(),
		Type:       m.GetType(),
		Message:    m.GetMessage(),
		StackTrace: m.GetStackTrace(),
		TaskID:     m.GetTaskId(),
		Attempts:   int(m.GetAttempts()),
		BaseTypes:  m.GetBaseTypes(),
	}
	if m.GetCause() != nil {
		cause := failureFrom(m.GetCause())
		failure.Cause = &cause
	}
	return failure
}
