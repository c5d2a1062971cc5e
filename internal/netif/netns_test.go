// SPDX-License-Identifier: Apache-2.0

package netif

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/xdpd/xdpd/chain"
	"github.com/xdpd/xdpd/internal/netif/nettest"
)

// joined makes a namespace with a name, whose eth0 is joined to uplink0 in a namespace like the daemon's.
func joined(t *testing.T) (home, blue *nettest.NS) {
	t.Helper()
	home, blue = nettest.New(t), nettest.Named(t, "blue")
	home.Join(t, "uplink0", blue, "eth0")
	return home, blue
}

// spellings are the ways to say which namespace it is.
func spellings(t *testing.T, ns *nettest.NS) []string {
	t.Helper()
	stay := exec.Command("sleep", "600")
	nettest.RunIn(ns, func() {
		if err := stay.Start(); err != nil {
			t.Fatal(err)
		}
	})
	t.Cleanup(func() {
		_ = stay.Process.Kill()
		_ = stay.Wait() // it was killed
	})
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(filepath.Join(runNetns, ns.Name()), link); err != nil {
		t.Fatal(err)
	}
	return []string{ns.Name(), filepath.Join(runNetns, ns.Name()), link, ns.Path(), fmt.Sprintf("/proc/%d/ns/net", stay.Process.Pid)}
}

func cookieIn(t *testing.T, ns *nettest.NS) (id uint64) {
	t.Helper()
	nettest.RunIn(ns, func() {
		var err error
		if id, _, err = NetnsCookie(); err != nil {
			t.Fatal(err)
		}
	})
	return id
}

func TestInterfacesElsewhere(t *testing.T) {
	home, blue := joined(t)
	blue.SetMTU(t, "eth0", 1400)
	want := Interface{Netns: cookieIn(t, blue), Name: "eth0", Index: blue.Index(t, "eth0"), MTU: 1400}
	all := spellings(t, blue)
	before := descriptors(t)
	nettest.RunIn(home, func() {
		for _, netns := range all {
			if got, err := ByName(netns + ":eth0"); err != nil || got != want {
				t.Errorf("ByName in %s: %+v, %v, want %+v", netns, got, err, want)
			}
			if got, err := ByIndex(netns, want.Index); err != nil || got != want {
				t.Errorf("ByIndex in %s: %+v, %v, want %+v", netns, got, err, want)
			}
			if got, err := List(netns); err != nil || len(got) != 2 || !slices.Contains(got, want) {
				t.Errorf("List of %s: %+v, %v, want lo and %+v", netns, got, err, want)
			}
			if got, err := cookieBy(netns); err != nil || got != want.Netns {
				t.Errorf("Cookie of %s: %d, %v, want %d", netns, got, err, want.Netns)
			}
			if state, attached, err := XDP(netns, want.Index); err != nil || attached {
				t.Errorf("XDP in %s: %+v, %v, %v", netns, state, attached, err)
			}
			_, byName := ByName(netns + ":" + nettest.Dev)
			_, byIndex := ByIndex(netns, 1<<20)
			for _, err := range []error{byName, byIndex} {
				if !errors.Is(err, &chain.Error{Reason: chain.InterfaceNotFound}) || !strings.Contains(err.Error(), "network namespace "+netns) {
					t.Errorf("an interface that is not in %s: %v", netns, err)
				}
			}
		}
	})
	if after := descriptors(t); after > before {
		t.Errorf("%d descriptors, there were %d", after, before)
	}
}

// Who asks about a namespace does not keep it alive.
func TestNamespaceDies(t *testing.T) {
	home, blue := joined(t)
	w := startWatch(t, home, watchQueue)
	uplink := home.Index(t, "uplink0")
	netns := blue.Name()
	if _, err := List(netns); err != nil {
		t.Fatal(err)
	}
	if err := Do(netns, func() error { return nil }); err != nil {
		t.Fatal(err)
	}
	blue.Drop(t)
	for !w.next(t).Gone {
	}
	nettest.RunIn(home, func() {
		if nic, err := ByIndex("", uplink); !errors.Is(err, &chain.Error{Reason: chain.InterfaceNotFound}) {
			t.Errorf("the veth of a dead namespace: %+v, %v", nic, err)
		}
	})
	none(t, netns, "no network namespace")
}

