// SPDX-License-Identifier: Apache-2.0

// Package server is the daemon's gRPC face: it decodes and validates requests, hands them to the controller, and
// turns answers and errors into messages and statuses. It decides nothing about chains.
//
// It imports grpc and the API's generated code (and is the only package of the daemon that does), feed for the
// events it tells, and control, chain, dispatcher and store for the types it hands on.
package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/reflection"

	xdpdv1 "github.com/xdpd/xdpd/api/proto/xdpd/v1"
	"github.com/xdpd/xdpd/internal/control"
	"github.com/xdpd/xdpd/internal/feed"
)

// Bounds of what one client can ask for. An object is at most maxObject; messages may be larger than that so
// that the refusal is ours, with a reason and the limit.
const (
	maxObject     = 16 << 20
	maxObjects    = 256
	maxAllObjects = 48 << 20 // in bytes
	maxMessage    = 64 << 20
	maxHeaders    = 64 << 10
	maxStreams    = 64
	maxInterfaces = 1024
	maxPrograms   = 4096
	maxUpdates    = 4096 // of members; that a chain has fewer is for chain to say
	maxVerdicts   = 32
	maxString     = 255
	maxSettings   = 1024 // globals, and sizes of maps
	maxGlobal     = 64 << 10
	maxGlobals    = 1 << 20
	minConfirm    = time.Second
	maxConfirm    = 24 * time.Hour
	minPacket     = 14 // an Ethernet header
	maxPacket     = 65535
	maxPackets    = 4096
	maxAllPackets = 16 << 20 // in bytes
)

// flushTime is how long clients have, when the server stops, to read the last that they are sent.
const flushTime = 5 * time.Second

// A client that is silent is asked whether it lives; one that does not answer, as when it is frozen or hangs, is cut off, and
// loses its leases. So many pings of its own it may send.
const (
	askAfter     = 5 * time.Second
	answerWithin = 5 * time.Second
	minPing      = time.Second // between two
)

// Controller makes changes and tells what there is; control.Controller is one. Its errors are what the
// package turns into statuses: chain.Error, context errors, or others, which count as bugs.
type Controller interface {
	AddProgram(ctx context.Context, req control.AddRequest) (control.Program, control.Outcome, error)
	ReplaceProgram(ctx context.Context, req control.ReplaceRequest) (control.Program, control.Outcome, error)
	RemoveProgram(ctx context.Context, req control.RemoveRequest) (unloaded bool, out control.Outcome, err error)
	UpdateMembers(ctx context.Context, req control.UpdateRequest) (control.Outcome, error)
	SetChains(ctx context.Context, req control.SetRequest) (control.Outcome, error)
	Rollback(ctx context.Context, req control.RollbackRequest) (revision uint64, out control.Outcome, err error)
	Confirm(ctx context.Context, id uint64, by control.Caller) (control.Pending, error)
	Cancel(ctx context.Context, id uint64, by control.Caller) (control.Outcome, error)
	History(ctx context.Context, iface string) ([]control.History, error)
	Watch(token string) *feed.Reader[control.Event]
	Hold(ctx context.Context, req control.HoldRequest) (*control.Held, error)
	SetGrace(ctx context.Context, held *control.Held, grace time.Duration) (control.LeaseView, error)
	EndLease(ctx context.Context, held *control.Held) error
	ClientGone(held *control.Held)
	TestRun(ctx context.Context, req control.TestRequest) (control.TestResult, error)
	Programs(ctx context.Context) ([]control.Program, error)
	Program(ctx context.Context, name string) (control.Program, error)
	Chains(ctx context.Context) ([]control.Chain, error)
	Chain(ctx context.Context, iface string) (control.Chain, error)
	Status(ctx context.Context) (control.Status, error)
}

// Server serves the API. A new one is not ready: health says NOT_SERVING until SetReady.
type Server struct {
	grpc   *grpc.Server
	health *health.Server
	gate   *gate
	door   *door
}

// Info is what GetStatus tells beside what the controller knows.
type Info struct {
	Version  string
	StateDir string
}

// New makes a server over a controller. GetStatus tells info, and the time of the call as that of the start.
func New(c Controller, info Info, log *slog.Logger) *Server { return newServer(c, info, log, usual()) }

