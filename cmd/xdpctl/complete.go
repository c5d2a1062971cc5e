// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	xdpdv1 "github.com/xdpd/xdpd/api/proto/xdpd/v1"
	"github.com/xdpd/xdpd/client"
)

// completionTime is how long a shell waits for names at most; without a daemon there are none.
const completionTime = time.Second

// completer returns the values that a flag or argument can have, those too that do not begin with what was typed.
type completer func(cmd *cobra.Command, args []string, typed string) []cobra.Completion

// complete makes c complete a flag of the command.
func complete(cmd *cobra.Command, flag string, c completer) {
	if err := cmd.RegisterFlagCompletionFunc(flag, c.values); err != nil {
		panic(err) // the flag does not exist, or was registered twice: a mistake in this program
	}
}

// values is c in the form that cobra takes, with the values that begin with what was typed.
func (c completer) values(cmd *cobra.Command, args []string, typed string) ([]cobra.Completion, cobra.ShellCompDirective) {
	other := func(v cobra.Completion) bool { return !strings.HasPrefix(v, typed) }
	return slices.DeleteFunc(c(cmd, args, typed), other), cobra.ShellCompDirectiveNoFileComp
}

// argument completes the only argument of a command.
func argument(c completer) cobra.CompletionFunc { return each(c) }

// each completes the first arguments of a command, each by its own completer.
func each(completers ...completer) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, typed string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if len(args) >= len(completers) {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return completers[len(args)].values(cmd, args, typed)
	}
}

// repeated completes any number of arguments, none twice.
func repeated(c completer) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, typed string) ([]cobra.Completion, cobra.ShellCompDirective) {
		values, directive := c.values(cmd, args, typed)
		return slices.DeleteFunc(values, func(v cobra.Completion) bool { return slices.Contains(args, v) }), directive
	}
}

// files completes argument n, from 0, with files that end in ext, and those before it by completers.
func files(n int, ext string, completers ...completer) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, typed string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if len(args) == n {
			return []cobra.Completion{ext}, cobra.ShellCompDirectiveFilterFileExt
		}
		return each(completers...)(cmd, args, typed)
	}
}

// fixed completes words that do not change.
func fixed(words ...string) completer {
	return func(*cobra.Command, []string, string) []cobra.Completion { return slices.Clone(words) }
}

// listed completes the last element of a list of values with commas between them.
func listed(c completer) completer {
	return func(cmd *cobra.Command, args []string, typed string) []cobra.Completion {
		head := typed[:strings.LastIndexByte(typed, ',')+1]
		have := strings.Split(head, ",")
		var out []cobra.Completion
		for _, v := range c(cmd, args, typed[len(head):]) {
			if !slices.Contains(have, v) {
				out = append(out, head+v)
			}
		}
		return out
	}
}

// anyInterfaces completes the interfaces of the network namespace that xdpctl runs in, and those of other ones that
// have a chain.
func (a *app) anyInterfaces(cmd *cobra.Command, args []string, typed string) []cobra.Completion {
	var names []cobra.Completion
	if ifs, err := net.Interfaces(); err == nil {
		for _, i := range ifs {
			names = append(names, i.Name)
		}
	}
	for _, name := range a.chainInterfaces(cmd, args, typed) {
		if strings.Contains(name, ":") {
			names = append(names, name)
		}
	}
	return names
}

// programs completes the names of all programs.
func (a *app) programs(cmd *cobra.Command, _ []string, _ string) []cobra.Completion {
	return a.programsOn(cmd, func([]string) bool { return true })
}

// members completes the names of the programs on the interfaces that --interface names, of all without it.
func (a *app) members(cmd *cobra.Command, _ []string, _ string) []cobra.Completion {
	if !cmd.Flags().Changed("interface") {
		return a.programs(cmd, nil, "")
	}
	on := flagValues(cmd, "interface")
	return a.programsOn(cmd, func(interfaces []string) bool {
		return slices.ContainsFunc(interfaces, func(i string) bool { return slices.Contains(on, i) })
	})
}

// programsOn returns the names of the programs whose interfaces match.
func (a *app) programsOn(cmd *cobra.Command, match func(interfaces []string) bool) []cobra.Completion {
	return a.ask(cmd, func(ctx context.Context, c *client.Client) (names []cobra.Completion, err error) {
		resp, err := c.ListPrograms(ctx, &xdpdv1.ListProgramsRequest{})
		for _, p := range resp.GetPrograms() {
			if match(p.GetInterfaces()) {
				names = append(names, p.GetName())
			}
		}
		return names, err
	})
}

// programInterfaces completes the interfaces of the program that is the first argument.
func (a *app) programInterfaces(cmd *cobra.Command, args []string, _ string) []cobra.Completion {
	return a.ofProgram(cmd, args, func(p *xdpdv1.Program) []cobra.Completion { return p.GetInterfaces() })
}

