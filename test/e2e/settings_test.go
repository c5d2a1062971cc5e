// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	_ "embed"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	xdpdv1 "github.com/xdpd/xdpd/api/proto/xdpd/v1"
	"github.com/xdpd/xdpd/chain"
	"github.com/xdpd/xdpd/internal/netif/nettest"
)

// settingsObject is the object whose programs tell what their variables are.
//
//go:embed testdata/settings.bpf.o
var settingsObject []byte

func init() {
	verdictOf["show"], verdictOf["counting"], verdictOf["narrow"] = chain.Pass, chain.Pass, chain.Pass
}

// shown is what the variables were when the program show ran.
type shown struct {
	Limit  int64
	Ports  [4]uint16
	Label  [8]byte
	Strict uint64
}

func (h *host) shown(program string) (s shown) {
	h.Helper()
	m, err := ebpf.LoadPinnedMap(h.mapOf(program, "shown").GetPin(), nil)
	if err != nil {
		h.Fatal(err)
	}
	defer m.Close()
	if err := m.Lookup(uint32(0), &s); err != nil {
		h.Fatal(err)
	}
	return s
}

// inTable is how many packets the programs counted that use a program's map table.
func (h *host) inTable(program string) (n uint64) {
	h.Helper()
	m, err := ebpf.LoadPinnedMap(h.mapOf(program, "table").GetPin(), nil)
	if err != nil {
		h.Fatal(err)
	}
	defer m.Close()
	if err := m.Lookup(uint32(0), &n); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		h.Fatal(err)
	}
	return n
}

// run1 sends a packet through the chain of nettest.Dev, off the wire.
func (h *host) run1() {
	h.Helper()
	r := &xdpdv1.TestRunRequest{Interface: nettest.Dev, Packets: [][]byte{nettest.Frame(64)}}
	if _, err := h.client.TestRun(h.ctx(), r); err != nil {
		h.Fatal(err)
	}
}

// TestSettings sets variables and sizes of maps with the real xdpctl, at add, replace and apply, over a kill and a stop.
func TestSettings(t *testing.T) {
	h := newHost(t)
	object := h.write("settings.o", settingsObject)
	h.start()
	common := []string{"add", object, "--function", "show", "--interface", nettest.Dev}
	for _, c := range []struct{ args, says string }{
		{"", "reason: MAP_INVALID"}, // nobody says how large it is
		{"--max-entries table=16 --max-entries nobody=3", "reason: MAP_INVALID\n  map: nobody\n"},
		{"--max-entries table=16 --set nobody=3", "reason: GLOBAL_INVALID\n  global: nobody\n"},
		{"--max-entries table=16 --set strict=7", "reason: GLOBAL_INVALID\n  global: strict\n"},
		{"--max-entries table=16 --set ports=[1,2,3,65536]", "reason: GLOBAL_INVALID\n  global: ports\n"},
		{"--max-entries table=16 --set ports=[1,2,3,4,5]", "reason: GLOBAL_INVALID\n  global: ports\n"},
		{"--max-entries table=16 --set label=much-too-long", "reason: GLOBAL_INVALID\n  global: label\n"},
	} {
		if r := h.ctl(1, append(common, strings.Fields(c.args)...)...); !strings.Contains(r.stderr, c.says) {
			t.Errorf("with %q: %s", c.args, r.stderr)
		}
	}
	h.ctl(0, append(common, "--lifetime", "persistent", "--max-entries", "table=16",
		"--set", "strict=false", "--set", `ports=[80, 443, "0x1F90"]`, "--set", "label=eth0", "--set", "limit=-5")...)
	want := shown{Limit: -5, Ports: [4]uint16{80, 443, 8080}, Label: [8]byte{'e', 't', 'h', '0'}}
	check := func(what string, runs uint64) {
		t.Helper()
		h.run1()
		if got := h.shown("show"); got != want {
			t.Errorf("%s: the program sees %+v, want %+v", what, got, want)
		}
		if n := h.inTable("show"); n != runs {
			t.Errorf("%s: it counted %d, want %d", what, n, runs)
		}
		if m := h.mapOf("show", "table"); m.GetMaxEntries() != 16 {
			t.Errorf("%s: the table has %d entries", what, m.GetMaxEntries())
		}
	}
	check("add", 1)
	h.d.kill()
	h.start()
	check("after a kill", 2)
	h.stop(unix.SIGTERM)
	h.start()
	check("after a stop", 1)

	// Settings that are given take the place of all; the map that still fits is the same.
	out := h.ctl(0, "replace", "show", "--set", "strict=true", "--max-entries", "table=16").stdout
	for _, line := range []string{`map table of show is carried over`, `map shown of show is carried over`, `map \.rodata of show is new: .+`} {
		if !regexp.MustCompile("(?m)^" + line + "$").MatchString(out) {
			t.Errorf("replace says %q, want a line %q", out, line)
		}
	}
	want = shown{Limit: -5, Label: [8]byte{'n', 'o', 'n', 'e'}, Strict: 1} // limit is in .data, which went along
	check("replace", 2)
	h.ctl(0, "replace", "show", "--set", "limit=7", "--max-entries", "table=16", "--fresh-maps")
	want = shown{Limit: 7, Label: [8]byte{'n', 'o', 'n', 'e'}}
	check("fresh maps", 1)
	file := "programs: {show: {globals: {limit: 8, label: abcdefg}, max_entries: {table: 16}}}\nchains: {xdev0: {members: [show]}}"
	h.applied([]byte(file), "-f", "-")
	want = shown{Limit: 8, Label: [8]byte([]byte("abcdefg\x00"))}
	check("apply", 2)
	h.ctl(0, "rollback", nettest.Dev)
	want = shown{Limit: 7, Label: [8]byte{'n', 'o', 'n', 'e'}}
	check("rollback", 3)
	h.learn()
	h.Check()
	h.stop(unix.SIGTERM)
}

