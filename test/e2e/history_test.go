// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	xdpdv1 "github.com/xdpd/xdpd/api/proto/xdpd/v1"
	"github.com/xdpd/xdpd/client"
	"github.com/xdpd/xdpd/internal/netif/nettest"
	"github.com/xdpd/xdpd/store"
)

func (h *host) history(iface string) []*xdpdv1.HistoryEntry {
	h.Helper()
	a, err := h.client.ListHistory(h.ctx(), &xdpdv1.ListHistoryRequest{Interface: iface})
	if err != nil {
		h.Fatal(err)
	}
	return a.GetEntries()
}

// TestHistory makes more changes than the history keeps, and looks at what it tells: after each, after a kill and
// after a stop.
func TestHistory(t *testing.T) {
	h := newHost(t, second)
	h.start()
	began := time.Now().Add(-time.Second)
	if _, err := h.client.ListHistory(h.ctx(), &xdpdv1.ListHistoryRequest{Interface: nettest.Dev}); client.Reason(err) != xdpdv1.ErrorReason_ERROR_REASON_CHAIN_NOT_FOUND {
		t.Errorf("history of an interface without: %v", err)
	}
	r := persistent(add("a", "pass", nettest.Dev, second))
	r.Options = &xdpdv1.ChangeOptions{Comment: "the first one"}
	h.do(adding(r), adding(persistent(add("b", "goon", nettest.Dev))))
	if _, err := h.client.ReplaceProgram(h.ctx(), &xdpdv1.ReplaceProgramRequest{Name: "a", Function: "plain"}); err != nil {
		t.Fatal(err)
	}
	want := []string{"3 replace a", "2 add b", "1 add a the first one"}
	if got := outlines(h.history(nettest.Dev)); !slices.Equal(got, want) {
		t.Errorf("the history is %q, want %q", got, want)
	}
	if got := outlines(h.history(second)); !slices.Equal(got, []string{"2 replace a", "1 add a the first one"}) {
		t.Errorf("the history of the other interface is %q", got)
	}
	// What changes nothing, or is only tried, is not in it.
	same := &xdpdv1.UpdateMembersRequest{Updates: []*xdpdv1.MemberUpdate{{Program: "b", Position: last}}}
	dry := &xdpdv1.UpdateMembersRequest{Updates: []*xdpdv1.MemberUpdate{{Program: "b", Position: first}}, Options: &xdpdv1.ChangeOptions{DryRun: true}}
	for _, r := range []*xdpdv1.UpdateMembersRequest{same, dry} {
		if _, err := h.client.UpdateMembers(h.ctx(), r); err != nil {
			t.Error(err)
		}
	}
	if got := outlines(h.history(nettest.Dev)); !slices.Equal(got, want) {
		t.Errorf("the history is %q after nothing, want %q", got, want)
	}
	for i := range int32(historyLimit + 5) {
		u := &xdpdv1.MemberUpdate{Program: "b", Priority: ptr(60 + i)}
		_, err := h.client.UpdateMembers(h.ctx(), &xdpdv1.UpdateMembersRequest{
			Updates: []*xdpdv1.MemberUpdate{u}, Options: &xdpdv1.ChangeOptions{Comment: fmt.Sprint("step ", i)},
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	entries := h.history(nettest.Dev)
	if len(entries) != historyLimit {
		t.Errorf("the history has %d entries, want %d", len(entries), historyLimit)
	}
	for i, e := range entries {
		step := historyLimit + 4 - i
		m := e.GetChain().GetMembers()
		wrong := e.GetRevision() != uint64(4+step) || e.GetWhat() != "update b" || e.GetComment() != fmt.Sprint("step ", step) ||
			e.GetCaller().GetUid() != 0 || e.GetCaller().GetPid() != int32(os.Getpid()) || e.GetCurrent() != (i == 0) ||
			e.GetTime().AsTime().Before(began) || e.GetTime().AsTime().After(time.Now().Add(time.Second)) ||
			len(m) != 2 || m[1].GetPriority() != int32(60+step) || len(e.GetPrograms()) != 2 || e.GetPrograms()[0].GetFunction() != "plain" ||
			len(e.GetDiff()) != 1 || !strings.Contains(e.GetDiff()[0], fmt.Sprint("-> ", 60+step))
		if wrong {
			t.Errorf("entry %d is %v", i, e)
		}
	}
	told := fmt.Sprint(entries)
	h.d.kill()
	h.start()
	if now := fmt.Sprint(h.history(nettest.Dev)); now != told {
		t.Errorf("after a kill the history is\n%s\nbefore it was\n%s", now, told)
	}
	h.stop(unix.SIGTERM)
	h.start()
	if now := fmt.Sprint(h.history(nettest.Dev)); now != told {
		t.Errorf("after a stop the history is\n%s\nbefore it was\n%s", now, told)
	}
	h.learn()
	h.Check()
	h.stop(unix.SIGTERM)
}

// outlines are the entries of a history: the revision, and what was done and said.
func outlines(entries []*xdpdv1.HistoryEntry) (lines []string) {
	for _, e := range entries {
		lines = append(lines, strings.TrimSpace(fmt.Sprintf("%d %s %s", e.GetRevision(), e.GetWhat(), e.GetComment())))
	}
	return lines
}

// TestHistoryKeepsObjects looks that an object is kept as long as a program or the history refers to it, and no
// longer.
func TestHistoryKeepsObjects(t *testing.T) {
	h := newHost(t)
	if err := appendTo(h.config, "history: 4\n"); err != nil {
		t.Fatal(err)
	}
	h.start()
	h.do(adding(persistent(add("keep", "pass", nettest.Dev))))
	trail := &xdpdv1.AddProgramRequest{Name: "t", Object: trails, Function: "mark", Interfaces: []string{nettest.Dev}}
	if _, err := h.client.AddProgram(h.ctx(), trail); err != nil {
		t.Fatal(err)
	}
	sum := h.object("t")
	if _, err := h.client.RemoveProgram(h.ctx(), &xdpdv1.RemoveProgramRequest{Name: "t"}); err != nil {
		t.Fatal(err)
	}
	again := &xdpdv1.AddProgramRequest{Name: "t", ObjectSha256: sum, Function: "mark", Interfaces: []string{nettest.Dev}}
	for i := range int32(7) {
		// It is in the history from its addition on; the entry of the removal does not have it any more.
		refers := slices.ContainsFunc(h.history(nettest.Dev), func(e *xdpdv1.HistoryEntry) bool {
			return slices.ContainsFunc(e.GetPrograms(), func(p *xdpdv1.ProgramSpec) bool { return p.GetObjectSha256() == sum })
		})
		again.Options = &xdpdv1.ChangeOptions{DryRun: true}
		_, err := h.client.AddProgram(h.ctx(), again)
		if refers && err != nil {
			t.Errorf("while the history has it: %v", err)
		}
		if i == 0 && !refers {
			t.Error("the history forgot the program at once")
		}
		if i == 6 && (refers || client.Reason(err) != xdpdv1.ErrorReason_ERROR_REASON_OBJECT_NOT_FOUND || client.Facts(err)["sha256"] != sum) {
			t.Errorf("when the history has forgotten it: %v %v", err, client.Facts(err))
		}
		u := &xdpdv1.MemberUpdate{Program: "keep", Priority: ptr(60 + i)}
		if _, err := h.client.UpdateMembers(h.ctx(), &xdpdv1.UpdateMembersRequest{Updates: []*xdpdv1.MemberUpdate{u}}); err != nil {
			t.Fatal(err)
		}
		if i == 1 {
			h.d.kill()
			h.hasObject(sum, true)
			h.start()
		}
	}
	h.learn()
	h.Check()
	h.stop(unix.SIGTERM)
	h.hasObject(sum, false)
}

func appendTo(path, text string) error {
	old, err := os.ReadFile(path)
	return errors.Join(err, os.WriteFile(path, append(old, text...), 0o600))
}

// hasObject looks into the store of a daemon that does not run.
func (h *host) hasObject(sum string, want bool) {
	h.Helper()
	st, err := store.Open(filepath.Join(h.dir, "state", "xdpd.db"))
	if err != nil {
		h.Fatal(err)
	}
	defer st.Close()
	if err := st.Check(); err != nil {
		h.Error(err)
	}
	_, err = st.Object(sum)
	if has := err == nil; has != want || err != nil && !errors.Is(err, store.ErrNotFound) {
		h.Errorf("the store has object %.12s: %t, want %t (%v)", sum, has, want, err)
	}
}

// view is the chain of one interface with the versions of its programs, as the daemon tells it; "" where it has none.
func (h *host) view(iface string) string {
	h.Helper()
	a, err := h.client.GetChain(h.ctx(), &xdpdv1.GetChainRequest{Interface: iface})
	if client.Reason(err) == xdpdv1.ErrorReason_ERROR_REASON_CHAIN_NOT_FOUND {
		return ""
	}
	if err != nil {
		h.Fatal(err)
	}
	ch, _ := decoded(a.GetChain())
	line := fmt.Sprintf("%+v", ch)
	for _, m := range ch.Members {
		p, err := h.client.GetProgram(h.ctx(), &xdpdv1.GetProgramRequest{Name: m.Program})
		if err != nil {
			h.Fatal(err)
		}
		v := p.GetProgram()
		line += fmt.Sprintf("\n  %s %s of %.12s %v %v", v.GetName(), v.GetFunction(), v.GetObjectSha256(), v.GetLifetime(), v.GetSettings().GetGlobals())
	}
	return line
}

// past makes an interface have several chains, with programs that come, become others and go, and returns what each
// revision was.
func (h *host) past(t *testing.T) map[uint64]string {
	was := map[uint64]string{}
	set := func(programs []*xdpdv1.ProgramSpec, c *xdpdv1.ChainSpec) {
		t.Helper()
		r := &xdpdv1.SetChainsRequest{Programs: programs, Chains: []*xdpdv1.ChainSpec{c}}
		for _, p := range programs {
			if object, ours := map[string][]byte{sumOf(trails): trails, sumOf(verdicts): verdicts}[p.GetObjectSha256()]; ours {
				r.Objects = append(r.Objects, object)
			}
		}
		a, err := h.client.SetChains(h.ctx(), r)
		if err != nil {
			t.Fatalf("%v %v", err, client.Facts(err))
		}
		revision := a.GetChains()[0].GetRevision()
		if revision == 0 {
			revision = h.history(nettest.Dev)[0].GetRevision()
		}
		was[revision] = h.view(nettest.Dev)
	}
	object, other := sumOf(verdicts), sumOf(trails)
	version := func(v string) *xdpdv1.ProgramSettings {
		return &xdpdv1.ProgramSettings{Globals: map[string]string{"version": v, "id": "1"}}
	}
	a := &xdpdv1.ProgramSpec{Name: "a", ObjectSha256: object, Function: "pass"}
	set([]*xdpdv1.ProgramSpec{a}, chainOf(nettest.Dev, "a"))
	set([]*xdpdv1.ProgramSpec{{Name: "m", ObjectSha256: other, Function: "mark", Settings: version("1")}}, chainOf(nettest.Dev, "m", "a"))
	set([]*xdpdv1.ProgramSpec{{Name: "m", Settings: version("2")}}, chainOf(nettest.Dev, "a", "m"))
	c := chainOf(nettest.Dev, "m", "a")
	c.FinalVerdict = xdpdv1.Verdict_VERDICT_DROP
	c.Members[1].Enabled, c.Members[1].Priority = ptr(false), ptr(int32(99))
	c.Members[0].ProceedOn = &xdpdv1.ProceedOn{Verdicts: []xdpdv1.Verdict{xdpdv1.Verdict_VERDICT_TX}}
	set(nil, c)
	set([]*xdpdv1.ProgramSpec{{Name: "a", Function: "goon", Lifetime: xdpdv1.Lifetime_LIFETIME_PERSISTENT}}, chainOf(nettest.Dev, "a"))
	set(nil, chainOf(nettest.Dev))
	set([]*xdpdv1.ProgramSpec{{Name: "m", ObjectSha256: object, Function: "plain"}}, chainOf(nettest.Dev, "m"))
	if len(was) != 7 {
		t.Fatalf("there were %d chains, want 7: %v", len(was), was)
	}
	return was
}

// TestRollback brings back every chain that an interface had, in any order, over a kill and a stop.
func TestRollback(t *testing.T) {
	h := newHost(t)
	h.start()
	was := h.past(t)
	revisions := slices.Sorted(maps.Keys(was))
	seed := rand.Uint64()
	random := rand.New(rand.NewPCG(seed, 0))
	steps := 2 * len(revisions)
	if testing.Short() {
		steps = len(revisions)
	}
	for step := range steps {
		to := revisions[random.IntN(len(revisions))]
		if step < len(revisions) {
			to = revisions[step]
		}
		a, err := h.client.Rollback(h.ctx(), &xdpdv1.RollbackRequest{Interface: nettest.Dev, Revision: to})
		if err != nil {
			t.Fatalf("step %d (seed %d): %v %v", step, seed, err, client.Facts(err))
		}
		if now := h.view(nettest.Dev); now != was[to] || a.GetRevision() != to {
			t.Fatalf("step %d (seed %d), rollback to %d: there is\n%s\nthere was\n%s\nthe answer says %v", step, seed, to, now, was[to], a)
		}
		h.learn()
		h.Check()
		if step == 3 || step == 9 {
			h.d.kill()
			h.start()
		}
	}
	// Without a revision it is the one before the last change, and so again and again.
	one, two := revisions[1], revisions[2]
	for _, to := range []uint64{one, two} {
		if _, err := h.client.Rollback(h.ctx(), &xdpdv1.RollbackRequest{Interface: nettest.Dev, Revision: to}); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		for _, to := range []uint64{one, two} {
			if _, err := h.client.Rollback(h.ctx(), &xdpdv1.RollbackRequest{Interface: nettest.Dev}); err != nil {
				t.Fatal(err)
			}
			if now := h.view(nettest.Dev); now != was[to] {
				t.Errorf("there is\n%s\nwant that of revision %d\n%s", now, to, was[to])
			}
		}
	}
	picture := h.picture(true)
	h.refusedRollbacks(t)
	if now := h.picture(true); now != picture {
		t.Errorf("there is\n%s\nthere was\n%s", now, picture)
	}
	h.learn()
	h.Check()
	h.stop(unix.SIGTERM)
	h.start()
	if _, err := h.client.Rollback(h.ctx(), &xdpdv1.RollbackRequest{Interface: nettest.Dev, Revision: one}); err != nil {
		t.Fatal(err)
	}
	if now := h.view(nettest.Dev); now != was[one] {
		t.Errorf("after a stop: there is\n%s\nwant\n%s", now, was[one])
	}
	h.learn()
	h.Check()
	h.stop(unix.SIGTERM)
}

// refusedRollbacks asks for rollbacks that cannot be, or are only to be tried.
func (h *host) refusedRollbacks(t *testing.T) {
	for name, c := range map[string]struct {
		r      *xdpdv1.RollbackRequest
		reason xdpdv1.ErrorReason
	}{
		"no such revision":    {&xdpdv1.RollbackRequest{Interface: nettest.Dev, Revision: 9999}, xdpdv1.ErrorReason_ERROR_REASON_REVISION_NOT_FOUND},
		"never had a chain":   {&xdpdv1.RollbackRequest{Interface: nettest.Peer}, xdpdv1.ErrorReason_ERROR_REASON_CHAIN_NOT_FOUND},
		"no such interface":   {&xdpdv1.RollbackRequest{Interface: "nosuch0"}, xdpdv1.ErrorReason_ERROR_REASON_CHAIN_NOT_FOUND},
		"only to be tried":    {&xdpdv1.RollbackRequest{Interface: nettest.Dev, Revision: 1, Options: &xdpdv1.ChangeOptions{DryRun: true}}, 0},
		"the chain there is":  {&xdpdv1.RollbackRequest{Interface: nettest.Dev, Revision: h.chain(nettest.Dev).GetRevision()}, 0},
		"an earlier revision": {&xdpdv1.RollbackRequest{Interface: nettest.Dev, Options: &xdpdv1.ChangeOptions{ExpectedRevisions: map[string]uint64{nettest.Dev: 1}}}, xdpdv1.ErrorReason_ERROR_REASON_REVISION_MISMATCH},
	} {
		a, err := h.client.Rollback(h.ctx(), c.r)
		if client.Reason(err) != c.reason || err == nil && c.reason != 0 || err != nil && c.reason == 0 {
			t.Errorf("%s: %v, want %v", name, err, c.reason)
		}
		if dry := c.r.GetOptions().GetDryRun(); dry && (!a.GetChange().GetChanged() || !a.GetChange().GetDryRun()) {
			t.Errorf("%s: %v", name, a)
		} else if !dry && a.GetChange().GetChanged() {
			t.Errorf("%s: %v", name, a)
		}
	}
}

// TestRollbackOfSharedPrograms brings back a chain whose program was another version and is on other interfaces too.
func TestRollbackOfSharedPrograms(t *testing.T) {
	h := newHost(t, second)
	h.start()
	h.do(adding(add("a", "pass", nettest.Dev, second)), adding(add("b", "goon", second)))
	before := h.picture(true)
	if _, err := h.client.ReplaceProgram(h.ctx(), &xdpdv1.ReplaceProgramRequest{Name: "a", Function: "drop"}); err != nil {
		t.Fatal(err)
	}
	replaced := h.picture(true)
	_, err := h.client.Rollback(h.ctx(), &xdpdv1.RollbackRequest{Interface: nettest.Dev})
	if f := client.Facts(err); client.Reason(err) != xdpdv1.ErrorReason_ERROR_REASON_PROGRAM_SHARED || f["program"] != "a" || f["interfaces"] != second {
		t.Errorf("a rollback that concerns another interface: %v %v", err, f)
	}
	// Somebody's change there waits to be confirmed: nothing is done, on no interface.
	waits := &xdpdv1.UpdateMembersRequest{Updates: []*xdpdv1.MemberUpdate{{Program: "b", Position: first}}, Options: within(time.Hour)}
	made, err := h.client.UpdateMembers(h.ctx(), waits)
	if err != nil {
		t.Fatal(err)
	}
	_, err = h.client.Rollback(h.ctx(), &xdpdv1.RollbackRequest{Interface: nettest.Dev, Everywhere: true})
	if f := client.Facts(err); client.Reason(err) != xdpdv1.ErrorReason_ERROR_REASON_CHANGE_PENDING || f["interface"] != second {
		t.Errorf("a rollback of what waits: %v %v", err, f)
	}
	if _, err := h.client.Cancel(h.ctx(), &xdpdv1.CancelRequest{Id: made.GetChange().GetPending().GetId()}); err != nil {
		t.Fatal(err)
	}
	if now := h.picture(true); now != replaced {
		t.Errorf("there is\n%s\nthere was\n%s", now, replaced)
	}
	a, err := h.client.Rollback(h.ctx(), &xdpdv1.RollbackRequest{Interface: nettest.Dev, Everywhere: true})
	if err != nil || len(a.GetChains()) != 2 {
		t.Fatalf("everywhere: %v, %v", a, err)
	}
	// The map went from version to version, there and back.
	if now := h.picture(true); now != before {
		t.Errorf("there is\n%s\nthere was\n%s", now, before)
	}
	h.learn()
	h.Check()
	h.stop(unix.SIGTERM)
}
