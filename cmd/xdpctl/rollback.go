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

const rollbackHelp = `Give an interface an earlier chain again, with the objects and settings that its programs had then: the one
before the last change, or with --to the one of a revision that xdpctl history lists. It is a change like any
other, with a revision and a place in the history of its own.

A program that had another object or other settings then, and is on other interfaces too, is a reason to refuse
(PROGRAM_SHARED); --everywhere replaces it there as well.

` + changeHelp

func (a *app) rollback() *cobra.Command {
	o := &changeFlags{}
	var to uint64
	var everywhere bool
	cmd := &cobra.Command{
		Use:               "rollback IF [--to N] [--everywhere]",
		Short:             "Give an interface an earlier chain again",
		Long:              rollbackHelp,
		Example:           "  xdpctl rollback eth0\n  xdpctl rollback eth0 --to 3 --dry-run",
		Args:              one("IF"),
		ValidArgsFunction: argument(a.chainInterfaces),
		RunE: func(cmd *cobra.Command, args []string) error {
			if cmd.Flags().Changed("to") && to == 0 {
				return fmt.Errorf("--to takes a revision, and they begin with 1")
			}
			opts, err := o.options(cmd)
			if err != nil {
				return err
			}
			req := &xdpdv1.RollbackRequest{Interface: args[0], Revision: to, Everywhere: everywhere, Options: opts}
			return change(a, cmd, o, func(ctx context.Context, c *client.Client) (*xdpdv1.RollbackResponse, error) {
				return c.Rollback(ctx, req)
			}, func(w io.Writer, resp *xdpdv1.RollbackResponse) {
				fmt.Fprintf(w, "%s has the chain of revision %d again\n", args[0], resp.GetRevision())
				outline(w, resp)
			})
		},
	}
	f := cmd.Flags()
	f.Uint64Var(&to, "to", 0, "the revision `N` to go back to; without it the one before the last change")
	f.BoolVar(&everywhere, "everywhere", false, "replace programs on their other interfaces too")
	o.register(cmd, a)
	complete(cmd, "to", a.earlier)
	return cmd
}
