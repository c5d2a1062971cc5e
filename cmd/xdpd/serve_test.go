// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	xdpdv1 "github.com/xdpd/xdpd/api/proto/xdpd/v1"
	"github.com/xdpd/xdpd/internal/early"
)

// started is a daemon that runs in the test's process; signals to the process are signals to it.
type started struct {
	fake   *fake
	socket string
	stderr *buffer
	exit   chan int
}

func launch(t *testing.T, f *fake) *started {
	t.Helper()
	return launchTo(t, f, newBuffer())
}

func launchTo(t *testing.T, f *fake, stderr *buffer) *started {
	t.Helper()
	dir := t.TempDir()
	s := &started{fake: f, socket: filepath.Join(dir, "s"), stderr: stderr, exit: make(chan int, 1)}
	args := []string{"serve", "--config", emptyFile(t), "--socket", s.socket, "--log-format=text"}
	go func() { s.exit <- run(context.Background(), f.daemon(), args, noEnv, s.stderr, s.stderr) }()
	return s
}

func (s *started) ends(t *testing.T, want int) {
	t.Helper()
	select {
	case got := <-s.exit:
		if got != want {
			t.Errorf("exit code %d, want %d\n%s", got, want, s.stderr)
		}
	case <-time.After(patience):
		t.Fatalf("the daemon does not end\n%s", s.stderr)
	}
	if _, err := os.Lstat(s.socket); !os.IsNotExist(err) {
		t.Errorf("the socket is still there: %v", err)
	}
}

func raise(t *testing.T, s syscall.Signal) {
	t.Helper()
	if err := syscall.Kill(os.Getpid(), s); err != nil {
		t.Fatal(err)
	}
}

func (s *started) client(t *testing.T) xdpdv1.XdpdServiceClient {
	t.Helper()
	conn, err := grpc.NewClient("unix://"+s.socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return xdpdv1.NewXdpdServiceClient(conn)
}

func TestStartAndStop(t *testing.T) {
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT} {
		m := newManager(t)
		s := launch(t, &fake{})
		if got := m.next(t); got != "READY=1\nSTATUS=3 programs in 2 chains, linker inline" {
			t.Errorf("the first message is %q", got)
		}
		s.stderr.wait(t, "a problem")
		if _, err := s.client(t).GetStatus(t.Context(), &xdpdv1.GetStatusRequest{}); err != nil {
			t.Errorf("not ready at READY=1: %v", err)
		}
		raise(t, sig)
		if got := m.next(t); got != "STOPPING=1" {
			t.Errorf("the second message is %q", got)
		}
		s.ends(t, exitOK)
		s.fake.did(t, "reconcile", "stop")
	}
}

// TestLongStart tells the service manager that a start goes on.
func TestLongStart(t *testing.T) {
	m := newManager(t)
	s := launch(t, &fake{stages: 2})
	for range 2 {
		if got := m.next(t); got != "WATCHDOG=1\nEXTEND_TIMEOUT_USEC=60000000" {
			t.Errorf("the message is %q", got)
		}
	}
	m.next(t) // READY=1
	raise(t, syscall.SIGTERM)
	s.ends(t, exitOK)
}

func TestStopLetsARequestFinish(t *testing.T) {
	f := &fake{block: make(chan struct{}), added: make(chan struct{}, 1)}
	s := launch(t, f)
	s.stderr.wait(t, "msg=ready")
	api := s.client(t)
	answer := make(chan error, 1)
	go func() {
		_, err := api.AddProgram(context.Background(), &xdpdv1.AddProgramRequest{Object: []byte{1}, Interfaces: []string{"a"}})
		answer <- err
	}()
	<-f.added
	raise(t, syscall.SIGTERM)
	s.stderr.wait(t, "msg=stopping ")
	for i := range 3 { // each is heard before the next comes: a late one would be for the next test
		raise(t, syscall.SIGTERM)
		s.stderr.waitTimes(t, i+1, "stopping already")
	}
	raise(t, syscall.SIGHUP)
	s.stderr.wait(t, "on the way out already")
	f.did(t, "reconcile")
	close(f.block)
	if err := <-answer; err != nil {
		t.Errorf("the request in flight: %v", err)
	}
	s.ends(t, exitOK)
	f.did(t, "reconcile", "added", "stop")
}

