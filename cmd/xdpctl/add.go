// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	xdpdv1 "github.com/xdpd/xdpd/api/proto/xdpd/v1"
	"github.com/xdpd/xdpd/client"
)

const addHelp = `Load a program and place it on one or more interfaces: on all of them or, if one refuses, on none.

OBJECT.o is an ELF file with BPF programs, - reads it from standard input. A program that exists already,
with the same object and function, is placed on the further interfaces and shares its maps there.

` + proceedOnHelp + "\n\n" + settingsHelp + "\n\n" + changeHelp

// addFlags is the flags of add.
type addFlags struct {
	placement
	settingsFlags
	changeFlags
	name, function string
	interfaces     []string
	mode, lifetime choice
}

func (a *app) add() *cobra.Command {
	o := &addFlags{
		mode:     choice{words: []string{"auto", "native", "generic"}},
		lifetime: choice{words: []string{"daemon", "persistent"}},
	}
	cmd := &cobra.Command{
		Use: "add OBJECT.o|--object-sha256 S [--name N] [--function F] --interface IF[,IF…]\n" +
			"             [--priority P] [--first|--last|--before M|--after M] [--proceed-on pass,tx,…]\n" +
			"             [--mode auto|native|generic] [--lifetime daemon|persistent] [--set NAME=VALUE…]\n" +
			"             [--max-entries MAP=N…] [--share-maps-from P] [--map-group G]",
		Short: "Load a program and place it on interfaces",
		Long:  addHelp,
		Example: "  xdpctl add blocklist.o --interface eth0,eth1 --first\n" +
			"  xdpctl add tools.o --function sample --interface eth0 --after blocklist --proceed-on pass,tx",
		Args:              atMost(1),
		ValidArgsFunction: files(0, "o"),
		RunE:              func(cmd *cobra.Command, args []string) error { return a.runAdd(cmd, args, o) },
	}
	f := cmd.Flags()
	f.StringVar(&o.name, "name", "", "the program's name `N`; the function's name where not given")
	f.StringVar(&o.function, "function", "", "the C function `F`; needed where the object has several XDP programs")
	f.StringSliceVar(&o.interfaces, "interface", nil, "where to place it: `IF[,IF...]`")
	o.placement.register(cmd, a.members)
	f.Var(&o.mode, "mode", "where in the receive path the chain runs; auto, native where the driver can, for a new chain")
	f.Var(&o.lifetime, "lifetime", "what ends the program; daemon: until the daemon is stopped, "+
		"persistent: back at its next start")
	o.settingsFlags.register(cmd, a)
	o.changeFlags.register(cmd, a)
	complete(cmd, "interface", listed(hostInterfaces))
	complete(cmd, "mode", fixed(o.mode.words...))
	complete(cmd, "lifetime", fixed(o.lifetime.words...))
	for _, name := range []string{"name", "function"} {
		complete(cmd, name, fixed())
	}
	return cmd
}

func (a *app) runAdd(cmd *cobra.Command, args []string, o *addFlags) error {
	req, err := o.request(cmd)
	if err != nil {
		return err
	}
	if len(args) == 0 && req.GetObjectSha256() == "" {
		return fmt.Errorf("OBJECT.o is missing")
	}
	if req.Object, err = a.objectOf(cmd, args, req.GetObjectSha256()); err != nil {
		return err
	}
	return change(a, cmd, &o.changeFlags, func(ctx context.Context, c *client.Client) (*xdpdv1.AddProgramResponse, error) {
		return c.AddProgram(ctx, req)
	}, func(w io.Writer, resp *xdpdv1.AddProgramResponse) {
		for _, ch := range resp.GetChains() {
			fmt.Fprintln(w, placed(ch, resp.GetProgram().GetName()))
		}
	})
}

// request makes the request without the object.
func (o *addFlags) request(cmd *cobra.Command) (*xdpdv1.AddProgramRequest, error) {
	if err := filled(cmd, "name", "function", "interface", "before", "after", "proceed-on"); err != nil {
		return nil, err
	}
	if len(o.interfaces) == 0 {
		return nil, fmt.Errorf("--interface is missing")
	}
	if err := exclusive(cmd, "first", "last", "before", "after"); err != nil {
		return nil, err
	}
	proceedOn, err := o.proceedOnSet(cmd)
	if err != nil {
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
	return &xdpdv1.AddProgramRequest{
		Name:       o.name,
		Function:   o.function,
		Interfaces: o.interfaces,
		Priority:   o.priorityOf(cmd),
		Position:   o.position(),
		ProceedOn:  proceedOn,
		Mode:       xdpdv1.Mode(xdpdv1.Mode_value["MODE_"+strings.ToUpper(o.mode.value)]),
		Lifetime:   xdpdv1.Lifetime(xdpdv1.Lifetime_value["LIFETIME_"+strings.ToUpper(o.lifetime.value)]),

		ObjectSha256: sum,
		Settings:     settings,
		Options:      options,
	}, nil
}
