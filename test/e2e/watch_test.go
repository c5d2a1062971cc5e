// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	xdpdv1 "github.com/xdpd/xdpd/api/proto/xdpd/v1"
	"github.com/xdpd/xdpd/client"
	"github.com/xdpd/xdpd/internal/netif/nettest"
)

// TestWatch makes a change of each kind and compares what is told, in order and with its facts.
func TestWatch(t *testing.T) {
	h := newHost(t, second)
	h.start()
	w := h.watch("")
	made := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("%v %v", err, client.Facts(err))
		}
	}
	h.do(adding(add("a", "pass", nettest.Dev, second)))
	w.expect("chain_swapped xdev0 0 -> 1", "member_added xdev0 a slot 0 priority 50 on pass",
		"chain_swapped xdev1 0 -> 1", "member_added xdev1 a slot 0 priority 50 on pass")
	b := add("b", "goon", nettest.Dev)
	b.Position, b.ProceedOn = first, &xdpdv1.ProceedOn{Verdicts: []xdpdv1.Verdict{xdpdv1.Verdict_VERDICT_DROP}}
	h.do(adding(b))
	w.expect("chain_swapped xdev0 1 -> 2", "member_added xdev0 b slot 0 priority 50 on drop")
	if e := w.seen[w.at-1]; e.GetCaller().GetUid() != 0 || e.GetCaller().GetPid() != int32(os.Getpid()) || time.Since(e.GetTime().AsTime()).Abs() > time.Minute {
		t.Errorf("the watch says %v", e)
	}
	h.do(updating(&xdpdv1.MemberUpdate{Program: "a", Interface: nettest.Dev, Priority: ptr(int32(60)), Enabled: ptr(false)}))
	w.expect("chain_swapped xdev0 2 -> 3", "member_changed xdev0 a no slot priority 60 on pass")
	// What changes nothing, and what is only tried, is not told.
	h.do(updating(&xdpdv1.MemberUpdate{Program: "a", Interface: nettest.Dev, Priority: ptr(int32(60))}))
	dry := add("n", "pass", second)
	dry.Options = &xdpdv1.ChangeOptions{DryRun: true}
	_, err := h.client.AddProgram(h.ctx(), dry)
	made(err)
	h.refused(xdpdv1.ErrorReason_ERROR_REASON_MEMBER_EXISTS, adding(add("a", "pass", second)))

	_, err = h.client.ReplaceProgram(h.ctx(), &xdpdv1.ReplaceProgramRequest{Name: "a", Object: trails, Function: "mark"})
	made(err)
	w.expect(fmt.Sprintf("program_replaced a %.8s -> %.8s", sumOf(verdicts), sumOf(trails)),
		"chain_swapped xdev0 3 -> 4", "chain_swapped xdev1 1 -> 2")
	remove := &xdpdv1.RemoveProgramRequest{Name: "b", Options: within(time.Hour)}
	removed, err := h.client.RemoveProgram(h.ctx(), remove)
	made(err)
	id := removed.GetChange().GetPending().GetId()
	w.expect("chain_swapped xdev0 4 -> 5", "member_removed xdev0 b no slot priority 50 on drop",
		fmt.Sprintf("confirm_pending %d \"remove b\" [xdev0] [b]", id))
	_, err = h.client.Confirm(h.ctx(), &xdpdv1.ConfirmRequest{Id: id})
	made(err)
	w.expect(fmt.Sprintf("confirmed %d \"remove b\" [xdev0] [b]", id))
	add2 := add("c", "tx", second)
	add2.Options = within(time.Hour)
	added, err := h.client.AddProgram(h.ctx(), add2)
	made(err)
	id = added.GetChange().GetPending().GetId()
	_, err = h.client.Cancel(h.ctx(), &xdpdv1.CancelRequest{Id: id})
	made(err)
	w.expect("chain_swapped xdev1 2 -> 3", "member_added xdev1 c slot 1 priority 50 on pass",
		fmt.Sprintf("confirm_pending %d \"add c\" [xdev1] [c]", id),
		"chain_swapped xdev1 3 -> 4", "member_removed xdev1 c no slot priority 50 on pass",
		fmt.Sprintf("reverted %d \"add c\" [xdev1] [c]", id))
	add2.Options = within(time.Second)
	added, err = h.client.AddProgram(h.ctx(), add2)
	made(err)
	id = added.GetChange().GetPending().GetId()
	w.expect("chain_swapped xdev1 4 -> 5", "member_added xdev1 c slot 1 priority 50 on pass",
		fmt.Sprintf("confirm_pending %d \"add c\" [xdev1] [c]", id),
		"chain_swapped xdev1 5 -> 6", "member_removed xdev1 c no slot priority 50 on pass",
		fmt.Sprintf("reverted %d \"add c\" [xdev1] [c] expired", id))

	h.tellsOfInterfaces(w)
	h.learn()
	h.Check()
	h.stop(unix.SIGTERM)
}

