// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	xdpdv1 "github.com/xdpd/xdpd/api/proto/xdpd/v1"
	"github.com/xdpd/xdpd/client"
)

func (a *app) ls() *cobra.Command {
	return &cobra.Command{
		Use:               "ls",
		Short:             "List the programs",
		Long:              "List the programs. OBJECT is the start of the object's sha256, MAPS the number of maps.",
		Args:              atMost(0),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.with(func(c *client.Client) error {
				resp, err := c.ListPrograms(cmd.Context(), &xdpdv1.ListProgramsRequest{})
				if err != nil {
					return err
				}
				return a.print(resp, func(w io.Writer) { programTable(w, resp.GetPrograms()) })
			})
		},
	}
}

func programTable(w io.Writer, programs []*xdpdv1.Program) {
	if len(programs) == 0 {
		fmt.Fprintln(w, "no programs")
		return
	}
	t := table{right: []bool{1: true, 6: true}}
	t.row("NAME", "ID", "FUNCTION", "OBJECT", "LIFETIME", "INTERFACES", "MAPS")
	for _, p := range programs {
		t.row(p.GetName(), fmt.Sprint(p.GetId()), p.GetFunction(), short(p.GetObjectSha256()), word(p.GetLifetime()),
			strings.Join(p.GetInterfaces(), ","), fmt.Sprint(len(p.GetMaps())))
	}
	t.write(w)
}
