// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	xdpdv1 "github.com/xdpd/xdpd/api/proto/xdpd/v1"
	"github.com/xdpd/xdpd/client"
)

const historyHelp = `List the chains that an interface had, the newest first, with who made each of them, when, and what was different
from the one before. The chain that the interface has now is marked with *.

xdpctl rollback brings one of them back.`

func (a *app) history() *cobra.Command {
	return &cobra.Command{
		Use:               "history IF",
		Short:             "List the chains that an interface had",
		Long:              historyHelp,
		Args:              one("IF"),
		ValidArgsFunction: argument(a.chainInterfaces),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.with(func(c *client.Client) error {
				resp, err := c.ListHistory(cmd.Context(), &xdpdv1.ListHistoryRequest{Interface: args[0]})
				if err != nil {
					return err
				}
				return a.print(resp, func(w io.Writer) { historyTable(w, resp.GetEntries()) })
			})
		},
	}
}

func historyTable(w io.Writer, entries []*xdpdv1.HistoryEntry) {
	if len(entries) == 0 {
		fmt.Fprintln(w, "no history")
		return
	}
	t := table{right: []bool{0: true}}
	t.row("REVISION", "WHEN", "WHO", "WHAT", "CHANGES")
	for _, e := range entries {
		what := []string{e.GetWhat()}
		if e.GetComment() != "" {
			what = append(what, strconv.Quote(e.GetComment()))
		}
		changes := e.GetDiff()
		if len(changes) == 0 {
			changes = []string{"-"}
		}
		revision := fmt.Sprint(e.GetRevision())
		if e.GetCurrent() {
			revision = "* " + revision
		}
		t.row(revision, e.GetTime().AsTime().Format(time.RFC3339), caller(e.GetCaller()), what[0], changes[0])
		for i := 1; i < max(len(what), len(changes)); i++ {
			t.row("", "", "", nth(what, i), nth(changes, i))
		}
	}
	t.write(w)
}

// nth returns element i, or nothing where the list is shorter.
func nth(list []string, i int) string {
	if i < len(list) {
		return list[i]
	}
	return ""
}
