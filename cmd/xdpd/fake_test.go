// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/xdpd/xdpd/internal/control"
	"github.com/xdpd/xdpd/internal/leaktest"
)

func TestMain(m *testing.M) { leaktest.Main(m) }

// patience is how long a test waits for what should happen soon.
const patience = time.Minute

// fake is a controller and the rest of a daemon; it keeps in steps what was called.
type fake struct {
	controller                     // nil: what a test does not expect panics
	openErr, reconcileErr, stopErr error
	closeErr, verifyErr, probeErr  error
	storeErr                       error
	verify                         func(context.Context) // what takes time in a check; nil: nothing
	stages                         int                   // how often Reconcile says that it is alive
	reconciling                    chan struct{}         // not nil: Reconcile says here that it waits, for its context or
	slow                           chan struct{}         // for this
	block                          chan struct{}         // not nil: AddProgram waits for it
	added                          chan struct{}
	deaf                           chan struct{} // not nil: Status answers when it is closed
	closing                        func()        // nil: nothing
	outdated                       bool
	cfg                            control.Config
	env                            []string // of the process that replaces this one

	mu    sync.Mutex // protects steps
	steps []string
}

func (f *fake) step(s string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.steps = append(f.steps, s)
}

func (f *fake) Run(ctx context.Context) error {
	<-ctx.Done()
	return nil
}

func (f *fake) did(t *testing.T, want ...string) {
	t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	if !slices.Equal(f.steps, want) {
		t.Errorf("the daemon did %q, want %q", f.steps, want)
	}
}

func (f *fake) Reconcile(ctx context.Context, alive func()) error {
	f.step("reconcile")
	for range f.stages {
		alive()
	}
	if f.reconciling != nil {
		close(f.reconciling)
		select {
		case <-f.slow:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return f.reconcileErr
}

func (f *fake) StoreProblem(ctx context.Context) error { return errors.Join(f.storeErr, ctx.Err()) }

func (f *fake) Stop(ctx context.Context) error {
	f.step("stop")
	return errors.Join(f.stopErr, ctx.Err())
}

func (f *fake) Close() error {
	f.step("close")
	if f.closing != nil {
		f.closing()
	}
	return f.closeErr
}

func (f *fake) Status(context.Context) (control.Status, error) {
	if f.deaf != nil {
		<-f.deaf
		return control.Status{}, context.DeadlineExceeded
	}
	return control.Status{Linker: "inline", Programs: 3, Chains: 2, Problems: []string{"a problem"}}, nil
}

func (f *fake) AddProgram(context.Context, control.AddRequest) (control.Program, control.Outcome, error) {
	f.added <- struct{}{}
	<-f.block
	f.step("added")
	return control.Program{}, control.Outcome{}, nil
}

func (f *fake) daemon() daemon {
	return daemon{
		open: func(cfg control.Config, _ *slog.Logger) (controller, error) {
			f.cfg = cfg
			if f.openErr != nil {
				return nil, f.openErr
			}
			return f, nil
		},
		teardown: func(_ context.Context, cfg control.Config, _ *slog.Logger) error {
			f.step("teardown")
			f.cfg = cfg
			return f.stopErr
		},
		probe:    func(string) error { return f.probeErr },
		outdated: func() bool { return f.outdated },
		verify: func(ctx context.Context, _ running) (*successor, error) {
			f.step("verify")
			if f.verify != nil {
				f.verify(ctx)
			}
			if err := errors.Join(f.verifyErr, ctx.Err()); err != nil {
				return nil, err
			}
			return &successor{path: "/next", version: "next"}, nil
		},
		replace: func(_ *successor, env []string) error {
			f.step("replace")
			f.env = env
			return errors.New("this is a test")
		},
	}
}

// buffer is a writer for several goroutines that can wait for a text.
type buffer struct {
	mu      sync.Mutex // protects buf
	buf     bytes.Buffer
	written chan struct{}
}

func newBuffer() *buffer { return &buffer{written: make(chan struct{}, 1)} }

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	select {
	case b.written <- struct{}{}:
	default:
	}
	return b.buf.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

func (b *buffer) wait(t *testing.T, text string) {
	t.Helper()
	b.waitTimes(t, 1, text)
}

// waitTimes waits until text was written so many times.
func (b *buffer) waitTimes(t *testing.T, times int, text string) {
	t.Helper()
	limit := time.After(patience)
	for strings.Count(b.String(), text) < times {
		select {
		case <-b.written:
		case <-limit:
			t.Fatalf("%q was not written %d times; there is\n%s", text, times, b)
		}
	}
}

// manager stands in for systemd: it listens where NOTIFY_SOCKET leads, and reads at once what comes.
type manager struct{ messages chan string }

func newManager(t *testing.T) *manager {
	t.Helper()
	path := filepath.Join(t.TempDir(), "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	m := &manager{make(chan string, 10_000)}
	go func() {
		defer close(m.messages)
		buf := make([]byte, 1000)
		for {
			n, err := conn.Read(buf)
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err != nil {
				t.Errorf("read what the manager is told: %v", err)
				return
			}
			m.messages <- string(buf[:n])
		}
	}()
	t.Cleanup(func() {
		conn.Close()
		for range m.messages { // until the reader has ended
		}
	})
	t.Setenv("NOTIFY_SOCKET", path)
	return m
}

// next returns the next message.
func (m *manager) next(t *testing.T) string {
	t.Helper()
	select {
	case got := <-m.messages:
		return got
	case <-time.After(patience):
		t.Fatal("the manager is told nothing")
		return ""
	}
}
