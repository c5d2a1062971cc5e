// SPDX-License-Identifier: Apache-2.0

package dispatcher

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/xdpd/xdpd/chain"
)

func configured(t testing.TB, o *Object, s chain.Settings) *Object {
	t.Helper()
	c, err := o.Configure(s)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TestContractGlobals has one object under several settings at once, each of which decides what its program does.
func TestContractGlobals(t *testing.T) {
	b := newBench(t)
	o := object(t, "settings", "settings")
	sized := map[string]uint32{"unsized": 16}
	with := func(globals map[string]string) *program {
		p, _ := b.loadAs(Load{Object: configured(t, o, chain.Settings{Globals: globals, MaxEntries: sized})})
		return p
	}
	pass := with(nil)
	drop := with(map[string]string{"code": `"XDP_DROP"`})
	strict := with(map[string]string{"strict": "true"})
	lenient := with(map[string]string{"strict": "true", "u32": "32", "code": `"XDP_PASS"`})
	for _, c := range []struct {
		slots   []*program
		verdict chain.Verdict
		at      int
	}{
		{[]*program{pass, lenient, drop, pass}, chain.Drop, 2},
		{[]*program{lenient, strict, drop}, chain.Aborted, 1},
	} {
		b.run(b.plan(all(passing, c.slots...)...))
		b.send.Send(frame(), 4)
		e := b.exits(len(c.slots), 4)
		if n := e[c.at][c.verdict]; n != 4 {
			t.Errorf("%d packets ended with %v at member %d, want 4: %v", n, c.verdict, c.at, e)
		}
	}
	b.run(b.plan(all(passing, pass, lenient)...))
	b.follow(frame(), 4, byte(pass.id), byte(lenient.id))
}

// TestContractMaxEntries gives a size to a map that has none, and another to one that has.
func TestContractMaxEntries(t *testing.T) {
	b := newBench(t)
	_, err := b.plane.Load(Load{ID: 50, Name: "mine", Object: object(t, "settings", "settings")})
	if e := reason(t, err, chain.MapInvalid, `"unsized"`, `"mine"`); e.Facts["map"] != "unsized" {
		t.Errorf("the facts are %v", e.Facts)
	}
	o := configured(t, object(t, "settings", "settings"), chain.Settings{MaxEntries: map[string]uint32{"unsized": 3, "outer": 5}})
	p, _ := b.loadAs(Load{Object: o})
	b.run(b.plan(p.on(passing)))
	b.follow(frame(), 3, byte(p.id))
	for _, m := range p.maps() {
		want := map[string]uint32{"unsized": 3, "outer": 5, "inner": 1}[m.Name]
		if want != 0 && m.MaxEntries != want {
			t.Errorf("map %s has %d entries, want %d", m.Name, m.MaxEntries, want)
		}
		if m.GID != 0 {
			t.Errorf("the pin of map %s is of group %d", m.Name, m.GID)
		}
	}
	_, err = b.plane.Load(Load{ID: 50, Name: "mine", Object: configured(t, o, chain.Settings{MaxEntries: map[string]uint32{"unsized": 1 << 31}})})
	if err == nil || !strings.Contains(err.Error(), `"unsized"`) {
		t.Errorf("Load of a map that is too large gives %v", err)
	}
}

// --- pins of a group ---

const (
	openPin = "XDPD_TEST_OPEN_PIN" // for a child of the tests: a pin that it opens, and says what came of it
	appID   = 54321                // a user and a group that nobody has
)

func init() {
	pin := os.Getenv(openPin)
	if pin == "" {
		return
	}
	m, err := ebpf.LoadPinnedMap(pin, nil)
	if err == nil {
		err = m.Put(uint32(3), uint64(33))
	}
	if err != nil {
		fmt.Println(err)
		os.Exit(3)
	}
	fmt.Println("written")
	os.Exit(0)
}

// tryPin has a process of another user open and write a pin.
func (b *bench) tryPin(pin string, gid uint32) (string, bool) {
	b.Helper()
	root, err := os.Open(testFS)
	b.check(err)
	defer root.Close()
	cmd := exec.CommandContext(b.Context(), "/proc/self/exe")
	cmd.ExtraFiles = []*os.File{root}
	cmd.Env = []string{openPin + "=/proc/self/fd/3" + strings.TrimPrefix(pin, testFS)}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: appID, Gid: gid}}
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && (!errors.As(err, &exit) || exit.ExitCode() != 3) {
		b.Fatalf("the other process: %v: %s", err, out)
	}
	return strings.TrimSpace(string(out)), err == nil
}

// bpfForAll tells whether a process without capabilities may use a map at all. Before Linux 5.19 it may not where
// the sysctl kernel.unprivileged_bpf_disabled is set; since then that is only about making maps and programs.
func (b *bench) bpfForAll() bool {
	b.Helper()
	value, err := os.ReadFile("/proc/sys/kernel/unprivileged_bpf_disabled")
	b.check(err)
	return kernelAtLeast(b, 5, 19) || strings.TrimSpace(string(value)) == "0"
}

