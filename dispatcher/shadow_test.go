// SPDX-License-Identifier: Apache-2.0

package dispatcher

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/perf"
	"github.com/cilium/ebpf/ringbuf"
	"golang.org/x/sys/unix"

	"github.com/xdpd/xdpd/chain"
	"github.com/xdpd/xdpd/internal/netif/nettest"
)

func TestUseOfMaps(t *testing.T) {
	number := &btf.Int{Name: "u64", Size: 8}
	timer := &btf.Struct{Name: "bpf_timer", Size: 16}
	struct_ := func(types ...btf.Type) btf.Type {
		s := &btf.Struct{Name: "value"}
		for _, t := range types {
			s.Members = append(s.Members, btf.Member{Type: t})
		}
		return s
	}
	tagged := func(tag string) btf.Type { return &btf.Pointer{Target: &btf.TypeTag{Type: number, Value: tag}} }
	section := func(t btf.Type) btf.Type {
		return &btf.Datasec{Vars: []btf.VarSecinfo{{Type: &btf.Var{Name: "v", Type: t}}}}
	}
	for _, c := range []struct {
		value btf.Type
		holds bool
	}{
		{nil, false},
		{number, false},
		{struct_(number, &btf.Struct{Name: "bpf_spin_lock", Size: 4}), false},
		{struct_(number, &btf.Pointer{Target: timer}), false},
		{struct_(&btf.Typedef{Name: "t", Type: timer}), true},
		{&btf.Array{Type: struct_(timer), Nelems: 3}, true},
		{&btf.Union{Members: []btf.Member{{Type: number}, {Type: timer}}}, true},
		{section(number), false},
		{section(&btf.Struct{Name: "bpf_rb_root"}), true},
		{struct_(tagged("kptr")), true},
		{struct_(&btf.Volatile{Type: tagged("uptr")}), true},
		{struct_(tagged("rcu")), false},
	} {
		if got := holdsObjects(c.value); got != c.holds {
			t.Errorf("%v: %v, want %v", c.value, got, c.holds)
		}
	}
}

// newMap makes a map that the test closes.
func newMap(t *testing.T, spec ebpf.MapSpec) *ebpf.Map {
	t.Helper()
	m, err := ebpf.NewMap(&spec)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	return m
}

