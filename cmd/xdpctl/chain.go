// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"io"
	"math"
	"strings"

	"github.com/spf13/cobra"

	xdpdv1 "github.com/xdpd/xdpd/api/proto/xdpd/v1"
	"github.com/xdpd/xdpd/client"
)

const chainHelp = `Show the chain of one interface, or those of all, with what each member did to the packets.

SEEN is the packets that reached the member, PASSED ON those that went on to the next one, ENDED HERE
those for which its verdict was the last. The row "end" is the packets that passed all members and
got the final verdict. Where a chain does not run as it should, its heading and the lines below it say why.

` + interfaceHelp + `

With -o yaml it is a file that xdpctl apply takes: the chains, and their programs with the sha256 of their
objects, which the daemon has. Applying it changes nothing, until something else has.`

func (a *app) chain() *cobra.Command {
	return &cobra.Command{
		Use:               "chain [IF…]",
		Short:             "Show chains with their counters, or as a file for apply",
		Long:              chainHelp,
		Args:              atMost(math.MaxInt),
		ValidArgsFunction: repeated(a.chainInterfaces),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.with(func(c *client.Client) error {
				switch {
				case a.output.value == "yaml":
					return a.dumpChains(cmd.Context(), c, func() ([]*xdpdv1.Chain, error) { return chainsOf(cmd.Context(), c, args) })
				case len(args) == 1:
					resp, err := c.GetChain(cmd.Context(), &xdpdv1.GetChainRequest{Interface: args[0]})
					if err != nil {
						return err
					}
					return a.print(resp, func(w io.Writer) { chainTable(w, resp.GetChain()) })
				}
				chains, err := chainsOf(cmd.Context(), c, args)
				if err != nil {
					return err
				}
				return a.print(&xdpdv1.ListChainsResponse{Chains: chains}, func(w io.Writer) { chainTables(w, chains) })
			})
		},
	}
}

// chainsOf returns the chains of interfaces; none named: of all.
func chainsOf(ctx context.Context, c *client.Client, interfaces []string) (chains []*xdpdv1.Chain, err error) {
	if len(interfaces) == 0 {
		resp, err := c.ListChains(ctx, &xdpdv1.ListChainsRequest{})
		return resp.GetChains(), err
	}
	for _, i := range interfaces {
		resp, err := c.GetChain(ctx, &xdpdv1.GetChainRequest{Interface: i})
		if err != nil {
			return nil, err
		}
		chains = append(chains, resp.GetChain())
	}
	return chains, nil
}

func chainTables(w io.Writer, chains []*xdpdv1.Chain) {
	if len(chains) == 0 {
		fmt.Fprintln(w, "no chains")
	}
	for i, c := range chains {
		if i > 0 {
			fmt.Fprintln(w)
		}
		chainTable(w, c)
	}
}

// chainTable prints a heading and a line for each member.
func chainTable(w io.Writer, c *xdpdv1.Chain) {
	final := word(c.GetFinalVerdict())
	if live(c) {
		fmt.Fprintf(w, "%s: ifindex %s, revision %d, %s, %s, final %s, %d packets\n", c.GetInterface(),
			ifindex(c), c.GetRevision(), mode(c), word(c.GetLinker()), final, c.GetPackets())
	} else {
		fmt.Fprintf(w, "%s: %s, mode %s, final %s\n", c.GetInterface(), absence(c), word(c.GetMode()), final)
	}
	if c.GetProblem() != "" {
		fmt.Fprintf(w, "  %s: %s\n", word(c.GetState()), c.GetProblem())
	}
	if c.GetRenamedFrom() != "" {
		fmt.Fprintf(w, "  renamed from %s\n", c.GetRenamedFrom())
	}
	if c.GetModeReason() != "" {
		fmt.Fprintf(w, "  not native: %s\n", c.GetModeReason())
	}
	if c.GetPending() != nil {
		fmt.Fprintf(w, "  %s\n", waiting(c.GetPending()))
	}
	t := table{right: []bool{0: true, 2: true, 4: true, 5: true}}
	t.row("SLOT", "PROGRAM", "PRIORITY", "PROCEED-ON", "SEEN", "PASSED ON", "ENDED HERE")
	for _, m := range c.GetMembers() {
		slot := "-"
		if m.Slot != nil {
			slot = fmt.Sprint(m.GetSlot())
		}
		n := m.GetCounters()
		t.row(slot, memberName(m), fmt.Sprint(m.GetPriority()), verdicts(m.GetProceedOn()),
			fmt.Sprint(n.GetSeen()), fmt.Sprint(n.GetPassedOn()), ended(n))
	}
	end := fmt.Sprint(c.GetPacketsEnd())
	t.row("end", "(final verdict)", "", "", end, "", final+" "+end)
	t.write(w)
}

