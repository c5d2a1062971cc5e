// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	xdpdv1 "github.com/xdpd/xdpd/api/proto/xdpd/v1"
	"github.com/xdpd/xdpd/client"
)

func (a *app) status() *cobra.Command {
	return &cobra.Command{
		Use:               "status",
		Short:             "Tell about the daemon, the kernel, and the linker and why",
		Long:              "Tell about the daemon and the kernel, which linker is in use and why, which leases there are,\nand what is wrong at the moment.",
		Args:              atMost(0),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.with(func(c *client.Client) error {
				resp, err := c.GetStatus(cmd.Context(), &xdpdv1.GetStatusRequest{})
				if err != nil {
					return err
				}
				return a.print(resp, func(w io.Writer) { statusTable(w, resp) })
			})
		},
	}
}

func statusTable(w io.Writer, s *xdpdv1.GetStatusResponse) {
	var t table
	daemon := fmt.Sprintf("%s, pid %d", s.GetVersion(), s.GetPid())
	if s.GetStarted() != nil {
		daemon += ", started " + s.GetStarted().AsTime().Format(time.RFC3339)
	}
	t.row("daemon", daemon)
	t.row("kernel", s.GetKernel())
	t.row("linker", word(s.GetLinker())+": "+s.GetLinkerReason())
	for _, p := range s.GetProbes() {
		if p.GetWorks() {
			t.row("probe", p.GetName()+": works")
		} else {
			t.row("probe", p.GetName()+": does not work: "+p.GetReason())
		}
	}
	t.row("bpffs", s.GetBpffs())
	t.row("state", s.GetStateDir())
	t.row("programs", fmt.Sprint(s.GetPrograms()))
	t.row("chains", fmt.Sprint(s.GetChains()))
	for _, l := range s.GetLeases() {
		t.row("lease", leaseLine(l))
	}
	for _, p := range s.GetProblems() {
		t.row("problem", p)
	}
	if len(s.GetProblems()) == 0 {
		t.row("problems", "none")
	}
	t.write(w)
}
