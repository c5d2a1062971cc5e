// SPDX-License-Identifier: Apache-2.0

package client_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	xdpdv1 "github.com/xdpd/xdpd/api/proto/xdpd/v1"
	"github.com/xdpd/xdpd/client"
)

// patience is how long a test waits for what should happen soon.
const patience = time.Minute

// leasing is a daemon that gives leases, and lets the test say what becomes of them.
type leasing struct {
	xdpdv1.UnimplementedXdpdServiceServer
	asked chan *xdpdv1.HoldRequest // each request
	gone  chan struct{}            // gets a value each time that a client ends a stream
	end   chan error               // ends a stream; nil: without an error
	first error                    // what the first request of each stream is refused with
}

func newLeasing() *leasing {
	return &leasing{asked: make(chan *xdpdv1.HoldRequest, 16), gone: make(chan struct{}, 16), end: make(chan error)}
}

func (d *leasing) Hold(s grpc.BidiStreamingServer[xdpdv1.HoldRequest, xdpdv1.HoldResponse]) error {
	req, err := s.Recv()
	if err != nil {
		return err
	}
	d.asked <- req
	if d.first != nil {
		return d.first
	}
	if req.GetRelease() {
		return nil
	}
	token := req.GetToken()
	if token == "" {
		token = "new"
	}
	if err := s.Send(&xdpdv1.HoldResponse{Token: token}); err != nil {
		return err
	}
	more := make(chan *xdpdv1.HoldRequest, 1) // a call that ended meanwhile takes none
	go func() {
		if req, err := s.Recv(); err == nil {
			more <- req
		}
	}()
	select {
	case <-s.Context().Done():
		d.gone <- struct{}{}
		return s.Context().Err()
	case err := <-d.end:
		return err
	case req := <-more:
		d.asked <- req
		return <-d.end
	}
}

// next is the next request.
func (d *leasing) next(t *testing.T) *xdpdv1.HoldRequest {
	t.Helper()
	select {
	case r := <-d.asked:
		return r
	case <-time.After(patience):
		t.Fatal("the daemon is asked for nothing")
		return nil
	}
}

func refusal(t *testing.T, code codes.Code, reason string) error {
	t.Helper()
	s, err := status.New(code, reason).WithDetails(&errdetails.ErrorInfo{Domain: "xdpd", Reason: reason})
	if err != nil {
		t.Fatal(err)
	}
	return s.Err()
}

