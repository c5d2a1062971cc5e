// SPDX-License-Identifier: Apache-2.0

package examples_test

import (
	"bytes"
	_ "embed" // for an object
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/rlimit"

	"github.com/xdpd/xdpd/examples"
)

// The verdicts, and the return code that only the dispatcher knows.
const (
	aborted = 0
	drop    = 1
	pass    = 2
	tx      = 3
	goOn    = 31
)

//go:embed testdata/shield.bpf.o
var shieldObject []byte // of docs/writing-programs.md

// all are the objects, by the name of their function, with the verdicts that they may return.
var all = map[string]struct {
	object   []byte
	verdicts []uint32
}{
	"blocklist": {examples.Blocklist, []uint32{drop, pass}},
	"ratelimit": {examples.Ratelimit, []uint32{drop, pass}},
	"sampler":   {examples.Sampler, []uint32{goOn}},
	"l4lb":      {examples.L4LB, []uint32{drop, pass, tx}},
	"shield":    {shieldObject, []uint32{drop, pass, goOn}},
}

func TestMain(m *testing.M) {
	if err := rlimit.RemoveMemlock(); err != nil {
		fmt.Fprintln(os.Stderr, "allow BPF maps to be made (needs root):", err)
		os.Exit(1)
	}
	before := openFiles()
	code := m.Run()
	if after := openFiles(); code == 0 && after > before {
		fmt.Fprintf(os.Stderr, "%d descriptors were open before the tests, %d after\n", before, after)
		code = 1
	}
	os.Exit(code)
}

func openFiles() int {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		panic(err)
	}
	n := 0
	for _, e := range entries {
		// the runtime's own poller stays once it is used
		if to, err := os.Readlink("/proc/self/fd/" + e.Name()); err == nil && to != "anon_inode:[eventpoll]" && to != "anon_inode:[eventfd]" {
			n++
		}
	}
	return n
}

// loaded is a program in the kernel with its maps.
type loaded struct {
	*testing.T
	prog *ebpf.Program
	maps map[string]*ebpf.Map
}

// load loads an example as a plain XDP program.
func load(t *testing.T, name string) loaded {
	t.Helper()
	spec, err := ebpf.LoadCollectionSpecFromReader(bytes.NewReader(all[name].object))
	if err != nil {
		t.Fatal(err)
	}
	coll, err := ebpf.NewCollection(spec)
	if err != nil {
		t.Fatalf("%+v", err)
	}
	t.Cleanup(coll.Close)
	return loaded{t, coll.Programs[name], coll.Maps}
}

// run gives the program a packet and returns its verdict and what became of the packet.
func (l loaded) run(packet []byte) (uint32, []byte) {
	l.Helper()
	verdict, out, err := l.prog.Test(packet)
	if err != nil {
		l.Fatalf("run a packet of %d bytes: %v", len(packet), err)
	}
	return verdict, out
}

// want fails the test if the program has another verdict for the packet.
func (l loaded) want(verdict uint32, packet []byte, what string) {
	l.Helper()
	if got, _ := l.run(packet); got != verdict {
		l.Errorf("%s: verdict %d, want %d", what, got, verdict)
	}
}

// put sets an entry of a map.
func (l loaded) put(name string, key, value any) {
	l.Helper()
	if err := l.maps[name].Put(key, value); err != nil {
		l.Fatalf("set an entry of map %s: %v", name, err)
	}
}

// total adds up what all CPUs counted in an array of numbers.
func (l loaded) total(name string, index uint32) uint64 {
	l.Helper()
	var perCPU []uint64
	if err := l.maps[name].Lookup(index, &perCPU); err != nil {
		l.Fatalf("read map %s: %v", name, err)
	}
	var sum uint64
	for _, n := range perCPU {
		sum += n
	}
	return sum
}

// plain are a TCP and a UDP packet in IPv4 and IPv6 each.
func plain() []packet {
	var all []packet
	for _, proto := range []uint8{tcp, udp} {
		all = append(all,
			between(proto, "192.0.2.1:1024", "198.51.100.1:80"),
			between(proto, "[2001:db8:1::1]:1024", "[2001:db8:2::1]:80"))
	}
	return all
}

// eachShape calls f with every shape of every plain packet.
func eachShape(f func(name string, p packet)) {
	for _, p := range plain() {
		family := 6
		if p.src.Addr().Is4() {
			family = 4
		}
		for _, s := range shapes {
			if s.only == 0 || s.only == family {
				f(fmt.Sprintf("%s, IPv%d, protocol %d", s.name, family, p.proto), p.with(s.change))
			}
		}
	}
}

// TestDamagedPackets cuts packets at every length and changes bytes in them at random: no program may return
// anything but its own verdicts.
func TestDamagedPackets(t *testing.T) {
	for name, e := range all {
		t.Run(name, func(t *testing.T) {
			l := load(t, name)
			configure(l, name)
			check := func(b []byte) {
				if got, _ := l.run(b); !slices.Contains(e.verdicts, got) {
					t.Fatalf("verdict %d for % x", got, b)
				}
			}
			random := rand.New(rand.NewPCG(1, 2))
			eachShape(func(_ string, p packet) {
				whole := p.bytes()
				for n := 14; n <= min(len(whole), 200); n++ {
					check(whole[:n])
				}
				for range 200 {
					b := slices.Clone(whole)
					for range 1 + random.IntN(8) {
						b[12+random.IntN(min(len(b)-12, 120))] = byte(random.Uint32())
					}
					check(b)
				}
			})
		})
	}
}

// configure sets the maps so that a program does all it can with the plain packets.
func configure(l loaded, name string) {
	switch name {
	case "blocklist":
		denyPort(l, tcp, 80)
	case "ratelimit":
		l.put("config", uint32(0), limit{Rate: 1, Burst: 1000})
		l.put("buckets", plain()[0].src.Addr().As16(), bucket{uint64(monotonic(l.T) + time.Hour)}) // is far from a token
	case "sampler":
		l.put("config", uint32(0), samplerConfig{Every: 2})
	case "l4lb":
		balance(l, tcp, 0)
		balance(l, udp, 1)
	case "shield":
		l.put("port", uint32(0), uint16(80))
	}
}