// TestCopyEntries copies maps of each type, empty, with some entries and full, in batches and one by one.
func TestCopyEntries(t *testing.T) {
	cpus := ebpf.MustPossibleCPU()
	for _, spec := range []ebpf.MapSpec{
		{Type: ebpf.Hash, MaxEntries: 3000, ValueSize: 12},
		{Type: ebpf.Hash, MaxEntries: 24, ValueSize: 600_000}, // one is a batch, and too small for some hashes
		{Type: ebpf.Hash, MaxEntries: 300, ValueSize: 9000, Flags: unix.BPF_F_NO_PREALLOC},
		{Type: ebpf.PerCPUHash, MaxEntries: 300, ValueSize: 12},
		{Type: ebpf.LRUHash, MaxEntries: 3000, ValueSize: 8},
		{Type: ebpf.LRUCPUHash, MaxEntries: 3000, ValueSize: 8},
		{Type: ebpf.Array, MaxEntries: 1, ValueSize: 3 << 20},
		{Type: ebpf.Array, MaxEntries: 1000, ValueSize: 9},
		{Type: ebpf.PerCPUArray, MaxEntries: 77, ValueSize: 20},
		{Type: ebpf.LPMTrie, MaxEntries: 300, ValueSize: 8, Flags: unix.BPF_F_NO_PREALLOC},
	} {
		lru := spec.Type == ebpf.LRUHash || spec.Type == ebpf.LRUCPUHash
		array := spec.Type == ebpf.Array || spec.Type == ebpf.PerCPUArray
		spec.KeySize = 4
		if spec.Type == ebpf.LPMTrie {
			spec.KeySize = 8
		}
		for _, n := range []int{0, int(spec.MaxEntries) / 3, int(spec.MaxEntries)} {
			from := newMap(t, spec)
			c := mapCopy{from: from, cpus: valuesOf(from)}
			if perCPU := c.cpus; perCPU != 1 && perCPU != cpus {
				t.Fatalf("%s has %d values an entry", spec.Type, perCPU)
			}
			key := make([]byte, spec.KeySize)
			if spec.Type == ebpf.LPMTrie {
				binary.NativeEndian.PutUint32(key, 32)
			}
			for i := range n {
				binary.NativeEndian.PutUint32(key[spec.KeySize-4:], uint32(i))
				_, values := c.buffers(1)
				for cpu := range c.cpus {
					copy(values.Index(cpu).Slice(0, int(spec.ValueSize)).Bytes(), fmt.Sprintf("%d.%d", i, cpu))
				}
				if err := from.Put(key, values.Interface()); err != nil {
					t.Fatal(err)
				}
			}
			want := entries(t, c)
			for name, run := range map[string]func(mapCopy) error{"batches": mapCopy.run, "singly": mapCopy.runSingly} {
				came := 0
				c.to = newMap(t, spec)
				c.came = func(n int) error { came += n; return nil }
				if err := run(c); err != nil {
					t.Fatalf("%s of %d entries, %s: %v", spec.Type, n, name, err)
				}
				back := c
				back.from = c.to
				got, whole := entries(t, back), n
				if array {
					whole = int(spec.MaxEntries)
				}
				if lru && n == int(spec.MaxEntries) { // the kernel makes room ahead of need
					gone := slices.DeleteFunc(slices.Clone(got), func(e string) bool { return slices.Contains(want, e) })
					if len(gone) > 0 || len(got) < len(want)/2 || came != len(want) {
						t.Errorf("%s that is full, %s: of %d entries came %d, the copy has %d, %d of them others", spec.Type, name, len(want), came, len(got), len(gone))
					}
				} else if !slices.Equal(got, want) || came != whole {
					t.Errorf("%s of %d entries, %s: %d came, the copy has %d, want %d", spec.Type, n, name, came, len(got), len(want))
				}
			}
		}
	}
}

// entries are all keys and values of c.from, sorted.
func entries(t *testing.T, c mapCopy) (all []string) {
	t.Helper()
	var at any
	for {
		key, err := c.from.NextKeyBytes(at)
		if err != nil {
			t.Fatal(err)
		}
		if key == nil {
			slices.Sort(all)
			return all
		}
		_, values := c.buffers(1)
		if err := c.from.Lookup(key, values.Interface()); err != nil {
			t.Fatal(err)
		}
		entry := string(key)
		for cpu := range c.cpus {
			entry += string(values.Index(cpu).Slice(0, int(c.from.ValueSize())).Bytes())
		}
		all, at = append(all, entry), key
	}
}

// TestCopyRoom says that maps that are too large are refused before they are made, and others while they are read.
func TestCopyRoom(t *testing.T) {
	spec := ebpf.MapSpec{Type: ebpf.Hash, KeySize: 4, ValueSize: 8, MaxEntries: 1000}
	full := func(spec ebpf.MapSpec) *ebpf.Map {
		m := newMap(t, spec)
		for i := range uint32(1000) {
			if err := m.Put(i, uint64(i)); err != nil {
				t.Fatal(err)
			}
		}
		return m
	}
	for _, flags := range []uint32{0, unix.BPF_F_NO_PREALLOC} {
		spec.Flags = flags
		m := full(spec)
		s := &shadowMaps{room: 1000*copyCost(m) - 1}
		if to, err := s.copy(m, &spec, useCopy); err == nil || !strings.Contains(err.Error(), "512 MiB") {
			t.Errorf("a map that is too large gives %v, %v", to, err)
		}
		s.room = 1000 * copyCost(m)
		to, err := s.copy(m, &spec, useCopy)
		if err != nil {
			t.Fatal(err)
		}
		to.Close()
		if s.room != 0 {
			t.Errorf("there is room for %d bytes left", s.room)
		}
	}
	if err := (&shadowMaps{room: maxCopied}).take(math.MaxInt32, 1<<20); err == nil {
		t.Error("there is room for anything")
	}
}

