// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	xdpdv1 "github.com/xdpd/xdpd/api/proto/xdpd/v1"
	"github.com/xdpd/xdpd/chain"
	"github.com/xdpd/xdpd/client"
	"github.com/xdpd/xdpd/internal/netif"
	"github.com/xdpd/xdpd/internal/netif/nettest"
)

// eth0 is what interfaces in other namespaces are called, uplink0 is the host's end of one.
const eth0, uplink0 = "eth0", "uplink0"

// at is where an interface is, and what it is called there.
func (h *host) at(ref string) (ns *nettest.NS, name string) {
	h.Helper()
	netns, name, elsewhere := cutLast(ref)
	if !elsewhere {
		return h.ns, name
	}
	if ns = h.others[netns]; ns == nil {
		h.Fatalf("%s is in no namespace of this test", ref)
	}
	return ns, name
}

func cutLast(ref string) (netns, name string, elsewhere bool) {
	i := strings.LastIndexByte(ref, ':')
	return ref[:max(i, 0)], ref[i+1:], i >= 0
}

func (h *host) index(ref string) int {
	h.Helper()
	ns, name := h.at(ref)
	return ns.Index(h, name)
}

// device is where the link of a chain was made, which names its pins.
type device struct {
	netns uint64
	index int
	use   int // how many chains had that index before, and still have pins
}

func (d device) folder() string {
	folder := fmt.Sprintf("chains/%d-%d", d.netns, d.index)
	if d.use != 0 {
		folder += fmt.Sprintf("-%d", d.use)
	}
	return folder
}

// device is that of an interface, unless it was another one when the link was made.
func (h *host) device(ref string) (d device) {
	h.Helper()
	if d, moved := h.moved[ref]; moved {
		return d
	}
	ns, name := h.at(ref)
	d.index = ns.Index(h, name)
	var id uint32
	nettest.RunIn(ns, func() {
		var err error
		if d.netns, _, err = netif.NetnsCookie(); err != nil {
			h.Fatal(err)
		}
		nic, err := netif.ByName(name)
		if err != nil {
			h.Fatal(err)
		}
		id = nic.XDP.ID
	})
	for used := d; used.use < 4; used.use++ {
		if id != 0 && h.pinnedOn(used) == id {
			return used
		}
	}
	return d
}

// pinnedOn is the program that the pinned link of a device runs, 0 if there is none.
func (h *host) pinnedOn(d device) uint32 {
	h.Helper()
	l, err := link.LoadPinnedLink(filepath.Join(h.pins, d.folder(), "link"), nil)
	if err != nil {
		return 0
	}
	defer l.Close()
	info, err := l.Info()
	if err != nil {
		h.Fatal(err)
	}
	return uint32(info.Program)
}

// beside makes a namespace with a name, and returns that. Its eth0 is joined to uplink0, and has an index that none of the
// host's interfaces has; those of twin0 to twin15 are also indexes of the host's.
func (h *host) beside() (netns string) {
	h.Helper()
	blue := nettest.Named(h, "blue")
	for i := range 8 {
		blue.AddPair(h, fmt.Sprint("twin", 2*i), fmt.Sprint("twin", 2*i+1))
	}
	h.others[blue.Name()] = blue
	h.join(blue.Name())
	return blue.Name()
}

// join joins a namespace to the host's.
func (h *host) join(netns string) {
	h.Helper()
	ns := h.others[netns]
	h.ns.Join(h, uplink0, ns, eth0)
	h.wires[netns+":"+eth0] = wire{h.ns.Sender(h, uplink0), ns.Receiver(h, eth0, nettest.EtherType)}
}

