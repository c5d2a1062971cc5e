// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"os/user"
	"strings"

	"github.com/spf13/cobra"

	xdpdv1 "github.com/xdpd/xdpd/api/proto/xdpd/v1"
	"github.com/xdpd/xdpd/client"
)

const mapsHelp = `List the maps of a program. KEY and VALUE are sizes in bytes, PIN is the path under which the map can be opened,
GROUP the group that may do so besides root, SHARED WITH the other programs that use the same map.`

func (a *app) maps() *cobra.Command {
	return &cobra.Command{
		Use:               "maps PROGRAM",
		Short:             "List the maps of a program",
		Long:              mapsHelp,
		Args:              one("PROGRAM"),
		ValidArgsFunction: argument(a.programs),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.with(func(c *client.Client) error {
				resp, err := c.GetProgram(cmd.Context(), &xdpdv1.GetProgramRequest{Name: args[0]})
				if err != nil {
					return err
				}
				return a.print(resp, func(w io.Writer) { mapTable(w, resp.GetProgram().GetMaps()) })
			})
		},
	}
}

func mapTable(w io.Writer, maps []*xdpdv1.Map) {
	if len(maps) == 0 {
		fmt.Fprintln(w, "no maps")
		return
	}
	t := table{right: []bool{2: true, 3: true, 4: true}}
	t.row("NAME", "TYPE", "KEY", "VALUE", "ENTRIES", "PIN", "GROUP", "SHARED WITH")
	for _, m := range maps {
		shared := strings.Join(m.GetSharedWith(), ",")
		if shared == "" {
			shared = "-"
		}
		t.row(m.GetName(), m.GetType(), fmt.Sprint(m.GetKeySize()), fmt.Sprint(m.GetValueSize()), fmt.Sprint(m.GetMaxEntries()),
			m.GetPin(), group(m.GetGid()), shared)
	}
	t.write(w)
}

// group is the name of a group where the host has one; 0 is root alone.
func group(gid uint32) string {
	if gid == 0 {
		return "-"
	}
	if g, err := user.LookupGroupId(fmt.Sprint(gid)); err == nil {
		return g.Name
	}
	return fmt.Sprint(gid)
}