// none checks that netns is refused by all, with these words.
func none(t *testing.T, netns, words string) {
	t.Helper()
	_, byName := ByName(netns + ":eth0")
	_, byIndex := ByIndex(netns, 1)
	_, _, xdp := XDP(netns, 1)
	_, list := List(netns)
	_, cookie := cookieBy(netns)
	do := Do(netns, func() error { t.Errorf("f is called in %s", netns); return nil })
	for i, err := range []error{byName, byIndex, xdp, list, cookie, do} {
		var refusal *chain.Error
		if !errors.As(err, &refusal) || refusal.Reason != chain.NetnsNotFound || refusal.Facts["netns"] != netns || !strings.Contains(err.Error(), words) {
			t.Errorf("call %d with %s: %v, want %s with %q", i, netns, err, chain.NetnsNotFound, words)
		}
	}
}

func TestNamespacesThatAreNone(t *testing.T) {
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	for _, err := range []error{
		unix.Mkfifo(path("fifo"), 0o600),
		unix.Mknod(path("device"), unix.S_IFCHR|0o600, int(unix.Mkdev(10, 130))), // a watchdog: opening it would start it
		os.WriteFile(path("file"), nil, 0o600),
		os.Symlink("loop", path("loop")),
		os.Symlink("fifo", path("link")),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	before := descriptors(t)
	for netns, words := range map[string]string{
		path("fifo"):             "is not a network namespace",
		path("device"):           "is not a network namespace",
		path("file"):             "is not a network namespace",
		path("link"):             "is not a network namespace",
		dir:                      "is not a network namespace",
		"/":                      "is not a network namespace",
		"/proc/self/ns/mnt":      "is not a network namespace",
		"/proc/self/ns":          "is not a network namespace",
		path("none"):             "there is no network namespace",
		path("loop"):             "there is no network namespace",
		path("file/x"):           "there is no network namespace",
		"/proc/0/ns/net":         "there is no network namespace",
		"nosuch":                 "there is no network namespace nosuch (/run/netns/nosuch)",
		strings.Repeat("x", 256): "there is no network namespace",
	} {
		if len(netns) < 250 {
			none(t, netns, words)
			continue
		}
		if err := Do(netns, func() error { return nil }); !errors.Is(err, &chain.Error{Reason: chain.NetnsNotFound}) {
			t.Errorf("a name that is too long: %v", err)
		}
	}
	if after := descriptors(t); after > before {
		t.Errorf("%d descriptors, there were %d", after, before)
	}
}

// A file system whose server hangs is not asked.
func TestNamespaceOnAFileSystemThatHangs(t *testing.T) {
	server, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0)
	if errors.Is(err, os.ErrNotExist) {
		t.Skip("the kernel has no FUSE")
	}
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close() // which ends what waits for it
	dir := t.TempDir()
	data := fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0", server.Fd())
	if err := unix.Mount("hangs", dir, "fuse", unix.MS_NOSUID|unix.MS_NODEV, data); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	}()
	answer := make(chan error, 1)
	go func() { answer <- Do(dir, func() error { return nil }) }()
	select {
	case err := <-answer:
		if !errors.Is(err, &chain.Error{Reason: chain.NetnsNotFound}) {
			t.Error(err)
		}
	case <-time.After(nettest.Patience):
		server.Close()
		t.Errorf("it waits for the server: %v", <-answer)
	}
}

func TestDo(t *testing.T) {
	home, blue := joined(t)
	nettest.RunIn(home, func() {
		inode := func() string {
			in, err := os.Readlink("/proc/thread-self/ns/net")
			if err != nil {
				t.Error(err)
			}
			return in
		}
		outside := inode()
		var inside string
		problem := errors.New("a problem")
		for _, netns := range spellings(t, blue) {
			if err := Do(netns, func() error { inside = inode(); return problem }); !errors.Is(err, problem) {
				t.Errorf("Do in %s: %v, want what f returns", netns, err)
			}
			nettest.RunIn(blue, func() {
				if inside != inode() {
					t.Errorf("f was in %s, want %s (%s)", inside, inode(), netns)
				}
			})
		}
		for _, netns := range []string{"", home.Path(), "/proc/thread-self/ns/net"} {
			if err := Do(netns, func() error { inside = inode(); return problem }); !errors.Is(err, problem) || inside != outside {
				t.Errorf("Do in %s: %v, in %s, want %s", netns, err, inside, outside)
			}
		}
		if back := inode(); back != outside {
			t.Errorf("the caller is in %s, was in %s", back, outside)
		}
	})
}