// raze deletes a namespace: it dies, with its end of uplink0, unless somebody holds it.
func (h *host) raze(netns string) {
	h.Helper()
	ref := netns + ":" + eth0
	h.wires[ref].receiver.Close()
	delete(h.wires, ref)
	h.others[netns].Drop(h)
	delete(h.others, netns)
	h.eventually("the namespace dies", func() (gone bool) {
		nettest.RunIn(h.ns, func() {
			_, err := netif.ByName(uplink0)
			gone = errors.Is(err, &chain.Error{Reason: chain.InterfaceNotFound})
		})
		return gone
	})
}

// TestNamespaces has programs on interfaces of another namespace, as on those of the daemon's own: packets are counted
// exactly, also of two interfaces of one index, whatever is done.
func TestNamespaces(t *testing.T) {
	h := newHost(t, second)
	netns := h.beside()
	ref := netns + ":" + eth0
	twin := ""
	for i := range 16 {
		dev := fmt.Sprintf("%s:twin%d", netns, i)
		if h.index(dev) == h.index(nettest.Dev) {
			twin = dev
			ns, name := h.at(dev)
			h.wires[dev] = wire{ns.Sender(t, fmt.Sprint("twin", i^1)), ns.Receiver(t, name, nettest.EtherType)}
		}
	}
	h.start()
	h.do(
		adding(add("a", "goon", nettest.Dev, ref)), adding(add("b", "pass", ref)), adding(add("c", "goon", twin)),
		updating(&xdpdv1.MemberUpdate{Program: "b", Position: first}),
	)
	h.Check()
	if c := h.chain(ref); c.GetState() != xdpdv1.Chain_STATE_RUNNING || int(c.GetIfindex()) != h.index(ref) {
		t.Errorf("the chain is %v", c)
	}
	dry := add("d", "drop", ref)
	dry.Options = &xdpdv1.ChangeOptions{DryRun: true}
	if a, err := h.client.AddProgram(h.ctx(), dry); err != nil || len(a.GetChains()) != 1 || len(a.GetChains()[0].GetMembers()) != 3 {
		t.Errorf("a dry run: %v, %v", a, err)
	}
	h.do(requesting(replace("b", "goon")), removing("a", ref), adding(add("d", "tx", ref)))
	h.Check()
	h.traceElsewhere(t, ref)

	before := h.chain(ref)
	h.d.kill()
	h.sendThrough(h.model, ref, 7)
	h.start()
	if now := h.chain(ref); now.GetKernelId() != before.GetKernelId() || now.GetLinkId() != before.GetLinkId() || now.GetRevision() != before.GetRevision() {
		t.Errorf("after a kill the chain is %v, was %v", now, before)
	}
	h.Check()
	h.do(removing("b"), removing("c"))
	h.Check()
	h.stop(unix.SIGTERM)
}

// traceElsewhere sends a packet off the wire through a chain in another namespace, where the kernel knows its interface.
func (h *host) traceElsewhere(t *testing.T, ref string) {
	t.Helper()
	r := &xdpdv1.TestRunRequest{Interface: ref, Packets: [][]byte{nettest.Frame(64)}, CopyMaps: true}
	a, err := h.client.TestRun(h.ctx(), r)
	if err != nil {
		t.Fatal(err)
	}
	var steps []string
	for _, s := range a.GetPackets()[0].GetSteps() {
		steps = append(steps, fmt.Sprint(s.GetProgram(), " ", s.GetReturnCode()))
	}
	if want := []string{"b 31", "d 3"}; !slices.Equal(steps, want) || a.GetPackets()[0].GetVerdict() != xdpdv1.Verdict_VERDICT_TX {
		t.Errorf("a trace: %v, want %q", a, want)
	}
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		t.Fatal(err)
	}
	if old := strings.HasPrefix(unix.ByteSliceToString(name.Release[:]), "5.10."); !old && len(a.GetNotes()) != 0 {
		t.Errorf("the trace has notes: %q", a.GetNotes())
	}
	if out := h.ctl(0, "trace", ref, "--copy-maps", "--packet", fmt.Sprintf("%x", nettest.Frame(64))).stdout; !strings.Contains(out, "verdict: tx") {
		t.Errorf("xdpctl trace: %s", out)
	}
}

