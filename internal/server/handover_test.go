// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	xdpdv1 "github.com/xdpd/xdpd/api/proto/xdpd/v1"
)

// bequest is what the next program finds of a paused listener, which is gone then as if its process were.
func bequest(t *testing.T, lis *Listener) (handle string) {
	t.Helper()
	handle, err := lis.Bequeath()
	must(t, err)
	fd, err := strconv.Atoi(handle)
	must(t, err)
	flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
	must(t, err)
	if flags&unix.FD_CLOEXEC != 0 {
		t.Error("the descriptor does not survive an exec")
	}
	fd, err = unix.Dup(fd)
	must(t, err)
	lis.socket.SetUnlinkOnClose(false)
	must(t, lis.Remove())
	return strconv.Itoa(fd)
}

func serveOn(lis *Listener) (s *Server, served chan error) {
	s, served = New(&fake{}, Info{}, slog.New(slog.DiscardHandler)), make(chan error, 1)
	s.SetReady()
	go func() { served <- s.Serve(lis) }()
	return s, served
}

// TestHandover hands a socket from server to server, under clients that make calls all the time, on old connections and
// on new ones. None of them notices.
func TestHandover(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	lis, err := Listen(path, 0o600, "")
	must(t, err)
	before, err := os.Lstat(path)
	must(t, err)
	s, served := serveOn(lis)
	ctx, cancel := context.WithCancel(t.Context())
	var clients sync.WaitGroup
	calls := make(chan struct{}, 10_000)
	for i := range 20 {
		clients.Go(func() { hammer(ctx, t, path, i%4 == 0, calls) })
	}
	clients.Go(func() {
		for ctx.Err() == nil {
			conn, err := net.Dial("unix", path)
			if err != nil {
				t.Errorf("dial: %v", err)
				return
			}
			conn.Close()
			time.Sleep(10 * time.Millisecond) // so that those who wait are fewer than somaxconn
		}
	})
	for range 10 {
		for range 100 {
			<-calls
		}
		if err := s.Handover(t.Context(), lis); err != nil {
			t.Errorf("hand over: %v", err)
		}
		must(t, <-served)
		lis, err = Inherit(bequest(t, lis), path, 0o600, "")
		must(t, err)
		s, served = serveOn(lis)
	}
	cancel()
	go func() { clients.Wait(); close(calls) }()
	for range calls { // until all have ended
	}
	if after, err := os.Lstat(path); err != nil || !os.SameFile(before, after) {
		t.Errorf("the socket's file is another: %v", err)
	}
	must(t, s.GracefulStop(t.Context()))
	must(t, <-served)
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the last listener is closed and the file is there: %v", err)
	}
}

// hammer makes calls and counts them, until ctx ends; each must go well, on one connection or each pair on its own.
func hammer(ctx context.Context, t *testing.T, path string, fresh bool, calls chan<- struct{}) {
	var conn *grpc.ClientConn
	for ctx.Err() == nil {
		var err error
		if conn == nil {
			if conn, err = grpc.NewClient("unix://"+path, grpc.WithTransportCredentials(insecure.NewCredentials())); err != nil {
				t.Error(err)
				return
			}
		}
		if _, err := xdpdv1.NewXdpdServiceClient(conn).GetStatus(context.WithoutCancel(ctx), &xdpdv1.GetStatusRequest{}); err != nil {
			t.Errorf("a call: %v", err)
		}
		if resp, err := healthv1.NewHealthClient(conn).Check(context.WithoutCancel(ctx), &healthv1.HealthCheckRequest{}); err != nil ||
			resp.GetStatus() != healthv1.HealthCheckResponse_SERVING {
			t.Errorf("health: %v %v", resp, err)
		}
		calls <- struct{}{}
		if fresh {
			conn.Close()
			conn = nil
		}
	}
	if conn != nil {
		conn.Close()
	}
}

// TestHandoverEndsStreams ends Watch and health's with the reason, lets a call in flight finish, and answers a call that
// comes on a connection that was not told yet.
func TestHandoverEndsStreams(t *testing.T) {
	f := &fake{block: make(chan struct{}), reached: make(chan struct{}, 1)}
	r := start(t, f)
	watch, err := healthv1.NewHealthClient(r.conn).Watch(t.Context(), &healthv1.HealthCheckRequest{})
	must(t, err)
	if first, err := watch.Recv(); err != nil || first.GetStatus() != healthv1.HealthCheckResponse_SERVING {
		t.Fatal(first, err)
	}
	inFlight := make(chan error, 1)
	go func() { _, err := r.api.AddProgram(context.Background(), add("eth0")); inFlight <- err }()
	<-f.reached
	done := make(chan error, 1)
	go func() { done <- r.server.Handover(t.Context(), r.lis) }()
	msg, err := watch.Recv()
	if st := status.Convert(err); st.Code() != codes.Unavailable || outcome(st) != "STOPPING" || !strings.Contains(st.Message(), "reload") {
		t.Errorf("the watcher got %v, %v", msg, err)
	}
	if err := r.server.gate.enter(true); err != nil {
		t.Errorf("a call that comes late: %v", err)
	}
	r.server.gate.leave()
	if err := r.server.gate.enter(false); !errors.Is(err, errReloading) {
		t.Errorf("a stream that comes late: %v", err)
	}
	select {
	case err := <-done:
		t.Fatalf("handed over with a request in flight: %v", err)
	default:
	}
	close(f.block)
	must(t, <-inFlight)
	must(t, <-done)
	if _, err := os.Lstat(r.path); err != nil {
		t.Errorf("the socket's file: %v", err)
	}
	must(t, r.lis.Remove())
}

