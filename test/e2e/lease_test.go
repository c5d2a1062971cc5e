// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/types/known/durationpb"

	xdpdv1 "github.com/xdpd/xdpd/api/proto/xdpd/v1"
	"github.com/xdpd/xdpd/client"
	"github.com/xdpd/xdpd/internal/netif/nettest"
)

// The reasons that clients of leases hear.
const (
	leaseGone  = xdpdv1.ErrorReason_ERROR_REASON_LEASE_NOT_FOUND
	leaseTaken = xdpdv1.ErrorReason_ERROR_REASON_LEASE_TAKEN
)

// anHour is a grace that outlasts a test, where a client that gets no processor time must not be taken for gone.
const anHour = time.Hour

// newLeaseHost is a host with a program of lifetime daemon on each of two interfaces, which stays, and the picture of that.
func newLeaseHost(t testing.TB, config ...string) (h *host, before string) {
	t.Helper()
	h = newHost(t, second)
	h.configure(config...)
	h.start()
	h.do(adding(add("stays", "goon", nettest.Dev, second)))
	return h, h.picture(true)
}

// configure adds lines to the configuration, for the next daemon.
func (h *host) configure(lines ...string) {
	h.Helper()
	text, err := os.ReadFile(h.config)
	if err == nil {
		err = os.WriteFile(h.config, append(text, strings.Join(append(lines, ""), "\n")...), 0o600)
	}
	if err != nil {
		h.Fatal(err)
	}
}

// leased gives the program of a request a lease.
func leased(token string, r *xdpdv1.AddProgramRequest) *xdpdv1.AddProgramRequest {
	r.Lifetime, r.Lease = xdpdv1.Lifetime_LIFETIME_LEASE, token
	return r
}

// rent adds two programs with a lease, one of them on both interfaces, where it drops all packets.
func (h *host) rent(token string) {
	h.Helper()
	guard := leased(token, add("guard", "drop", nettest.Dev, second))
	guard.Position = first
	for _, r := range []*xdpdv1.AddProgramRequest{guard, leased(token, add("tap", "goon", second))} {
		if _, err := h.client.AddProgram(h.ctx(), r); err != nil {
			h.Fatalf("%v %v", err, client.Facts(err))
		}
	}
	h.learn()
	if got := h.model.places("guard"); len(got) != 2 {
		h.Errorf("guard is on %v", got)
	}
}

// lessee is a process that holds a lease: an xdpctl hold with a command that ends only when it is told to.
func (h *host) lessee(flags ...string) (r *running, token string) {
	h.Helper()
	args := append(append([]string{"hold"}, flags...), "--", "sh", "-c", `echo "$XDPD_LEASE"; exec sleep 1000`)
	r = h.begin(args...)
	h.eventually("xdpctl holds a lease", func() bool { return strings.HasSuffix(r.stdout.String(), "\n") })
	return r, strings.TrimSpace(r.stdout.String())
}

// holds gets a lease for this process, on a connection of its own, which close closes.
func (h *host) holds(o client.HoldOptions) (l *client.Lease, cut func()) {
	h.Helper()
	c, err := client.Dial(h.socket)
	if err != nil {
		h.Fatal(err)
	}
	h.Cleanup(func() { c.Close() })
	if l, err = c.Hold(h.ctx(), o); err != nil {
		h.Fatalf("%v %v", err, client.Facts(err))
	}
	h.Cleanup(l.Close)
	return l, func() { c.Close() }
}

func (h *host) leases() []*xdpdv1.Lease {
	h.Helper()
	s, err := h.client.GetStatus(h.ctx(), &xdpdv1.GetStatusRequest{})
	if err != nil {
		h.Fatal(err)
	}
	return s.GetLeases()
}

// held tells whether there is a lease, and the first is held.
func (h *host) held() bool {
	h.Helper()
	l := h.leases()
	return len(l) > 0 && l[0].GetHeld()
}

// rented looks that there is one lease, with the programs of rent, held or not.
func (h *host) rented(held bool) *xdpdv1.Lease {
	h.Helper()
	l := h.leases()
	if len(l) != 1 || l[0].GetHeld() != held || !slices.Equal(l[0].GetPrograms(), []string{"guard", "tap"}) {
		h.Fatalf("leases: %v", l)
	}
	return l[0]
}

