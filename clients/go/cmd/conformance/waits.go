package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/perdure/perdure-go"
)

const largeBytes = 64 << 20

func newID() string { return rand.Text() }

func largeText() string { return strings.Repeat("text", 2<<20/4) }

// waiting starts a workflow that waits for an event with its own id as the key.
func (p *program) waiting(ctx context.Context) (*perdure.Run, error) {
	id := newID()
	return p.client.Run(ctx, "greet_when_told", object{"key": id}, perdure.WorkflowID(id))
}

func (p *program) tellName(ctx context.Context, run *perdure.Run) error {
	return p.client.SendEvent(ctx, run.WorkflowID, run.WorkflowID, "Ana", "the-name")
}

func (p *program) event(ctx context.Context) error {
	run, err := p.waiting(ctx)
	if err != nil {
		return err
	}
	if err := errors.Join(p.tellName(ctx, run), p.tellName(ctx, run)); err != nil {
		return err
	}
	var got string
	if err := run.Result(ctx, &got); err != nil {
		return err
	}
	return same(got, "hello Ana")
}

func (p *program) cancel(ctx context.Context) error {
	run, err := p.waiting(ctx)
	if err != nil {
		return err
	}
	if _, err := p.client.Cancel(ctx, run.WorkflowID, "not needed"); err != nil {
		return err
	}
	workflow, err := p.client.Status(ctx, run.WorkflowID)
	if err != nil {
		return err
	}
	var failed *perdure.WorkflowFailed
	if err := run.Result(ctx, nil); !errors.As(err, &failed) {
		return fmt.Errorf("no *WorkflowFailed: %v", err)
	}
	return errors.Join(
		same(workflow.GetStatus(), perdure.StatusCanceled), same(failed.Kind, perdure.FailureCanceled),
	)
}

func (p *program) watchAcrossRestart(ctx context.Context) error {
	run, err := p.waiting(ctx)
	if err != nil {
		return err
	}
	watched := perdure.WatchOptions{WorkflowIDs: []string{run.WorkflowID}, UntilFinal: true}
	var last perdure.WorkflowStatus
	changes := 0
	for change, err := range p.client.Watch(ctx, watched) {
		if err != nil {
			return err
		}
		last = change.GetWorkflow().GetStatus()
		if changes++; changes == 1 {
			if err := errors.Join(p.tell(ctx, "/restart"), p.tellName(ctx, run)); err != nil {
				return err
			}
		}
	}
	if changes < 2 {
		return fmt.Errorf("%d changes", changes)
	}
	return same(last, perdure.StatusSuccessful)
}

func (p *program) largeValue(ctx context.Context) error {
	sent := make([]byte, largeBytes)
	if _, err := rand.Read(sent); err != nil {
		return err
	}
	blob, err := p.client.Upload(ctx, bytes.NewReader(sent))
	if err != nil {
		return err
	}
	var stored bytes.Buffer
	if err := p.client.Download(ctx, blob, &stored); err != nil {
		return err
	}
	var back []byte
	if err := p.inGraph(ctx, &back, "give_back", blob); err != nil {
		return err
	}
	var text string
	if err := p.inGraph(ctx, &text, "give_back_text", largeText()); err != nil {
		return err
	}
	return errors.Join(
		same(bytes.Equal(stored.Bytes(), sent), true), same(bytes.Equal(back, sent), true), same(text, largeText()),
	)
}

func (p *program) valuesTogether(ctx context.Context) error {
	first, second := strings.Repeat("a", 600<<10), strings.Repeat("b", 600<<10)
	var got string
	if err := p.inGraph(ctx, &got, "join", first, second); err != nil {
		return err
	}
	return same(got, first+second)
}

// inGraph runs a graph of one call.
func (p *program) inGraph(ctx context.Context, out any, function string, arguments ...any) error {
	var graph perdure.Graph
	graph.Call(function, arguments...)
	run, err := p.client.RunGraph(ctx, &graph)
	if err != nil {
		return err
	}
	return run.Result(ctx, out)
}

// await reads the result in the background.
func await(ctx context.Context, run *perdure.Run, out any) <-chan error {
	ended := make(chan error, 1)
	go func() { ended <- run.Result(ctx, out) }()
	return ended
}

func (p *program) engineAway(ctx context.Context) error {
	run, err := p.waiting(ctx)
	if err != nil {
		return err
	}
	var got string
	ended := await(ctx, run, &got)
	if err := errors.Join(p.tell(ctx, "/away?seconds=3"), p.tellName(ctx, run), <-ended); err != nil {
		return err
	}
	return same(got, "hello Ana")
}

func (p *program) cancellationByContext(ctx context.Context) error {
	run, err := p.waiting(ctx)
	if err != nil {
		return err
	}
	for _, want := range []error{context.Canceled, context.DeadlineExceeded} {
		began := time.Now()
		waiting, stop := context.WithTimeout(ctx, time.Second)
		if want == context.Canceled {
			time.AfterFunc(time.Second/5, stop)
		}
		err := run.Result(waiting, nil)
		stop()
		if !errors.Is(err, want) || time.Since(began) > 5*time.Second {
			return fmt.Errorf("the wait ended after %v with %v, and not soon with %v", time.Since(began), err, want)
		}
	}
	workflow, err := p.client.Status(ctx, run.WorkflowID)
	if err != nil {
		return err
	}
	_, err = p.client.Cancel(ctx, run.WorkflowID, "")
	return errors.Join(err, same(workflow.GetStatus(), perdure.StatusRunning))
}