// pinned opens a map of a program. The test closes it.
func (p *program) pinned(name string) *ebpf.Map {
	p.b.Helper()
	m, err := ebpf.LoadPinnedMap(filepath.Join(p.b.plane.programDir(p.id), "maps", escape(name)), nil)
	p.b.check(err)
	p.b.Cleanup(func() { m.Close() })
	return m
}

// counting are the maps in which counter of testdata/contract/shadow.c counts, in the order in which it shows the
// counts, with keys of value 0.
var counting = []string{"hash", "sparse", "lru", "array", "cpu_hash", "cpu_lru", "cpu_array", "timers", "trie", "inner", "locks"}

func countingKey(name string) any {
	if name == "trie" {
		return [2]uint32{32, 0}
	}
	return uint32(0)
}

// edit has f change what each map of counting holds for key 0: a value, or one for each CPU.
func (p *program) edit(f func(i int, values [][]byte)) {
	p.b.Helper()
	for i, name := range counting {
		c := mapCopy{from: p.pinned(name)}
		c.cpus = valuesOf(c.from)
		_, values := c.buffers(1)
		if err := c.from.Lookup(countingKey(name), values.Interface()); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			p.b.Fatal(err)
		}
		var all [][]byte
		for cpu := range c.cpus {
			all = append(all, values.Index(cpu).Slice(0, int(c.from.ValueSize())).Bytes())
		}
		f(i, all)
		p.b.check(c.from.Put(countingKey(name), values.Interface()))
	}
}

// start sets the counts: to 100 in the first map, 200 in the next, on each CPU.
func (p *program) start() {
	p.b.Helper()
	p.edit(func(i int, values [][]byte) {
		for _, v := range values {
			binary.NativeEndian.PutUint64(v, uint64(100*(i+1)))
		}
	})
	p.b.check(p.pinned("fixed").Put(uint32(0), uint64(4711)))
	p.b.check(p.pinned(".data").Put(uint32(0), uint64(7)))
	p.set(state{})
}

// counted is by how much the counts differ from those of start, with those of .data and .bss at the end.
func (p *program) counted() (by []uint64) {
	p.b.Helper()
	p.edit(func(i int, values [][]byte) {
		sum := uint64(0)
		for _, v := range values {
			sum += binary.NativeEndian.Uint64(v) - uint64(100*(i+1))
		}
		by = append(by, sum)
	})
	data, err := p.pinned(".data").LookupBytes(uint32(0))
	p.b.check(err)
	return append(by, binary.NativeEndian.Uint64(data)-7, p.state().Seen)
}