// TestNamespaceSpellings names a namespace by paths: what has a name in /run/netns is known by that alone, and no interface
// gets two chains.
func TestNamespaceSpellings(t *testing.T) {
	h := newHost(t)
	netns := h.beside()
	ref := netns + ":" + eth0
	stay := exec.Command("sleep", "600")
	var err error
	nettest.RunIn(h.others[netns], func() { err = stay.Start() })
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = stay.Process.Kill() // and so it ends
		_ = stay.Wait()
	}()
	process := fmt.Sprintf("/proc/%d/ns/net", stay.Process.Pid)
	h.others[process] = h.others[netns]
	h.start()
	for i, path := range []string{"/run/netns/" + netns, "/var/run/netns/" + netns, netns} {
		if _, err := h.client.AddProgram(h.ctx(), add(fmt.Sprint("p", i), "goon", path+":"+eth0)); err != nil {
			t.Fatalf("%s: %v", path, err)
		}
	}
	h.learn()
	if got := h.chained(); !slices.Equal(got, []string{ref}) || len(h.chain(ref).GetMembers()) != 3 {
		t.Errorf("chains of %v, want one of %s with three programs", got, ref)
	}
	h.Check()
	h.refused(xdpdv1.ErrorReason_ERROR_REASON_INTERFACE_BUSY, adding(add("q", "goon", process+":"+eth0)))
	h.Check()
	for i := range 3 {
		h.do(removing(fmt.Sprint("p", i)))
	}

	wire := h.wires[ref]
	delete(h.wires, ref)
	h.wires[process+":"+eth0] = wire
	h.do(adding(add("q", "goon", process+":"+eth0)))
	h.Check()
	h.d.kill()
	h.start()
	h.Check()
	h.do(removing("q"))
	h.Check()
	h.stop(unix.SIGTERM)
}

// TestNamespaceDies deletes a namespace under a chain, with and without a daemon. It dies, as nobody holds it; the chain
// waits, and comes to what is made anew.
func TestNamespaceDies(t *testing.T) {
	h := newHost(t)
	netns := h.beside()
	ref := netns + ":" + eth0
	h.start()
	h.do(adding(add("a", "goon", nettest.Dev, ref)), adding(add("b", "pass", ref)))
	h.Check()
	for _, killed := range []bool{false, true, false} {
		if killed {
			h.d.kill()
		}
		h.raze(netns)
		if killed {
			h.start()
		}
		h.eventually("the chain waits", func() bool {
			c := h.chain(ref)
			return c.GetState() == xdpdv1.Chain_STATE_WAITING && c.GetKernelId() == 0 && len(c.GetMembers()) == 2
		})
		if c := h.chain(ref); !strings.Contains(c.GetProblem(), "there is no network namespace "+netns) {
			t.Errorf("the chain is %v", c)
		}
		h.eventually("nothing of it is pinned", func() bool { return len(h.glob("chains/*")) == 1 })
		h.send(nettest.Dev, 5)

		again := nettest.Named(t, "blue")
		h.others[netns] = again
		h.join(netns)
		since := time.Now()
		h.eventually("the chain runs again", func() bool { return h.chain(ref).GetState() == xdpdv1.Chain_STATE_RUNNING })
		if took := time.Since(since); took > noticed {
			t.Logf("it ran again after %v", took) // a starved machine is no reason to fail
		}
		h.well()
		h.Check()
	}
	// It can be removed while it waits, and stopped.
	h.raze(netns)
	h.do(removing("b"))
	h.eventually("the chain waits", func() bool { return h.chain(ref).GetState() == xdpdv1.Chain_STATE_WAITING })
	h.stop(unix.SIGTERM)
}