// TestHandoverIsBounded cuts off a call that takes too long, with a code that says that it may be made again.
func TestHandoverIsBounded(t *testing.T) {
	f := &fake{block: make(chan struct{}), reached: make(chan struct{}, 1)}
	r := start(t, f)
	inFlight := make(chan error, 1)
	go func() { _, err := r.api.AddProgram(context.Background(), add("eth0")); inFlight <- err }()
	<-f.reached
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := r.server.Handover(ctx, r.lis); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("hand over: %v", err)
	}
	if err := <-inFlight; status.Code(err) != codes.Unavailable {
		t.Errorf("the request in flight: %v", err)
	}
	must(t, r.lis.Remove())
}

// TestPauseWaitsForArrivals: a connection that was accepted is one that the server must get to know.
func TestPauseWaitsForArrivals(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	lis, err := Listen(path, 0o600, "")
	must(t, err)
	defer lis.Remove()
	early, err := net.Dial("unix", path)
	must(t, err)
	defer early.Close()
	conn, err := lis.Accept()
	must(t, err)
	defer conn.Close()
	accepting := make(chan error, 1)
	go func() { _, err := lis.Accept(); accepting <- err }()
	paused := make(chan error, 1)
	go func() { paused <- lis.pause(t.Context()) }()
	<-lis.quiet
	late, err := net.Dial("unix", path) // waits where it is
	must(t, err)
	defer late.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := lis.pause(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("paused with an arrival: %v", err)
	}
	conn.(*arrival).noticed()
	conn.(*arrival).noticed() // does not count twice
	must(t, <-paused)
	must(t, lis.Close())
	if err := <-accepting; !errors.Is(err, net.ErrClosed) {
		t.Errorf("accept: %v", err)
	}
	next, err := Inherit(bequest(t, lis), path, 0o600, "")
	must(t, err)
	conn, err = next.Accept()
	must(t, err)
	must(t, conn.Close())
	must(t, next.Close())
	if err := next.pause(t.Context()); !errors.Is(err, net.ErrClosed) {
		t.Errorf("pause after close: %v", err)
	}
}

// TestInheritVerifies hands over what is not the daemon's socket.
func TestInheritVerifies(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "s")
	listening := func(path string) string {
		lis, err := Listen(path, 0o600, "")
		must(t, err)
		return bequest(t, lis)
	}
	number := func(fd int, err error) string {
		must(t, err)
		t.Cleanup(func() { unix.Close(fd) })
		return strconv.Itoa(fd)
	}
	for _, tc := range []struct {
		name, want string
		handle     func() string
	}{
		{"no number", "not a descriptor", func() string { return "three" }},
		{"negative", "not a descriptor", func() string { return "-1" }},
		{"nothing there", "bad file descriptor", func() string { return "1048575" }},
		{"a file", "non-socket", func() string { return number(unix.Open(os.DevNull, unix.O_RDONLY|unix.O_CLOEXEC, 0)) }},
		{"another socket", "unix stream socket", func() string { return number(unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)) }},
		{"not listening", "that listens", func() string { return number(unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)) }},
		{"another path", "not to " + path, func() string { return listening(path + "2") }},
		{"the file is gone", "no such file", func() string {
			defer os.Remove(path)
			return listening(path)
		}},
		{"another file is there", "another file", func() string {
			defer func() { must(t, os.Rename(path+"2", path)) }()
			return listening(path)
		}},
	} {
		if _, err := Inherit(tc.handle(), path, 0o600, ""); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v, want %q", tc.name, err, tc.want)
		}
	}
}

// TestInheritedAccess gives a socket that is handed over the mode and the group of the configuration.
func TestInheritedAccess(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	lis, err := Listen(path, 0o660, "1234")
	must(t, err)
	for _, tc := range []struct {
		mode  os.FileMode
		group string
		gid   uint32
	}{{0o600, "1234", 1234}, {0o660, "4321", 4321}, {0o640, "", uint32(os.Getegid())}, {0o660, "", uint32(os.Getegid())}} {
		lis, err = Inherit(bequest(t, lis), path, tc.mode, tc.group)
		must(t, err)
		var st unix.Stat_t
		must(t, unix.Lstat(path, &st))
		if mode := os.FileMode(st.Mode & 0o7777); mode != tc.mode || st.Gid != tc.gid {
			t.Errorf("mode %v, gid %d, want %v, %d", mode, st.Gid, tc.mode, tc.gid)
		}
	}
	if _, err := Inherit(bequest(t, lis), path, 0o660, "no-such-group"); err == nil || !strings.Contains(err.Error(), "no-such-group") {
		t.Errorf("a group that is not there: %v", err)
	}
}