// programPlaces completes the interfaces and the patterns of the program that is the first argument.
func (a *app) programPlaces(cmd *cobra.Command, args []string, _ string) []cobra.Completion {
	return a.ofProgram(cmd, args, func(p *xdpdv1.Program) []cobra.Completion {
		places := slices.Clone(p.GetInterfaces())
		for _, pattern := range p.GetPatterns() {
			places = append(places, pattern.GetPattern())
		}
		return places
	})
}

// ofProgram returns what f makes of the program that is the first argument.
func (a *app) ofProgram(cmd *cobra.Command, args []string, f func(*xdpdv1.Program) []cobra.Completion) []cobra.Completion {
	if len(args) == 0 {
		return nil
	}
	return a.ask(cmd, func(ctx context.Context, c *client.Client) ([]cobra.Completion, error) {
		resp, err := c.GetProgram(ctx, &xdpdv1.GetProgramRequest{Name: args[0]})
		return f(resp.GetProgram()), err
	})
}

// chainInterfaces completes the interfaces that have a chain.
func (a *app) chainInterfaces(cmd *cobra.Command, _ []string, _ string) []cobra.Completion {
	return a.eachChain(cmd, func(c *xdpdv1.Chain) cobra.Completion { return c.GetInterface() })
}

// revisions completes the interfaces that have a chain, each with its revision.
func (a *app) revisions(cmd *cobra.Command, _ []string, _ string) []cobra.Completion {
	return a.eachChain(cmd, func(c *xdpdv1.Chain) cobra.Completion {
		return fmt.Sprintf("%s=%d", c.GetInterface(), c.GetRevision())
	})
}

// eachChain returns what f makes of each chain.
func (a *app) eachChain(cmd *cobra.Command, f func(*xdpdv1.Chain) cobra.Completion) []cobra.Completion {
	return a.ask(cmd, func(ctx context.Context, c *client.Client) (values []cobra.Completion, err error) {
		resp, err := c.ListChains(ctx, &xdpdv1.ListChainsRequest{})
		for _, ch := range resp.GetChains() {
			values = append(values, f(ch))
		}
		return values, err
	})
}

// membersOf completes the programs in the chain of the interface that is the first argument.
func (a *app) membersOf(cmd *cobra.Command, args []string, _ string) []cobra.Completion {
	return a.ask(cmd, func(ctx context.Context, c *client.Client) (names []cobra.Completion, err error) {
		resp, err := c.GetChain(ctx, &xdpdv1.GetChainRequest{Interface: args[0]})
		for _, m := range resp.GetChain().GetMembers() {
			names = append(names, m.GetProgram())
		}
		return names, err
	})
}

// earlier completes the revisions in the history of the interface that is the first argument.
func (a *app) earlier(cmd *cobra.Command, args []string, _ string) []cobra.Completion {
	if len(args) == 0 {
		return nil
	}
	return a.ask(cmd, func(ctx context.Context, c *client.Client) (values []cobra.Completion, err error) {
		resp, err := c.ListHistory(ctx, &xdpdv1.ListHistoryRequest{Interface: args[0]})
		for _, e := range resp.GetEntries() {
			values = append(values, fmt.Sprint(e.GetRevision()))
		}
		return values, err
	})
}

// waitingIDs completes the numbers of the changes that wait to be confirmed.
func (a *app) waitingIDs(cmd *cobra.Command, _ []string, _ string) []cobra.Completion {
	return a.ask(cmd, func(ctx context.Context, c *client.Client) (values []cobra.Completion, err error) {
		all, err := pendings(ctx, c)
		for _, p := range all {
			values = append(values, fmt.Sprint(p.GetId()))
		}
		return values, err
	})
}

// objects completes the sha256 of the objects that programs have.
func (a *app) objects(cmd *cobra.Command, _ []string, _ string) []cobra.Completion {
	return a.ask(cmd, func(ctx context.Context, c *client.Client) (sums []cobra.Completion, err error) {
		resp, err := c.ListPrograms(ctx, &xdpdv1.ListProgramsRequest{})
		for _, p := range resp.GetPrograms() {
			if !slices.Contains(sums, p.GetObjectSha256()) {
				sums = append(sums, p.GetObjectSha256())
			}
		}
		return sums, err
	})
}

// ask calls f with a client of the daemon and a deadline. A shell that completes has no use for an error.
func (a *app) ask(cmd *cobra.Command, f func(context.Context, *client.Client) ([]cobra.Completion, error)) []cobra.Completion {
	ctx, cancel := context.WithTimeout(cmd.Context(), completionTime)
	defer cancel()
	var names []cobra.Completion
	err := a.with(func(c *client.Client) (err error) {
		names, err = f(ctx, c)
		return err
	})
	if err != nil {
		return nil
	}
	return names
}