// TestContractShadowCopies says which maps are copied, once for all members, that copies begin with what is in a
// map, and that the map itself stays as it is; and that without copies it does not.
func TestContractShadowCopies(t *testing.T) {
	b := newBench(t)
	p := b.load("shadow", "counter")
	ring, err := ringbuf.NewReader(p.pinned("ring"))
	b.check(err)
	defer ring.Close()
	events, err := perf.NewReader(p.pinned("perf"), os.Getpagesize())
	b.check(err)
	defer events.Close()
	live := map[bool][]string{
		true:  {"inner", "outer", "queue", "timers"},
		false: append([]string{".bss", ".data", "outer", "perf", "queue", "ring"}, counting...),
	}
	const packets = 3
	for _, copies := range []bool{true, false} {
		p.start()
		s := b.shadow(copies, chain.Drop, all(passing, p, p)...)
		for n := range uint64(packets) {
			got := b.trace(s, nettest.Frame(frameSize))
			b.same(got, expect(all(passing, p, p), chain.Drop, []uint32{2, 2}))
			shown(t, got.Packet, 2*n+2)
		}
		var want []string
		for _, name := range live[copies] {
			want = append(want, p.name()+"/"+name)
		}
		slices.Sort(want)
		if got := s.LiveMaps(); !slices.Equal(got, want) {
			t.Errorf("with copies %v the live maps are\n%q, want\n%q", copies, got, want)
		}
		noted := slices.ContainsFunc(s.Notes(), func(n string) bool { return strings.Contains(n, "ring buffers") })
		if noted != copies {
			t.Errorf("with copies %v the notes are %q", copies, s.Notes())
		}
		for i, by := range p.counted() {
			name, want := append(slices.Clone(counting), ".data", ".bss")[i], uint64(0)
			if slices.Contains(live[copies], name) {
				want = 2 * packets
			}
			if by != want {
				t.Errorf("with copies %v map %s has counted %d, want %d", copies, name, by, want)
			}
		}
		end := time.Now()
		if !copies {
			end = end.Add(nettest.Patience)
		}
		ring.SetDeadline(end)
		events.SetDeadline(end)
		_, ringErr := ring.Read()
		_, perfErr := events.Read()
		if got := errors.Is(ringErr, os.ErrDeadlineExceeded); got != copies {
			t.Errorf("with copies %v a reader of the ring buffer gets %v", copies, ringErr)
		}
		if got := errors.Is(perfErr, os.ErrDeadlineExceeded); got != copies {
			t.Errorf("with copies %v a reader of the perf buffer gets %v", copies, perfErr)
		}
		b.check(s.Close())
	}
}

// shown fails the test unless counter showed that it has counted so much more than at the start.
func shown(t *testing.T, packet []byte, by uint64) {
	t.Helper()
	var values [16]uint64
	if _, err := binary.Decode(packet[16:], binary.NativeEndian, &values); err != nil {
		t.Fatal(err)
	}
	for i, name := range counting {
		least, most := uint64(100*(i+1))+by, uint64(100*(i+1))+by
		if strings.HasPrefix(name, "cpu_") {
			least -= by - 1 // packets may have been on other CPUs
		}
		if values[i] < least || values[i] > most {
			t.Errorf("the count in %s was %d, want %d to %d", name, values[i], least, most)
		}
	}
	if want := []uint64{7 + by, 11, 4711, values[9], by}; !slices.Equal(values[11:], want) {
		t.Errorf("the values from .data on were %d, want %d", values[11:], want)
	}
}

// TestUninterrupted says that a signal waits until the thread may be interrupted again. The runtime sends this
// one to have a goroutine give way, and ignores others'.
func TestUninterrupted(t *testing.T) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	mask := func() (set unix.Sigset_t) {
		if err := unix.PthreadSigmask(unix.SIG_BLOCK, nil, &set); err != nil {
			t.Fatal(err)
		}
		return set
	}
	pending := func() bool {
		status, err := os.ReadFile("/proc/thread-self/status")
		if err != nil {
			t.Fatal(err)
		}
		_, field, _ := strings.Cut(string(status), "SigPnd:\t")
		set, err := strconv.ParseUint(field[:16], 16, 64)
		if err != nil {
			t.Fatal(err)
		}
		return set&(1<<(unix.SIGURG-1)) != 0
	}
	before, cause := mask(), errors.New("the cause")
	err := uninterrupted(func() error {
		if err := unix.Tgkill(os.Getpid(), unix.Gettid(), unix.SIGURG); err != nil {
			t.Error(err)
		}
		if !pending() {
			t.Error("the signal did not wait")
		}
		return cause
	})
	if !errors.Is(err, cause) || mask() != before {
		t.Errorf("after it %v; the mask is %v, was %v", err, mask(), before)
	}
	for end := time.Now().Add(nettest.Patience); pending(); { // the runtime may have sent another one just now
		if time.Now().After(end) {
			t.Fatal("the signal waits for ever")
		}
	}
}
