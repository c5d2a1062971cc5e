// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	xdpdv1 "github.com/xdpd/xdpd/api/proto/xdpd/v1"
	"github.com/xdpd/xdpd/client"
	"github.com/xdpd/xdpd/internal/netif/nettest"
)

// TestLeaseWaits ends a lease while a change of one of its chains waits to be confirmed. It waits for that, and says so.
func TestLeaseWaits(t *testing.T) {
	for _, settle := range []string{"confirm", "cancel"} {
		t.Run(settle, func(t *testing.T) {
			h, before := newLeaseHost(t)
			l, _ := h.holds(client.HoldOptions{Grace: anHour})
			h.rent(l.Token())
			a, err := h.client.UpdateMembers(h.ctx(), &xdpdv1.UpdateMembersRequest{
				Updates: []*xdpdv1.MemberUpdate{{Program: "tap", Interface: second, Priority: ptr(int32(99))}},
				Options: within(time.Hour),
			})
			if err != nil {
				t.Fatal(err)
			}
			id := a.GetChange().GetPending().GetId()
			w := h.watch("")
			err = l.Release(t.Context())
			if client.Reason(err) != xdpdv1.ErrorReason_ERROR_REASON_CHANGE_PENDING || client.Facts(err)["change"] != fmt.Sprint(id) {
				t.Errorf("release: %v %v", err, client.Facts(err))
			}
			if e := w.await("degraded").GetDegraded(); !strings.Contains(e.GetText(), fmt.Sprintf("xdpctl confirm %d", id)) {
				t.Errorf("the watch says %v", e)
			}
			s, err := h.client.GetStatus(h.ctx(), &xdpdv1.GetStatusRequest{})
			if err != nil || len(s.GetProblems()) != 1 || !strings.Contains(s.GetProblems()[0], "lease") {
				t.Errorf("status: %v, %v", s, err)
			}
			h.rented(false) // nothing is done by halves
			if _, err := h.client.Hold(h.ctx(), client.HoldOptions{Token: l.Token()}); client.Reason(err) != leaseGone {
				t.Errorf("a lease that was released can be held: %v", err)
			}
			if settle == "confirm" {
				_, err = h.client.Confirm(h.ctx(), &xdpdv1.ConfirmRequest{Id: id})
			} else {
				_, err = h.client.Cancel(h.ctx(), &xdpdv1.CancelRequest{Id: id})
			}
			failIf(t, err)
			w.await("lease_ended")
			h.over(before, l.Token())
			h.stop(unix.SIGTERM)
		})
	}
}

// TestLeaseUndo undoes a change that removed a program whose lease has ended since: it does not come back.
func TestLeaseUndo(t *testing.T) {
	h, before := newLeaseHost(t)
	l, _ := h.holds(client.HoldOptions{Grace: anHour})
	h.rent(l.Token())
	a, err := h.client.RemoveProgram(h.ctx(), &xdpdv1.RemoveProgramRequest{Name: "guard", Options: within(time.Hour)})
	if err != nil {
		t.Fatal(err)
	}
	id := a.GetChange().GetPending().GetId()
	// The other program is in a chain that waits, and the lease with it.
	if err := l.Release(t.Context()); client.Reason(err) != xdpdv1.ErrorReason_ERROR_REASON_CHANGE_PENDING {
		t.Errorf("release: %v", err)
	}
	w := h.watch("")
	h.cancelled(w, id)
	w.await("lease_ended")
	h.over(before, l.Token())

	// Nothing of this one is in a chain: its lease ends at once.
	l, _ = h.holds(client.HoldOptions{Grace: anHour})
	if _, err = h.client.AddProgram(h.ctx(), leased(l.Token(), add("guard", "drop", nettest.Dev))); err != nil {
		t.Fatal(err)
	}
	if a, err = h.client.RemoveProgram(h.ctx(), &xdpdv1.RemoveProgramRequest{Name: "guard", Options: within(time.Hour)}); err != nil {
		t.Fatal(err)
	}
	failIf(t, l.Release(t.Context()))
	h.d.kill() // also over a start
	h.start()
	h.cancelled(h.watch(""), a.GetChange().GetPending().GetId())
	h.over(before, l.Token())

	// One whose lease goes on is brought back.
	l, _ = h.holds(client.HoldOptions{Grace: anHour})
	h.rent(l.Token())
	if a, err = h.client.RemoveProgram(h.ctx(), &xdpdv1.RemoveProgramRequest{Name: "guard", Options: within(time.Hour)}); err != nil {
		t.Fatal(err)
	}
	h.cancelled(h.watch(""), a.GetChange().GetPending().GetId())
	h.rented(true)
	failIf(t, l.Release(t.Context()))
	h.over(before, l.Token())
	h.stop(unix.SIGTERM)
}

