// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	xdpdv1 "github.com/xdpd/xdpd/api/proto/xdpd/v1"
	"github.com/xdpd/xdpd/internal/netif/nettest"
)

// TestLostUnderAPendingChange removes the maps of a program while a change of its chain waits to be confirmed: the program is
// loaded anew all the same, and the change can be undone, with the program in its place or not.
func TestLostUnderAPendingChange(t *testing.T) {
	h := newHost(t, second)
	h.start()
	h.do(adding(add("a", "pass", nettest.Dev)), adding(add("b", "goon", nettest.Dev, second)))
	h.Check()
	for _, change := range []func() (uint64, error){
		func() (uint64, error) {
			u := &xdpdv1.MemberUpdate{Program: "a", Enabled: ptr(false)} // nothing but the pin holds its maps
			r, err := h.client.UpdateMembers(h.ctx(), &xdpdv1.UpdateMembersRequest{Updates: []*xdpdv1.MemberUpdate{u}, Options: within(time.Hour)})
			return r.GetChange().GetPending().GetId(), err
		},
		func() (uint64, error) {
			r, err := h.client.RemoveProgram(h.ctx(), &xdpdv1.RemoveProgramRequest{Name: "a", Options: within(time.Hour)})
			return r.GetChange().GetPending().GetId(), err
		},
	} {
		before := h.picture(false)
		program, err := h.client.GetProgram(h.ctx(), &xdpdv1.GetProgramRequest{Name: "a"})
		if err != nil {
			t.Fatal(err)
		}
		pin := fmt.Sprintf("%s/programs/%d/maps/runs", h.pins, program.GetProgram().GetId())
		id, err := change()
		if err != nil {
			t.Fatal(err)
		}
		w := h.watch("")
		if err := os.Remove(pin); err != nil {
			t.Fatal(err)
		}
		if h.has("a") {
			h.repaired(w, "program a")
		}
		h.cancelled(w, id)
		h.well()
		if after := h.picture(false); after != before {
			t.Errorf("there is\n%s\nthere was\n%s", after, before)
		}
		h.Check()
	}
	h.stop(unix.SIGTERM)
}

// has tells whether there is a program.
func (h *host) has(name string) bool {
	h.Helper()
	_, err := h.client.GetProgram(h.ctx(), &xdpdv1.GetProgramRequest{Name: name})
	return err == nil
}
