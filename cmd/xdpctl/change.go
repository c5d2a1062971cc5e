// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	xdpdv1 "github.com/xdpd/xdpd/api/proto/xdpd/v1"
	"github.com/xdpd/xdpd/client"
)

// The time that a change may wait to be confirmed, as the API has it.
const (
	minConfirm = time.Second
	maxConfirm = 24 * time.Hour
)

const changeHelp = `Every change takes --expect, --dry-run, --confirm-within and --comment: see xdpctl help changes.`

const changesHelp = `What add, replace, rm, set, order, apply and rollback have in common: each is made on all interfaces that it
names or on none, and by one swap on each.

--expect IF=REVISION
  makes the change only if the interface has that revision, 0: no chain. Else it is refused with
  REVISION_MISMATCH, which has the actual one. For several interfaces repeat it, or write a list with commas.

--dry-run
  loads, verifies and links everything as the change would, prints what would be different and the chains that
  would come of it, and takes it away again. Nothing changes.

--confirm-within 60s
  makes the change at once, and has the daemon undo it unless it is confirmed within that time, 1s to 24h: for a
  change that may cut one's own connection. A daemon that was killed meanwhile undoes it when it is started again
  and the time is up. xdpctl waits: on a terminal it asks whether to keep the change, and y keeps it; else it waits
  for xdpctl confirm from elsewhere. Any other answer, Ctrl-C and SIGTERM undo it at once; if it is just being made,
  as soon as the daemon has answered. A second Ctrl-C ends xdpctl and leaves the change to the daemon. The exit
  status is 0 if the change is known to stay, else 1.
  With --no-wait it returns as soon as the change is made.

--comment TEXT
  is kept in the history of the interfaces.`

// changeFlags is the flags that every change has.
type changeFlags struct {
	expect         []string
	dryRun, noWait bool
	within         time.Duration
	comment        string
}

// register adds the flags to a command, after its own.
func (o *changeFlags) register(cmd *cobra.Command, a *app) {
	f := cmd.Flags()
	f.StringSliceVar(&o.expect, "expect", nil, "only if the interface has that revision: `IF=REVISION`")
	f.BoolVar(&o.dryRun, "dry-run", false, "try it, print what would come of it, and change nothing")
	f.DurationVar(&o.within, "confirm-within", 0, "undo it unless it is confirmed within this `time`")
	f.BoolVar(&o.noWait, "no-wait", false, "do not wait for the confirmation")
	f.StringVar(&o.comment, "comment", "", "a `text` for the history")
	complete(cmd, "expect", listed(a.revisions))
	complete(cmd, "confirm-within", fixed("30s", "60s", "5m"))
	complete(cmd, "comment", fixed())
}

// options returns nil where no flag asks for anything.
func (o *changeFlags) options(cmd *cobra.Command) (*xdpdv1.ChangeOptions, error) {
	if err := filled(cmd, "expect", "comment"); err != nil {
		return nil, err
	}
	opts := &xdpdv1.ChangeOptions{DryRun: o.dryRun, Comment: o.comment}
	for _, e := range o.expect {
		iface, revision, err := expectation(e)
		if err != nil {
			return nil, err
		}
		if other, given := opts.GetExpectedRevisions()[iface]; given && other != revision {
			return nil, fmt.Errorf("--expect has two revisions for %s, %d and %d", iface, other, revision)
		}
		expect(opts, iface, revision)
	}
	if cmd.Flags().Changed("confirm-within") {
		if o.within < minConfirm || o.within > maxConfirm {
			return nil, fmt.Errorf("--confirm-within is %s; it takes 1s to 24h", o.within)
		}
		opts.ConfirmWithin = durationpb.New(o.within)
	} else if o.noWait {
		return nil, fmt.Errorf("--no-wait needs --confirm-within: nothing else waits")
	}
	if proto.Equal(opts, &xdpdv1.ChangeOptions{}) {
		return nil, nil
	}
	return opts, nil
}

