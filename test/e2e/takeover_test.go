// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	xdpdv1 "github.com/xdpd/xdpd/api/proto/xdpd/v1"
	"github.com/xdpd/xdpd/internal/failpoint"
	"github.com/xdpd/xdpd/internal/netif/nettest"
)

// hooked attaches a program to an interface by netlink, without a link, as older tools do. It stays when its descriptor goes.
func (h *host) hooked(iface string) (id uint32) {
	h.Helper()
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "older", Type: ebpf.XDP, License: "GPL", Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 2), asm.Return()},
	})
	if err != nil {
		h.Fatal(err)
	}
	defer p.Close()
	nettest.RunIn(h.ns, func() {
		var l netlink.Link
		if l, err = netlink.LinkByName(iface); err == nil {
			err = netlink.LinkSetXdpFdWithFlags(l, p.FD(), 1<<2) // XDP_FLAGS_DRV_MODE
		}
	})
	if err != nil {
		h.Fatal(err)
	}
	return h.attached(iface)
}

// unhook detaches what hooked attached.
func (h *host) unhook(iface string) {
	h.Helper()
	var err error
	nettest.RunIn(h.ns, func() {
		var l netlink.Link
		if l, err = netlink.LinkByName(iface); err == nil {
			err = netlink.LinkSetXdpFdWithFlags(l, -1, 1<<2)
		}
	})
	if err != nil {
		h.Fatal(err)
	}
}

// TestTakeover adds a program where a foreign one is, attached by a link or by netlink: it is refused, unless it is asked for to
// take over. The answer and a dry run say what is replaced, and how.
func TestTakeover(t *testing.T) {
	for _, linked := range []bool{true, false} {
		h := newHost(t, second)
		h.start()
		var foreign uint32
		leave := func() {}
		if linked {
			foreign, leave = h.foreign(second)
		} else {
			foreign = h.hooked(second)
		}
		h.refused(xdpdv1.ErrorReason_ERROR_REASON_INTERFACE_BUSY, adding(add("a", "pass", nettest.Dev, second)))
		r := add("a", "pass", nettest.Dev, second)
		r.Takeover = true
		for _, dry := range []bool{true, false} {
			r.Options = &xdpdv1.ChangeOptions{DryRun: dry}
			answer, err := h.client.AddProgram(h.ctx(), r)
			if err != nil {
				t.Fatal(err)
			}
			took := answer.GetChange().GetTakeovers()
			if len(took) != 1 || took[0].GetInterface() != second || took[0].GetProgramId() != foreign || took[0].GetSwapped() != linked || took[0].GetMode() != xdpdv1.Mode_MODE_NATIVE {
				t.Errorf("linked %v, dry %v: took over %v, want program %d", linked, dry, took, foreign)
			}
			if now := h.attached(second); (now == foreign) != dry {
				t.Errorf("linked %v, dry %v: program %d is there, the foreign one is %d", linked, dry, now, foreign)
			}
		}
		leave() // whoever had it lets go of it
		h.well()
		h.Check()
		h.do(updating(&xdpdv1.MemberUpdate{Program: "a", Priority: ptr(int32(9))}))
		h.Check()
		h.d.kill()
		h.start()
		h.Check()
		h.stop(unix.SIGTERM)
	}
}

// TestTakeoverFails lets a change that takes over fail, and kills the daemon in it: the foreign program is there as before,
// or the chain runs.
func TestTakeoverFails(t *testing.T) {
	for _, how := range []string{
		failpoint.StagePinned + "=error", failpoint.SaveBefore + "=error", failpoint.CommitBefore + "=error@2", failpoint.SaveBefore + "=kill",
		failpoint.SaveAfter + "=kill", failpoint.CommitAfter + "=kill@2",
	} {
		for _, linked := range []bool{true, false} {
			t.Run(how, func(t *testing.T) {
				t.Parallel()
				h := newHost(t, second)
				d := h.start("XDPD_FAILPOINT=" + how)
				var foreign uint32
				leave := func() { h.unhook(second) }
				if linked {
					foreign, leave = h.foreign(second)
				} else {
					foreign = h.hooked(second)
				}
				r := add("a", "pass", nettest.Dev, second)
				r.Takeover = true
				if _, err := h.client.AddProgram(h.ctx(), r); err == nil {
					t.Fatal("nothing failed")
				}
				ended := how[len(how)-len("kill@2"):] == "kill@2"
				if how[len(how)-4:] == "kill" || ended {
					d.killed()
					h.start()
				}
				now := h.attached(second)
				status, err := h.client.GetStatus(h.ctx(), &xdpdv1.GetStatusRequest{})
				if err != nil {
					t.Fatal(err)
				}
				switch {
				case ended:
					h.well()
					if now == foreign || len(h.chained()) != 2 {
						t.Errorf("program %d runs, want the chain; there are chains of %v, and %v", now, h.chained(), status.GetProblems())
					}
					h.Check()
					if linked {
						leave() // else its link outlives its detaching
					}
					h.stop(unix.SIGTERM)
					return
				case now != foreign:
					t.Errorf("program %d runs, want the foreign one, %d", now, foreign)
				case how == failpoint.SaveAfter+"=kill":
					if c := h.chain(second); c.GetState() != xdpdv1.Chain_STATE_FOREIGN {
						t.Errorf("the chain is %v", c)
					}
				case len(status.GetProblems()) > 0 || len(h.chained()) > 0:
					t.Errorf("there are problems %v, and chains of %v", status.GetProblems(), h.chained())
				}
				leave()
				if how == failpoint.SaveAfter+"=kill" {
					h.well()
				}
				h.learn()
				h.Check()
				h.stop(unix.SIGTERM)
			})
		}
	}
}
