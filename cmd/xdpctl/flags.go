// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	xdpdv1 "github.com/xdpd/xdpd/api/proto/xdpd/v1"
)

// choice is a flag whose value is one of some words. The zero value is none of them.
type choice struct {
	value string
	words []string
}

// String returns the word chosen.
func (c *choice) String() string { return c.value }

// Set chooses a word.
func (c *choice) Set(word string) error {
	if !slices.Contains(c.words, word) {
		return fmt.Errorf("it is one of %s", strings.Join(c.words, ", "))
	}
	c.value = word
	return nil
}

// Type is what help shows in the place of the value.
func (c *choice) Type() string { return strings.Join(c.words, "|") }

const interfaceHelp = `An interface IF is NAME in the network namespace of the daemon, or NETNS:NAME in another one: NETNS is a name of
ip netns, or the absolute path of a namespace.`

const proceedOnHelp = `The verdicts of --proceed-on are aborted, drop, pass, tx and redirect, in a list with commas, or none: then
every verdict is final. Return code 31 (XDPD_CONTINUE) always proceeds and is not part of the set.`

// placement is the flags that say where in a chain a member goes.
type placement struct {
	priority      int32
	first, last   bool
	before, after string
	proceedOn     []string
}

// register adds the flags to a command. members completes the program of --before and --after.
func (p *placement) register(cmd *cobra.Command, members completer) {
	f := cmd.Flags()
	f.Int32Var(&p.priority, "priority", 0, "lower runs first; `P` is 50 for a new member")
	f.BoolVar(&p.first, "first", false, "before all other members")
	f.BoolVar(&p.last, "last", false, "after all other members")
	f.StringVar(&p.before, "before", "", "directly before the member of program `M`")
	f.StringVar(&p.after, "after", "", "directly after the member of program `M`")
	f.StringSliceVar(&p.proceedOn, "proceed-on", nil, "the `verdicts` after which the next member runs; pass for a new member")
	complete(cmd, "before", members)
	complete(cmd, "after", members)
	complete(cmd, "proceed-on", listed(fixed(append(verdictWords(), "none")...)))
}

// position returns nil where no flag asks for one.
func (p *placement) position() *xdpdv1.Position {
	switch {
	case p.first:
		return &xdpdv1.Position{Place: &xdpdv1.Position_First{First: true}}
	case p.last:
		return &xdpdv1.Position{Place: &xdpdv1.Position_Last{Last: true}}
	case p.before != "":
		return &xdpdv1.Position{Place: &xdpdv1.Position_Before{Before: p.before}}
	case p.after != "":
		return &xdpdv1.Position{Place: &xdpdv1.Position_After{After: p.after}}
	}
	return nil
}

// priorityOf returns nil where --priority was not given.
func (p *placement) priorityOf(cmd *cobra.Command) *int32 {
	if !cmd.Flags().Changed("priority") {
		return nil
	}
	return &p.priority
}

// proceedOnSet returns nil where --proceed-on was not given.
func (p *placement) proceedOnSet(cmd *cobra.Command) (*xdpdv1.ProceedOn, error) {
	if !cmd.Flags().Changed("proceed-on") {
		return nil, nil
	}
	set := &xdpdv1.ProceedOn{}
	if slices.Equal(p.proceedOn, []string{"none"}) {
		return set, nil
	}
	for _, w := range p.proceedOn {
		if !slices.Contains(verdictWords(), w) {
			return nil, fmt.Errorf("--proceed-on is a list of %s, or none alone; it cannot have %q",
				strings.Join(verdictWords(), ","), w)
		}
		set.Verdicts = append(set.Verdicts, xdpdv1.Verdict(xdpdv1.Verdict_value["VERDICT_"+strings.ToUpper(w)]))
	}
	slices.Sort(set.Verdicts)
	set.Verdicts = slices.Compact(set.Verdicts)
	return set, nil
}

// isPattern tells whether an interface is named by a pattern, as the API has them.
func isPattern(ref string) bool {
	return strings.ContainsAny(ref[strings.LastIndexByte(ref, ':')+1:], "*?[")
}

// verdictWords are the verdicts of the API in their order.
func verdictWords() []string {
	var words []string
	for v := xdpdv1.Verdict_VERDICT_ABORTED; v <= xdpdv1.Verdict_VERDICT_REDIRECT; v++ {
		words = append(words, word(v))
	}
	return words
}

// word is an enum's value without its prefix, as the command line and the tables have it.
func word(e fmt.Stringer) string {
	name := e.String()
	return strings.ToLower(name[strings.IndexByte(name, '_')+1:])
}

// one accepts exactly one argument, which the usage calls name.
func one(name string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		if len(args) == 0 || args[0] == "" {
			return fmt.Errorf("%s is missing", name)
		}
		return atMost(1)(nil, args)
	}
}

// atMost accepts up to n arguments, none of them empty.
func atMost(n int) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		if len(args) > n {
			return fmt.Errorf("%q is one argument too many", args[n])
		}
		if slices.Contains(args, "") {
			return fmt.Errorf("an argument is empty")
		}
		return nil
	}
}

// two accepts exactly two arguments, which the usage calls first and second.
func two(first, second string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		for i, name := range []string{first, second} {
			if len(args) <= i || args[i] == "" {
				return fmt.Errorf("%s is missing", name)
			}
		}
		return atMost(2)(nil, args)
	}
}

// oneOrTwo accepts an argument, which the usage calls name, and perhaps another.
func oneOrTwo(name string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		if len(args) == 0 || args[0] == "" {
			return fmt.Errorf("%s is missing", name)
		}
		return atMost(2)(nil, args)
	}
}

// number accepts up to one argument, a number above 0, which the usage calls name.
func number(name string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		if err := atMost(1)(nil, args); err != nil || len(args) == 0 {
			return err
		}
		if n, err := strconv.ParseUint(args[0], 10, 64); err != nil || n == 0 {
			return fmt.Errorf("%s is a number; it cannot be %q", name, args[0])
		}
		return nil
	}
}

// exclusive returns an error if more than one of the flags was given.
func exclusive(cmd *cobra.Command, flags ...string) error {
	given := slices.DeleteFunc(flags, func(name string) bool { return !cmd.Flags().Changed(name) })
	if len(given) > 1 {
		return fmt.Errorf("--%s and --%s exclude each other", given[0], given[1])
	}
	return nil
}

// filled returns an error if one of the flags was given without a value. An unset variable in a script would
// else widen what a command does, as in: rm blocklist --interface "$IF".
func filled(cmd *cobra.Command, flags ...string) error {
	for _, name := range flags {
		if !cmd.Flags().Changed(name) {
			continue
		}
		if values := flagValues(cmd, name); len(values) == 0 || slices.Contains(values, "") {
			return fmt.Errorf("--%s has an empty value", name)
		}
	}
	return nil
}

// flagValues returns the values of a flag that is a list, or the one value of another.
func flagValues(cmd *cobra.Command, name string) []string {
	value := cmd.Flags().Lookup(name).Value
	if list, ok := value.(interface{ GetSlice() []string }); ok {
		return list.GetSlice()
	}
	return []string{value.String()}
}