// TestLeaseRollback goes back to chains with programs of leases: those whose lease has ended are left out.
func TestLeaseRollback(t *testing.T) {
	h, before := newLeaseHost(t)
	l, _ := h.holds(client.HoldOptions{Grace: anHour})
	h.rent(l.Token())
	with := h.chain(second).GetRevision()
	if _, err := h.client.RemoveProgram(h.ctx(), &xdpdv1.RemoveProgramRequest{Name: "tap"}); err != nil {
		t.Fatal(err)
	}
	back := &xdpdv1.RollbackRequest{Interface: second}
	if a, err := h.client.Rollback(h.ctx(), back); err != nil || a.GetRevision() != with {
		t.Fatalf("rollback while the lease is held: %v, %v", a, err)
	}
	h.rented(true)
	h.learn()
	h.Check()
	failIf(t, l.Release(t.Context()))
	h.over(before, l.Token())
	back.Revision = with
	if a, err := h.client.Rollback(h.ctx(), back); err != nil || a.GetChange().GetChanged() {
		t.Errorf("rollback to what is the same without the lease's programs: %v, %v", a, err)
	}
	// The one before the last change is the one without a chain.
	if a, err := h.client.Rollback(h.ctx(), &xdpdv1.RollbackRequest{Interface: second}); client.Reason(err) != xdpdv1.ErrorReason_ERROR_REASON_REVISION_NOT_FOUND {
		t.Errorf("rollback where all earlier chains are the same now: %v, %v", a, err)
	}
	h.over(before, l.Token())
	h.stop(unix.SIGTERM)
}

// TestLeaseRefusals asks for what leases are not for, and for what they are.
func TestLeaseRefusals(t *testing.T) {
	h, _ := newLeaseHost(t)
	l, _ := h.holds(client.HoldOptions{Grace: anHour})
	h.rent(l.Token())
	other, _ := h.holds(client.HoldOptions{Grace: anHour})
	const invalid = xdpdv1.ErrorReason_ERROR_REASON_INVALID_ARGUMENT
	untokened := add("n", "pass", nettest.Dev)
	untokened.Lifetime = xdpdv1.Lifetime_LIFETIME_LEASE
	unleased := add("n", "pass", nettest.Dev)
	unleased.Lease = l.Token()
	for _, c := range []struct {
		name   string
		add    *xdpdv1.AddProgramRequest
		reason xdpdv1.ErrorReason
		says   string
	}{
		{"no such token", leased("MADEUP", add("n", "pass", nettest.Dev)), leaseGone, "get a new lease"},
		{"no token", untokened, invalid, "lease"},
		{"another lifetime", unleased, invalid, "lease"},
		{"another lease", leased(other.Token(), add("guard", "drop", nettest.Dev)), xdpdv1.ErrorReason_ERROR_REASON_PROGRAM_EXISTS, "another lease"},
		{"of no lease", leased(l.Token(), add("stays", "goon", nettest.Dev)), xdpdv1.ErrorReason_ERROR_REASON_PROGRAM_EXISTS, "lifetime daemon"},
	} {
		_, err := h.client.AddProgram(h.ctx(), c.add)
		if client.Reason(err) != c.reason || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v %v", c.name, err, client.Facts(err))
		}
	}
	lease := xdpdv1.Lifetime_LIFETIME_LEASE
	for name, spec := range map[string]*xdpdv1.ProgramSpec{
		"a new one":       {Name: "n", ObjectSha256: verdictsSum, Function: "pass", Lifetime: lease},
		"one of no lease": {Name: "stays", Lifetime: lease},
	} {
		_, err := h.client.SetChains(h.ctx(), &xdpdv1.SetChainsRequest{
			Programs: []*xdpdv1.ProgramSpec{spec}, Chains: []*xdpdv1.ChainSpec{chainOf(nettest.Dev, spec.GetName())},
		})
		if client.Reason(err) != invalid || !strings.Contains(err.Error(), "lease") {
			t.Errorf("%s in a file of chains: %v", name, err)
		}
	}
	if _, err := h.client.Hold(h.ctx(), client.HoldOptions{Token: "MADEUP"}); client.Reason(err) != leaseGone {
		t.Errorf("hold with a token that no lease has: %v", err)
	}
	failIf(t, other.Release(t.Context())) // one without programs
	h.rented(true)

	// A file of what there is changes nothing, and one that says otherwise takes a program out of its lease.
	file := h.write("chains.yaml", []byte(h.ctl(0, "chain", "-o", "yaml").stdout))
	if r := h.ctl(0, "apply", "-f", file, "--dry-run"); !strings.Contains(r.stdout, "othing") {
		t.Errorf("apply of what there is: %+v", r)
	}
	h.rented(true)
	if _, err := h.client.SetChains(h.ctx(), &xdpdv1.SetChainsRequest{
		Programs: []*xdpdv1.ProgramSpec{{Name: "tap", Lifetime: xdpdv1.Lifetime_LIFETIME_DAEMON}}, Chains: []*xdpdv1.ChainSpec{chainOf(second, "guard", "stays", "tap")},
	}); err != nil {
		t.Error(err)
	}
	if v := h.leases(); len(v) != 1 || !slices.Equal(v[0].GetPrograms(), []string{"guard"}) {
		t.Errorf("leases: %v", v)
	}
	failIf(t, l.Release(t.Context()))
	if now := h.picture(false); strings.Contains(now, "guard") || !strings.Contains(now, "program tap") || len(h.leases()) > 0 {
		t.Errorf("there is %s", now)
	}
	h.learn()
	h.Check()
	h.stop(unix.SIGTERM)
}