// expectation reads a value of --expect. A name of an interface may have a "=", a revision has none.
func expectation(s string) (iface string, revision uint64, err error) {
	if i := strings.LastIndexByte(s, '='); i > 0 {
		if revision, err = strconv.ParseUint(s[i+1:], 10, 64); err == nil {
			return s[:i], revision, nil
		}
	}
	return "", 0, fmt.Errorf("--expect takes IF=REVISION, such as eth0=4; it cannot be %q", s)
}

// expect adds an interface's revision to those that a change needs.
func expect(opts *xdpdv1.ChangeOptions, iface string, revision uint64) {
	if opts.ExpectedRevisions == nil {
		opts.ExpectedRevisions = map[string]uint64{}
	}
	opts.ExpectedRevisions[iface] = revision
}

// changed is the answer to a change.
type changed interface {
	proto.Message
	GetChains() []*xdpdv1.Chain
	GetChange() *xdpdv1.Change
}

// change makes a change and prints what came of it: table prints the answer to one that was made. A change that
// waits to be confirmed is waited for.
func change[R changed](a *app, cmd *cobra.Command, o *changeFlags, call func(context.Context, *client.Client) (R, error), table func(io.Writer, R)) error {
	return a.with(func(c *client.Client) error {
		show := func(resp R) error {
			return a.printChange(resp, func(w io.Writer) { table(w, resp) })
		}
		if o.within == 0 || o.noWait || o.dryRun {
			resp, err := call(cmd.Context(), c)
			if err != nil {
				return err
			}
			return show(resp)
		}
		return confirmed(cmd.Context(), a, c, call, show)
	})
}

func (a *app) printChange(resp changed, table func(io.Writer)) error {
	return a.print(resp, func(w io.Writer) {
		ch := resp.GetChange()
		switch {
		case ch.GetDryRun():
			planned(w, resp)
		case ch != nil && !ch.GetChanged():
			fmt.Fprintln(w, "nothing changed: it is so already")
		default:
			table(w)
		}
		for _, t := range ch.GetTakeovers() {
			fmt.Fprintln(w, takeover(t, ch.GetDryRun()))
		}
		for _, m := range ch.GetMaps() {
			fmt.Fprintln(w, origin(m, ch.GetDryRun()))
		}
		if p := ch.GetPending(); p != nil {
			fmt.Fprintf(w, "change %d is undone at %s, in %s, unless it is confirmed\n", p.GetId(), until(p), left(p))
			fmt.Fprintf(w, "  xdpctl confirm %d  keeps it\n  xdpctl cancel %d   undoes it now\n", p.GetId(), p.GetId())
		}
	})
}

// planned prints what a dry run found out.
func planned(w io.Writer, resp changed) {
	if !resp.GetChange().GetChanged() {
		fmt.Fprintln(w, "dry run: nothing would change")
		return
	}
	fmt.Fprintln(w, "dry run: this would change")
	diff(w, resp.GetChange())
	for _, c := range resp.GetChains() {
		fmt.Fprintln(w)
		if len(c.GetMembers()) == 0 {
			fmt.Fprintf(w, "%s would have no chain\n", c.GetInterface())
			continue
		}
		fmt.Fprintf(w, "%s would have, mode %s, final %s\n", c.GetInterface(), word(c.GetMode()), word(c.GetFinalVerdict()))
		t := table{right: []bool{1: true}}
		t.row("PROGRAM", "PRIORITY", "PROCEED-ON")
		for _, m := range c.GetMembers() {
			t.row(memberName(m), fmt.Sprint(m.GetPriority()), verdicts(m.GetProceedOn()))
		}
		t.write(w)
	}
}

// diff prints what is different, each line indented.
func diff(w io.Writer, c *xdpdv1.Change) {
	for _, line := range c.GetDiff() {
		fmt.Fprintf(w, "  %s\n", line)
	}
}

