// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"errors"
	"io"
	"time"

	"google.golang.org/grpc"

	xdpdv1 "github.com/xdpd/xdpd/api/proto/xdpd/v1"
	"github.com/xdpd/xdpd/chain"
	"github.com/xdpd/xdpd/internal/control"
)

// maxGrace is how long the programs of a lease may stay when its client went.
const maxGrace = 24 * time.Hour

// Hold is a client's lease: it is told as gone when the stream ends, unless the daemon ends it.
func (s *service) Hold(stream grpc.BidiStreamingServer[xdpdv1.HoldRequest, xdpdv1.HoldResponse]) error {
	ctx := stream.Context()
	req, err := s.firstRequest(stream)
	if errors.Is(err, io.EOF) {
		return invalid("request", "the stream ended without one")
	}
	if err != nil {
		return err
	}
	hold, err := change(ctx, req, decodeHold)
	if err != nil {
		return err
	}
	held, err := s.control.Hold(ctx, hold)
	if err != nil {
		return err
	}
	defer func() {
		// Whatever the daemon ends when it stops or reloads, it ends after the gate is closed.
		if !s.stopping() {
			s.control.ClientGone(held)
		}
	}()
	if req.GetRelease() {
		return s.control.EndLease(ctx, held)
	}
	if err := stream.Send(&xdpdv1.HoldResponse{Token: held.Token, Lease: encodeLease(held.Lease)}); err != nil {
		return err
	}
	return s.keep(stream, held)
}

// firstRequest waits for what a client wants, but not for ever: it has a place that others may need. After an error the stream
// must end.
func (s *service) firstRequest(stream grpc.BidiStreamingServer[xdpdv1.HoldRequest, xdpdv1.HoldResponse]) (req *xdpdv1.HoldRequest, err error) {
	type message struct {
		req *xdpdv1.HoldRequest
		err error
	}
	came := make(chan message, 1)
	go func() {
		req, err := stream.Recv()
		came <- message{req, err}
	}()
	late := time.NewTimer(s.stall)
	defer late.Stop()
	select {
	case m := <-came:
		return m.req, m.err
	case <-late.C:
		return nil, chain.Errorf(chain.Overloaded, chain.Facts{"limit": s.stall.String()}, "no request came in the stream within %v, and others need its place: send one as soon as the stream is there", s.stall)
	}
}

// keep answers the requests of a client that has a lease, until it has it no more.
func (s *service) keep(stream grpc.BidiStreamingServer[xdpdv1.HoldRequest, xdpdv1.HoldResponse], held *control.Held) error {
	ctx := stream.Context()
	type message struct {
		req *xdpdv1.HoldRequest
		err error
	}
	messages := make(chan message)
	go func() { // ends with the stream, which ends when this call returns
		for {
			req, err := stream.Recv()
			select {
			case messages <- message{req, err}:
			case <-ctx.Done():
				return
			}
			if err != nil {
				return
			}
		}
	}()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case err := <-held.Lost:
			return err
		case m := <-messages:
			if errors.Is(m.err, io.EOF) {
				return nil
			}
			if m.err != nil {
				return m.err
			}
			lease, ended, err := s.alter(ctx, m.req, held)
			if err != nil || ended {
				return err
			}
			if err := stream.Send(&xdpdv1.HoldResponse{Token: held.Token, Lease: encodeLease(lease)}); err != nil {
				return err
			}
		}
	}
}

// alter does what a request asks for that is not the first.
func (s *service) alter(ctx context.Context, req *xdpdv1.HoldRequest, held *control.Held) (lease control.LeaseView, ended bool, err error) {
	if req.GetToken() != "" {
		return lease, false, invalid("token", "it is for the first request of a stream: make another call to hold another lease")
	}
	hold, err := decodeHold(req, control.Caller{})
	if err != nil {
		return lease, false, err
	}
	if req.GetRelease() {
		return lease, true, s.control.EndLease(ctx, held)
	}
	lease, err = s.control.SetGrace(ctx, held, hold.Grace)
	return lease, false, err
}

func decodeHold(req *xdpdv1.HoldRequest, by control.Caller) (control.HoldRequest, error) {
	hold := control.HoldRequest{Token: req.GetToken(), Caller: by}
	if err := errors.Join(known(req.ProtoReflect(), ""), bounded("token", req.GetToken())); err != nil {
		return hold, err
	}
	if req.GetGrace() == nil {
		return hold, nil
	}
	if err := req.GetGrace().CheckValid(); err != nil {
		return hold, invalid("grace", "%v", err)
	}
	hold.Grace = req.GetGrace().AsDuration()
	if hold.Grace < 0 || hold.Grace > maxGrace {
		return hold, invalid("grace", "%v is not within 0 and %v", hold.Grace, maxGrace)
	}
	return hold, nil
}