// over looks that a lease has ended, and that all is as before.
func (h *host) over(before, token string) {
	h.Helper()
	if l := h.leases(); len(l) > 0 {
		h.Errorf("there still are %v", l)
	}
	if after := h.picture(true); after != before {
		h.Errorf("there is\n%s\nthere was\n%s", after, before)
	}
	if _, err := h.client.Hold(h.ctx(), client.HoldOptions{Token: token}); client.Reason(err) != leaseGone {
		h.Errorf("a lease that has ended can be held: %v", err)
	}
	h.learn()
	h.Check()
}

// TestLeaseEnds ends a client in each way in which one can end. Its programs go from both chains in one change.
func TestLeaseEnds(t *testing.T) {
	process := func(end func(r *running)) func(*host) (string, func()) {
		return func(h *host) (string, func()) {
			r, token := h.lessee()
			return token, func() { end(r) }
		}
	}
	within := func(end func(l *client.Lease, cut func())) func(*host) (string, func()) {
		return func(h *host) (string, func()) {
			l, cut := h.holds(client.HoldOptions{})
			return l.Token(), func() { end(l, cut) }
		}
	}
	signal := func(s unix.Signal) func(*running) {
		return func(r *running) {
			if err := r.cmd.Process.Signal(s); err != nil {
				t.Error(err)
			}
		}
	}
	for name, c := range map[string]struct {
		begin func(*host) (token string, end func())
		why   string
	}{
		"exits":       {process(signal(unix.SIGTERM)), "released"}, // which ends the command as well
		"is killed":   {process(signal(unix.SIGKILL)), "its client went"},
		"is cut off":  {within(func(_ *client.Lease, cut func()) { cut() }), "its client went"},
		"lets it go":  {within(func(l *client.Lease, _ func()) { l.Close() }), "its client went"},
		"gives it up": {within(func(l *client.Lease, _ func()) { failIf(t, l.Release(t.Context())) }), "released"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h, before := newLeaseHost(t)
			token, end := c.begin(h)
			h.rent(token)
			h.Check()
			h.rented(true)
			revisions := []uint64{h.chain(nettest.Dev).GetRevision(), h.chain(second).GetRevision()}
			w := h.watch("")
			end()
			e := w.await("lease_ended").GetLeaseEnded()
			if e.GetReason() != c.why || !slices.Equal(e.GetLease().GetPrograms(), []string{"guard", "tap"}) {
				t.Errorf("the watch says %v", e)
			}
			h.over(before, token)
			for i, iface := range []string{nettest.Dev, second} {
				if now := h.chain(iface).GetRevision(); now != revisions[i]+1 {
					t.Errorf("%s went from revision %d to %d", iface, revisions[i], now)
				}
			}
			h.stop(unix.SIGTERM)
		})
	}
}

func failIf(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Errorf("%v %v", err, client.Facts(err))
	}
}

// TestLeaseFrozen stops a client, which then does not answer any more, and lets it go on when its lease has ended: it hears of
// that, and ends its command.
func TestLeaseFrozen(t *testing.T) {
	t.Parallel() // it takes 10 s
	h, before := newLeaseHost(t)
	r, token := h.lessee()
	h.rent(token)
	w := h.watch("")
	failIf(t, r.cmd.Process.Signal(unix.SIGSTOP))
	if e := w.await("lease_ended").GetLeaseEnded(); e.GetReason() != "its client went" {
		t.Errorf("the watch says %v", e)
	}
	failIf(t, r.cmd.Process.Signal(unix.SIGCONT))
	if end := r.end(); end.code != 128+int(unix.SIGTERM) || !strings.Contains(end.stderr, "the lease is lost") || !strings.Contains(end.stderr, "LEASE_NOT_FOUND") {
		t.Errorf("xdpctl hold: %+v", end)
	}
	h.over(before, token)
	h.stop(unix.SIGTERM)
}

