// SPDX-License-Identifier: Apache-2.0

package server

import (
	"bytes"
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	xdpdv1 "github.com/xdpd/xdpd/api/proto/xdpd/v1"
	"github.com/xdpd/xdpd/chain"
	"github.com/xdpd/xdpd/internal/control"
	"github.com/xdpd/xdpd/internal/feed"
	"github.com/xdpd/xdpd/internal/leaktest"
)

func TestMain(m *testing.M) { leaktest.Main(m) }

// fake is a Controller that keeps what it was asked for and answers as told.
type fake struct {
	err      error
	block    chan struct{} // not nil: mutations wait for it or for their context
	reached  chan struct{} // gets a value when a mutation starts to wait
	panics   bool
	out      control.Outcome
	pending  control.Pending
	history  []control.History
	test     control.TestResult
	programs []control.Program
	chains   []control.Chain
	status   control.Status
	events   *feed.Feed[control.Event]
	lost     chan error // of the leases that it gives

	mu  sync.Mutex // protects what follows
	got []any      // the requests, and the arguments of calls that have none
}

// decision is what Confirm and Cancel are asked.
type decision struct {
	call string
	id   uint64
	by   control.Caller
}

func (f *fake) keep(request any) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.got = append(f.got, request)
}

func (f *fake) requests() []any {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.got)
}

func (f *fake) mutate(ctx context.Context, request any) error {
	f.keep(request)
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

func (f *fake) AddProgram(ctx context.Context, req control.AddRequest) (control.Program, control.Outcome, error) {
	return control.Program{Name: req.Name}, f.out, f.mutate(ctx, req)
}

func (f *fake) ReplaceProgram(ctx context.Context, req control.ReplaceRequest) (control.Program, control.Outcome, error) {
	return control.Program{Name: req.Name}, f.out, f.mutate(ctx, req)
}

func (f *fake) RemoveProgram(ctx context.Context, req control.RemoveRequest) (bool, control.Outcome, error) {
	return true, f.out, f.mutate(ctx, req)
}

func (f *fake) UpdateMembers(ctx context.Context, req control.UpdateRequest) (control.Outcome, error) {
	return f.out, f.mutate(ctx, req)
}

func (f *fake) SetChains(ctx context.Context, req control.SetRequest) (control.Outcome, error) {
	return f.out, f.mutate(ctx, req)
}

func (f *fake) Rollback(ctx context.Context, req control.RollbackRequest) (uint64, control.Outcome, error) {
	return 7, f.out, f.mutate(ctx, req)
}

func (f *fake) Confirm(ctx context.Context, id uint64, by control.Caller) (control.Pending, error) {
	return f.pending, f.mutate(ctx, decision{"confirm", id, by})
}

func (f *fake) Cancel(ctx context.Context, id uint64, by control.Caller) (control.Outcome, error) {
	return f.out, f.mutate(ctx, decision{"cancel", id, by})
}

func (f *fake) History(_ context.Context, iface string) ([]control.History, error) {
	f.keep(iface)
	return f.history, f.err
}

func (f *fake) Watch(token string) *feed.Reader[control.Event] {
	f.keep(token)
	return f.events.Read(token)
}

func (f *fake) TestRun(_ context.Context, req control.TestRequest) (control.TestResult, error) {
	f.keep(req)
	return f.test, f.err
}

func (f *fake) Programs(context.Context) ([]control.Program, error) { return f.programs, f.err }

func (f *fake) Program(_ context.Context, name string) (control.Program, error) {
	f.keep(name)
	return control.Program{Name: name}, f.err
}

func (f *fake) Chains(context.Context) ([]control.Chain, error) { return f.chains, f.err }

func (f *fake) Chain(_ context.Context, iface string) (control.Chain, error) {
	f.keep(iface)
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
	lis    *Listener
	log    *logs
	served chan error
}

// start serves the fake on a socket of its own until the test ends.
func start(t *testing.T, c Controller) *rig {
	t.Helper()
	return startLimited(t, c, usual())
}

func startLimited(t *testing.T, c Controller, l limits) *rig {
	t.Helper()
	r := &rig{path: filepath.Join(t.TempDir(), "s"), log: &logs{}, served: make(chan error, 1)}
	var err error
	if r.lis, err = Listen(r.path, 0o600, ""); err != nil {
		t.Fatal(err)
	}
	r.server = newServer(c, Info{Version: "1.2.3", StateDir: "/state"}, slog.New(slog.NewTextHandler(r.log, &slog.HandlerOptions{Level: slog.LevelDebug})), l)
	go func() { r.served <- r.server.Serve(r.lis) }()
	r.server.SetReady()
	r.conn, err = grpc.NewClient("unix://"+r.path, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithStaticStreamWindowSize(64<<10), // does not grow, so that it is known what a client takes that does not read
		grpc.WithDefaultCallOptions(grpc.MaxCallSendMsgSize(2*maxMessage)))
	if err != nil {
		t.Fatal(err)
	}
	r.api = xdpdv1.NewXdpdServiceClient(r.conn)
	t.Cleanup(func() {
		if err := r.conn.Close(); err != nil {
			t.Error(err)
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
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

// self is who the server sees when a test calls it.
func self() control.Caller { return control.Caller{UID: uint32(os.Getuid()), PID: int32(os.Getpid())} }

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
		Pending: waiting(),
	}
}

var someTime = time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)

// waiting is a change that waits to be confirmed, with a value in each field.
func waiting() *control.Pending {
	return &control.Pending{
		ID: 5, Until: someTime, Left: 90 * time.Second, Interfaces: []string{"eth0", "eth1"}, Programs: []string{"fw"},
		Caller: control.Caller{UID: 1000, PID: 42}, What: "add fw",
	}
}

func waitingMessage() *xdpdv1.PendingChange {
	return &xdpdv1.PendingChange{
		Id: 5, Until: timestamppb.New(someTime), Left: durationpb.New(90 * time.Second), Interfaces: []string{"eth0", "eth1"},
		Programs: []string{"fw"}, Caller: &xdpdv1.Caller{Uid: 1000, Pid: 42}, What: "add fw",
	}
}
