// SPDX-License-Identifier: Apache-2.0

// Package e2e tests the daemon as its users have it: the real process, spoken to with gRPC and with the real
// xdpctl, on veth pairs of a network namespace and with a BPF FS of its own. Each test ends in Check, which
// compares the store, the pins, what the kernel says of links and programs, and what packets do.
//
// XDPD_BIN_DIR names a folder with xdpd and xdpctl built with -tags failpoint; unset: they are built.
// XDPD_TEST_LINKER is the linker of the daemons; unset: auto.
//
// It imports what it compares: the client, chain, store, and cilium/ebpf and netlink for the kernel's view.
package e2e

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/cilium/ebpf/rlimit"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

// inside is set in the process that runs the tests, in a mount namespace of its own.
const inside = "XDPD_E2E_INSIDE"

// binDir has the binaries, bpffs is the mount point of a private BPF FS.
var binDir, bpffs string

func TestMain(m *testing.M) {
	run := enter
	if os.Getenv(inside) != "" {
		run = func() (int, error) { return runTests(m) }
	}
	code, err := run()
	if err != nil {
		fmt.Fprintln(os.Stderr, "end-to-end tests:", err)
		code = 1
	}
	os.Exit(code)
}

// enter runs this binary again in a mount namespace of its own, with binaries to test.
func enter() (int, error) {
	runtime.LockOSThread() // the parent that Pdeathsig means is a thread
	exe, err := os.Executable()
	if err != nil {
		return 1, err
	}
	work, err := os.MkdirTemp("", "xdpd-e2e-")
	if err != nil {
		return 1, err
	}
	defer os.RemoveAll(work)
	bin := os.Getenv("XDPD_BIN_DIR")
	if bin == "" {
		bin = filepath.Join(work, "bin") + "/"
		build := exec.Command("go", "build", "-tags", "failpoint", "-o", bin, "../../cmd/xdpd", "../../cmd/xdpctl")
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			return 1, fmt.Errorf("build the daemon: %w\n%s", err, out)
		}
	}
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt, unix.SIGTERM)
	cmd := exec.Command(exe, os.Args[1:]...)
	cmd.Env = append(os.Environ(), inside+"="+work, "XDPD_BIN_DIR="+bin)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	// Go makes the mounts of a new namespace private.
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS, Pdeathsig: unix.SIGKILL}
	if err := cmd.Start(); err != nil {
		return 1, fmt.Errorf("start in a mount namespace (needs root): %w", err)
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	for {
		select {
		case s := <-signals:
			_ = cmd.Process.Signal(s) // it may have ended
		case err := <-done:
			var exit *exec.ExitError
			if errors.As(err, &exit) {
				return max(exit.ExitCode(), 1), nil
			}
			return 0, err
		}
	}
}

// runTests runs the tests and accounts for what they leave behind.
func runTests(m *testing.M) (code int, err error) {
	binDir = os.Getenv("XDPD_BIN_DIR")
	if err := rlimit.RemoveMemlock(); err != nil {
		return 1, err
	}
	bpffs = filepath.Join(os.Getenv(inside), "bpf")
	if err := os.Mkdir(bpffs, 0o700); err != nil {
		return 1, err
	}
	if err := unix.Mount("bpf", bpffs, "bpf", 0, ""); err != nil {
		return 1, fmt.Errorf("mount a BPF FS: %w", err)
	}
	before := openFiles()
	code = m.Run()
	problems := leftovers(before)
	for _, p := range problems {
		fmt.Fprintln(os.Stderr, "the tests left behind:", p)
	}
	if len(problems) > 0 {
		code = 1
	}
	return code, unix.Unmount(bpffs, 0)
}

// leftovers are what is left for good: the kernel and the libraries end some things after they were told to.
func leftovers(before []string) (left []string) {
	for deadline := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		if left = leftNow(before); len(left) == 0 || time.Now().After(deadline) {
			return left
		}
	}
}

func leftNow(before []string) (left []string) {
	if err := goleak.Find(); err != nil {
		left = append(left, err.Error())
	}
	if after := openFiles(); len(after) > len(before) {
		left = append(left, fmt.Sprintf("descriptors: before %v, after %v", before, after))
	}
	entries, err := os.ReadDir(bpffs)
	if err != nil {
		left = append(left, err.Error())
	}
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), ".debug") { // the kernel's own
			left = append(left, "in the BPF FS: "+e.Name())
		}
	}
	children, err := os.ReadFile(fmt.Sprintf("/proc/self/task/%d/children", os.Getpid()))
	if err == nil && strings.TrimSpace(string(children)) != "" {
		left = append(left, "processes: "+string(children))
	}
	return append(left, seen.alive(0)...)
}

// openFiles are the descriptors of this process, without those of Go's poller, which stay.
func openFiles() (files []string) {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		panic(err)
	}
	for _, e := range entries {
		to, err := os.Readlink("/proc/self/fd/" + e.Name())
		if err == nil && to != "anon_inode:[eventpoll]" && to != "anon_inode:[eventfd]" && to != "anon_inode:[pidfd]" {
			files = append(files, to)
		}
	}
	slices.Sort(files)
	return files
}

// kernelIDs are ids of programs, maps and links that a daemon made, by the kernel's count, which uses none twice.
type kernelIDs struct{ programs, maps, links map[uint32]bool }

// seen are those of all tests.
var (
	seenMu sync.Mutex // protects seen
	seen   = newKernelIDs()
)

func newKernelIDs() kernelIDs {
	return kernelIDs{map[uint32]bool{}, map[uint32]bool{}, map[uint32]bool{}}
}

func (k kernelIDs) add(other kernelIDs) {
	for id := range other.programs {
		k.programs[id] = true
	}
	for id := range other.maps {
		k.maps[id] = true
	}
	for id := range other.links {
		k.links[id] = true
	}
}

// drop takes away what other has.
func (k kernelIDs) drop(other kernelIDs) {
	for id := range other.programs {
		delete(k.programs, id)
	}
	for id := range other.maps {
		delete(k.maps, id)
	}
	for id := range other.links {
		delete(k.links, id)
	}
}

// alive returns what of k still is in the kernel. The kernel frees after a grace period and tells nobody, so
// that it is asked for some time.
func (k kernelIDs) alive(patience time.Duration) (left []string) {
	for deadline := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		left = nil
		for id := range k.programs {
			if p, err := ebpf.NewProgramFromID(ebpf.ProgramID(id)); err == nil {
				left = append(left, fmt.Sprintf("program %d (%s)", id, p))
				p.Close()
			} else {
				delete(k.programs, id)
			}
		}
		for id := range k.maps {
			if m, err := ebpf.NewMapFromID(ebpf.MapID(id)); err == nil {
				left = append(left, fmt.Sprintf("map %d (%s)", id, m))
				m.Close()
			} else {
				delete(k.maps, id)
			}
		}
		for id := range k.links {
			if l, err := link.NewFromID(link.ID(id)); err == nil {
				left = append(left, fmt.Sprintf("link %d", id))
				l.Close()
			} else {
				delete(k.links, id)
			}
		}
		if len(left) == 0 || time.Now().After(deadline) {
			return left
		}
	}
}
