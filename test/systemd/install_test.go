// SPDX-License-Identifier: Apache-2.0

package systemd

import (
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// example is the drop-in with more capabilities, as it is installed.
const example = "/usr/share/doc/xdpd/cap-sys-admin.conf"

// most is the most that `systemd-analyze security` may say of a unit: 10 is no sandbox.
const most = 2.0

func TestUnitsAreValid(t *testing.T) {
	out, err := run("systemd-analyze", "verify", mainUnit, daemonUnit)
	if err != nil {
		t.Error(err)
	}
	for line := range strings.Lines(out) {
		if strings.Contains(line, "xdpd") {
			t.Error(line)
		}
	}
}

func TestSecurity(t *testing.T) {
	h := newHost(t)
	scores := exposure(h, mainUnit, daemonUnit)
	for unit, score := range scores {
		if score > most {
			t.Errorf("systemd-analyze security gives %s %v, want at most %v", unit, score, most)
		}
	}
	h.allow()
	more := exposure(h, daemonUnit)
	if more[daemonUnit] <= scores[daemonUnit] {
		t.Errorf("with the drop-in the daemon has %v, without %v: it is not in effect", more[daemonUnit], scores[daemonUnit])
	}
	t.Logf("exposure: %v; with the drop-in: %v", scores, more)
}

// exposure asks systemd how exposed units are.
func exposure(t testing.TB, units ...string) map[string]float64 {
	t.Helper()
	out, err := run("systemd-analyze", append([]string{"security", "--no-pager"}, units...)...)
	if err != nil {
		t.Fatal(err)
	}
	scores := map[string]float64{}
	for _, found := range regexp.MustCompile(`Overall exposure level for (\S+): ([0-9.]+)`).FindAllStringSubmatch(out, -1) {
		if scores[found[1]], err = strconv.ParseFloat(found[2], 64); err != nil {
			t.Fatal(err)
		}
	}
	for _, unit := range units {
		if _, told := scores[unit]; !told {
			t.Fatalf("systemd-analyze security says nothing of %s:\n%s", unit, out)
		}
	}
	return scores
}

// allow installs the drop-in with more capabilities.
func (h *host) allow() {
	h.Helper()
	text, err := os.ReadFile(example)
	if err != nil {
		h.Fatal(err)
	}
	h.dropIn(daemonUnit, string(text))
}
