// SPDX-License-Identifier: Apache-2.0

package nettest

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"

	"github.com/xdpd/xdpd/internal/leaktest"
)

func TestMain(m *testing.M) { leaktest.Main(m) }

func TestFramesArrive(t *testing.T) {
	ns := New(t)
	got := ns.Receiver(t, Dev, EtherType)
	send := ns.Sender(t, Peer)
	send.Send(Frame(64), 10)
	got.Wait(10)
	if n := len(got.Last()); n != 64 {
		t.Errorf("the last frame has %d bytes, want 64", n)
	}
	if send.Sent != 10 || got.Count() != 10 {
		t.Errorf("sent %d, received %d, want 10 of 10", send.Sent, got.Count())
	}
}

func TestUDPFrameIsOneForTheKernel(t *testing.T) {
	ns := New(t)
	src, dst := netip.MustParseAddrPort("10.9.0.2:1000"), netip.MustParseAddrPort("10.9.0.1:2000")
	RunIn(ns, func() {
		run(t, "ip", "addr", "add", "10.9.0.1/24", "dev", Dev)
		// rp_filter would ask for the way back to 10.9.0.2.
		for _, scope := range []string{"all", Dev} {
			if err := os.WriteFile("/proc/sys/net/ipv4/conf/"+scope+"/rp_filter", []byte("0"), 0); err != nil {
				t.Fatal(err)
			}
		}
		conn, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(dst))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		ns.Sender(t, Peer).Send(UDP(src, dst, []byte("hello")), 1)
		if err := conn.SetReadDeadline(time.Now().Add(Patience)); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 100)
		n, from, err := conn.ReadFromUDPAddrPort(buf)
		if err != nil || string(buf[:n]) != "hello" || from != src {
			t.Errorf("received %q from %v, %v", buf[:n], from, err)
		}
	})
}

func TestFlowLosesNothing(t *testing.T) {
	ns := New(t)
	got := ns.Receiver(t, Dev, EtherType)
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		defer cancel()
		for got.Count() < 10_000 && ctx.Err() == nil {
			time.Sleep(time.Millisecond)
		}
	}()
	sent, err := ns.Sender(t, Peer).Flow(ctx, Frame(64), got)
	cancel() // also where Flow gave up
	if err != nil || sent < 10_000 || got.Count() != sent {
		t.Errorf("sent %d, received %d: %v", sent, got.Count(), err)
	}
}

func TestNamespacesAreApart(t *testing.T) {
	a, b := New(t), New(t)
	if a.inode == b.inode {
		t.Fatalf("both namespaces are %s", a.inode)
	}
	home, _ := os.Readlink("/proc/thread-self/ns/net")
	RunIn(a, func() {
		if in := strings.TrimSpace(string(run(t, "readlink", "/proc/self/ns/net"))); in != a.inode {
			t.Errorf("a child of RunIn is in %s, want %s", in, a.inode)
		}
	})
	if back, _ := os.Readlink("/proc/thread-self/ns/net"); back != home {
		t.Errorf("the thread is in %s after RunIn, want %s", back, home)
	}
	if out := run(t, "nsenter", "--net="+b.Path(), "readlink", "/proc/self/ns/net"); strings.TrimSpace(string(out)) != b.inode {
		t.Errorf("Path leads to %s, want %s", out, b.inode)
	}
}

func TestInterfacesChange(t *testing.T) {
	ns := New(t)
	ns.AddPair(t, "more0", "more1")
	index := ns.Index(t, "more0")
	ns.Rename(t, "more0", "less0")
	ns.SetMTU(t, "less0", 1400)
	if again := ns.Index(t, "less0"); again != index {
		t.Errorf("the index is %d after the rename, want %d", again, index)
	}
	ns.Delete(t, "less0")
	RunIn(ns, func() {
		if out := run(t, "ip", "-o", "link"); strings.Contains(string(out), "more1") {
			t.Errorf("the peer is still there: %s", out)
		}
	})
}

// recorder is a testing.TB that keeps what it is told instead of failing.
type recorder struct {
	testing.TB
	said []string
}

func (r *recorder) Errorf(format string, args ...any) {
	r.said = append(r.said, fmt.Sprintf(format, args...))
}

func TestProgramThatStaysIsNamed(t *testing.T) {
	ns := New(t)
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: ebpf.XDP, License: "GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 2), asm.Return()},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer prog.Close()
	RunIn(ns, func() {
		l, err := link.AttachXDP(link.XDPOptions{Program: prog, Interface: ns.Index(t, Dev)})
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		if found := ns.programs(); len(found) != 1 || !strings.Contains(found[0], Dev) {
			t.Errorf("found %q, want the program on %s", found, Dev)
		}
	})
	if found := ns.programs(); len(found) != 0 {
		t.Errorf("found %q after it went", found)
	}
}

func TestWhoStaysIsNamed(t *testing.T) {
	ns := New(t)
	stay := exec.Command("sleep", "60")
	RunIn(ns, func() {
		if err := stay.Start(); err != nil {
			t.Fatal(err)
		}
	})
	found := strings.Join(ns.inhabitants(), "; ")
	if err := stay.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = stay.Wait() // it was killed
	if !strings.Contains(found, fmt.Sprintf("%d/task", stay.Process.Pid)) {
		t.Errorf("found %q, want process %d", found, stay.Process.Pid)
	}
	other, err := create()
	if err != nil {
		t.Fatal(err)
	}
	r := &recorder{TB: t}
	other.end(r)
	if len(r.said) != 0 {
		t.Errorf("an empty namespace ends with %v", r.said)
	}
}

func run(t *testing.T, name string, args ...string) []byte {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
	return out
}

func TestNamed(t *testing.T) {
	home, blue := New(t), Named(t, "blue")
	home.Join(t, "uplink0", blue, "eth0")
	name := blue.Name()
	if out := run(t, "nsenter", "--net=/run/netns/"+name, "readlink", "/proc/self/ns/net"); strings.TrimSpace(string(out)) != blue.inode {
		t.Errorf("the name leads to %s, want %s", out, blue.inode)
	}
	got := blue.Receiver(t, "eth0", EtherType)
	home.Sender(t, "uplink0").Send(Frame(64), 3)
	got.Wait(3)

	blue.Rename(t, "eth0", "eth1")
	blue.Move(t, "eth1", home)
	home.Settle(t, "uplink0", "eth1")
	home.Move(t, "eth1", blue)
	blue.Settle(t, "eth1")

	got.Close() // it would keep the namespace alive
	blue.Drop(t)
	if _, err := os.Lstat("/run/netns/" + name); err == nil {
		t.Error("the name is still there")
	}
	RunIn(home, func() {
		for deadline := time.Now().Add(Patience); strings.Contains(string(run(t, "ip", "-o", "link")), "uplink0"); time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatal("the namespace lives on without a name")
			}
		}
	})
	if again := Named(t, "blue"); again.Name() != name || again.inode == "" {
		t.Errorf("the next one is %q, want %q", again.Name(), name)
	}
}
