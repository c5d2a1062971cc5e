// SPDX-License-Identifier: Apache-2.0

package server

import (
	"bytes"
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	xdpdv1 "github.com/xdpd/xdpd/api/proto/xdpd/v1"
	"github.com/xdpd/xdpd/chain"
	"github.com/xdpd/xdpd/internal/control"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fake is a Controller that keeps what it was asked for and answers as told.
type fake struct {
	err      error
	block    chan struct{} // not nil: mutations wait for it or for their context
	reached  chan struct{} // gets a value when a mutation starts to wait
	panics   bool
	programs []control.Program
	chains   []control.Chain
	status   control.Status

	mu      sync.Mutex // protects what follows
	added   []control.AddRequest
	removed []string
	from    []string
	updates []control.Update
	asked   string
}

func (f *fake) mutate(ctx context.Context) error {
	if f.panics {
		panic("the fake's bug")
	}
	if f.block != nil {
		f.reached <- struct{}{}
		select {
		case <-f.block:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return f.err
}

func (f *fake) AddProgram(ctx context.Context, req control.AddRequest) (control.Program, []control.Chain, error) {
	f.mu.Lock()
	f.added = append(f.added, req)
	f.mu.Unlock()
	if err := f.mutate(ctx); err != nil {
		return control.Program{}, nil, err
	}
	return control.Program{Name: req.Name, OwnerUID: req.OwnerUID}, f.chains, nil
}

func (f *fake) RemoveProgram(ctx context.Context, name string, interfaces []string) ([]control.Chain, bool, error) {
	f.mu.Lock()
	f.removed, f.from = append(f.removed, name), interfaces
	f.mu.Unlock()
	return f.chains, true, f.mutate(ctx)
}

func (f *fake) UpdateMembers(ctx context.Context, updates []control.Update) ([]control.Chain, error) {
	f.mu.Lock()
	f.updates = updates
	f.mu.Unlock()
	return f.chains, f.mutate(ctx)
}

func (f *fake) Programs(context.Context) ([]control.Program, error) { return f.programs, f.err }

func (f *fake) Program(_ context.Context, name string) (control.Program, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked = name
	return control.Program{Name: name}, f.err
}

func (f *fake) Chains(context.Context) ([]control.Chain, error) { return f.chains, f.err }

func (f *fake) Chain(_ context.Context, iface string) (control.Chain, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked = iface
	return control.Chain{Interface: iface}, f.err
}

func (f *fake) Status(context.Context) (control.Status, error) { return f.status, f.err }

// logs is a buffer for concurrent writers.
type logs struct {
	mu  sync.Mutex // protects buf
	buf bytes.Buffer
}

func (l *logs) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *logs) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

type rig struct {
	server *Server
	api    xdpdv1.XdpdServiceClient
	conn   *grpc.ClientConn
	path   string
	log    *logs
	served chan error
}

// start serves the fake on a socket of its own until the test ends.
func start(t *testing.T, c Controller) *rig {
	t.Helper()
	r := &rig{path: filepath.Join(t.TempDir(), "s"), log: &logs{}, served: make(chan error, 1)}
	lis, err := Listen(r.path, 0o600, "")
	if err != nil {
		t.Fatal(err)
	}
	r.server = New(c, Info{Version: "1.2.3", StateDir: "/state"}, slog.New(slog.NewTextHandler(r.log, &slog.HandlerOptions{Level: slog.LevelDebug})))
	go func() { r.served <- r.server.Serve(lis) }()
	r.server.SetReady()
	r.conn, err = grpc.NewClient("unix://"+r.path, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallSendMsgSize(64<<20)))
	if err != nil {
		t.Fatal(err)
	}
	r.api = xdpdv1.NewXdpdServiceClient(r.conn)
	t.Cleanup(func() {
		if err := r.conn.Close(); err != nil {
			t.Error(err)
		}
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := r.server.GracefulStop(ctx); err != nil {
			t.Error(err)
		}
		if err := <-r.served; err != nil {
			t.Error(err)
		}
		if _, err := os.Lstat(r.path); !os.IsNotExist(err) {
			t.Errorf("the socket is still there: %v", err)
		}
	})
	return r
}

func add(names ...string) *xdpdv1.AddProgramRequest {
	return &xdpdv1.AddProgramRequest{Name: "p", Object: []byte("elf"), Interfaces: names}
}

func ptr[T any](v T) *T { return &v }

// everything is a chain with a value in each field.
func everything() control.Chain {
	return control.Chain{
		Interface: "eth0", Ifindex: 7, Revision: 9, Mode: chain.Auto, Actual: chain.Generic, ModeReason: "no driver",
		Final: chain.Pass, Linker: "inline", KernelID: 11, LinkID: 12, Packets: 100, End: 40,
		Members: []control.Member{
			{
				Member: chain.Member{Program: "a", Priority: -3, ProceedOn: chain.Of(chain.Tx, chain.Pass, chain.Continue)},
				Slot:   0,
				Counts: chain.Counts{Seen: 100, PassedOn: 79, Ended: [chain.Classes]uint64{1, 2, 3, 4, 5, 6}},
			},
			{Member: chain.Member{Program: "b", Priority: 50, Disabled: true}, Slot: -1},
		},
	}
}