// TestMovedBetweenNamespaces moves an interface to another namespace and back: packets do not notice, and the chain follows,
// with its counts.
func TestMovedBetweenNamespaces(t *testing.T) {
	h := newHost(t, second)
	netns := h.beside()
	blue := h.others[netns]
	h.start()
	h.do(adding(add("a", "goon", nettest.Dev, second, netns+":"+eth0)), adding(add("b", "pass", second)))
	h.Check()
	id := h.chain(second).GetKernelId()
	w := h.watch("")
	follows := func(from, to string) {
		t.Helper()
		if e := w.await("interface_renamed"); e.GetInterface() != to || e.GetInterfaceRenamed().GetFrom() != from {
			t.Errorf("told of %v, want a move from %s to %s", e, from, to)
		}
		h.well()
		if c := h.chain(to); c.GetKernelId() != id || c.GetRenamedFrom() != from || c.GetState() != xdpdv1.Chain_STATE_RUNNING {
			t.Errorf("the chain is %v", c)
		}
		h.Check()
	}
	there := netns + ":" + second
	h.moved[there] = h.device(second)
	h.ns.Move(t, second, blue)
	h.ns.Settle(t, second+"p")
	blue.Settle(t, second)
	h.wires[there] = wire{h.wires[second].sender, blue.Receiver(t, second, nettest.EtherType)}
	delete(h.wires, second)
	follows(second, there)

	// While no daemon runs, and with a chain that is changed there.
	h.do(removing("b", there), adding(add("b2", "drop", there)))
	h.Check()
	h.d.kill()
	blue.Move(t, second, h.ns)
	h.ns.Settle(t, second, second+"p")
	h.wires[second] = wire{h.wires[there].sender, h.ns.Receiver(t, second, nettest.EtherType)}
	delete(h.wires, there)
	id = h.attached(second)
	h.moved[second] = h.moved[there]
	h.start()
	h.well()
	if c := h.chain(second); c.GetKernelId() != id || c.GetState() != xdpdv1.Chain_STATE_RUNNING {
		t.Errorf("the chain is %v", c)
	}
	h.Check()
	h.stop(unix.SIGTERM)
}

// TestIndexOfMovedUsedAgain makes interfaces with the index of one whose chain runs in another namespace by now, the second
// time with its name too, and moves them after it: each has a chain of its own, through kills and links that are detached.
func TestIndexOfMovedUsedAgain(t *testing.T) {
	h := newHost(t, second)
	netns := h.beside()
	blue := h.others[netns]
	h.start()
	h.do(adding(add("a", "goon", nettest.Dev, second)))
	h.Check()
	origin := h.device(second)

	leaves := func(use int, name string) (there string) {
		t.Helper()
		there = netns + ":" + name
		h.ns.Move(t, second, blue)
		if name != second {
			blue.Rename(t, second, name)
		}
		h.ns.Settle(t, second+"p")
		blue.Settle(t, name)
		h.wires[there] = wire{h.wires[second].sender, blue.Receiver(t, name, nettest.EtherType)}
		delete(h.wires, second)
		delete(h.moved, second)
		origin.use = use
		h.moved[there] = origin
		return there
	}
	comes := func(use int) {
		t.Helper()
		h.ns.Rename(t, second+"p", fmt.Sprint("xleft", use))
		h.addAt(origin.index, second, second+"p")
		origin.use = use
		h.moved[second] = origin
	}
	one := leaves(0, "one")
	h.follows(one)
	comes(1)
	h.do(adding(add("b", "pass", second)))
	h.Check()

	// The name is used again before anybody follows.
	h.d.kill()
	two := leaves(1, "two")
	comes(2)
	h.start()
	h.follows(two)
	h.do(adding(add("c", "drop", second)))
	h.Check()
	h.d.kill()
	h.start()
	h.well()
	h.Check()

	w := h.watch("")
	h.detachLink(second)
	h.repaired(w, second)
	h.learn()
	h.Check()
	h.detachLink(two)
	h.repaired(w, two)
	h.learn()
	delete(h.moved, two) // its link is made there by now
	h.Check()
	h.stop(unix.SIGTERM)
}

