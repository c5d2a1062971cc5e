// SPDX-License-Identifier: Apache-2.0

package dispatcher

import (
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/features"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/xdpd/xdpd/internal/leaktest"
)

// kernelPatience is how long the tests wait for the kernel to end what nobody holds any more. It does so a
// while after the last reference went, and tells nobody.
const kernelPatience = time.Minute

// testFS is a BPF FS of the tests' own. It is mounted nowhere: the process has a descriptor of it, and it ends
// with the process, however that ends.
var testFS string

// TestMain fails the run if the tests leave anything behind: descriptors, pins, goroutines, threads in another
// namespace; and in the kernel, where nobody else uses BPF, programs, maps and links. Elsewhere each test of a
// plane looks for what was its own.
func TestMain(m *testing.M) {
	flag.Parse()
	fd, err := mountBPFFS()
	if err != nil {
		fmt.Fprintf(os.Stderr, "the tests need root and a BPF FS of their own: %v\n", err)
		os.Exit(1)
	}
	testFS = fmt.Sprintf("/proc/self/fd/%d", fd)
	before := pinNames() // some kernels put files of their own there
	descriptors, namespaces, objects := openFiles(), threadNamespaces(), kernelIDs()
	code := m.Run()
	var leaks []string
	if now := pinNames(); !slices.Equal(now, before) {
		leaks = append(leaks, fmt.Sprintf("pins: %q, they were %q", now, before))
	}
	if now := openFiles(); len(now) > len(descriptors) {
		leaks = append(leaks, fmt.Sprintf("descriptors: %q, they were %q", now, descriptors))
	}
	if now := threadNamespaces(); !slices.Equal(now, namespaces) {
		leaks = append(leaks, fmt.Sprintf("threads in namespaces %q, all were in %q", now, namespaces))
	}
	if err := leaktest.Find(); err != nil {
		leaks = append(leaks, err.Error())
	}
	if len(objects) == 0 { // a VM; elsewhere others come and go
		if left := lastingIDs(kernelIDs); len(left) > 0 {
			leaks = append(leaks, fmt.Sprintf("in the kernel: %q", left))
		}
	}
	for _, leak := range leaks {
		fmt.Fprintln(os.Stderr, "the tests left behind:", leak)
		code = max(code, 1)
	}
	os.Exit(code)
}

// mountBPFFS makes a BPF FS and returns a descriptor of it.
func mountBPFFS() (int, error) {
	fs, err := unix.Fsopen("bpf", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return 0, fmt.Errorf("open a file system: %w", err)
	}
	defer unix.Close(fs)
	if err := unix.FsconfigCreate(fs); err != nil {
		return 0, fmt.Errorf("make a BPF FS: %w", err)
	}
	fd, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("mount a BPF FS: %w", err)
	}
	return fd, nil
}

func pinNames() []string {
	names, err := readDir(testFS)
	if err != nil {
		panic(err)
	}
	return names
}

// openFiles are the open descriptors and what they are of.
func openFiles() []string {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		panic(err)
	}
	var files []string
	for _, e := range entries {
		if to, err := os.Readlink("/proc/self/fd/" + e.Name()); err == nil && !strings.HasSuffix(to, "/fd") {
			files = append(files, e.Name()+" "+to)
		}
	}
	return files
}

// bpfFiles counts the open descriptors of BPF programs, maps, links and types.
func bpfFiles() int {
	n := 0
	for _, f := range openFiles() {
		if strings.Contains(f, "anon_inode:bpf") || strings.Contains(f, "anon_inode:btf") {
			n++
		}
	}
	return n
}

func threadNamespaces() []string {
	found := map[string]bool{}
	paths, _ := filepath.Glob("/proc/self/task/*/ns/net") // the pattern is well-formed
	for _, p := range paths {
		if ns, err := os.Readlink(p); err == nil {
			found[ns] = true
		}
	}
	return slices.Sorted(maps.Keys(found))
}

// kernelIDs are all programs, maps and links of this kernel.
func kernelIDs() []string {
	var ids []string
	for id, err := ebpf.ProgramGetNextID(0); err == nil; id, err = ebpf.ProgramGetNextID(id) {
		ids = append(ids, fmt.Sprintf("program %d", id))
	}
	for id, err := ebpf.MapGetNextID(0); err == nil; id, err = ebpf.MapGetNextID(id) {
		ids = append(ids, fmt.Sprintf("map %d", id))
	}
	for it := new(link.Iterator); it.Next(); {
		ids = append(ids, fmt.Sprintf("link %d", it.ID))
		it.Close()
	}
	return ids
}

// lastingIDs waits until find finds nothing, and returns what it still finds after kernelPatience.
func lastingIDs(find func() []string) []string {
	left := find()
	for end := time.Now().Add(kernelPatience); len(left) > 0 && time.Now().Before(end); left = find() {
		time.Sleep(5 * time.Millisecond)
	}
	return left
}

// kernelAtLeast tells whether this kernel is of this version or later.
func kernelAtLeast(t testing.TB, major, minor uint32) bool {
	t.Helper()
	code, err := features.LinuxVersionCode()
	if err != nil {
		t.Fatal(err)
	}
	return code >= major<<16|minor<<8
}

// skipBefore skips a test of what kernels before that version cannot do. It is the only way to skip a contract.
func skipBefore(t testing.TB, major, minor uint32, what string) {
	t.Helper()
	if !kernelAtLeast(t, major, minor) {
		t.Skipf("%s: needs Linux %d.%d", what, major, minor)
	}
}