// TestSharedMaps lets programs use the maps of others.
func TestSharedMaps(t *testing.T) {
	h := newHost(t)
	object := h.write("settings.o", settingsObject)
	verdict := h.write("verdict.o", verdicts)
	h.start()
	h.ctl(0, "add", object, "--function", "show", "--interface", nettest.Dev, "--max-entries", "table=16", "--lifetime", "persistent")
	add := []string{"add", object, "--function", "counting", "--interface", nettest.Dev, "--lifetime", "persistent", "--max-entries"}
	h.ctl(0, append(add, "table=16", "--share-maps-from", "show")...)
	h.run1()
	if a, b := h.inTable("show"), h.inTable("counting"); a != 2 || b != 2 {
		t.Errorf("they counted %d and %d, want 2 in the one map", a, b)
	}
	for program, with := range map[string]string{"show": "counting", "counting": "show"} {
		out := h.ctl(0, "maps", program).stdout
		if line := regexp.MustCompile(`(?m)^table +Hash +4 +8 +16 +\S+/maps/table +- +` + with + `$`); !line.MatchString(out) {
			t.Errorf("the maps of %s are\n%s", program, out)
		}
	}
	h.ctl(0, "add", verdict, "--name", "v", "--function", "pass", "--interface", nettest.Dev)
	for _, c := range []struct {
		args []string
		says string
	}{
		{[]string{object, "--function", "narrow", "--share-maps-from", "v"}, "reason: MAP_INVALID\n  map: runs\n"}, // another size
		{[]string{verdict, "--function", "drop", "--share-maps-from", "show"}, "reason: MAP_INVALID\n"},            // none in both
		{[]string{verdict, "--function", "drop", "--share-maps-from", "nobody"}, "reason: PROGRAM_NOT_FOUND\n  program: nobody\n"},
		{[]string{object, "--name", "n", "--function", "counting", "--max-entries", "table=17", "--share-maps-from", "show"}, "reason: MAP_INVALID\n  map: table\n"},
	} {
		h.untouched(fmt.Sprint(c.args), func() {
			if r := h.ctl(1, append([]string{"add", "--interface", nettest.Dev}, c.args...)...); !strings.Contains(r.stderr, c.says) {
				t.Errorf("add %v: %s", c.args, r.stderr)
			}
		})
	}
	h.learn()
	h.Check()
	for _, how := range []string{"kill", "stop"} {
		before := h.inTable("show")
		if how == "kill" {
			h.d.kill()
		} else {
			h.stop(unix.SIGTERM)
			before = 0
		}
		h.start()
		h.run1()
		if a, b := h.inTable("show"), h.inTable("counting"); a != before+2 || b != a || h.mapOf("show", "table").GetKernelId() != h.mapOf("counting", "table").GetKernelId() {
			t.Errorf("after a %s they counted %d and %d, want %d in one map", how, a, b, before+2)
		}
	}
	// The map stays with who still uses it.
	h.ctl(0, "rm", "show")
	h.run1()
	if n := h.inTable("counting"); n != 3 {
		t.Errorf("the one that is left counted %d, want 3", n)
	}
	if m := h.mapOf("counting", "table"); len(m.GetSharedWith()) != 0 {
		t.Errorf("it is still shared: %v", m)
	}
	h.learn()
	h.Check()
	h.stop(unix.SIGTERM)
}

