// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	xdpdv1 "github.com/xdpd/xdpd/api/proto/xdpd/v1"
	"github.com/xdpd/xdpd/client"
)

const setHelp = `Change a program's place in a chain: its priority or position, its proceed-on set, whether it runs.

Without --interface the change is made on each interface that the program is on. A member that is
disabled keeps its place and its maps and sees no packet.

` + proceedOnHelp + "\n\n" + changeHelp

// setFlags is the flags of set.
type setFlags struct {
	placement
	changeFlags
	iface           string
	enable, disable bool
}

func (a *app) set() *cobra.Command {
	o := &setFlags{}
	cmd := &cobra.Command{
		Use: "set PROGRAM [--interface IF] [--priority P|--first|--last|--before M|--after M]\n" +
			"             [--proceed-on pass,tx,…|none] [--enable|--disable]",
		Short: "Change a program's place in a chain",
		Long:  setHelp,
		Example: "  xdpctl set sample --interface eth0 --before blocklist\n" +
			"  xdpctl set sample --disable",
		Args:              one("PROGRAM"),
		ValidArgsFunction: argument(a.programs),
		RunE: func(cmd *cobra.Command, args []string) error {
			update, err := o.update(cmd, args[0])
			if err != nil {
				return err
			}
			options, err := o.options(cmd)
			if err != nil {
				return err
			}
			req := &xdpdv1.UpdateMembersRequest{Updates: []*xdpdv1.MemberUpdate{update}, Options: options}
			return change(a, cmd, &o.changeFlags, func(ctx context.Context, c *client.Client) (*xdpdv1.UpdateMembersResponse, error) {
				return c.UpdateMembers(ctx, req)
			}, func(w io.Writer, resp *xdpdv1.UpdateMembersResponse) {
				for _, ch := range resp.GetChains() {
					fmt.Fprintln(w, placed(ch, args[0]))
				}
			})
		},
	}
	f := cmd.Flags()
	f.StringVarP(&o.iface, "interface", "i", "", "on interface `IF` only")
	o.placement.register(cmd, a.members)
	f.BoolVar(&o.enable, "enable", false, "let it run")
	f.BoolVar(&o.disable, "disable", false, "let it not run; it keeps its place and its maps")
	o.changeFlags.register(cmd, a)
	complete(cmd, "interface", a.programInterfaces)
	return cmd
}

func (o *setFlags) update(cmd *cobra.Command, program string) (*xdpdv1.MemberUpdate, error) {
	if err := filled(cmd, "interface", "before", "after", "proceed-on"); err != nil {
		return nil, err
	}
	if err := exclusive(cmd, "priority", "first", "last", "before", "after"); err != nil {
		return nil, err
	}
	if err := exclusive(cmd, "enable", "disable"); err != nil {
		return nil, err
	}
	proceedOn, err := o.proceedOnSet(cmd)
	if err != nil {
		return nil, err
	}
	u := &xdpdv1.MemberUpdate{
		Program:   program,
		Interface: o.iface,
		Priority:  o.priorityOf(cmd),
		Position:  o.position(),
		ProceedOn: proceedOn,
	}
	if o.enable || o.disable {
		u.Enabled = &o.enable
	}
	if u.Priority == nil && u.Position == nil && u.ProceedOn == nil && u.Enabled == nil {
		return nil, fmt.Errorf("nothing to change: give a priority or position, --proceed-on, --enable or --disable")
	}
	return u, nil
}
