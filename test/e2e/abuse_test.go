// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	xdpdv1 "github.com/xdpd/xdpd/api/proto/xdpd/v1"
	"github.com/xdpd/xdpd/client"
	"github.com/xdpd/xdpd/internal/failpoint"
	"github.com/xdpd/xdpd/internal/netif/nettest"
)

// clients is how many there are at once.
const clients = 200

// natively skips a test in a VM, which has neither the memory nor the time for it.
func natively(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("what clients do to the daemon is the same on every kernel: it is tested on this machine only")
	}
}

// TestHugeRequests has many clients send as much as a message can have, all at once.
func TestHugeRequests(t *testing.T) {
	natively(t)
	h := newHost(t, second)
	h.start()
	h.do(adding(add("a", "pass", nettest.Dev)))
	huge, err := proto.Marshal(&xdpdv1.AddProgramRequest{Name: "huge", Object: make([]byte, 64<<20-100), Interfaces: []string{nettest.Dev}})
	if err != nil {
		t.Fatal(err)
	}
	var seen census
	h.aside(func() {
		var wg sync.WaitGroup
		for range clients {
			wg.Go(func() {
				conn := h.raw()
				defer conn.Close()
				ctx, cancel := context.WithTimeout(context.Background(), 5*patience)
				defer cancel()
				var answer []byte
				err := conn.Invoke(ctx, xdpdv1.XdpdService_AddProgram_FullMethodName, huge, &answer, grpc.ForceCodec(rawCodec{}))
				seen.note(t, err, xdpdv1.ErrorReason_ERROR_REASON_OBJECT_TOO_LARGE, xdpdv1.ErrorReason_ERROR_REASON_OVERLOADED)
			})
		}
		wg.Wait()
	})
	t.Logf("the requests came to %v", seen.n)
	h.d.bounded(h)
	h.learn()
	h.Check()
	h.stop(unix.SIGTERM)
}

// TestCrowd has many clients at once do all that clients do: they read, add, remove, watch and hold leases. Some go
// in the middle of it without a word.
func TestCrowd(t *testing.T) {
	natively(t)
	h := newHost(t, second, third)
	h.start()
	h.do(adding(add("a", "goon", nettest.Dev)))
	before := h.d.sockets()
	ctx, cancel := context.WithTimeout(context.Background(), 3*patience)
	defer cancel()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	var seen census
	h.aside(func() {
		var wg sync.WaitGroup
		for i := range clients {
			wg.Go(func() { h.visit(ctx, rand.New(rand.NewPCG(seed, uint64(i))), i, &seen) })
		}
		wg.Wait()
	})
	t.Logf("the calls came to %v", seen.n)
	h.eventually("all connections but the test's own are closed", func() bool { return h.d.sockets() <= before })
	h.d.bounded(h)
	h.learn()
	h.Check()
	h.stop(unix.SIGTERM)
}

// visit is what one client of a crowd does.
func (h *host) visit(ctx context.Context, r *rand.Rand, who int, seen *census) {
	may := []any{
		codes.OK, codes.DeadlineExceeded, codes.Canceled,
		xdpdv1.ErrorReason_ERROR_REASON_PROGRAM_NOT_FOUND, xdpdv1.ErrorReason_ERROR_REASON_CHAIN_NOT_FOUND,
	}
	c, err := client.Dial(h.socket)
	if err != nil {
		h.Error(err)
		return
	}
	defer c.Close()
	life, leave := context.WithCancel(ctx)
	defer leave()
	watch, err := c.Watch(life, &xdpdv1.WatchRequest{})
	if err == nil {
		_, err = watch.Recv()
	}
	seen.note(h, err, may...)
	hold, err := c.XdpdServiceClient.Hold(life)
	if err == nil {
		err = hold.Send(&xdpdv1.HoldRequest{})
	}
	if err == nil {
		_, err = hold.Recv()
	}
	seen.note(h, err, may...)
	name := fmt.Sprint("p", who%30) // a chain that is linked inline has room for 63 maps
	for range 6 {
		call, cancel := context.WithTimeout(ctx, patience)
		if r.IntN(8) == 0 { // it goes before the answer comes
			call, cancel = context.WithTimeout(ctx, time.Duration(r.IntN(3000))*time.Microsecond)
		}
		switch r.IntN(5) {
		case 0:
			_, err = c.AddProgram(call, add(name, "goon", []string{nettest.Dev, third}[r.IntN(2)]))
		case 1:
			_, err = c.RemoveProgram(call, &xdpdv1.RemoveProgramRequest{Name: name})
		case 2:
			_, err = c.ListPrograms(call, &xdpdv1.ListProgramsRequest{})
		case 3:
			_, err = c.GetChain(call, &xdpdv1.GetChainRequest{Interface: nettest.Dev})
		case 4:
			_, err = c.GetStatus(call, &xdpdv1.GetStatusRequest{})
		}
		cancel()
		seen.note(h, err, append(may, xdpdv1.ErrorReason_ERROR_REASON_MEMBER_EXISTS)...)
	}
}