func newServer(c Controller, info Info, log *slog.Logger, l limits) *Server {
	g := &gate{log: log, closed: make(chan struct{}), idle: make(chan struct{})}
	api, methods := newMemory(l).guard(xdpdv1.XdpdService_ServiceDesc)
	d := newDoor(log, l, methods)
	s := &Server{
		gate:   g,
		door:   d,
		health: health.NewServer(),
		grpc: grpc.NewServer(
			grpc.Creds(peerCredentials{d}),
			grpc.InTapHandle(d.tap),
			grpc.StatsHandler(d),
			grpc.ReadBufferSize(0), // the door has to know at which frame the transport is
			grpc.StaticStreamWindowSize(window),
			grpc.StaticConnWindowSize(window),
			grpc.ChainUnaryInterceptor(g.unary),
			grpc.ChainStreamInterceptor(g.stream),
			grpc.MaxRecvMsgSize(maxMessage),
			grpc.MaxHeaderListSize(maxHeaders),
			grpc.MaxConcurrentStreams(maxStreams),
			grpc.ConnectionTimeout(10*time.Second),
			grpc.KeepaliveParams(keepalive.ServerParameters{Time: askAfter, Timeout: answerWithin}),
			grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: minPing, PermitWithoutStream: true}),
		),
	}
	s.grpc.RegisterService(api, &service{control: c, info: info, started: time.Now(), stopping: g.isClosed, stall: l.stall, tests: semaphore.NewWeighted(testsAtOnce)})
	healthv1.RegisterHealthServer(s.grpc, s.health)
	reflection.Register(s.grpc)
	s.setHealth(healthv1.HealthCheckResponse_NOT_SERVING)
	return s
}

// SetReady makes health say SERVING, for the daemon ("") and for the service.
func (s *Server) SetReady() { s.setHealth(healthv1.HealthCheckResponse_SERVING) }

func (s *Server) setHealth(to healthv1.HealthCheckResponse_ServingStatus) {
	s.health.SetServingStatus("", to)
	s.health.SetServingStatus(xdpdv1.XdpdService_ServiceDesc.ServiceName, to)
}

// Serve answers on lis until GracefulStop or Handover, and then returns nil. It closes lis.
func (s *Server) Serve(lis *Listener) error {
	if err := s.grpc.Serve(lis); err != nil && !errors.Is(err, grpc.ErrServerStopped) {
		return fmt.Errorf("serve on %s: %w", lis.Addr(), err)
	}
	return nil
}

// GracefulStop takes no further requests (health says NOT_SERVING, requests get STOPPING), ends streams, and
// waits for the requests in flight; clients that then do not read their answers are cut off. When ctx ends first
// it cancels the requests, closes all connections and returns an error. In any case the listener is closed, and
// with it the socket's file is gone.
func (s *Server) GracefulStop(ctx context.Context) error {
	s.health.Shutdown()
	s.gate.close(errStopping, false)
	return s.drain(ctx)
}

// Handover ends the serving on lis so that the next program of this process goes on with the socket, which stays
// open. Clients are told to connect anew, and wait there for that program; calls that come before they were told
// are answered, streams end with STOPPING and a text that tells of the reload. It waits for what is in flight as
// GracefulStop does.
func (s *Server) Handover(ctx context.Context, lis *Listener) error {
	err := lis.pause(ctx)
	s.gate.close(errReloading, true)
	return errors.Join(err, s.drain(ctx))
}

// drain waits for the requests in flight, and cuts off what does not end.
func (s *Server) drain(ctx context.Context) error {
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.grpc.GracefulStop()
	}()
	select {
	case <-done:
		return nil
	case <-s.gate.idle:
	case <-ctx.Done():
		s.grpc.Stop()
		return fmt.Errorf("wait for the requests in flight: %w", context.Cause(ctx))
	}
	select {
	case <-done:
	case <-time.After(flushTime):
		s.grpc.Stop()
		<-done
	}
	return nil
}

// gate is what every request goes through: once it is closed it lets no stream in, and no call unless it is said to.
type gate struct {
	log    *slog.Logger
	places places
	closed chan struct{} // closed when the gate is
	idle   chan struct{} // closed when the gate is, and there was nothing inside since

	mu       sync.Mutex // protects what follows, and the closing of the channels
	inFlight int
	why      error // not nil: the gate is closed, and this is what those get who may not enter or have to leave
	calls    bool  // all the same, calls may enter
	rested   bool  // idle is closed
}

// enter lets a call or a stream in, which then must leave, or returns why not.
func (g *gate) enter(call bool) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.why != nil && (!call || !g.calls) {
		return g.why
	}
	g.inFlight++
	return nil
}

func (g *gate) leave() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.inFlight--
	g.rest()
}

// close closes the gate, to streams alone if calls may enter. The first time decides.
func (g *gate) close(why error, calls bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.why != nil {
		return
	}
	g.why, g.calls = why, calls
	close(g.closed)
	g.rest()
}

func (g *gate) rest() {
	if g.why != nil && g.inFlight == 0 && !g.rested {
		g.rested = true
		close(g.idle)
	}
}

// reason is why the gate is closed; nil: it is not.
func (g *gate) reason() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.why
}

func (g *gate) isClosed() bool { return g.reason() != nil }
