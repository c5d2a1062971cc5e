// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	reflectionv1 "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"

	xdpdv1 "github.com/xdpd/xdpd/api/proto/xdpd/v1"
	"github.com/xdpd/xdpd/chain"
)

func TestMutationsAreLogged(t *testing.T) {
	f := &fake{}
	r := start(t, f)
	if _, err := r.api.AddProgram(t.Context(), add("eth0")); err != nil {
		t.Fatal(err)
	}
	f.err = chain.Errorf(chain.Full, nil, "no room")
	if _, err := r.api.RemoveProgram(t.Context(), &xdpdv1.RemoveProgramRequest{Name: "x"}); err == nil {
		t.Fatal("no error")
	}
	f.err = errors.New("surprise")
	if _, err := r.api.ListChains(t.Context(), &xdpdv1.ListChainsRequest{}); status.Code(err) != codes.Internal {
		t.Fatal(err)
	}
	f.err = nil
	if _, err := r.api.ListChains(t.Context(), &xdpdv1.ListChainsRequest{}); err != nil {
		t.Fatal(err)
	}
	who := fmt.Sprintf("uid=%d pid=%d took=", os.Getuid(), os.Getpid())
	for _, want := range []struct{ level, method, outcome string }{
		{"INFO", "AddProgram", "outcome=ok"},
		{"INFO", "RemoveProgram", `outcome=CHAIN_FULL error="no room"`},
		{"ERROR", "ListChains", "outcome=Internal error=surprise"},
		{"DEBUG", "ListChains", "outcome=ok"},
	} {
		found := false
		for _, line := range strings.Split(r.log.String(), "\n") {
			found = found || strings.Contains(line, "level="+want.level+" ") && strings.Contains(line, "method="+want.method+" "+who) && strings.HasSuffix(line, want.outcome)
		}
		if !found {
			t.Errorf("no line for %v in\n%s", want, r.log)
		}
	}
}

// TestMutationsAreKnown asks of each method whether it is logged as a mutation; a new method needs an answer here.
func TestMutationsAreKnown(t *testing.T) {
	reads := []string{"GetChain", "GetProgram", "GetStatus", "ListChains", "ListHistory", "ListPrograms", "TestRun", "Watch"}
	service := xdpdv1.File_xdpd_v1_xdpd_proto.Services().ByName("XdpdService")
	mutations := 0
	for i := range service.Methods().Len() {
		name := string(service.Methods().Get(i).Name())
		want := !slices.Contains(reads, name)
		if got := mutates("/" + string(service.FullName()) + "/" + name); got != want {
			t.Errorf("%s counts as a mutation: %v, want %v", name, got, want)
		}
		if want {
			mutations++
		}
	}
	if mutations != 9 {
		t.Errorf("there are %d mutations, want 9", mutations)
	}
}

func TestPanicIsAnAnswer(t *testing.T) {
	r := start(t, &fake{panics: true})
	_, err := r.api.AddProgram(t.Context(), add("eth0"))
	if status.Code(err) != codes.Internal {
		t.Errorf("the client got %v", err)
	}
	if log := r.log.String(); !strings.Contains(log, "the fake's bug") || !strings.Contains(log, "server_test.go") {
		t.Errorf("the log has no panic with stack: %s", log)
	}
	if _, err := r.api.GetStatus(t.Context(), &xdpdv1.GetStatusRequest{}); err != nil {
		t.Errorf("after the panic: %v", err)
	}
}

func TestDeadlineOfAClient(t *testing.T) {
	r := start(t, &fake{block: make(chan struct{}), reached: make(chan struct{}, 1)})
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := r.api.AddProgram(ctx, add("eth0")); status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("got %v", err)
	}
}