// outline prints the diff of a change and a line for each chain: what is told of changes to whole chains.
func outline(w io.Writer, resp changed) {
	diff(w, resp.GetChange())
	for _, c := range resp.GetChains() {
		if len(c.GetMembers()) == 0 {
			fmt.Fprintf(w, "%s: no chain any more\n", c.GetInterface())
			continue
		}
		names := make([]string, len(c.GetMembers()))
		for i, m := range c.GetMembers() {
			names[i] = memberName(m)
		}
		fmt.Fprintf(w, "%s %s %s\n", heading(c), strings.Join(names, ", "), how(c))
	}
}

// origin says in one line where a map comes from.
func origin(m *xdpdv1.MapOrigin, dryRun bool) string {
	is := "is"
	if dryRun {
		is = "would be"
	}
	text := fmt.Sprintf("map %s of %s %s ", m.GetMap(), m.GetProgram(), is)
	switch m.GetOrigin() {
	case xdpdv1.MapOrigin_ORIGIN_CARRIED:
		text += "carried over"
	case xdpdv1.MapOrigin_ORIGIN_SHARED:
		text += "shared"
	default:
		text += "new"
	}
	if m.GetReason() != "" {
		text += ": " + m.GetReason()
	}
	return text
}

// takeover says in one line which foreign program a chain replaced, and how.
func takeover(t *xdpdv1.Takeover, dryRun bool) string {
	took, had := "took over", "for a moment the interface had no program"
	if dryRun {
		took, had = "would take over", "for a moment the interface would have no program"
	}
	how := "; " + had
	if t.GetSwapped() {
		how = ", in one swap"
	}
	return fmt.Sprintf("%s %s on %s%s", took, foreign(t.GetProgramId(), t.GetName(), t.GetMode()), t.GetInterface(), how)
}

// foreign names a program that is not xdpd's, as in: program 44 other (native).
func foreign(id uint32, name string, mode xdpdv1.Mode) string {
	text := fmt.Sprintf("program %d", id)
	if name != "" {
		text += " " + name
	}
	if mode != xdpdv1.Mode_MODE_UNSPECIFIED {
		text += " (" + word(mode) + ")"
	}
	return text
}

// until is when a change is undone.
func until(p *xdpdv1.PendingChange) string {
	return p.GetUntil().AsTime().Format(time.RFC3339)
}

// left is how long until then.
func left(p *xdpdv1.PendingChange) time.Duration {
	return p.GetLeft().AsDuration().Round(time.Second)
}

// waiting says in one line that a change of a chain waits to be confirmed.
func waiting(p *xdpdv1.PendingChange) string {
	return fmt.Sprintf("change %d (%s, by %s) is undone at %s, in %s, unless it is confirmed",
		p.GetId(), p.GetWhat(), caller(p.GetCaller()), until(p), left(p))
}

// caller is who asked for a change.
func caller(c *xdpdv1.Caller) string {
	if c == nil {
		return "nobody"
	}
	return fmt.Sprintf("uid %d, pid %d", c.GetUid(), c.GetPid())
}

// pendings returns the changes that wait to be confirmed, by number.
func pendings(ctx context.Context, c *client.Client) ([]*xdpdv1.PendingChange, error) {
	resp, err := c.ListChains(ctx, &xdpdv1.ListChainsRequest{})
	if err != nil {
		return nil, err
	}
	byID := map[uint64]*xdpdv1.PendingChange{}
	for _, ch := range resp.GetChains() {
		if p := ch.GetPending(); p != nil {
			byID[p.GetId()] = p
		}
	}
	var all []*xdpdv1.PendingChange
	for _, id := range slices.Sorted(maps.Keys(byID)) {
		all = append(all, byID[id])
	}
	return all, nil
}

// changes is not a command but a topic of help.
func (a *app) changes() *cobra.Command {
	return &cobra.Command{
		Use:   "changes",
		Short: "What all changes have in common",
		Long:  changesHelp,
	}
}