// TestContractGroup gives the pins of one program's maps to a group.
func TestContractGroup(t *testing.T) {
	b := newBench(t)
	closed, _ := b.loadAs(Load{Object: object(t, "carry", "")})
	for _, dir := range []string{"", "programs"} {
		b.mode(dir, 0o700, 0)
	}
	open, _ := b.loadAs(Load{Object: object(t, "carry", ""), GID: appID})
	b.mode("", 0o711, 0)
	b.mode("programs", 0o711, 0)
	for p, c := range map[*program]struct {
		dir, maps, pin os.FileMode
		gid            uint32
	}{closed: {0o700, 0o700, 0o600, 0}, open: {0o711, 0o750, 0o660, appID}} {
		dir := fmt.Sprint("programs/", p.id)
		b.mode(dir, c.dir, 0)
		b.mode(dir+"/maps", c.maps, c.gid)
		for _, m := range p.maps() {
			b.mode(strings.TrimPrefix(m.Pin, b.plane.Root()), c.pin, c.gid)
			if m.GID != c.gid {
				t.Errorf("map %s is of group %d, want %d", m.Name, m.GID, c.gid)
			}
		}
	}
	for _, c := range []struct {
		p    *program
		gid  uint32
		want bool
	}{{open, appID, true}, {open, appID + 1, false}, {closed, appID, false}} {
		pin := filepath.Join(b.plane.programDir(c.p.id), "maps", "array")
		said, ok := b.tryPin(pin, c.gid)
		t.Logf("%s as group %d: %s", pin, c.gid, said)
		if want := c.want && b.bpfForAll(); ok != want {
			t.Errorf("%s as group %d: %v (%s), want %v", pin, c.gid, ok, said, want)
		} else if want && open.count("array", 3) != 33 {
			t.Errorf("the array has %d", open.count("array", 3))
		}
	}
	if said, ok := b.tryPin(filepath.Join(b.plane.programDir(open.id), "maps"), appID); ok {
		t.Errorf("a folder was opened as a map: %s", said)
	}
	b.run(b.plan(all(passing, closed, open)...))
	b.follow(frame(), 3, byte(closed.id), byte(open.id))
	b.check(b.plane.Close())
	var err error
	b.plane, err = Open(b.plane.Root(), testLinker())
	b.check(err)
	if runs := b.live(b.revision); runs.KernelID == 0 {
		t.Error("nothing runs")
	}
}

// mode fails the test unless a path in the plane's folder has this mode, and is of root and this group.
func (b *bench) mode(path string, want os.FileMode, gid uint32) {
	b.Helper()
	var st unix.Stat_t
	b.check(unix.Stat(filepath.Join(b.plane.Root(), path), &st))
	if got := os.FileMode(st.Mode & 0o7777); got != want || st.Uid != 0 || st.Gid != gid {
		b.Errorf("%q has mode %v of %d:%d, want %v of 0:%d", path, got, st.Uid, st.Gid, want, gid)
	}
}

// maps are the program's maps.
func (p *program) maps() []Map {
	p.b.Helper()
	_, maps, err := p.b.plane.Program(p.id)
	p.b.check(err)
	return maps
}

// count is a number in a map of the program: the one of a key, over all CPUs where each has its own.
func (p *program) count(name string, key uint32) uint64 {
	p.b.Helper()
	m, err := p.b.plane.openMap(p.id, name)
	p.b.check(err)
	defer m.Close()
	if m.Type() == ebpf.PerCPUArray || m.Type() == ebpf.PerCPUHash {
		var each []uint64
		p.b.check(m.Lookup(key, &each))
		sum := uint64(0)
		for _, n := range each {
			sum += n
		}
		return sum
	}
	value, err := m.LookupBytes(key)
	p.b.check(err)
	if value == nil {
		return 0
	}
	return binary.NativeEndian.Uint64(value)
}

// variable is a global variable of 8 bytes or less in a section of the program.
func (p *program) variable(name string) uint64 {
	p.b.Helper()
	v := globalsOf(p.object.spec.Maps)[name][0]
	m, err := p.b.plane.openMap(p.id, v.section)
	p.b.check(err)
	defer m.Close()
	value, err := m.LookupBytes(uint32(0))
	p.b.check(err)
	return binary.NativeEndian.Uint64(append(slices.Clone(value[v.offset:v.offset+v.size]), make([]byte, 8)...))
}

// TestContractLoadOfUnloaded has nothing to carry or to share from.
func TestContractLoadOfUnloaded(t *testing.T) {
	b := newBench(t)
	before := b.pins()
	for _, l := range []Load{{Carry: 77}, {Share: 77, Shared: "other"}} {
		l.ID, l.Name, l.Object = 50, "mine", object(t, "step", "")
		if _, err := b.plane.Load(l); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("Load gives %v", err)
		}
	}
	if now := b.pins(); !slices.Equal(now, before) {
		t.Errorf("pins %q after Load failed, %q before", now, before)
	}
}