func TestHealthAndReflection(t *testing.T) {
	r := start(t, &fake{})
	for _, name := range []string{"", "xdpd.v1.XdpdService"} {
		resp, err := healthv1.NewHealthClient(r.conn).Check(t.Context(), &healthv1.HealthCheckRequest{Service: name})
		if err != nil || resp.GetStatus() != healthv1.HealthCheckResponse_SERVING {
			t.Errorf("health of %q: %v, %v", name, resp, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	s, err := reflectionv1.NewServerReflectionClient(r.conn).ServerReflectionInfo(ctx)
	if err == nil {
		err = s.Send(&reflectionv1.ServerReflectionRequest{MessageRequest: &reflectionv1.ServerReflectionRequest_ListServices{}})
	}
	if err != nil {
		t.Fatal(err)
	}
	got, err := s.Recv()
	if err != nil || !strings.Contains(got.String(), "xdpd.v1.XdpdService") {
		t.Errorf("reflection: %v, %v", got, err)
	}
}

func TestNotReadyBeforeSetReady(t *testing.T) {
	s := New(&fake{}, Info{}, nil)
	resp, err := s.health.Check(t.Context(), &healthv1.HealthCheckRequest{})
	if err != nil || resp.GetStatus() != healthv1.HealthCheckResponse_NOT_SERVING {
		t.Errorf("health: %v, %v", resp, err)
	}
}

// TestStop has a mutation in flight, a watcher of health and an idle reflection stream when the server stops.
func TestStop(t *testing.T) {
	f := &fake{block: make(chan struct{}), reached: make(chan struct{}, 1)}
	r := start(t, f)
	watch, err := healthv1.NewHealthClient(r.conn).Watch(t.Context(), &healthv1.HealthCheckRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if first, err := watch.Recv(); err != nil || first.GetStatus() != healthv1.HealthCheckResponse_SERVING {
		t.Fatal(first, err)
	}
	reflect, err := reflectionv1.NewServerReflectionClient(r.conn).ServerReflectionInfo(t.Context())
	if err == nil {
		err = reflect.Send(&reflectionv1.ServerReflectionRequest{MessageRequest: &reflectionv1.ServerReflectionRequest_ListServices{}})
	}
	if err == nil {
		_, err = reflect.Recv()
	}
	if err != nil {
		t.Fatal(err)
	}
	inFlight := make(chan error, 1)
	go func() { _, err := r.api.AddProgram(context.Background(), add("eth0")); inFlight <- err }()
	<-f.reached

	stopped := make(chan error, 1)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	go func() { stopped <- r.server.GracefulStop(ctx) }()
	for err == nil { // NOT_SERVING may come before the end, and the end must come
		_, err = watch.Recv()
	}
	if status.Code(err) != codes.Unavailable {
		t.Errorf("the watcher got %v", err)
	}
	if _, err := reflect.Recv(); status.Code(err) != codes.Unavailable {
		t.Errorf("the reflection stream got %v", err)
	}
	select {
	case err := <-stopped:
		t.Fatalf("stopped with a request in flight: %v", err)
	case err := <-inFlight:
		t.Fatalf("the request in flight was cut off: %v", err)
	default:
	}
	close(f.block)
	if err := <-inFlight; err != nil {
		t.Errorf("the request in flight: %v", err)
	}
	if err := <-stopped; err != nil {
		t.Errorf("stop: %v", err)
	}
	if _, err := r.api.GetStatus(t.Context(), &xdpdv1.GetStatusRequest{}); status.Code(err) != codes.Unavailable {
		t.Errorf("a request after the stop: %v", err)
	}
}

func TestStopIsBounded(t *testing.T) {
	f := &fake{block: make(chan struct{}), reached: make(chan struct{}, 1)}
	r := start(t, f)
	inFlight := make(chan error, 1)
	go func() { _, err := r.api.AddProgram(context.Background(), add("eth0")); inFlight <- err }()
	<-f.reached
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := r.server.GracefulStop(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("stop: %v", err)
	}
	if err := <-inFlight; err == nil {
		t.Error("the request in flight was not cancelled")
	}
}

func TestClosedGateRefuses(t *testing.T) {
	f := &fake{}
	r := start(t, f)
	r.server.gate.close(errStopping, false)
	_, err := r.api.AddProgram(t.Context(), add("eth0"))
	if status.Code(err) != codes.Unavailable || outcome(status.Convert(err)) != "STOPPING" || len(f.requests()) != 0 {
		t.Errorf("got %v", err)
	}
}