// TestNameOfMovedUsedAgain moves an interface to another namespace, where the name it gets is another chain's, and makes one
// that has its name and index: a request for that is not done to the one that was moved.
func TestNameOfMovedUsedAgain(t *testing.T) {
	h := newHost(t, second)
	netns := h.beside()
	ref := netns + ":" + eth0
	blue := h.others[netns]
	h.start()
	h.do(adding(add("a", "goon", second, ref)))
	h.Check()
	index := h.ns.Index(t, second)
	blue.Delete(t, eth0)
	h.eventually("the other chain waits", func() bool { return h.chain(ref).GetState() == xdpdv1.Chain_STATE_WAITING })

	h.meanwhileStopped(func() { // or the chain follows before its interface has the other one's name
		h.ns.Move(t, second, blue)
		blue.Rename(t, second, eth0)
		h.ns.Rename(t, second+"p", "xleft")
		h.addAt(index, second, second+"p")
	})
	h.eventually("a problem is told", func() bool {
		s, err := h.client.GetStatus(h.ctx(), &xdpdv1.GetStatusRequest{})
		return err == nil && strings.Contains(strings.Join(s.GetProblems(), "\n"), ref+" now")
	})
	_, err := h.client.AddProgram(h.ctx(), add("b", "drop", second))
	if client.Reason(err) != xdpdv1.ErrorReason_ERROR_REASON_INTERFACE_NOT_FOUND || client.Facts(err)["name"] != ref {
		t.Errorf("%v %v, want that it is %s now", err, client.Facts(err), ref)
	}
	if _, err := h.client.RemoveProgram(h.ctx(), &xdpdv1.RemoveProgramRequest{Name: "a", Interfaces: []string{ref}}); err != nil {
		t.Error(err)
	}
	h.follows(ref)
	h.do(adding(add("b", "drop", second)))
	if h.attached(second) == 0 {
		t.Error("the chain does not run")
	}
	h.stop(unix.SIGTERM)
}

// TestNamespacesThatAreNone names what is no network namespace: it is refused at once, and nothing is opened that should not
// be.
func TestNamespacesThatAreNone(t *testing.T) {
	h := newHost(t)
	h.start()
	h.do(adding(add("a", "pass", nettest.Dev)))
	path := func(name string) string { return filepath.Join(h.dir, name) }
	for _, err := range []error{unix.Mkfifo(path("fifo"), 0o600), os.WriteFile(path("file"), nil, 0o600), os.Symlink("fifo", path("link"))} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for netns, says := range map[string]string{
		"nosuch": "there is no network namespace nosuch", path("none"): "there is no network namespace", path("fifo"): "is not a network namespace",
		path("file"): "is not a network namespace", path("link"): "is not a network namespace", h.dir: "is not a network namespace",
		"/proc/self/ns/mnt": "is not a network namespace", "/dev/null": "is not a network namespace", path("file/x"): "there is no network namespace",
	} {
		err := h.refused(xdpdv1.ErrorReason_ERROR_REASON_NETNS_NOT_FOUND, adding(add("b", "pass", nettest.Dev, netns+":"+eth0)))
		if err == nil || !strings.Contains(err.Error(), says) || client.Facts(err)["netns"] != netns {
			t.Errorf("%s: %v %v, want %q", netns, err, client.Facts(err), says)
		}
	}
	netns := h.beside()
	if err := h.refused(xdpdv1.ErrorReason_ERROR_REASON_INTERFACE_NOT_FOUND, adding(add("b", "pass", netns+":nosuch0"))); err == nil || !strings.Contains(err.Error(), "network namespace "+netns) {
		t.Error(err)
	}
	h.Check()
	h.stop(unix.SIGTERM)
}
