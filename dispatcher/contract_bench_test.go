// SPDX-License-Identifier: Apache-2.0

package dispatcher

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/link"

	"github.com/xdpd/xdpd/chain"
	"github.com/xdpd/xdpd/internal/netif"
	"github.com/xdpd/xdpd/internal/netif/nettest"
)

// The contract tests say what a chain means. They are the same for both linkers: XDPD_TEST_LINKER says which.

// passing is the proceed-on set of a member for which none was given.
var passing = chain.Of(chain.Pass)

// bench is a plane with interfaces to try it on. At the end of the test it is torn down, and the test fails if
// something of it stays in the kernel.
type bench struct {
	*testing.T
	ns       *nettest.NS
	plane    *Plane
	dev      Device
	got      *nettest.Receiver // behind the chain
	send     *nettest.Sender
	revision uint64
	programs uint64
	owned    map[string]func() error // what was seen in the kernel, and how to look for it
}

// testLinker is the linker that the suite runs with.
func testLinker() string {
	if name := os.Getenv("XDPD_TEST_LINKER"); name != "" {
		return name
	}
	return Auto
}

func newBench(t *testing.T) *bench {
	t.Helper()
	ns := nettest.New(t)
	plane, err := Open(filepath.Join(testFS, "xdpd"), testLinker())
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{T: t, ns: ns, plane: plane, owned: map[string]func() error{}}
	b.dev = Device{Netns: 7, Ifindex: ns.Index(t, nettest.Dev)}
	t.Cleanup(b.end)
	b.got = ns.Receiver(t, nettest.Dev, nettest.EtherType)
	b.send = ns.Sender(t, nettest.Peer)
	return b
}

func TestContractLinker(t *testing.T) {
	b := newBench(t)
	name, reason := b.plane.Linker()
	t.Logf("linker %s: %s", name, reason)
	if asked := testLinker(); asked != Auto && asked != name {
		t.Errorf("XDPD_TEST_LINKER is %s, the plane has %s", asked, name)
	}
	for _, p := range b.plane.Probes() {
		t.Logf("probe %+v", p)
		if p.Name == name && !p.Works {
			t.Errorf("%s is taken, and does not work: %s", name, p.Reason)
		}
		if !p.Works && p.Reason == "" {
			t.Errorf("%s does not work, and nobody knows why", p.Name)
		}
	}
}

func (b *bench) end() {
	b.collect()
	b.atRest("Teardown", func() { b.check(b.plane.Teardown()) })
	if _, err := os.Stat(b.plane.Root()); !errors.Is(err, fs.ErrNotExist) {
		b.Errorf("the folder is there after Teardown: %v", err)
	}
	b.check(b.plane.Close())
	b.gone()
}

// gone fails the test if something that was collected is still in the kernel.
func (b *bench) gone() {
	b.Helper()
	left := lastingIDs(func() []string {
		maps.DeleteFunc(b.owned, func(_ string, look func() error) bool { return errors.Is(look(), fs.ErrNotExist) })
		return slices.Sorted(maps.Keys(b.owned))
	})
	if len(left) > 0 {
		b.Errorf("still in the kernel: %q", left)
	}
}

// atRest fails the test if f leaves BPF descriptors open.
func (b *bench) atRest(what string, f func()) {
	b.Helper()
	before := bpfFiles()
	f()
	if now := bpfFiles(); now != before {
		b.Errorf("%s: %d BPF descriptors were open before, %d are after it: %q", what, before, now, openFiles())
	}
}

func (b *bench) check(err error) {
	b.Helper()
	if err != nil {
		var e *chain.Error
		if errors.As(err, &e) && e.Log != "" {
			b.Logf("%s", e.Log)
		}
		b.Fatal(err)
	}
}

