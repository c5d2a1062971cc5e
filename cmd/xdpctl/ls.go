// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	xdpdv1 "github.com/xdpd/xdpd/api/proto/xdpd/v1"
	"github.com/xdpd/xdpd/client"
)

const lsHelp = `List the programs, or tell all about one.

OBJECT is the start of the object's sha256, MAPS the number of maps. PATTERNS are where the program goes by itself,
on each interface that matches.`

func (a *app) ls() *cobra.Command {
	return &cobra.Command{
		Use:               "ls [PROGRAM]",
		Short:             "List the programs, or tell all about one",
		Long:              lsHelp,
		Args:              atMost(1),
		ValidArgsFunction: argument(a.programs),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.with(func(c *client.Client) error {
				if len(args) == 1 {
					resp, err := c.GetProgram(cmd.Context(), &xdpdv1.GetProgramRequest{Name: args[0]})
					if err != nil {
						return err
					}
					return a.print(resp, func(w io.Writer) { programDetails(w, resp.GetProgram()) })
				}
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
	t := table{right: []bool{1: true, 7: true}}
	t.row("NAME", "ID", "FUNCTION", "OBJECT", "LIFETIME", "INTERFACES", "PATTERNS", "MAPS")
	for _, p := range programs {
		t.row(p.GetName(), fmt.Sprint(p.GetId()), p.GetFunction(), short(p.GetObjectSha256()), lifetime(p),
			list(p.GetInterfaces()), globs(p.GetPatterns()), fmt.Sprint(len(p.GetMaps())))
	}
	t.write(w)
}

// programDetails prints all that is known of a program but its maps, which have a command of their own.
func programDetails(w io.Writer, p *xdpdv1.Program) {
	var t table
	t.row("name", p.GetName())
	t.row("id", fmt.Sprint(p.GetId()))
	t.row("function", p.GetFunction())
	t.row("object", fmt.Sprintf("sha256:%s, %d bytes", p.GetObjectSha256(), p.GetObjectSize()))
	t.row("added", fmt.Sprintf("%s, by uid %d", p.GetAdded().AsTime().Format(time.RFC3339), p.GetOwnerUid()))
	t.row("lifetime", lifetime(p))
	t.row("interfaces", list(p.GetInterfaces()))
	for _, pattern := range p.GetPatterns() {
		t.row("pattern", patternLine(pattern))
		if len(pattern.GetExcept()) > 0 {
			t.row("", "except "+list(pattern.GetExcept()))
		}
	}
	s := p.GetSettings()
	for _, name := range slices.Sorted(maps.Keys(s.GetGlobals())) {
		t.row("global", name+" = "+s.GetGlobals()[name])
	}
	for _, name := range slices.Sorted(maps.Keys(s.GetMaxEntries())) {
		t.row("max entries", fmt.Sprintf("%s = %d", name, s.GetMaxEntries()[name]))
	}
	if s.GetShareMapsFrom() != "" {
		t.row("maps of", s.GetShareMapsFrom())
	}
	if s.GetMapGroup() != "" {
		t.row("map group", s.GetMapGroup())
	}
	names := make([]string, len(p.GetMaps()))
	for i, m := range p.GetMaps() {
		names[i] = m.GetName()
	}
	t.row("maps", list(names))
	t.write(w)
}

// lifetime is what ends a program, and which lease that is.
func lifetime(p *xdpdv1.Program) string {
	if p.GetLease() != 0 {
		return fmt.Sprintf("%s %d", word(p.GetLifetime()), p.GetLease())
	}
	return word(p.GetLifetime())
}

// patternLine is a pattern with where in a chain it puts the program.
func patternLine(p *xdpdv1.Pattern) string {
	line := p.GetPattern()
	if p.Priority != nil {
		line += fmt.Sprintf(", priority %d", p.GetPriority())
	}
	switch place := p.GetPosition().GetPlace().(type) {
	case *xdpdv1.Position_First:
		line += ", first"
	case *xdpdv1.Position_Last:
		line += ", last"
	case *xdpdv1.Position_Before:
		line += ", before " + place.Before
	case *xdpdv1.Position_After:
		line += ", after " + place.After
	}
	line += ", proceed-on " + verdicts(p.GetProceedOn().GetVerdicts())
	if p.GetMode() != xdpdv1.Mode_MODE_UNSPECIFIED {
		line += ", mode " + word(p.GetMode())
	}
	return line
}

// globs are the patterns alone.
func globs(patterns []*xdpdv1.Pattern) string {
	all := make([]string, len(patterns))
	for i, p := range patterns {
		all[i] = p.GetPattern()
	}
	return list(all)
}

// list is names with commas between them, or - where there are none.
func list(names []string) string {
	if len(names) == 0 {
		return "-"
	}
	return strings.Join(names, ",")
}
