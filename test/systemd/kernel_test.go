// SPDX-License-Identifier: Apache-2.0

package systemd

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	xdpdv1 "github.com/xdpd/xdpd/api/proto/xdpd/v1"
	"github.com/xdpd/xdpd/internal/netif/nettest"
)

// The veth pair: chains are on dev, and what peer sends arrives there.
const (
	dev  = "x0"
	peer = "x1"
)

// addPair makes the pair anew.
func addPair(t testing.TB) {
	t.Helper()
	removePair(t)
	pair := &netlink.Veth{LinkAttrs: netlink.NewLinkAttrs(), PeerName: peer}
	pair.Name = dev
	if err := netlink.LinkAdd(pair); err != nil {
		t.Fatalf("add the veth pair: %v", err)
	}
	for _, name := range []string{dev, peer} {
		l, err := netlink.LinkByName(name)
		if err == nil {
			err = netlink.LinkSetUp(l)
		}
		if err != nil {
			t.Fatalf("set %s up: %v", name, err)
		}
	}
	waitForPair(t)
}

// waitForPair waits until the pair is operational: what is sent before is dropped without a word.
func waitForPair(t testing.TB) {
	t.Helper()
	for _, name := range []string{dev, peer} {
		for deadline := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
			l, err := netlink.LinkByName(name)
			if err == nil && l.Attrs().OperState == netlink.OperUp {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("%s is not up after %v: %v", name, patience, err)
			}
		}
	}
}

func removePair(t testing.TB) {
	t.Helper()
	l, err := netlink.LinkByName(dev)
	if err != nil {
		return // there is none
	}
	if err := netlink.LinkDel(l); err != nil {
		t.Fatalf("remove the veth pair: %v", err)
	}
}

// onDev is the id of the XDP program that is on dev; 0: there is none.
func onDev(t testing.TB) uint32 {
	t.Helper()
	id, err := lookAtDev()
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func lookAtDev() (uint32, error) {
	l, err := netlink.LinkByName(dev)
	if err != nil {
		return 0, fmt.Errorf("look at %s: %w", dev, err)
	}
	if x := l.Attrs().Xdp; x != nil && x.Attached {
		return x.ProgId, nil
	}
	return 0, nil
}

// wantUntouched looks all the time at which program is on dev, until the function that it returns is called: that
// fails the test if it was another one than at first at any time.
func (h *host) wantUntouched() (look func()) {
	h.Helper()
	first := onDev(h)
	if first == 0 {
		h.Fatalf("there is no program on %s", dev)
	}
	seen := map[string]bool{}
	end := h.meanwhile(func() {
		if id, err := lookAtDev(); err != nil || id != first {
			seen[fmt.Sprintf("program %d, error %v", id, err)] = true
		}
	})
	return func() {
		h.Helper()
		end()
		if len(seen) > 0 {
			h.Errorf("%s had the program %d, and meanwhile: %v", dev, first, seen)
		}
		if now := onDev(h); now != first {
			h.Errorf("%s has the program %d, want %d still", dev, now, first)
		}
	}
}

// send sends frames from peer.
func send(t testing.TB, frames int) {
	t.Helper()
	l, err := netlink.LinkByName(peer)
	if err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	for range frames {
		if err := unix.Sendto(fd, nettest.Frame(64), 0, &unix.SockaddrLinklayer{Ifindex: l.Attrs().Index}); err != nil {
			t.Fatalf("send a frame: %v", err)
		}
	}
}

// chain asks the daemon for the chain on dev.
func (h *host) chain() *xdpdv1.Chain {
	h.Helper()
	got, err := h.client.GetChain(h.ctx(), &xdpdv1.GetChainRequest{Interface: dev})
	if err != nil {
		h.Fatal(err)
	}
	return got.GetChain()
}

// status asks the daemon how it is.
func (h *host) status() *xdpdv1.GetStatusResponse {
	h.Helper()
	got, err := h.client.GetStatus(h.ctx(), &xdpdv1.GetStatusRequest{})
	if err != nil {
		h.Fatal(err)
	}
	return got
}

// check checks that the chain on dev has these members in this order, that the program which the daemon says is on
// dev is there, that nothing is wrong, and that frames go through all members.
func (h *host) check(members ...string) {
	h.Helper()
	const frames = 7
	before := h.chain()
	send(h, frames)
	var after *xdpdv1.Chain
	h.wait("frames to be counted", func() bool {
		after = h.chain()
		return after.GetPackets() >= before.GetPackets()+frames
	}, after.String)
	if got := after.GetPackets() - before.GetPackets(); got != frames {
		h.Errorf("the chain counted %d frames of %d", got, frames)
	}
	var names []string
	for i, m := range after.GetMembers() {
		names = append(names, m.GetProgram())
		if got := m.GetCounters().GetSeen() - before.GetMembers()[i].GetCounters().GetSeen(); got != frames {
			h.Errorf("%s saw %d frames of %d", m.GetProgram(), got, frames)
		}
	}
	if !slices.Equal(names, members) {
		h.Errorf("the chain has the members %v, want %v", names, members)
	}
	if id := onDev(h); after.GetKernelId() == 0 || after.GetKernelId() != id {
		h.Errorf("the daemon says that the program %d is on %s, where %d is", after.GetKernelId(), dev, id)
	}
	if problems := h.status().GetProblems(); len(problems) > 0 {
		h.Errorf("problems: %v", problems)
	}
	if _, err := os.Stat(pins); err != nil {
		h.Error(err)
	}
}

// checkNothing checks that nothing of xdpd is in the kernel: no pin, no link, no program.
func (h *host) checkNothing() {
	h.Helper()
	if _, err := os.Lstat(pins); !errors.Is(err, fs.ErrNotExist) {
		h.Errorf("%s is there after a stop (%v)", pins, err)
	}
	if _, err := netlink.LinkByName(dev); err == nil {
		if id := onDev(h); id != 0 {
			h.Errorf("the program %d is on %s after a stop", id, dev)
		}
	}
	var left []string
	// The kernel frees programs some time after their last user, and tells nobody.
	for deadline := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		if left = loaded(h); len(left) == 0 || time.Now().After(deadline) {
			break
		}
	}
	if len(left) > 0 {
		h.Errorf("in the kernel after a stop: %s", strings.Join(left, ", "))
	}
}

// loaded are the programs in the kernel of the kinds that xdpd loads, without the tests' own.
func loaded(t testing.TB) (found []string) {
	t.Helper()
	for id := ebpf.ProgramID(0); ; {
		next, err := ebpf.ProgramGetNextID(id)
		if errors.Is(err, os.ErrNotExist) {
			return found
		}
		if err != nil {
			t.Fatalf("list the kernel's programs: %v", err)
		}
		id = next
		p, err := ebpf.NewProgramFromID(id)
		if err != nil {
			continue // it went meanwhile
		}
		info, err := p.Info()
		p.Close()
		if err != nil {
			t.Fatalf("look at program %d: %v", id, err)
		}
		if kind := info.Type; (kind == ebpf.XDP || kind == ebpf.Extension) && info.Name != foreign {
			found = append(found, fmt.Sprintf("program %d (%s)", id, info.Name))
		}
	}
}
