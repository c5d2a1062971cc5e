// SPDX-License-Identifier: Apache-2.0

// Package failpoint lets tests end or disturb the daemon at named points of a change. Without the build tag
// failpoint its functions are empty and the compiler leaves nothing of them.
//
// With the tag, the environment variable XDPD_FAILPOINT says what happens: NAME=ACTION[@COUNT], several with
// commas between. The action takes place when the point is reached for the COUNT-th time (default: the first),
// once. Actions:
//
//	kill    SIGKILL to the own process
//	stop    SIGSTOP to the own process, so that a test can look and then send SIGCONT
//	wait    open the FIFO that XDPD_FAILPOINT_FIFO names and wait for its end, so that a test which opens it for
//	        writing knows that the point is reached; only who reached it waits
//	panic   panic
//	error   Err returns an error that names the point; at a point that only has Hit: panic
//
// A setting that names no point or no action ends the process at its start.
//
// It imports the standard library only.
package failpoint

// The points, in the order in which a change meets them.
const (
	LoadMaps        = "load.maps"        // a program's maps are made and pinned, its program is not
	LoadPinned      = "load.pinned"      // a program is loaded and pinned, no chain has it
	StageDispatcher = "stage.dispatcher" // a new dispatcher is loaded
	StageSlots      = "stage.slots"      // a slot is filled; once for each
	StagePinned     = "stage.pinned"     // the new revision is pinned
	StageLink       = "stage.link"       // before a new chain's XDP link is made
	StageAttached   = "stage.attached"   // the XDP link exists, its pin does not
	SaveBefore      = "save.before"      // all is staged, the intent is not saved
	SaveAfter       = "save.after"       // the intent is saved, no interface has it
	CommitBefore    = "commit.before"    // before the swap; once for each interface
	CommitAfter     = "commit.after"     // after the swap; once for each interface
	FoldBefore      = "fold.before"      // the old revision's counters are not folded
	UnpinBefore     = "unpin.before"     // before the old revision's pins go
	UnpinAfter      = "unpin.after"      // after it
	UnloadBefore    = "unload.before"    // before a program without places goes
	DetachBefore    = "detach.before"    // before a chain's XDP link is detached
	DetachAfter     = "detach.after"     // after it, its pins are still there
	ConfirmSaved    = "confirm.saved"    // a change is confirmed, what it replaced still has pins
	StopSaved       = "stop.saved"       // the daemon stops; what is to come back is saved
	StopDetached    = "stop.detached"    // all links are detached and pins gone, the folder is still there
)

// The points of a reload, in the order in which it meets them. The first is one of the process that checks whether
// it can take over, the last of the one that has taken over.
const (
	ReloadCheck   = "reload.check"   // nothing is checked
	ReloadChecked = "reload.checked" // the check went well, requests are still served
	ReloadDrained = "reload.drained" // nothing is served any more
	ReloadClosed  = "reload.closed"  // all is let go of, signals are still heard
	ReloadDeaf    = "reload.deaf"    // they are not, and the process is about to be replaced
	ReloadTaken   = "reload.taken"   // the process was replaced, nothing is opened
)

// Reload holds every point of a reload.
var Reload = [...]string{ReloadCheck, ReloadChecked, ReloadDrained, ReloadClosed, ReloadDeaf, ReloadTaken} //nolint:gochecknoglobals // a constant list, like All

// All holds every point of a change and of a stop, for tests that try each.
var All = [...]string{
	LoadMaps, LoadPinned, StageDispatcher, StageSlots, StagePinned, StageLink, StageAttached, SaveBefore, SaveAfter,
	CommitBefore, CommitAfter, FoldBefore, UnpinBefore, UnpinAfter, UnloadBefore, DetachBefore,
	DetachAfter, ConfirmSaved, StopSaved, StopDetached,
}
