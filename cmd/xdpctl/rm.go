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

const rmHelp = `Take a program from some of its interfaces, or from all of them.

The program and its maps go with its last place.

With a pattern of the program, in quotes, the pattern goes, and the program goes from all interfaces that match it.
An interface that the program was taken from by its name does not get it again by a pattern.

` + changeHelp

func (a *app) rm() *cobra.Command {
	var interfaces []string
	o := &changeFlags{}
	cmd := &cobra.Command{
		Use:               "rm PROGRAM [--interface IF[,IF…]]",
		Short:             "Remove a program from interfaces, or from all",
		Long:              rmHelp,
		Example:           "  xdpctl rm blocklist\n  xdpctl rm blocklist --interface eth1\n  xdpctl rm blocklist -i 'eth*'",
		Args:              one("PROGRAM"),
		ValidArgsFunction: argument(a.programs),
		RunE: func(cmd *cobra.Command, args []string) error {
			req := &xdpdv1.RemoveProgramRequest{Name: args[0], Interfaces: interfaces}
			if err := filled(cmd, "interface"); err != nil {
				return err
			}
			var err error
			if req.Options, err = o.options(cmd); err != nil {
				return err
			}
			return change(a, cmd, o, func(ctx context.Context, c *client.Client) (*xdpdv1.RemoveProgramResponse, error) {
				return c.RemoveProgram(ctx, req)
			}, func(w io.Writer, resp *xdpdv1.RemoveProgramResponse) { removed(w, req, resp) })
		},
	}
	cmd.Flags().StringSliceVarP(&interfaces, "interface", "i", nil, "from these only: `IF[,IF...]`, also patterns of the program")
	o.register(cmd, a)
	complete(cmd, "interface", listed(a.programPlaces))
	return cmd
}

// removed says what became of each chain, each pattern and of the program.
func removed(w io.Writer, req *xdpdv1.RemoveProgramRequest, resp *xdpdv1.RemoveProgramResponse) {
	program := req.GetName()
	for _, c := range resp.GetChains() {
		switch n := len(c.GetMembers()); n {
		case 0:
			fmt.Fprintf(w, "%s: %s removed, the chain is gone with its last member\n", c.GetInterface(), program)
		case 1:
			fmt.Fprintf(w, "%s %s removed, 1 member left %s\n", heading(c), program, how(c))
		default:
			fmt.Fprintf(w, "%s %s removed, %d members left %s\n", heading(c), program, n, how(c))
		}
	}
	for _, place := range req.GetInterfaces() {
		if isPattern(place) {
			fmt.Fprintf(w, "%s: goes on no further interface because of %s\n", program, place)
		}
	}
	switch {
	case !resp.GetUnloaded():
	case resp.GetChange().GetPending() != nil:
		fmt.Fprintf(w, "%s: goes with its maps when the change is confirmed\n", program)
	default:
		fmt.Fprintf(w, "%s: unloaded, its maps are gone\n", program)
	}
}