// memberName is a member's program, and whether it runs.
func memberName(m *xdpdv1.Member) string {
	if !m.GetEnabled() {
		return m.GetProgram() + " (disabled)"
	}
	return m.GetProgram()
}

// live tells whether packets go through the chain: without its interface it has no dispatcher.
func live(c *xdpdv1.Chain) bool {
	switch c.GetState() {
	case xdpdv1.Chain_STATE_WAITING, xdpdv1.Chain_STATE_FOREIGN:
		return false
	}
	return c.GetKernelId() != 0 || c.GetLinkId() != 0
}

// absence is why no packets go through a chain.
func absence(c *xdpdv1.Chain) string {
	switch c.GetState() {
	case xdpdv1.Chain_STATE_WAITING:
		return "waits for the interface"
	case xdpdv1.Chain_STATE_FOREIGN:
		return "a foreign program has its place"
	case xdpdv1.Chain_STATE_DEGRADED:
		return "degraded, does not run"
	}
	return "not on the interface now"
}

// ifindex is the index of a chain's interface, and the network namespace that it counts in if that is not the daemon's.
func ifindex(c *xdpdv1.Chain) string {
	text := fmt.Sprint(c.GetIfindex())
	if i := strings.LastIndexByte(c.GetInterface(), ':'); i >= 0 {
		text += " in " + c.GetInterface()[:i]
	}
	return text
}

// mode is the mode the chain runs in, and the one asked for where that is another.
func mode(c *xdpdv1.Chain) string {
	if c.GetMode() == c.GetActualMode() {
		return word(c.GetMode())
	}
	return fmt.Sprintf("%s (asked %s)", word(c.GetActualMode()), word(c.GetMode()))
}

// verdicts is a proceed-on set as the flag --proceed-on takes it.
func verdicts(set []xdpdv1.Verdict) string {
	if len(set) == 0 {
		return "none"
	}
	words := make([]string, len(set))
	for i, v := range set {
		words[i] = word(v)
	}
	return strings.Join(words, ",")
}

// ended lists the verdicts that were last at a member; those that never were are left out.
func ended(n *xdpdv1.MemberCounters) string {
	var parts []string
	for _, e := range []struct {
		verdict string
		packets uint64
	}{
		{"drop", n.GetEndedDrop()},
		{"pass", n.GetEndedPass()},
		{"tx", n.GetEndedTx()},
		{"redirect", n.GetEndedRedirect()},
		{"aborted", n.GetEndedAborted()},
		{"other", n.GetEndedOther()},
	} {
		if e.packets > 0 {
			parts = append(parts, fmt.Sprintf("%s %d", e.verdict, e.packets))
		}
	}
	if len(parts) == 0 {
		return "-"
	}
	return strings.Join(parts, ", ")
}

// placed says in one line where a program is in a chain that a change made.
func placed(c *xdpdv1.Chain, program string) string {
	slots := 0
	for _, m := range c.GetMembers() {
		if m.Slot != nil {
			slots++
		}
	}
	where := "is not a member"
	for _, m := range c.GetMembers() {
		switch {
		case m.GetProgram() != program:
		case m.Slot != nil:
			where = fmt.Sprintf("in slot %d of %d", m.GetSlot(), slots)
		case !m.GetEnabled():
			where = "disabled"
		default:
			where = "waits"
		}
	}
	return fmt.Sprintf("%s %s %s %s", heading(c), program, where, how(c))
}

// heading starts the line that tells of a change to a chain.
func heading(c *xdpdv1.Chain) string {
	if !live(c) {
		return c.GetInterface() + ":"
	}
	return fmt.Sprintf("%s: revision %d,", c.GetInterface(), c.GetRevision())
}

// how ends it: the way in which packets go through the chain.
func how(c *xdpdv1.Chain) string {
	text := "(" + absence(c) + ")"
	if live(c) {
		text = fmt.Sprintf("(%s, %s)", word(c.GetActualMode()), word(c.GetLinker()))
		if c.GetModeReason() != "" {
			text += "; not native: " + c.GetModeReason()
		}
	}
	if c.GetProblem() != "" {
		text += "; " + c.GetProblem()
	}
	return text
}
