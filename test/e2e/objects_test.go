// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"cmp"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	xdpdv1 "github.com/xdpd/xdpd/api/proto/xdpd/v1"
	"github.com/xdpd/xdpd/chain"
	"github.com/xdpd/xdpd/internal/netif/nettest"
)

// foreignObjects are the objects of Debian's XDP packages: those of the folder XDPD_TEST_OBJECTS, or those that
// are installed here.
func foreignObjects(t *testing.T) (paths []string) {
	t.Helper()
	if dir := cmp.Or(os.Getenv("XDPD_TEST_OBJECTS"), os.Getenv("XDPD_OBJECTS_DIR")); dir != "" {
		paths, err := filepath.Glob(filepath.Join(dir, "*.o"))
		if err != nil {
			t.Fatal(err)
		}
		return paths
	}
	// In a VM the objects are where the packages put them, and there is no dpkg.
	for _, pattern := range []string{"/usr/lib/*/bpf/*.o", "/usr/libexec/xdp-tools/*.o"} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		paths = append(paths, found...)
	}
	if len(paths) > 0 {
		return paths
	}
	// Where one of the packages is missing, dpkg lists the others.
	list, _ := exec.Command("dpkg", "-L", "libxdp1", "xdp-tools", "xdp-tests").Output()
	for line := range strings.Lines(string(list)) {
		if path := strings.TrimSpace(line); strings.HasSuffix(path, ".o") {
			paths = append(paths, path)
		}
	}
	return paths
}

// unsuitable are objects whose XDP programs are not meant to run on their own.
var unsuitable = []string{"xdp-dispatcher.o", "xdpdump_xdp.o"}

// TestForeignObjects puts programs that nobody here wrote into one chain, between two of ours, and counts
// exactly which packets reach whom.
func TestForeignObjects(t *testing.T) {
	paths := foreignObjects(t)
	if len(paths) == 0 {
		t.Fatal("there is no object: install libxdp1 and xdp-tools, or set XDPD_TEST_OBJECTS to a folder of objects")
	}
	h := newHost(t)
	h.start()
	h.do(adding(add("head", "pass", nettest.Dev)))
	every := &xdpdv1.ProceedOn{Verdicts: []xdpdv1.Verdict{
		xdpdv1.Verdict_VERDICT_ABORTED, xdpdv1.Verdict_VERDICT_DROP, xdpdv1.Verdict_VERDICT_PASS, xdpdv1.Verdict_VERDICT_TX, xdpdv1.Verdict_VERDICT_REDIRECT,
	}}
	members := 0
	for _, path := range paths {
		object, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, function := range xdpFunctions(t, object) {
			name := strings.TrimSuffix(filepath.Base(path), ".o") + "." + function
			if slices.Contains(unsuitable, filepath.Base(path)) {
				continue
			}
			verdictOf[function] = chain.Continue // that it always proceeds is all that the model needs
			h.do(adding(&xdpdv1.AddProgramRequest{Name: name, Object: object, Function: function, Interfaces: []string{nettest.Dev}, ProceedOn: every}))
			members++
		}
	}
	h.do(adding(add("tail", "pass", nettest.Dev)))
	if members < 5 {
		t.Errorf("only %d foreign programs in %v", members, paths)
	}
	t.Logf("%d foreign programs in one chain", members)
	h.Check()
	h.do(updating(&xdpdv1.MemberUpdate{Program: "tail", Position: first}), updating(&xdpdv1.MemberUpdate{Program: "head", Position: last}))
	h.Check()
	if got, want := h.runs("head"), uint64(6); got != want || h.runs("tail") != want {
		t.Errorf("ours ran %d and %d times, want %d", got, h.runs("tail"), want)
	}
	h.d.kill()
	h.start()
	h.Check()
	h.stop(unix.SIGTERM)
}

// xdpFunctions are the XDP programs of an object, sorted.
func xdpFunctions(t *testing.T, object []byte) (names []string) {
	t.Helper()
	spec, err := ebpf.LoadCollectionSpecFromReader(bytes.NewReader(object))
	if err != nil {
		t.Fatal(err)
	}
	for name, p := range spec.Programs {
		if p.Type == ebpf.XDP {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}
