// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	xdpdv1 "github.com/xdpd/xdpd/api/proto/xdpd/v1"
	"github.com/xdpd/xdpd/internal/netif/nettest"
)

// second is the interface that hosts of these tests have besides nettest.Dev, and that comes behind it in order.
const second = "xdev1"

// operation is a change in whose middle the daemon is disturbed.
type operation struct {
	name  string
	setup []change // each chain has two revisions after it, so that the next change folds the first one's counts
	change
	points string // those that the change meets, in order; NAME@N is the N-th time
}

var operations = slices.Concat(orderings, versions)

// orderings are operations that leave the versions of programs as they are.
var orderings = []operation{
	{
		name:   "add the first program of an interface",
		change: adding(add("n", "pass", nettest.Dev)),
		points: "load.maps load.pinned stage.dispatcher stage.slots stage.pinned stage.link stage.attached " +
			"save.before save.after commit.before commit.after unpin.before unpin.after",
	},
	{
		name:   "add a second program",
		setup:  []change{adding(add("a", "pass", nettest.Dev)), adding(add("b", "goon", nettest.Dev))},
		change: adding(&xdpdv1.AddProgramRequest{Name: "n", Object: verdicts, Function: "drop", Interfaces: []string{nettest.Dev}, Position: before("b")}),
		points: "load.maps load.pinned stage.dispatcher stage.slots stage.slots@2 stage.slots@3 stage.pinned fold.before " +
			"save.before save.after commit.before commit.after unpin.before unpin.after",
	},
	{
		name:   "add a program to two interfaces",
		setup:  []change{adding(add("a", "tx", second)), adding(add("b", "goon", second))},
		change: adding(&xdpdv1.AddProgramRequest{Name: "n", Object: verdicts, Function: "pass", Interfaces: []string{nettest.Dev, second}, Position: first}),
		points: "load.maps load.pinned stage.dispatcher stage.slots stage.pinned stage.link stage.attached stage.dispatcher@2 " +
			"stage.slots@4 stage.pinned@2 fold.before save.before save.after commit.before commit.after commit.before@2 " +
			"commit.after@2 unpin.before unpin.after unpin.before@2 unpin.after@2",
	},
	{
		name:   "remove a program from one of its interfaces",
		setup:  []change{adding(add("n", "drop", nettest.Dev, second)), adding(add("a", "pass", nettest.Dev, second))},
		change: removing("n", second),
		points: "stage.dispatcher stage.slots stage.pinned fold.before save.before save.after commit.before commit.after " +
			"unpin.before unpin.after",
	},
	{
		name: "remove a program from its last places",
		setup: []change{
			adding(add("n", "drop", nettest.Dev, second)), adding(add("a", "pass", nettest.Dev)),
			updating(&xdpdv1.MemberUpdate{Program: "n", Interface: second, Priority: ptr(int32(7))}),
		},
		change: removing("n"),
		points: "stage.dispatcher stage.slots stage.pinned fold.before stage.dispatcher@2 stage.pinned@2 fold.before@2 " +
			"save.before save.after commit.before commit.after commit.before@2 commit.after@2 unpin.before unpin.after " +
			"detach.before detach.after unload.before",
	},
	{
		name:   "reorder",
		setup:  []change{adding(add("a", "pass", nettest.Dev, second)), adding(add("d", "drop", nettest.Dev, second))},
		change: updating(&xdpdv1.MemberUpdate{Program: "a", Position: last}),
		points: "stage.dispatcher stage.slots stage.slots@2 stage.pinned fold.before stage.dispatcher@2 stage.slots@4 " +
			"stage.pinned@2 fold.before@2 save.before save.after commit.before commit.after commit.before@2 commit.after@2 " +
			"unpin.before unpin.after unpin.before@2 unpin.after@2",
	},
}

// replacedTwice is the state before changes of the program n, which is on both interfaces.
var replacedTwice = []change{adding(add("n", "drop", nettest.Dev, second)), adding(add("a", "pass", nettest.Dev, second))}

