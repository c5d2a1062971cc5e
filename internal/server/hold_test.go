// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"errors"
	"io"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	xdpdv1 "github.com/xdpd/xdpd/api/proto/xdpd/v1"
	"github.com/xdpd/xdpd/chain"
	"github.com/xdpd/xdpd/internal/control"
)

// The fake gives every client the same lease, and keeps what becomes of it.

type regraced time.Duration

const (
	endedLease = "the client ended the lease"
	lostClient = "the client is gone"
)

func leaseFor(grace time.Duration) control.LeaseView {
	return control.LeaseView{ID: 5, Held: true, Holder: control.Caller{UID: 7, PID: 8}, Grace: grace, Programs: []string{"fw"}}
}

func (f *fake) Hold(ctx context.Context, req control.HoldRequest) (*control.Held, error) {
	if err := f.mutate(ctx, req); err != nil {
		return nil, err
	}
	return &control.Held{Token: "secret", Lease: leaseFor(req.Grace), Lost: f.lost}, nil
}

func (f *fake) SetGrace(ctx context.Context, _ *control.Held, grace time.Duration) (control.LeaseView, error) {
	return leaseFor(grace), f.mutate(ctx, regraced(grace))
}

func (f *fake) EndLease(ctx context.Context, _ *control.Held) error { return f.mutate(ctx, endedLease) }

func (f *fake) ClientGone(*control.Held) { f.keep(lostClient) }

// hold asks for a lease with a grace of 3 s.
func (r *rig) hold(t *testing.T, ctx context.Context) grpc.BidiStreamingClient[xdpdv1.HoldRequest, xdpdv1.HoldResponse] {
	t.Helper()
	s, err := r.api.Hold(ctx)
	if err == nil {
		err = s.Send(&xdpdv1.HoldRequest{Token: "old", Grace: durationpb.New(3 * time.Second)})
	}
	if err != nil {
		t.Fatal(err)
	}
	got, err := s.Recv()
	if err != nil {
		t.Fatal(err)
	}
	same(t, got, &xdpdv1.HoldResponse{Token: "secret", Lease: heldMessage(3 * time.Second)})
	return s
}

func heldMessage(grace time.Duration) *xdpdv1.Lease {
	return &xdpdv1.Lease{Id: 5, Held: true, Holder: &xdpdv1.Caller{Uid: 7, Pid: 8}, Grace: durationpb.New(grace), Programs: []string{"fw"}}
}

// heard waits until the controller was asked for exactly this, after what hold asks.
func heard(t *testing.T, f *fake, want ...any) {
	t.Helper()
	want = append([]any{control.HoldRequest{Token: "old", Grace: 3 * time.Second, Caller: self()}}, want...)
	deadline := time.Now().Add(time.Minute)
	for len(f.requests()) < len(want) && time.Now().Before(deadline) {
		time.Sleep(time.Millisecond)
	}
	if got := f.requests(); !reflect.DeepEqual(got, want) {
		t.Errorf("the controller got\n%+v\nwant\n%+v", got, want)
	}
}

func TestHoldUntilTheClientGoes(t *testing.T) {
	for name, end := range map[string]func(grpc.BidiStreamingClient[xdpdv1.HoldRequest, xdpdv1.HoldResponse], *rig, context.CancelFunc){
		"closes its side": func(s grpc.BidiStreamingClient[xdpdv1.HoldRequest, xdpdv1.HoldResponse], _ *rig, _ context.CancelFunc) {
			_ = s.CloseSend()
		},
		"cancels": func(_ grpc.BidiStreamingClient[xdpdv1.HoldRequest, xdpdv1.HoldResponse], _ *rig, cancel context.CancelFunc) {
			cancel()
		},
		"closes its connection": func(_ grpc.BidiStreamingClient[xdpdv1.HoldRequest, xdpdv1.HoldResponse], r *rig, _ context.CancelFunc) {
			r.redial()
		},
		"says what is not known": func(s grpc.BidiStreamingClient[xdpdv1.HoldRequest, xdpdv1.HoldResponse], _ *rig, _ context.CancelFunc) {
			_ = s.Send(&xdpdv1.HoldRequest{Token: "x"})
		},
	} {
		t.Run(name, func(t *testing.T) {
			f := &fake{}
			r := start(t, f)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			end(r.hold(t, ctx), r, cancel)
			heard(t, f, lostClient)
		})
	}
}

