// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	xdpdv1 "github.com/xdpd/xdpd/api/proto/xdpd/v1"
	"github.com/xdpd/xdpd/client"
)

const pendingHelp = `ID is its number, as the command that made it and xdpctl chain print it. Without ID it is the only change that
waits; where several do, they are listed and nothing is done.`

func (a *app) confirm() *cobra.Command {
	return &cobra.Command{
		Use:               "confirm [ID]",
		Short:             "Make a change stay that waits to be confirmed",
		Long:              "Make a change stay that was made with --confirm-within.\n\n" + pendingHelp,
		Args:              number("ID"),
		ValidArgsFunction: argument(a.waitingIDs),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.with(func(c *client.Client) error {
				id, err := pendingID(cmd.Context(), c, args)
				if err != nil {
					return err
				}
				resp, err := c.Confirm(cmd.Context(), &xdpdv1.ConfirmRequest{Id: id})
				if err != nil {
					return err
				}
				return a.print(resp, func(w io.Writer) {
					fmt.Fprintf(w, "change %d (%s) is confirmed and stays\n", id, resp.GetChange().GetWhat())
				})
			})
		},
	}
}

func (a *app) cancel() *cobra.Command {
	return &cobra.Command{
		Use:               "cancel [ID]",
		Short:             "Undo a change that waits to be confirmed",
		Long:              "Undo a change that was made with --confirm-within and is not confirmed yet, by swap.\n\n" + pendingHelp,
		Args:              number("ID"),
		ValidArgsFunction: argument(a.waitingIDs),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.with(func(c *client.Client) error {
				id, err := pendingID(cmd.Context(), c, args)
				if err != nil {
					return err
				}
				resp, err := c.Cancel(cmd.Context(), &xdpdv1.CancelRequest{Id: id})
				if err != nil {
					return err
				}
				return a.print(resp, func(w io.Writer) {
					fmt.Fprintf(w, "change %d is undone\n", id)
					outline(w, resp)
				})
			})
		},
	}
}

// pendingID returns the number that args has, or else that of the only change that waits.
func pendingID(ctx context.Context, c *client.Client, args []string) (uint64, error) {
	if len(args) == 1 {
		return strconv.ParseUint(args[0], 10, 64)
	}
	all, err := pendings(ctx, c)
	if err != nil {
		return 0, err
	}
	switch len(all) {
	case 0:
		return 0, &failure{fmt.Errorf("no change waits to be confirmed")}
	case 1:
		return all[0].GetId(), nil
	}
	text := "several changes wait to be confirmed; name one of them:"
	for _, p := range all {
		text += fmt.Sprintf("\n  %d: %s on %s, by %s, until %s", p.GetId(), p.GetWhat(),
			strings.Join(p.GetInterfaces(), ","), caller(p.GetCaller()), until(p))
	}
	return 0, &failure{fmt.Errorf("%s", text)}
}
