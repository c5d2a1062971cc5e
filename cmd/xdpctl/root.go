// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/xdpd/xdpd/client"
)

const rootHelp = `xdpctl puts XDP programs into the chains of interfaces, orders and removes them,
and shows what each of them does to the packets. It talks to the daemon xdpd.

Exit status:
  0  done
  1  refused, or it went wrong: standard error has the daemon's message, the reason and its facts,
     and where the kernel's verifier refused a program the end of its log
  2  the command line is wrong; nothing was done
  3  no daemon answers on the socket
xdpctl hold exits with the status of its command.

Environment:
  XDPD_SOCKET  the daemon's socket, where --socket is not given
  XDPD_LEASE   the token of a lease, for add --lifetime lease where --lease is not given`

// stdio is the three standard files of a process.
type stdio struct {
	in       io.Reader
	out, err io.Writer
}

// app is what the commands share: the standard files and the flags that all of them have.
type app struct {
	stdio
	getenv func(string) string
	socket string
	output choice
}

// run executes one command line and returns its exit status, one of the exit constants.
func run(ctx context.Context, args []string, getenv func(string) string, files stdio) int {
	a := &app{stdio: files, getenv: getenv, output: choice{value: "table", words: []string{"table", "json", "yaml"}}}
	root := a.root(cmp.Or(getenv("XDPD_SOCKET"), client.DefaultSocket))
	root.SetArgs(args)
	cmd, err := root.ExecuteContextC(ctx)
	if over, ok := errors.AsType[*exited](err); ok {
		return over.status
	}
	return a.exit(cmd, err)
}

func (a *app) root(socket string) *cobra.Command {
	cmd := &cobra.Command{
		Use:           "xdpctl",
		Short:         "Let many XDP programs share an interface",
		Long:          rootHelp,
		SilenceUsage:  true,
		SilenceErrors: true,
		// With Args of its own cobra leaves words that are no command to RunE.
		Args: cobra.ArbitraryArgs,
		RunE: noCommand,
	}
	cmd.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		if !c.HasParent() && c.Flags().NArg() > 0 {
			return noCommand(c, c.Flags().Args()) // the flag is unknown because the command is
		}
		return err
	})
	cmd.SetIn(a.in)
	cmd.SetOut(a.out)
	cmd.SetErr(a.err)
	cmd.PersistentFlags().StringVar(&a.socket, "socket", socket, "the daemon's socket, a `path`")
	cmd.PersistentFlags().VarP(&a.output, "output", "o", "how to print")
	complete(cmd, "output", fixed(a.output.words...))
	commands := []*cobra.Command{
		a.add(), a.replace(), a.rm(), a.set(), a.order(), a.apply(), a.history(), a.rollback(), a.confirm(), a.cancel(),
		a.ls(), a.maps(), a.chain(), a.hold(), a.watch(), a.trace(), a.status(), a.version(), a.changes(),
	}
	for _, c := range commands {
		c.DisableFlagsInUseLine = true
		c.Flags().SortFlags = false
		cmd.AddCommand(c)
	}
	return cmd
}

// noCommand is what xdpctl does when its first word is not a command.
func noCommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return fmt.Errorf("a command is missing")
	}
	// The distance that cobra itself has for its suggestions.
	cmd.SuggestionsMinimumDistance = 2
	if like := cmd.SuggestionsFor(args[0]); len(like) > 0 {
		return fmt.Errorf("%q is not a command; is it %q?", args[0], strings.Join(like, `" or "`))
	}
	return fmt.Errorf("%q is not a command", args[0])
}

// with calls f with a client of the daemon.
func (a *app) with(f func(*client.Client) error) error {
	if a.socket == "" {
		return fmt.Errorf("--socket is empty")
	}
	c, err := client.Dial(a.socket)
	if err != nil {
		return &failure{err}
	}
	defer c.Close()
	return f(c)
}