// redial closes the connection and makes another, for the end of the test.
func (r *rig) redial() {
	r.conn.Close()
	r.conn, _ = grpc.NewClient("unix://"+r.path, grpc.WithTransportCredentials(insecure.NewCredentials())) // cannot fail
}

func TestHoldChangesGrace(t *testing.T) {
	f := &fake{}
	s := start(t, f).hold(t, t.Context())
	if err := s.Send(&xdpdv1.HoldRequest{Grace: durationpb.New(9 * time.Second)}); err != nil {
		t.Fatal(err)
	}
	got, err := s.Recv()
	if err != nil {
		t.Fatal(err)
	}
	same(t, got, &xdpdv1.HoldResponse{Token: "secret", Lease: heldMessage(9 * time.Second)})
	if err := s.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("the stream ended with %v", err)
	}
	heard(t, f, regraced(9*time.Second), lostClient)
}

// TestHoldTalkative changes the grace many times.
func TestHoldTalkative(t *testing.T) {
	f := &fake{}
	s := start(t, f).hold(t, t.Context())
	for range 2 * fewFrames {
		if err := s.Send(&xdpdv1.HoldRequest{Grace: durationpb.New(9 * time.Second)}); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Recv(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestHoldSilent begins streams and asks for nothing: they do not keep the places of others.
func TestHoldSilent(t *testing.T) {
	l := usual()
	l.stall = 50 * time.Millisecond
	r := startLimited(t, &fake{}, l)
	s, err := r.api.Hold(t.Context())
	if err == nil {
		_, err = s.Header() // begins it
	}
	if err == nil {
		_, err = s.Recv()
	}
	if status.Code(err) != codes.ResourceExhausted || !strings.Contains(err.Error(), "no request came") {
		t.Errorf("the stream ended with %v", err)
	}
}

func TestHoldRelease(t *testing.T) {
	f := &fake{}
	r := start(t, f)
	s := r.hold(t, t.Context())
	if err := s.Send(&xdpdv1.HoldRequest{Release: true}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("the stream ended with %v", err)
	}
	heard(t, f, endedLease, lostClient)
	first, err := r.api.Hold(t.Context())
	if err == nil {
		err = first.Send(&xdpdv1.HoldRequest{Token: "old", Release: true})
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := first.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("released by the first request: %v", err)
	}
	heard(t, f, endedLease, lostClient, control.HoldRequest{Token: "old", Caller: self()}, endedLease, lostClient)
}

func TestHoldTaken(t *testing.T) {
	f := &fake{lost: make(chan error, 1)}
	s := start(t, f).hold(t, t.Context())
	f.lost <- chain.Errorf(chain.LeaseTaken, chain.Facts{"uid": "1"}, "somebody has it")
	_, err := s.Recv()
	if status.Code(err) != codes.Aborted || outcome(status.Convert(err)) != "LEASE_TAKEN" {
		t.Errorf("the stream ended with %v", err)
	}
}

func TestHoldRefused(t *testing.T) {
	f := &fake{}
	r := start(t, f)
	for name, req := range map[string]*xdpdv1.HoldRequest{
		"negative grace": {Grace: durationpb.New(-1)},
		"long grace":     {Grace: durationpb.New(maxGrace + 1)},
		"no duration":    {Grace: &durationpb.Duration{Nanos: -1, Seconds: 1}},
		"long token":     {Token: string(make([]byte, maxString+1))},
	} {
		s, err := r.api.Hold(t.Context())
		if err == nil {
			err = s.Send(req)
		}
		if err == nil {
			_, err = s.Recv()
		}
		if status.Code(err) != codes.InvalidArgument {
			t.Errorf("%s: %v", name, err)
		}
	}
	s, err := r.api.Hold(t.Context())
	if err == nil {
		err = s.CloseSend()
	}
	if err == nil {
		_, err = s.Recv()
	}
	if status.Code(err) != codes.InvalidArgument {
		t.Errorf("no request: %v", err)
	}
	if got := f.requests(); len(got) > 0 {
		t.Errorf("the controller was asked for %v", got)
	}
	f.err = chain.Errorf(chain.LeaseNotFound, nil, "no such lease")
	if s, err = r.api.Hold(t.Context()); err == nil {
		err = s.Send(&xdpdv1.HoldRequest{Token: "old"})
	}
	if err == nil {
		_, err = s.Recv()
	}
	if status.Code(err) != codes.NotFound || outcome(status.Convert(err)) != "LEASE_NOT_FOUND" {
		t.Errorf("an unknown token: %v", err)
	}
}

// TestHoldWhenTheDaemonStops ends streams in every way in which the daemon does: that is never the client's going.
func TestHoldWhenTheDaemonStops(t *testing.T) {
	for _, c := range []struct {
		name string
		stop func(*testing.T, *rig, *fake)
	}{
		{"gracefully", func(t *testing.T, r *rig, _ *fake) {
			if err := r.server.GracefulStop(t.Context()); err != nil {
				t.Error(err)
			}
		}},
		{"cutting it off", func(t *testing.T, r *rig, _ *fake) {
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			_ = r.server.GracefulStop(ctx) // may have been quick enough
		}},
		{"the client goes as well", func(t *testing.T, r *rig, _ *fake) {
			r.server.gate.close(errStopping, false)
			r.redial()
			if err := r.server.GracefulStop(t.Context()); err != nil {
				t.Error(err)
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := &fake{}
			r := start(t, f)
			var streams []grpc.BidiStreamingClient[xdpdv1.HoldRequest, xdpdv1.HoldResponse]
			for range 8 {
				streams = append(streams, r.hold(t, t.Context()))
			}
			c.stop(t, r, f)
			for _, s := range streams {
				if _, err := s.Recv(); status.Code(err) != codes.Unavailable && status.Code(err) != codes.Canceled {
					t.Errorf("the stream ended with %v", err)
				}
			}
			<-r.server.gate.idle // all calls have returned
			if slices.Contains(f.requests(), any(lostClient)) {
				t.Error("the clients count as gone")
			}
		})
	}
}

// A request that waits when the daemon stops ends with it, and the lease stays the client's.
func TestHoldStopsInTheMiddle(t *testing.T) {
	f := &fake{}
	r := start(t, f)
	s := r.hold(t, t.Context())
	f.block, f.reached = make(chan struct{}), make(chan struct{}, 1)
	if err := s.Send(&xdpdv1.HoldRequest{Grace: durationpb.New(time.Second)}); err != nil {
		t.Fatal(err)
	}
	<-f.reached
	if err := r.server.GracefulStop(t.Context()); err != nil {
		t.Error(err)
	}
	if _, err := s.Recv(); status.Code(err) != codes.Unavailable || outcome(status.Convert(err)) != "STOPPING" {
		t.Errorf("the stream ended with %v", err)
	}
	heard(t, f, regraced(time.Second))
}

// A panic loses the lease, and nothing else.
func TestHoldPanics(t *testing.T) {
	f := &fake{}
	r := start(t, f)
	s := r.hold(t, t.Context())
	f.panics = true
	if err := s.Send(&xdpdv1.HoldRequest{Release: true}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Recv(); status.Code(err) != codes.Internal {
		t.Errorf("the stream ended with %v", err)
	}
	heard(t, f, endedLease, lostClient)
}