// hold gets a lease from a daemon that runs until stop is called, with a grace of 3 s.
func hold(t *testing.T, d *leasing) (l *client.Lease, socket string, stop func()) {
	t.Helper()
	socket = filepath.Join(t.TempDir(), "s")
	stop = serve(t, socket, d)
	l, err := dial(t, socket).Hold(t.Context(), client.HoldOptions{Grace: 3 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	if r := d.next(t); r.GetToken() != "" || r.GetGrace().AsDuration() != 3*time.Second || r.GetRelease() {
		t.Errorf("a new lease was asked for by %v", r)
	}
	if l.Token() != "new" {
		t.Errorf("the token is %q", l.Token())
	}
	return l, socket, stop
}

func unlost(t *testing.T, l *client.Lease) {
	t.Helper()
	select {
	case <-l.Lost():
		t.Errorf("the lease is lost: %v", l.Err())
	default:
		if l.Err() != nil {
			t.Errorf("a lease that is not lost has the error %v", l.Err())
		}
	}
}

func TestHoldClose(t *testing.T) {
	d := newLeasing()
	l, _, stop := hold(t, d)
	defer stop()
	l.Close()
	l.Close()
	select {
	case <-d.gone:
	case <-time.After(patience):
		t.Error("the stream goes on after Close")
	}
	unlost(t, l)
}

// A lease is held again, with its token, whatever ended the stream.
func TestHoldAgain(t *testing.T) {
	d := newLeasing()
	l, socket, stop := hold(t, d)
	defer func() { stop() }()
	again := func(what string) {
		t.Helper()
		if r := d.next(t); r.GetToken() != "new" || r.GetGrace().AsDuration() != 3*time.Second || r.GetRelease() {
			t.Errorf("%s: held again by %v", what, r)
		}
	}
	for _, err := range []error{
		nil, refusal(t, codes.Unavailable, "STOPPING"), status.Error(codes.Internal, "a bug"), refusal(t, codes.ResourceExhausted, "OVERLOADED"),
		refusal(t, codes.FailedPrecondition, "STORE_FAILED"), status.Error(codes.Unavailable, "cut off"),
	} {
		d.end <- err
		again(fmt.Sprint(err))
	}
	stop()                             // the daemon is away for some attempts
	time.Sleep(100 * time.Millisecond) // nobody tells of attempts that meet no daemon
	stop = serve(t, socket, d)
	again("another daemon")
	unlost(t, l)
	l.Close()
}

func TestHoldLost(t *testing.T) {
	for reason, again := range map[string]bool{"LEASE_TAKEN": false, "LEASE_NOT_FOUND": true} {
		t.Run(reason, func(t *testing.T) {
			d := newLeasing()
			l, _, stop := hold(t, d)
			defer stop()
			err := refusal(t, codes.Aborted, reason)
			if again { // it is refused when it is held again
				d.first, err = err, nil
			}
			d.end <- err
			select {
			case <-l.Lost():
			case <-time.After(patience):
				t.Fatal("the lease is not lost")
			}
			if got := client.Reason(l.Err()); got.String() != "ERROR_REASON_"+reason {
				t.Errorf("lost by %v", l.Err())
			}
			// What another has is left to it, and what is gone is released.
			if err := l.Release(t.Context()); (err == nil) != again {
				t.Errorf("release: %v", err)
			}
			if n := len(d.asked); n > 1 {
				t.Errorf("the daemon was asked %d times more", n)
			}
		})
	}
}

func TestRelease(t *testing.T) {
	for name, answer := range map[string]error{
		"done": nil, "not now": refusal(t, codes.FailedPrecondition, "CHANGE_PENDING"), "a bug": status.Error(codes.Internal, "a bug"),
		"its disk is full": refusal(t, codes.FailedPrecondition, "STORE_FAILED"),
	} {
		t.Run(name, func(t *testing.T) {
			d := newLeasing()
			l, _, stop := hold(t, d)
			defer stop()
			released := make(chan error, 1)
			go func() { released <- l.Release(t.Context()) }()
			if r := d.next(t); !r.GetRelease() || r.GetToken() != "" {
				t.Errorf("released by %v", r)
			}
			d.end <- answer
			if err := <-released; client.Reason(err) != client.Reason(answer) || (err == nil) != (answer == nil) {
				t.Errorf("release: %v", err)
			}
			unlost(t, l)
			l.Close()
		})
	}
}

// A lease whose stream was cut off is released as soon as there is a daemon.
func TestReleaseLater(t *testing.T) {
	d := newLeasing()
	l, socket, stop := hold(t, d)
	stop()
	released := make(chan error, 1)
	go func() { released <- l.Release(t.Context()) }()
	time.Sleep(50 * time.Millisecond) // some attempts fail
	defer serve(t, socket, d)()
	for r := d.next(t); !r.GetRelease(); r = d.next(t) {
		if r.GetToken() != "new" {
			t.Errorf("held again by %v", r)
		}
		d.end <- nil // Release came after this attempt began
	}
	if err := <-released; err != nil {
		t.Errorf("release: %v", err)
	}
}

func TestReleaseWithoutDaemon(t *testing.T) {
	l, _, stop := hold(t, newLeasing())
	stop()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := l.Release(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("release: %v", err)
	}
	unlost(t, l)
}

func TestHoldRefused(t *testing.T) {
	dir := t.TempDir()
	_, err := dial(t, filepath.Join(dir, "absent")).Hold(t.Context(), client.HoldOptions{})
	if _, gone := errors.AsType[*client.UnreachableError](err); !gone || !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("without a daemon: %#v", err)
	}
	socket := filepath.Join(dir, "old")
	defer serve(t, socket, daemon{})()
	if _, err := dial(t, socket).Hold(t.Context(), client.HoldOptions{}); status.Code(err) != codes.Unimplemented {
		t.Errorf("a daemon without leases: %v", err)
	}
	d := newLeasing()
	d.first = refusal(t, codes.NotFound, "LEASE_NOT_FOUND")
	socket = filepath.Join(dir, "refuses")
	defer serve(t, socket, d)()
	_, err = dial(t, socket).Hold(t.Context(), client.HoldOptions{Token: "old"})
	if client.Reason(err) != xdpdv1.ErrorReason_ERROR_REASON_LEASE_NOT_FOUND || d.next(t).GetToken() != "old" {
		t.Errorf("a token that is not known: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := dial(t, socket).Hold(ctx, client.HoldOptions{}); !errors.Is(err, context.Canceled) {
		t.Errorf("with a context that has ended: %v", err)
	}
}

// The context of Hold is for getting the lease, not for keeping it.
func TestHoldContext(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	d := newLeasing()
	defer serve(t, socket, d)()
	ctx, cancel := context.WithCancel(t.Context())
	l, err := dial(t, socket).Hold(ctx, client.HoldOptions{})
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	d.next(t)
	d.end <- nil
	d.next(t) // it is held again
	unlost(t, l)
	l.Close()
}

// A client that is closed holds nothing, and does not try for ever.
func TestHoldClientClosed(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	defer serve(t, socket, newLeasing())()
	c, err := client.Dial(socket)
	if err != nil {
		t.Fatal(err)
	}
	l, err := c.Hold(t.Context(), client.HoldOptions{})
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	select {
	case <-l.Lost():
	case <-time.After(patience):
		t.Fatal("the lease is not lost")
	}
	if l.Err() == nil {
		t.Error("there is no error")
	}
	l.Close()
}
