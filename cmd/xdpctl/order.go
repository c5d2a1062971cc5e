// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	xdpdv1 "github.com/xdpd/xdpd/api/proto/xdpd/v1"
	"github.com/xdpd/xdpd/client"
)

const orderHelp = `Put members of a chain into an order, by one swap.

The programs come directly one after the other, in the order given. Where these are all members of the chain,
that is the chain. Else the first of them keeps its place, the others follow it, and the members that are not
named stay in their order before and behind them.

A member that is moved gets the priority of the one that it comes after; one that is in its place already keeps
its own. If the chain changes at the same time by another hand, the order is refused with REVISION_MISMATCH.

` + changeHelp

func (a *app) order() *cobra.Command {
	o := &changeFlags{}
	cmd := &cobra.Command{
		Use:               "order IF P1,P2,…",
		Short:             "Put members of a chain into an order, by one swap",
		Long:              orderHelp,
		Example:           "  xdpctl order eth0 blocklist,sample,ratelimit,dns-cache",
		Args:              two("IF", "P1,P2,…"),
		ValidArgsFunction: each(a.chainInterfaces, listed(a.membersOf)),
		RunE: func(cmd *cobra.Command, args []string) error {
			programs, err := distinct(args[1])
			if err != nil {
				return err
			}
			opts, err := o.options(cmd)
			if err != nil {
				return err
			}
			return change(a, cmd, o, func(ctx context.Context, c *client.Client) (*xdpdv1.UpdateMembersResponse, error) {
				resp, err := c.GetChain(ctx, &xdpdv1.GetChainRequest{Interface: args[0]})
				if err != nil {
					return nil, err
				}
				return c.UpdateMembers(ctx, orderRequest(resp.GetChain(), args[0], programs, opts))
			}, func(w io.Writer, resp *xdpdv1.UpdateMembersResponse) { outline(w, resp) })
		},
	}
	o.register(cmd, a)
	return cmd
}

// distinct returns the elements of a list with commas between them.
func distinct(list string) ([]string, error) {
	programs := strings.Split(list, ",")
	if slices.Contains(programs, "") {
		return nil, fmt.Errorf("the list of programs %q has an empty element", list)
	}
	for i, p := range programs {
		if slices.Contains(programs[:i], p) {
			return nil, fmt.Errorf("%s is in the list twice", p)
		}
	}
	return programs, nil
}

// orderRequest asks for the programs in their order, in the chain as it is: in another the updates could mean
// something else.
func orderRequest(c *xdpdv1.Chain, iface string, programs []string, opts *xdpdv1.ChangeOptions) *xdpdv1.UpdateMembersRequest {
	if opts == nil {
		opts = &xdpdv1.ChangeOptions{}
	}
	if _, given := opts.GetExpectedRevisions()[iface]; !given {
		expect(opts, iface, c.GetRevision())
	}
	now := make([]string, len(c.GetMembers()))
	for i, m := range c.GetMembers() {
		now[i] = m.GetProgram()
	}
	updates := orderUpdates(now, programs)
	for _, u := range updates {
		u.Interface = iface
	}
	return &xdpdv1.UpdateMembersRequest{Updates: updates, Options: opts}
}

// orderUpdates returns the updates that bring the programs directly one behind the other in a chain that has the
// order of now, at least one: if nothing is to be moved, it changes nothing. Where all members are named the
// first becomes the first of the chain, so that it has the lowest priority, else it stays where it is. A program
// that is no member is left for the daemon to refuse.
func orderUpdates(now, programs []string) []*xdpdv1.MemberUpdate {
	now = slices.Clone(now)
	first := &xdpdv1.MemberUpdate{Program: programs[0]}
	updates := []*xdpdv1.MemberUpdate{first}
	at := slices.Index(now, programs[0])
	if len(programs) == len(now) && at > 0 {
		first.Position = &xdpdv1.Position{Place: &xdpdv1.Position_First{First: true}}
		now = slices.Insert(slices.Delete(now, at, at+1), 0, programs[0])
	}
	for i, p := range programs[1:] {
		ahead := programs[i]
		from, to := slices.Index(now, p), slices.Index(now, ahead)+1
		if from >= 0 && to > 0 && from == to {
			continue
		}
		updates = append(updates, &xdpdv1.MemberUpdate{
			Program:  p,
			Position: &xdpdv1.Position{Place: &xdpdv1.Position_After{After: ahead}},
		})
		if from >= 0 {
			now = slices.Delete(now, from, from+1)
		}
		now = slices.Insert(now, slices.Index(now, ahead)+1, p)
	}
	if first.Position == nil && len(updates) > 1 {
		updates = updates[1:]
	}
	return updates
}
