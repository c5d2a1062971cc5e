// SPDX-License-Identifier: Apache-2.0

//go:build failpoint

package dispatcher

import (
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/xdpd/xdpd/internal/failpoint"
)

// failing are the points of a change at which the plane can fail, in the order in which it meets them. Those of
// Load come first; the last is Commit's.
var failing = []string{
	failpoint.LoadMaps, failpoint.LoadPinned,
	failpoint.StageDispatcher, failpoint.StageSlots, failpoint.StagePinned, failpoint.StageLink, failpoint.StageAttached,
	failpoint.CommitBefore,
}

const failChild = "XDPD_TEST_FAIL_CHILD"

// TestContractFailures lets each step of a change fail in turn, in another process: failpoints are set when a
// process starts. Each fails once, so that every attempt there gets one step further.
func TestContractFailures(t *testing.T) {
	for _, point := range failpoint.All {
		if (strings.HasPrefix(point, "load.") || strings.HasPrefix(point, "stage.")) && !slices.Contains(failing, point) {
			t.Errorf("nobody tries %s", point)
		}
	}
	t.Run("new chain", func(t *testing.T) {
		failInTurn(t, "new", failing, strings.Join(failing, "=error,")+"=error")
	})
	t.Run("change", func(t *testing.T) {
		// The chain that is there already has two members, and took each of the points once, slots twice.
		points := []string{failpoint.StageDispatcher, failpoint.StageSlots, failpoint.StagePinned, failpoint.CommitBefore}
		failInTurn(t, "change", points, "stage.dispatcher=error@2,stage.slots=error@4,stage.pinned=error@2,commit.before=error@2")
	})
}

func failInTurn(t *testing.T, kind string, points []string, setting string) {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), exe, "-test.run=^TestContractFailuresChild$", "-test.v", "-test.count=1")
	cmd.Env = append(os.Environ(), failChild+"="+kind+" "+strings.Join(points, " "), failpoint.Env+"="+setting)
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "--- PASS: TestContractFailuresChild") {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, point := range points {
		if !strings.Contains(string(out), "failed at "+point) {
			t.Errorf("nothing failed at %s\n%s", point, out)
		}
	}
}

// TestContractFailuresChild is what TestContractFailures runs; by itself it makes the same changes and none of
// them fails.
func TestContractFailuresChild(t *testing.T) {
	b := newBench(t)
	kind, rest, _ := strings.Cut(os.Getenv(failChild), " ")
	points := strings.Fields(rest)
	failed := func(err error) {
		t.Helper()
		if err == nil || !strings.Contains(err.Error(), "failpoint "+points[0]) {
			t.Fatalf("the error is %v, want that of %s", err, points[0])
		}
		t.Logf("failed at %s", points[0])
		points = points[1:]
	}
	next := func(prefix string) bool { return len(points) > 0 && strings.HasPrefix(points[0], prefix) }
	p := &program{b, 1, object(t, "step", "")}
	before, running := b.pins(), b.xdp()
	var marks []byte
	same := func() {
		t.Helper()
		if now := b.pins(); !slices.Equal(now, before) || b.xdp() != running {
			t.Fatalf("the pins are %q, they were %q; program %d is on the interface, it was %d", now, before, b.xdp(), running)
		}
		b.follow(frame(), 2, marks...)
	}
	for next("load.") {
		b.atRest("Load", func() {
			_, err := b.plane.Load(p.asLoad())
			failed(err)
		})
		same()
	}
	_, err := b.plane.Load(p.asLoad())
	b.check(err)
	s := p.state()
	s.Mark = 1
	p.set(s)
	if kind == "change" {
		b.run(b.plan(all(passing, p, p)...))
		marks = []byte{1, 1}
	}
	before, running = b.pins(), b.xdp()
	for next("stage.") {
		failed(b.refused(b.plan(all(passing, p, p, p)...)))
		same()
	}
	staged, err := b.stage(b.dev, b.plan(all(passing, p, p, p)...))
	b.check(err)
	b.collect()
	if next("commit.") {
		failed(staged.Commit())
	}
	b.check(staged.Discard())
	same()
	b.run(b.plan(all(passing, p, p, p)...))
	b.follow(frame(), 2, 1, 1, 1)
}