func TestStopWhileStarting(t *testing.T) {
	f := &fake{reconciling: make(chan struct{})}
	s := launch(t, f)
	<-f.reconciling
	raise(t, syscall.SIGTERM)
	s.ends(t, exitOK)
	f.did(t, "reconcile", "stop")
}

func TestErrorsOfStart(t *testing.T) {
	boom := errors.New("boom")
	for _, tc := range []struct {
		fake  *fake
		steps []string
	}{
		{&fake{openErr: boom}, nil},
		{&fake{reconcileErr: boom}, []string{"reconcile", "close"}},
	} {
		s := launch(t, tc.fake)
		s.ends(t, exitRuntime)
		tc.fake.did(t, tc.steps...)
		if !strings.Contains(s.stderr.String(), "boom") {
			t.Errorf("the error is not told: %s", s.stderr)
		}
	}
}

// TestSocketTaken: what runs goes on running when the daemon cannot serve.
func TestSocketTaken(t *testing.T) {
	taken := filepath.Join(t.TempDir(), "s")
	lis, err := net.Listen("unix", taken)
	if err != nil {
		t.Fatal(err)
	}
	defer lis.Close()
	f := &fake{}
	stderr := newBuffer()
	if code := run(t.Context(), f.daemon(), []string{"serve", "--config", emptyFile(t), "--socket", taken}, noEnv, stderr, stderr); code != exitRuntime {
		t.Errorf("exit code %d", code)
	}
	f.did(t, "reconcile", "close")
	if !strings.Contains(stderr.String(), "running already") {
		t.Errorf("stderr: %s", stderr)
	}
}

func TestErrorOfStop(t *testing.T) {
	f := &fake{stopErr: errors.New("a pin is stuck")}
	s := launch(t, f)
	s.stderr.wait(t, "msg=ready")
	raise(t, syscall.SIGTERM)
	s.ends(t, exitRuntime)
	if !strings.Contains(s.stderr.String(), "a pin is stuck") {
		t.Errorf("the error is not told: %s", s.stderr)
	}
}

func TestReload(t *testing.T) {
	m := newManager(t)
	s := launch(t, &fake{})
	m.next(t) // READY=1
	raise(t, syscall.SIGHUP)
	if got := m.next(t); !strings.HasPrefix(got, "RELOADING=1\nMONOTONIC_USEC=") {
		t.Errorf("the message is %q", got)
	}
	if got := m.next(t); got != "WATCHDOG=1" {
		t.Errorf("the message is %q", got)
	}
	s.ends(t, exitRuntime) // as the fake does not replace the process
	s.fake.did(t, "reconcile", "verify", "close", "replace")
	if n := len(s.fake.env); n == 0 || !regexp.MustCompile("^"+early.Handle+"=[0-9]+$").MatchString(s.fake.env[n-1]) {
		t.Errorf("the next program does not get the socket: %q", s.fake.env)
	}
}

// TestReloadOfAnotherProgram: after a reload the program on disk is newer than the one that was checked.
func TestReloadOfAnotherProgram(t *testing.T) {
	t.Setenv(early.Handle, "none") // a socket is made anew
	f := &fake{outdated: true}
	s := launch(t, f)
	s.ends(t, exitRuntime)
	f.did(t, "reconcile", "verify", "close", "replace")
	if log := s.stderr.String(); !strings.Contains(log, "of no use") || !strings.Contains(log, "reload=true") {
		t.Errorf("the log: %s", log)
	}
}

// TestReloadWaitsForTheStart: what serves does so before it is replaced.
func TestReloadWaitsForTheStart(t *testing.T) {
	f := &fake{slow: make(chan struct{}), reconciling: make(chan struct{})}
	s := launch(t, f)
	<-f.reconciling
	raise(t, syscall.SIGHUP)
	raise(t, syscall.SIGHUP)
	f.did(t, "reconcile")
	close(f.slow)
	s.ends(t, exitRuntime)
	f.did(t, "reconcile", "verify", "close", "replace")
}