// opens is set in a process that is to read key 0 of the map pinned at that path, print it, and end.
const opens = "XDPD_E2E_OPEN"

func init() {
	path := os.Getenv(opens)
	if path == "" {
		return
	}
	m, err := ebpf.LoadPinnedMap(path, nil)
	var n uint64
	if err == nil {
		err = m.Lookup(uint32(0), &n)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println(n)
	os.Exit(0)
}

// group is one that nobody else has.
const group = 47110

// TestMapGroup lets a process without any rights, but of the right group, open a map; and none of another group.
func TestMapGroup(t *testing.T) {
	h := newHost(t)
	verdict := h.write("verdict.o", verdicts)
	h.start()
	work := filepath.Dir(bpffs)
	if err := os.Chmod(work, 0o711); err != nil {
		t.Fatal(err)
	}
	defer os.Chmod(work, 0o700)
	add := []string{"add", verdict, "--function", "goon", "--interface", nettest.Dev, "--lifetime", "persistent"}
	h.ctl(0, append(add, "--name", "closed")...)
	h.ctl(0, append(add, "--name", "open", "--map-group", fmt.Sprint(group))...)
	if r := h.ctl(1, append(add, "--name", "n", "--map-group", "nobody-has-this")...); !strings.Contains(r.stderr, "reason: INVALID_ARGUMENT\n  field: map_group\n") {
		t.Errorf("a group that there is not: %s", r.stderr)
	}
	if out := h.ctl(0, "maps", "open").stdout; !regexp.MustCompile(fmt.Sprintf(`(?m)^runs +Array .*/maps/runs +%d +-$`, group)).MatchString(out) {
		t.Errorf("the maps of open are\n%s", out)
	}
	runs := uint64(0)
	check := func(what string) {
		t.Helper()
		h.run1()
		runs++
		pin := h.mapOf("open", "runs").GetPin()
		if got, err := h.openAs(group, pin); err != nil || got != fmt.Sprint(runs) {
			t.Errorf("%s: a process of the group reads %q, want %d: %v", what, got, runs, err)
		}
		if got, err := h.openAs(group+1, pin); err == nil {
			t.Errorf("%s: a process of another group reads %q", what, got)
		}
		if got, err := h.openAs(group, h.mapOf("closed", "runs").GetPin()); err == nil {
			t.Errorf("%s: a process reads %q from a map without a group", what, got)
		}
	}
	check("add")
	h.d.kill()
	h.start()
	check("after a kill")
	h.ctl(0, "replace", "open", "--function", "pass")
	check("replace")
	h.stop(unix.SIGTERM)
	h.start()
	runs = 0
	check("after a stop")
	h.learn()
	h.Check()
	h.stop(unix.SIGTERM)
}

// openAs opens a pin as nobody, in a group.
func (h *host) openAs(gid uint32, pin string) (string, error) {
	h.Helper()
	cmd := exec.Command("/proc/self/exe") // whose folder that user may not enter
	cmd.Env = append(os.Environ(), opens+"="+pin)
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534, Groups: []uint32{gid}}}
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		err = fmt.Errorf("%w: %s", err, stderr.String())
	}
	return strings.TrimSpace(string(out)), err
}