func TestDoPanics(t *testing.T) {
	blue := nettest.Named(t, "blue")
	problem := errors.New("a problem")
	func() {
		defer func() {
			p, ok := recover().(*Panic)
			if !ok || p.Value != any(problem) || !strings.Contains(p.Error(), "a problem") || !strings.Contains(p.Error(), "TestDoPanics") {
				t.Errorf("Do panics with %v", p)
			}
		}()
		_ = Do(blue.Name(), func() error { panic(problem) })
		t.Error("Do returns")
	}()
	done := make(chan bool)
	go func() {
		returns := false
		defer func() { done <- returns }()
		_ = Do(blue.Name(), func() error { runtime.Goexit(); return nil })
		returns = true
	}()
	if <-done {
		t.Error("Do returns after Goexit")
	}
	// Nobody is left there: nettest looks for threads.
}

// A thread that cannot come back ends, and with it its hold of the namespace. Of many calls, some begin on the main thread,
// which does not.
func TestDoEndsThreads(t *testing.T) {
	blue := nettest.Named(t, "blue")
	threads := map[int]bool{}
	for range 50 {
		err := Do(blue.Name(), func() error {
			threads[unix.Gettid()] = true
			return dropCapability(unix.CAP_SYS_ADMIN)
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	for deadline := time.Now().Add(nettest.Patience); len(threads) > 0; time.Sleep(time.Millisecond) {
		for thread := range threads {
			if _, err := os.Stat(fmt.Sprintf("/proc/self/task/%d", thread)); errors.Is(err, os.ErrNotExist) {
				delete(threads, thread)
			}
		}
		if time.Now().After(deadline) {
			t.Fatalf("threads live on: %v", threads)
		}
	}
}

// Without CAP_SYS_ADMIN the own namespace can be entered under every name, and no other.
func TestWithoutCapability(t *testing.T) {
	const variable = "XDPD_TEST_NETNS"
	if netns := os.Getenv(variable); netns != "" {
		none(t, netns, "CAP_SYS_ADMIN")
		home, err := cookieBy("")
		if err != nil {
			t.Fatal(err)
		}
		if again, err := cookieBy("/proc/self/ns/net"); err != nil || again != home {
			t.Errorf("the own namespace by its path: %d, %v, want %d", again, err, home)
		}
		return
	}
	blue := nettest.Named(t, "blue")
	child := exec.Command("/proc/self/exe", "-test.run=^TestWithoutCapability$", "-test.v")
	child.Env = append(os.Environ(), variable+"="+blue.Name())
	var out []byte
	var err error
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // the thread ends with the goroutine
		if err = unix.Prctl(unix.PR_CAPBSET_DROP, unix.CAP_SYS_ADMIN, 0, 0, 0); err == nil {
			out, err = child.CombinedOutput()
		}
	}()
	<-done
	if err != nil || !strings.Contains(string(out), "--- PASS: TestWithoutCapability") {
		t.Errorf("%v\n%s", err, out)
	}
}

func TestNamespaces(t *testing.T) {
	red, blue, odd := nettest.Named(t, "red"), nettest.Named(t, "blue"), nettest.Named(t, "o:d d")
	bad := nettest.New(t)
	bad.SetName(t, fmt.Sprintf("bad\n%d", os.Getpid())) // which cannot be part of a reference
	file := filepath.Join(runNetns, fmt.Sprintf("file-%d", os.Getpid()))
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	defer os.Remove(file)
	names, err := Namespaces()
	if err != nil || !slices.IsSorted(names) {
		t.Fatalf("%q, %v", names, err)
	}
	for _, ns := range []*nettest.NS{red, blue, odd} {
		if !slices.Contains(names, ns.Name()) {
			t.Errorf("%q, without %q", names, ns.Name())
		}
		if nic, err := ByName(ns.Name() + ":lo"); err != nil || nic.Index != 1 {
			t.Errorf("lo in %s: %+v, %v", ns.Name(), nic, err)
		}
	}
	for _, name := range []string{filepath.Base(file), bad.Name()} {
		if slices.Contains(names, name) {
			t.Errorf("%q, with %q", names, name)
		}
	}
}

// dropCapability takes a capability from the calling thread.
func dropCapability(which int) error {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return err
	}
	data[0].Effective &^= 1 << which
	return unix.Capset(&header, &data[0])
}
