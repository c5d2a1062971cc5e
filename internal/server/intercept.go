// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"fmt"
	"log/slog"
	"runtime/debug"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	xdpdv1 "github.com/xdpd/xdpd/api/proto/xdpd/v1"
	"github.com/xdpd/xdpd/chain"
)

// What requests get once the gate is closed.
var (
	errStopping  = chain.Errorf(chain.Stopping, nil, "the daemon is stopping")
	errReloading = chain.Errorf(chain.Stopping, chain.Facts{"reload": "true"}, "the daemon is being replaced by a reload: connect again")
)

// unary wraps every call: it refuses them when stopping, survives their panics, turns their errors into
// statuses, and writes one line about each into the log.
func (g *gate) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (resp any, err error) {
	start := time.Now()
	defer func() {
		if p := recover(); p != nil {
			resp, err = nil, g.panicked(info.FullMethod, p)
		}
		if err != nil {
			resp, err = nil, toStatus(err).Err()
		}
		g.write(ctx, info.FullMethod, time.Since(start), err)
	}()
	if err := g.enter(true); err != nil {
		return nil, err
	}
	defer g.leave()
	place := placeOf(info.FullMethod, false)
	if err := g.places.take(place); err != nil {
		return nil, err
	}
	defer g.places.give(place)
	ctx, cancel := withDeadline(ctx, info.FullMethod)
	defer cancel()
	return handler(ctx, req)
}

// stream does the same for streams (Watch; health and reflection have some), and ends them when the gate closes.
func (g *gate) stream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) (err error) {
	start := time.Now()
	ctx, cancel := context.WithCancel(ss.Context())
	defer cancel()
	defer func() {
		if p := recover(); p != nil {
			err = g.panicked(info.FullMethod, p)
		}
		if why := g.reason(); err != nil && why != nil {
			err = why
		}
		if err != nil {
			err = toStatus(err).Err()
		}
		g.write(ctx, info.FullMethod, time.Since(start), err)
	}()
	if err := g.enter(false); err != nil {
		return err
	}
	defer g.leave()
	place := placeOf(info.FullMethod, true)
	if err := g.places.take(place); err != nil {
		return err
	}
	defer g.places.give(place)
	s := &stoppable{ServerStream: ss, ctx: ctx, gate: g}
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		select {
		case <-g.closed:
			cancel()
		case <-ctx.Done():
		}
	}()
	defer func() { cancel(); <-watched }()
	return handler(srv, s)
}

// stoppable is a stream that ends when the gate closes.
type stoppable struct {
	grpc.ServerStream
	ctx  context.Context //nolint:containedctx // grpc.ServerStream carries its context
	gate *gate
}

func (s *stoppable) Context() context.Context { return s.ctx }

// RecvMsg must not be called again after an error: m then belongs to a receive that ends with the stream.
func (s *stoppable) RecvMsg(m any) error {
	return s.await(func() error { return s.ServerStream.RecvMsg(m) })
}

// SendMsg is the same for sending, which waits for a client that does not read.
func (s *stoppable) SendMsg(m any) error {
	return s.await(func() error { return s.ServerStream.SendMsg(m) })
}

func (s *stoppable) await(transfer func() error) error {
	done := make(chan error, 1)
	go func() { done <- transfer() }()
	select {
	case err := <-done:
		return err
	case <-s.gate.closed:
		return s.gate.reason()
	}
}

func (g *gate) panicked(method string, p any) error {
	g.log.Error("a request made the daemon panic: please report this", "method", method, "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
	return status.Error(codes.Internal, "the daemon has a bug: its log tells where")
}

// write logs mutations at info, reads at debug, and what counts as a bug at error.
func (g *gate) write(ctx context.Context, method string, took time.Duration, err error) {
	level := slog.LevelDebug
	if mutates(method) {
		level = slog.LevelInfo
	}
	attrs := []slog.Attr{slog.String("method", method[strings.LastIndexByte(method, '/')+1:])}
	if p, ok := fromPeer(ctx); ok {
		attrs = append(attrs, slog.Uint64("uid", uint64(p.UID)), slog.Int("pid", int(p.PID)))
	}
	attrs = append(attrs, slog.Duration("took", took))
	if err == nil {
		attrs = append(attrs, slog.String("outcome", "ok"))
	} else {
		st := status.Convert(err)
		attrs = append(attrs, slog.String("outcome", outcome(st)), slog.String("error", st.Message()))
		if st.Code() == codes.Internal {
			level = slog.LevelError
		}
	}
	g.log.LogAttrs(ctx, level, "request", attrs...)
}

func mutates(method string) bool {
	switch method {
	case xdpdv1.XdpdService_AddProgram_FullMethodName, xdpdv1.XdpdService_ReplaceProgram_FullMethodName,
		xdpdv1.XdpdService_RemoveProgram_FullMethodName, xdpdv1.XdpdService_UpdateMembers_FullMethodName,
		xdpdv1.XdpdService_SetChains_FullMethodName, xdpdv1.XdpdService_Rollback_FullMethodName,
		xdpdv1.XdpdService_Confirm_FullMethodName, xdpdv1.XdpdService_Cancel_FullMethodName,
		xdpdv1.XdpdService_Hold_FullMethodName:
		return true
	}
	return false
}