// versions are operations that load a program again, or let one go that a change which waited to be confirmed kept.
var versions = []operation{
	{
		name:   "replace a program in two places",
		setup:  replacedTwice,
		change: replacing(choose("n", "31")),
		points: "load.maps load.pinned stage.dispatcher stage.slots stage.slots@2 stage.pinned fold.before stage.dispatcher@2 " +
			"stage.slots@4 stage.pinned@2 fold.before@2 save.before save.after commit.before commit.after commit.before@2 " +
			"commit.after@2 unpin.before unpin.after unpin.before@2 unpin.after@2 unload.before",
	},
	{
		name: "apply to two interfaces",
		setup: []change{
			adding(add("n", "drop", nettest.Dev, second)), adding(add("a", "pass", nettest.Dev)), adding(add("b", "pass", second)),
		},
		change: applying(&xdpdv1.SetChainsRequest{
			Objects:  [][]byte{settable},
			Programs: []*xdpdv1.ProgramSpec{{Name: "n", ObjectSha256: settableSum}, specOf("p", "tx")},
			Chains:   []*xdpdv1.ChainSpec{chainOf(nettest.Dev, "a", "p", "n"), chainOf(second)},
		}),
		points: "load.maps load.pinned load.maps@2 load.pinned@2 stage.dispatcher stage.slots stage.slots@2 stage.slots@3 " +
			"stage.pinned fold.before stage.dispatcher@2 stage.pinned@2 fold.before@2 save.before save.after " +
			"commit.before commit.after commit.before@2 commit.after@2 unpin.before unpin.after detach.before detach.after " +
			"unload.before unload.before@2",
	},
	{
		name:   "roll back",
		setup:  append(slices.Clone(replacedTwice), removing("n", second), replacing(replace("n", "goon"))),
		change: rolling(nettest.Dev, 0),
		points: "load.maps load.pinned stage.dispatcher stage.slots stage.slots@2 stage.pinned fold.before save.before save.after " +
			"commit.before commit.after unpin.before unpin.after unload.before",
	},
	{
		name:   "replace a program and wait",
		setup:  replacedTwice,
		change: replacing(choose("n", "31")).within(time.Hour),
		points: "load.maps load.pinned stage.dispatcher stage.slots stage.slots@2 stage.pinned fold.before stage.dispatcher@2 " +
			"stage.slots@4 stage.pinned@2 fold.before@2 save.before save.after commit.before commit.after commit.before@2 " +
			"commit.after@2 unpin.before unpin.after unpin.before@2 unpin.after@2",
	},
	{
		name:   "confirm",
		setup:  append(slices.Clone(replacedTwice), replacing(choose("n", "31")).within(time.Hour)),
		change: confirming(0),
		points: "confirm.saved unload.before",
	},
	{
		name:   "cancel",
		setup:  append(slices.Clone(replacedTwice), replacing(choose("n", "31")).within(time.Hour)),
		change: cancelling(0),
		points: "stage.dispatcher stage.slots stage.slots@2 stage.pinned fold.before stage.dispatcher@2 stage.slots@4 stage.pinned@2 " +
			"fold.before@2 save.before save.after commit.before commit.after commit.before@2 commit.after@2 unpin.before unpin.after " +
			"unpin.before@2 unpin.after@2 unload.before",
	},
}

func operationOf(name string) operation {
	return operations[slices.IndexFunc(operations, func(op operation) bool { return op.name == name })]
}

// telling are operations that together meet all points and make every kind of change.
var telling = []string{"add a program to two interfaces", "apply to two interfaces", "confirm", "cancel"}

// tried are the operations that are disturbed at every point. On emulated kernels, which are slow, they are the telling
// ones; with the inline linker, which is tried in full natively, one.
func tried() []operation {
	if !testing.Short() {
		return operations
	}
	names := telling
	if os.Getenv("XDPD_TEST_LINKER") == "inline" {
		names = []string{"reorder"}
	}
	var some []operation
	for _, name := range names {
		some = append(some, operationOf(name))
	}
	return some
}

func ptr[T any](v T) *T { return &v }

// met are the points that the operation meets, in order.
func (op operation) met() (points []met) {
	for _, p := range strings.Fields(op.points) {
		name, n, _ := strings.Cut(p, "@")
		hit, err := strconv.Atoi(n)
		if err != nil {
			hit = 1
		}
		// A commit is met once for each interface, and is never left out.
		if testing.Short() && hit > 1 && !strings.HasPrefix(name, "commit.") {
			continue
		}
		points = append(points, met{name, hit})
	}
	return points
}

// met is the hit-th time that an operation meets a point.
type met struct {
	point string
	hit   int
}