// collect notes the ids of all that pins hold, and of what that holds.
func (b *bench) collect() {
	b.Helper()
	b.check(filepath.WalkDir(b.plane.Root(), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || d.Type() == fs.ModeSymlink {
			return err
		}
		switch name := d.Name(); {
		case name == "link" || strings.HasPrefix(name, "slot-"):
			return b.ownLink(path)
		case name == "prog" || name == "dispatcher":
			prog, err := ebpf.LoadPinnedProgram(path, nil)
			if err != nil {
				return err
			}
			defer prog.Close()
			return b.ownProgram(prog)
		default:
			m, err := ebpf.LoadPinnedMap(path, &ebpf.LoadPinOptions{ReadOnly: true})
			if err != nil {
				return err
			}
			defer m.Close()
			return b.ownMap(m)
		}
	}))
}

func (b *bench) own(kind string, id uint32, look func() (interface{ Close() error }, error)) {
	b.owned[fmt.Sprintf("%s %d", kind, id)] = func() error {
		held, err := look()
		if err == nil {
			err = held.Close()
		}
		return err
	}
}

func (b *bench) ownLink(path string) error {
	l, err := link.LoadPinnedLink(path, nil)
	if err != nil {
		return err
	}
	defer l.Close()
	info, err := l.Info()
	if err != nil {
		return err
	}
	b.own("link", uint32(info.ID), func() (interface{ Close() error }, error) { return link.NewFromID(info.ID) })
	return nil
}

func (b *bench) ownProgram(prog *ebpf.Program) error {
	info, err := prog.Info()
	if err != nil {
		return err
	}
	id, _ := info.ID()
	b.own("program", uint32(id), func() (interface{ Close() error }, error) { return ebpf.NewProgramFromID(id) })
	if types, ok := info.BTFID(); ok {
		b.own("types", uint32(types), func() (interface{ Close() error }, error) { return btf.NewHandleFromID(types) })
	}
	used, _ := info.MapIDs()
	for _, id := range used {
		m, err := ebpf.NewMapFromID(id)
		if err != nil {
			return err
		}
		err = b.ownMap(m)
		m.Close()
		if err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) ownMap(m *ebpf.Map) error {
	info, err := m.Info()
	if err != nil {
		return err
	}
	id, _ := info.ID()
	// By the list of ids: to open and close a program array that the kernel is just clearing makes it leak it.
	b.owned[fmt.Sprintf("map %d", id)] = func() error {
		if next, err := ebpf.MapGetNextID(id - 1); err == nil && next == id {
			return nil
		}
		return fs.ErrNotExist
	}
	if m.Type() != ebpf.ProgramArray {
		return nil
	}
	for key := range m.MaxEntries() {
		var prog uint32
		if m.Lookup(key, &prog) == nil {
			id := ebpf.ProgramID(prog)
			b.own("program", prog, func() (interface{ Close() error }, error) { return ebpf.NewProgramFromID(id) })
		}
	}
	return nil
}

// pins are all the paths in the plane's folder.
func (b *bench) pins() (paths []string) {
	b.Helper()
	b.check(filepath.WalkDir(b.plane.Root(), func(path string, _ fs.DirEntry, err error) error {
		paths = append(paths, strings.TrimPrefix(path, b.plane.Root()))
		return err
	}))
	return paths
}

// until waits until the kernel has come so far.
func (b *bench) until(what string, done func() bool) {
	b.Helper()
	if left := lastingIDs(func() []string {
		if done() {
			return nil
		}
		return []string{what}
	}); left != nil {
		b.Fatalf("in vain for %v: %s", kernelPatience, what)
	}
}

// xdp is the XDP program on the bench's interface, as the kernel reports it to everybody; 0: there is none.
func (b *bench) xdp() uint32 {
	b.Helper()
	return b.xdpOn(b.dev.Ifindex)
}

// xdpOn is xdp for any interface of the bench's namespace.
func (b *bench) xdpOn(ifindex int) (id uint32) {
	b.Helper()
	nettest.RunIn(b.ns, func() {
		state, attached, err := netif.XDP("", ifindex)
		b.check(err)
		if attached {
			id = state.ID
		}
	})
	return id
}
