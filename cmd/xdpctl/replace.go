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

const replaceHelp = `Put a new object under the name of a program, in all its places: by one swap for each interface, on all of them
or on none. Each packet runs through the old version or the new one.

Maps of the same name and shape (type, sizes, entries, flags) are carried over with their contents; which were,
and what was in the way of the others, is printed. --fresh-maps makes all of them anew.

OBJECT.o is an ELF file with BPF programs, - reads it from standard input. Without it, and without
--object-sha256, the object stays and the settings change. Settings that are given take the place of all that
the program had; where none is given, they stay.

` + settingsHelp + "\n\n" + changeHelp

// replaceFlags is the flags of replace.
type replaceFlags struct {
	settingsFlags
	changeFlags
	function  string
	freshMaps bool
}

func (a *app) replace() *cobra.Command {
	o := &replaceFlags{}
	cmd := &cobra.Command{
		Use: "replace PROGRAM [OBJECT.o|--object-sha256 S] [--function F] [--fresh-maps]\n" +
			"             [--set NAME=VALUE…] [--max-entries MAP=N…] [--share-maps-from P] [--map-group G]",
		Short: "Give a program another object or other settings, in all its places",
		Long:  replaceHelp,
		Example: "  xdpctl replace blocklist blocklist-2.o --confirm-within 60s\n" +
			"  xdpctl replace sample --set rate=100 --set iface=eth0",
		Args:              oneOrTwo("PROGRAM"),
		ValidArgsFunction: files(1, "o", a.programs),
		RunE:              func(cmd *cobra.Command, args []string) error { return a.runReplace(cmd, args, o) },
	}
	f := cmd.Flags()
	f.StringVar(&o.function, "function", "", "the C function `F`; without it the one that the program has, or the only one of the object")
	f.BoolVar(&o.freshMaps, "fresh-maps", false, "make all maps anew")
	o.settingsFlags.register(cmd, a)
	o.changeFlags.register(cmd, a)
	complete(cmd, "function", fixed())
	return cmd
}

func (a *app) runReplace(cmd *cobra.Command, args []string, o *replaceFlags) error {
	req, err := o.request(cmd, args[0])
	if err != nil {
		return err
	}
	if len(args) == 1 && req.GetObjectSha256() == "" && req.GetFunction() == "" && req.GetSettings() == nil && !o.freshMaps {
		return fmt.Errorf("nothing to replace: give OBJECT.o, --object-sha256, --function, settings or --fresh-maps")
	}
	if req.Object, err = a.objectOf(cmd, args[1:], req.GetObjectSha256()); err != nil {
		return err
	}
	return change(a, cmd, &o.changeFlags, func(ctx context.Context, c *client.Client) (*xdpdv1.ReplaceProgramResponse, error) {
		return c.ReplaceProgram(ctx, req)
	}, func(w io.Writer, resp *xdpdv1.ReplaceProgramResponse) {
		for _, ch := range resp.GetChains() {
			fmt.Fprintln(w, placed(ch, resp.GetProgram().GetName()))
		}
		diff(w, resp.GetChange())
	})
}

// request makes the request without the object.
func (o *replaceFlags) request(cmd *cobra.Command, program string) (*xdpdv1.ReplaceProgramRequest, error) {
	if err := filled(cmd, "function"); err != nil {
		return nil, err
	}
	sum, err := o.sum(cmd)
	if err != nil {
		return nil, err
	}
	settings, err := o.settings(cmd)
	if err != nil {
		return nil, err
	}
	options, err := o.options(cmd)
	if err != nil {
		return nil, err
	}
	return &xdpdv1.ReplaceProgramRequest{
		Name:         program,
		ObjectSha256: sum,
		Function:     o.function,
		Settings:     settings,
		FreshMaps:    o.freshMaps,
		Options:      options,
	}, nil
}