// TestStuckInterface has a change of one interface that does not get on. Those who want something of that interface
// wait as long as they like to; everybody else notices nothing.
func TestStuckInterface(t *testing.T) {
	h := newHost(t, second)
	env, reached := h.halt(failpoint.StagePinned, 2)
	h.start(env...)
	h.do(adding(add("base", "goon", nettest.Dev)))
	answer := make(chan error, 1)
	ctx := h.ctx()
	go func() { _, err := h.client.AddProgram(ctx, add("a", "goon", nettest.Dev)); answer <- err }()
	release := reached()

	before := h.d.sockets()
	h.abandon(clients / 5)
	start := time.Now()
	for _, ask := range []func(ctx context.Context) error{
		func(ctx context.Context) error {
			_, err := h.client.GetChain(ctx, &xdpdv1.GetChainRequest{Interface: nettest.Dev})
			return err
		},
		func(ctx context.Context) error {
			_, err := h.client.AddProgram(ctx, add("b", "goon", nettest.Dev, second))
			return err
		},
	} {
		short, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
		if err := ask(short); status.Code(err) != codes.DeadlineExceeded {
			t.Errorf("of the interface that is stuck: %v", err)
		}
		cancel()
	}
	h.aside(func() {
		for range 3 {
			h.listed()
		}
	})
	t.Logf("all of it took %v", time.Since(start))
	h.eventually("clients that gave up are let go", func() bool { return h.d.sockets() <= before })
	release()
	if err := <-answer; err != nil {
		t.Errorf("the change that was stuck: %v", err)
	}
	h.learn()
	if names := h.seated(nettest.Dev); strings.Join(names, " ") != "base a" {
		t.Errorf("after all there are %v", names)
	}
	h.d.bounded(h)
	h.Check()
	h.stop(unix.SIGTERM)
}

// listed looks that a list has the interface that is stuck as it was before, and says so.
func (h *host) listed() {
	h.Helper()
	for _, c := range h.chains() {
		if c.GetInterface() == nettest.Dev {
			if len(c.GetMembers()) != 1 || c.GetRevision() != 1 || !strings.Contains(c.GetProblem(), "takes long") {
				h.Errorf("in a list the chain that is stuck is %v", c)
			}
			return
		}
	}
	h.Error("a list does not have the chain that is stuck")
}

// seated are the members of an interface's chain.
func (h *host) seated(iface string) (names []string) {
	h.Helper()
	for _, m := range h.chain(iface).GetMembers() {
		names = append(names, m.GetProgram())
	}
	return names
}

// abandon has clients ask for changes of the interface that is stuck, and go while they wait: half of them by closing
// the connection, half by dying in the middle of what they send.
func (h *host) abandon(clients int) {
	h.Helper()
	var wg sync.WaitGroup
	for i := range clients {
		wg.Go(func() {
			if i%2 == 0 {
				conn, err := net.Dial("unix", h.socket)
				if err != nil {
					h.Error(err)
					return
				}
				defer conn.Close()
				_, _ = conn.Write(halfRequest(1 << 20))
				return
			}
			conn := h.raw()
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			defer cancel()
			context.AfterFunc(ctx, func() { conn.Close() })
			time.AfterFunc(time.Duration(i)*time.Millisecond, func() { conn.Close() })
			_, err := xdpdv1.NewXdpdServiceClient(conn).AddProgram(ctx, add(fmt.Sprint("gone", i), "goon", nettest.Dev))
			if c := status.Code(err); c != codes.Canceled && c != codes.Unavailable {
				h.Errorf("a client that goes got %v", err)
			}
		})
	}
	wg.Wait()
}

// TestEndlessPrograms has many clients add programs that are too much for the verifier. It costs them time and the daemon
// little memory; a program that is nearly too much is taken.
func TestEndlessPrograms(t *testing.T) {
	natively(t)
	more := []string{second, "xdev3", "xdev4", "xdev5", "xdev6", "xdev7"}
	h := newHost(t, more...)
	h.start()
	h.do(adding(add("a", "goon", nettest.Dev)))
	const clients = 6
	endless, long := circling(t, 1_000_000), circling(t, 100_000)
	var seen census
	h.aside(func() {
		var wg sync.WaitGroup
		for i := range clients {
			wg.Go(func() {
				c, err := client.Dial(h.socket)
				if err != nil {
					t.Error(err)
					return
				}
				defer c.Close()
				ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
				if i%3 == 0 {
					ctx, cancel = context.WithTimeout(context.Background(), time.Second)
				}
				defer cancel()
				_, err = c.AddProgram(ctx, &xdpdv1.AddProgramRequest{Name: fmt.Sprint("e", i), Object: endless, Interfaces: []string{more[1+i%5]}})
				seen.note(t, err, xdpdv1.ErrorReason_ERROR_REASON_VERIFIER_REJECTED, codes.DeadlineExceeded)
				if err == nil || client.Reason(err) != 0 && !strings.Contains(err.Error()+client.VerifierLog(err), "too large") {
					t.Errorf("the refusal does not say why: %v", err)
				}
			})
		}
		wg.Wait()
	})
	t.Logf("%d programs without an end came to %v", clients, seen.n)
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	defer cancel()
	if _, err := h.client.AddProgram(ctx, &xdpdv1.AddProgramRequest{Name: "long", Object: long, Interfaces: []string{nettest.Dev}}); err != nil {
		t.Errorf("a long program: %v", err)
	}
	if _, err := h.client.RemoveProgram(ctx, &xdpdv1.RemoveProgramRequest{Name: "long"}); err != nil {
		t.Error(err)
	}
	h.d.bounded(h)
	h.learn()
	h.Check()
	h.stop(unix.SIGTERM)
}