func TestStopWhileChecking(t *testing.T) {
	m := newManager(t)
	checking := make(chan struct{})
	f := &fake{verify: func(ctx context.Context) { close(checking); <-ctx.Done() }}
	s := launch(t, f)
	m.next(t) // READY=1
	raise(t, syscall.SIGHUP)
	<-checking
	raise(t, syscall.SIGTERM)
	s.ends(t, exitOK)
	f.did(t, "reconcile", "verify", "stop")
	m.next(t) // RELOADING=1
	if got := m.next(t); got != "STOPPING=1" {
		t.Errorf("the message is %q", got)
	}
	if strings.Contains(s.stderr.String(), "refuses") {
		t.Errorf("the check that was cut off counts as a refusal: %s", s.stderr)
	}
}

// TestStopInTheLastMoment stops when everything is let go of for the reload.
func TestStopInTheLastMoment(t *testing.T) {
	f := &fake{}
	log := newBuffer()
	f.closing = func() {
		raise(t, syscall.SIGTERM)
		log.wait(t, "msg=stopping ")
	}
	s := launchTo(t, f, log)
	s.stderr.wait(t, "msg=ready")
	raise(t, syscall.SIGHUP)
	s.ends(t, exitOK)
	f.did(t, "reconcile", "verify", "close", "teardown")
}

func TestReloadThatIsRefused(t *testing.T) {
	why := errors.New("line 3 is wrong")
	for _, tc := range []struct {
		fake *fake
		did  []string
	}{
		{&fake{verifyErr: why}, []string{"reconcile", "verify", "stop"}},
		{&fake{storeErr: why}, []string{"reconcile", "stop"}}, // the next program is not even asked
	} {
		m := newManager(t)
		s := launch(t, tc.fake)
		m.next(t) // READY=1
		raise(t, syscall.SIGHUP)
		m.next(t) // RELOADING=1
		if got := m.next(t); got != "READY=1" {
			t.Errorf("the message is %q", got)
		}
		s.stderr.wait(t, "line 3 is wrong")
		if _, err := s.client(t).GetStatus(t.Context(), &xdpdv1.GetStatusRequest{}); err != nil {
			t.Errorf("the daemon does not serve on: %v", err)
		}
		raise(t, syscall.SIGTERM)
		s.ends(t, exitOK)
		s.fake.did(t, tc.did...)
	}
}

func TestWatchdog(t *testing.T) {
	m := newManager(t)
	t.Setenv("WATCHDOG_USEC", fmt.Sprint((100 * time.Millisecond).Microseconds()))
	t.Setenv("WATCHDOG_PID", fmt.Sprint(os.Getpid()))
	s := launch(t, &fake{})
	for told := map[string]int{}; told["READY=1"] < 1 || told["WATCHDOG=1"] < 3; {
		got, _, _ := strings.Cut(m.next(t), "\n")
		if told[got]++; got != "READY=1" && got != "WATCHDOG=1" || told["READY=1"] > 1 {
			t.Fatalf("the message is %q", got)
		}
	}
	raise(t, syscall.SIGTERM)
	s.ends(t, exitOK)
}

func TestWatchdogIsNotToldOfADeafController(t *testing.T) {
	m := newManager(t)
	t.Setenv("WATCHDOG_USEC", fmt.Sprint((100 * time.Millisecond).Microseconds()))
	t.Setenv("WATCHDOG_PID", fmt.Sprint(os.Getpid()))
	f := &fake{deaf: make(chan struct{})}
	ctx, cancel := context.WithCancel(t.Context())
	log := newBuffer()
	done := make(chan error, 1)
	go func() { done <- watchdog(ctx, f, newLogger(defaults(), log, noEnv)) }()
	f.deaf <- struct{}{} // it was asked, and answers too late
	log.wait(t, "does not answer")
	cancel()
	close(f.deaf)
	if err := <-done; err != nil {
		t.Error(err)
	}
	notify(newLogger(defaults(), log, noEnv), "END=1")
	if got := m.next(t); got != "END=1" {
		t.Errorf("the message is %q, want none", got)
	}
}

func TestLogThatNobodyReads(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	ctx, o := obey(t.Context(), nil, newLogger(defaults(), newBuffer(), noEnv))
	defer o.release()
	r.Close()
	raise(t, syscall.SIGPIPE)
	if _, err := w.Write([]byte("x")); !errors.Is(err, syscall.EPIPE) || ctx.Err() != nil {
		t.Errorf("write: %v, context: %v", err, ctx.Err())
	}
}