// TestLeaseGrace lets leases go that have a grace, and holds them again within it.
func TestLeaseGrace(t *testing.T) {
	h, before := newLeaseHost(t)
	l, cut := h.holds(client.HoldOptions{Grace: time.Hour})
	h.rent(l.Token())
	w := h.watch("")
	l.Close()
	h.eventually("the lease is let go", func() bool { return !h.held() })
	if left := h.rented(false).GetLeft().AsDuration(); left > time.Hour || left < 50*time.Minute {
		t.Errorf("of a grace of an hour %v are left", left)
	}
	h.Check()
	cut()
	again, cut := h.holds(client.HoldOptions{Token: l.Token(), Grace: 1500 * time.Millisecond})
	if v := h.rented(true); v.GetGrace().AsDuration() != 1500*time.Millisecond || v.GetLeft() != nil || v.GetHolder().GetPid() != int32(os.Getpid()) {
		t.Errorf("the lease is %v", v)
	}
	begin := time.Now()
	cut()
	if e := w.await("lease_ended"); time.Since(begin) < 1500*time.Millisecond {
		t.Errorf("after %v: %v", time.Since(begin), e)
	}
	h.over(before, again.Token())
	h.stop(unix.SIGTERM)
}

// TestLeaseStream talks to Hold as another client would: without anything of the Go client.
func TestLeaseStream(t *testing.T) {
	h, before := newLeaseHost(t)
	s, err := h.client.XdpdServiceClient.Hold(h.ctx())
	if err == nil {
		err = s.Send(&xdpdv1.HoldRequest{})
	}
	if err != nil {
		t.Fatal(err)
	}
	first, err := s.Recv()
	if err != nil || len(first.GetToken()) < 26 || !first.GetLease().GetHeld() || first.GetLease().GetId() == 0 {
		t.Fatalf("a new lease: %v, %v", first, err)
	}
	h.rent(first.GetToken())
	if err := s.Send(&xdpdv1.HoldRequest{Grace: durationpb.New(time.Hour)}); err != nil {
		t.Fatal(err)
	}
	next, err := s.Recv()
	if err != nil || next.GetToken() != first.GetToken() || next.GetLease().GetGrace().AsDuration() != time.Hour || len(next.GetLease().GetPrograms()) != 2 {
		t.Fatalf("another grace: %v, %v", next, err)
	}
	if err := s.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Recv(); err == nil {
		t.Error("a stream that the client closed goes on")
	}
	if left := h.rented(false).GetLeft().AsDuration(); left < 50*time.Minute {
		t.Errorf("of an hour %v are left", left)
	}
	// Programs can go without the lease; and it ends without programs.
	for _, name := range []string{"guard", "tap"} {
		if _, err := h.client.RemoveProgram(h.ctx(), &xdpdv1.RemoveProgramRequest{Name: name}); err != nil {
			t.Fatal(err)
		}
	}
	if v := h.leases(); len(v) != 1 || len(v[0].GetPrograms()) > 0 {
		t.Errorf("leases: %v", v)
	}
	imprint := h.takeImprint()
	if s, err = h.client.XdpdServiceClient.Hold(h.ctx()); err == nil {
		err = s.Send(&xdpdv1.HoldRequest{Token: first.GetToken(), Release: true})
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Recv(); err == nil || client.Reason(err) != 0 || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("release in the first request: %v", err)
	}
	if now := h.takeImprint(); now != imprint {
		t.Errorf("the end of a lease without programs made\n%s\nof\n%s", now, imprint)
	}
	h.over(before, first.GetToken())
	h.stop(unix.SIGTERM)
}

// TestLeaseXdpctl runs a script under a lease as the manual has it.
func TestLeaseXdpctl(t *testing.T) {
	h, before := newLeaseHost(t)
	object := h.write("verdict.o", verdicts)
	w := h.watch("")
	r := h.begin("hold", "sh", "-c", fmt.Sprintf(
		"%[1]s/xdpctl add %[2]s --function drop --name guard --interface %[3]s --first --lifetime lease && echo added && read end; exit 3", binDir, object, nettest.Dev))
	w.await("lease_ended") // its standard input is empty
	if end := r.end(); end.code != 3 || !strings.Contains(end.stdout, "added") {
		t.Errorf("xdpctl hold: %+v", end)
	}
	if len(h.leases()) > 0 {
		t.Errorf("leases: %v", h.leases())
	}
	if now := h.picture(true); now != before {
		t.Errorf("there is\n%s\nthere was\n%s", now, before)
	}
	h.learn()
	h.Check()
	h.stop(unix.SIGTERM)
}