// tellsOfInterfaces deletes an interface with a chain and makes it anew.
func (h *host) tellsOfInterfaces(w *watcher) {
	h.Helper()
	h.unplug(second)
	if got := w.await("interface_gone").GetInterfaceGone().GetIfindex(); got == 0 {
		h.Error("the interface that is gone has no index")
	}
	h.ns.AddPair(h, second, second+"p")
	h.plug(second, second+"p")
	if got := w.await("interface_up").GetInterfaceUp().GetIfindex(); got != uint32(h.ns.Index(h, second)) {
		h.Errorf("the interface that came has the index %d", got)
	}
	h.well()
	if _, err := h.client.RemoveProgram(h.ctx(), &xdpdv1.RemoveProgramRequest{Name: "a"}); err != nil {
		h.Fatal(err)
	}
	// What it is told of the interface's chain that is attached again, it may have been told before that came.
	for seen := map[string]bool{}; len(seen) < 2; {
		if line := tell(w.next()); slices.Contains([]string{"chain_swapped xdev0 5 -> 0", "chain_swapped xdev1 7 -> 0"}, line) {
			seen[line] = true
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, line := range []string{"degraded xdev1", "recovered xdev1", "chain_swapped xdev1 6 -> 7"} {
		if !slices.ContainsFunc(w.seen, func(e *xdpdv1.WatchResponse) bool { return tell(e) == line }) {
			h.Errorf("nobody was told: %s", line)
		}
	}
}

// TestWatchResumes reads events with a watcher that goes away and comes back with its token, again and again, and
// compares them with those of one that stayed: none is missing, and none comes twice.
func TestWatchResumes(t *testing.T) {
	h := newHost(t)
	h.start()
	h.do(adding(add("a", "pass", nettest.Dev)), adding(add("b", "goon", nettest.Dev)))
	stays := h.watch("")
	comes := h.watch("")
	token := comes.token()
	changes := 60
	if testing.Short() {
		changes = 12
	}
	var got []string
	for i := range changes {
		h.do(updating(&xdpdv1.MemberUpdate{Program: "b", Priority: ptr(int32(60 + i))}))
		if comes == nil {
			comes = h.watch(token)
		}
		for len(got) < 2*(i+1)-rand.IntN(3) { // it may leave something for the next time
			e := comes.next()
			token = e.GetResumeToken()
			got = append(got, tell(e))
		}
		if rand.IntN(3) == 0 {
			comes.end()
			comes = nil
		}
	}
	if comes == nil {
		comes = h.watch(token)
	}
	for len(got) < 2*changes {
		got = append(got, tell(comes.next()))
	}
	var want []string
	for range 2 * changes {
		want = append(want, tell(stays.next()))
	}
	if !slices.Equal(got, want) {
		t.Errorf("who came and went saw\n  %s\nwho stayed saw\n  %s", strings.Join(got, "\n  "), strings.Join(want, "\n  "))
	}
	h.Check()

	// A token of a daemon that is gone, or that nobody gave.
	h.d.kill()
	h.start()
	for _, token := range []string{token, "nonsense", "-"} {
		w := h.watch(token)
		w.expect("missed 0")
		h.do(updating(&xdpdv1.MemberUpdate{Program: "a", Position: last}), updating(&xdpdv1.MemberUpdate{Program: "a", Position: first}))
		if e := w.next(); kindOf(e) != "chain_swapped" {
			t.Errorf("after a gap comes %v", e)
		}
		w.end()
	}
	h.Check()
	h.stop(unix.SIGTERM)
}

// Of TestSlowWatchers.
const (
	crowd     = 60   // members of each chain, disabled
	tooMany   = 6000 // events, more than the daemon keeps and all that is on the way
	watching  = 50
	keptAtAll = 4096
)

// TestSlowWatchers makes changes while many watch, half of whom do not read. Nobody is held up. Who did not read is
// told that events are missing, and what follows fits to a list that is asked for then.
func TestSlowWatchers(t *testing.T) {
	if inVM() {
		t.Log("the kernel has no part in this, and emulated it takes long: it is tried on this machine's kernel only")
		return
	}
	h := newHost(t, second)
	h.start()
	spec := &xdpdv1.SetChainsRequest{Objects: [][]byte{verdicts}}
	for _, iface := range []string{nettest.Dev, second} {
		c := chainOf(iface)
		for i := range crowd {
			name := fmt.Sprint("p", i)
			c.Members = append(c.Members, &xdpdv1.MemberSpec{Program: name, Enabled: ptr(i == 0)})
			if iface == nettest.Dev {
				spec.Programs = append(spec.Programs, &xdpdv1.ProgramSpec{Name: name, ObjectSha256: sumOf(verdicts), Function: "plain"})
			}
		}
		spec.Chains = append(spec.Chains, c)
	}
	if _, err := h.client.SetChains(h.ctx(), spec); err != nil {
		t.Fatal(err)
	}
	spec.Objects, spec.Programs = nil, nil
	reads := h.watch("")
	var lazy []*stalled
	for range watching / 2 {
		lazy = append(lazy, h.stall())
	}
	var others []*watcher
	for range watching / 2 {
		others = append(others, h.watch(""))
	}
	events := 0
	for round := int32(1); events < tooMany; round++ {
		for _, c := range spec.Chains {
			for _, m := range c.Members {
				m.Priority = ptr(round)
			}
		}
		a, err := h.client.SetChains(h.ctx(), spec)
		if err != nil || !a.GetChange().GetChanged() {
			t.Fatalf("%v, %v", a, err)
		}
		events += 2 + 2*crowd
	}
	var want []string
	for range events {
		want = append(want, tell(reads.next()))
	}
	for _, w := range others {
		for i := range events {
			if got := tell(w.next()); got != want[i] {
				t.Fatalf("event %d is %q, want %q", i, got, want[i])
			}
		}
	}
	for _, s := range lazy {
		s.catchUp(want)
	}
	h.learn()
	h.Check()
	h.stop(unix.SIGTERM)
}

// stalled is a watch that nobody reads.
type stalled struct {
	*host
	client *client.Client
	stream interface {
		Recv() (*xdpdv1.WatchResponse, error)
	}
}

func (h *host) stall() *stalled {
	h.Helper()
	c, err := client.Dial(h.socket)
	if err != nil {
		h.Fatal(err)
	}
	h.Cleanup(func() { c.Close() })
	ctx, cancel := context.WithCancel(context.Background())
	h.Cleanup(cancel)
	stream, err := c.Watch(ctx, &xdpdv1.WatchRequest{})
	if err != nil {
		h.Fatal(err)
	}
	if e, err := stream.Recv(); err != nil || e.GetStarted() == nil {
		h.Fatalf("a watch begins with %v, %v", e, err)
	}
	return &stalled{h, c, stream}
}

// catchUp reads all that the watch has: the first events, then that some are missing, then the last ones.
func (s *stalled) catchUp(want []string) {
	s.Helper()
	defer s.client.Close()
	at, gaps := 0, 0
	for at < len(want) {
		e, err := s.stream.Recv()
		if err != nil {
			s.Fatal(err)
		}
		if m := e.GetMissed(); m != nil {
			gaps++
			if m.GetEvents() == 0 {
				s.Errorf("it is not told how many events are missing: %v", e)
			}
			at += int(m.GetEvents())
			if left := len(want) - at; left < 0 || left > keptAtAll {
				s.Fatalf("%d events are said to be missing, which leaves %d", m.GetEvents(), left)
			}
			continue
		}
		if got := tell(e); got != want[at] {
			s.Fatalf("event %d is %q, want %q", at, got, want[at])
		}
		at++
	}
	if gaps == 0 {
		s.Error("who did not read missed nothing: there were too few events")
	}
}
