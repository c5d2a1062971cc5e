// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
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

` + interfaceHelp + `

In place of NAME there may be a pattern, such as 'eth*' or 'blue:veth[0-9]?', as a shell has them and in quotes so
that the shell leaves it alone: the program goes on each interface that matches, now and whenever one appears.

--lifetime lease ends the program with its client: run xdpctl add within xdpctl hold, which gives it the token of a
lease in XDPD_LEASE, or give the token with --lease.

--takeover puts the chain in the place of an XDP program that is not xdpd's, and says what it replaced; without it
such an interface is refused (INTERFACE_BUSY).

` + proceedOnHelp + "\n\n" + settingsHelp + "\n\n" + changeHelp

// addFlags is the flags of add.
type addFlags struct {
	placement
	settingsFlags
	changeFlags
	name, function string
	interfaces     []string
	mode, lifetime choice
	lease          string
	takeover       bool
}

func (a *app) add() *cobra.Command {
	o := &addFlags{
		mode:     choice{words: []string{"auto", "native", "generic"}},
		lifetime: choice{words: []string{"daemon", "persistent", "lease"}},
	}
	cmd := &cobra.Command{
		Use: "add OBJECT.o|--object-sha256 S [--name N] [--function F] --interface IF[,IF…]\n" +
			"             [--priority P] [--first|--last|--before M|--after M] [--proceed-on pass,tx,…]\n" +
			"             [--mode auto|native|generic] [--lifetime daemon|persistent|lease] [--lease TOKEN]\n" +
			"             [--takeover] [--set NAME=VALUE…] [--max-entries MAP=N…] [--share-maps-from P] [--map-group G]",
		Short: "Load a program and place it on interfaces",
		Long:  addHelp,
		Example: "  xdpctl add blocklist.o --interface eth0,eth1 --first\n" +
			"  xdpctl add tools.o --function sample --interface eth0 --after blocklist --proceed-on pass,tx\n" +
			"  xdpctl add blocklist.o --interface 'eth*' --interface blue:eth0 --takeover\n" +
			"  xdpctl hold -- sh -c 'xdpctl add capture.o -i eth0 --lifetime lease; ./capture'",
		Args:              atMost(1),
		ValidArgsFunction: files(0, "o"),
		RunE:              func(cmd *cobra.Command, args []string) error { return a.runAdd(cmd, args, o) },
	}
	f := cmd.Flags()
	f.StringVar(&o.name, "name", "", "the program's name `N`; the function's name where not given")
	f.StringVar(&o.function, "function", "", "the C function `F`; needed where the object has several XDP programs")
	f.StringSliceVarP(&o.interfaces, "interface", "i", nil, "where to place it: `IF[,IF...]`, also patterns; may be repeated")
	o.placement.register(cmd, a.members)
	f.Var(&o.mode, "mode", "where in the receive path the chain runs; auto, native where the driver can, for a new chain")
	f.Var(&o.lifetime, "lifetime", "what ends the program; daemon: until the daemon is stopped, "+
		"persistent: back at its next start, lease: until the lease ends")
	f.StringVar(&o.lease, "lease", "", "with --lifetime lease: the `TOKEN` of the lease; XDPD_LEASE where not given")
	f.BoolVar(&o.takeover, "takeover", false, "replace an XDP program on the interfaces that is not xdpd's")
	o.settingsFlags.register(cmd, a)
	o.changeFlags.register(cmd, a)
	complete(cmd, "interface", listed(a.anyInterfaces))
	complete(cmd, "mode", fixed(o.mode.words...))
	complete(cmd, "lifetime", fixed(o.lifetime.words...))
	for _, name := range []string{"name", "function", "lease"} {
		complete(cmd, name, fixed())
	}
	return cmd
}

func (a *app) runAdd(cmd *cobra.Command, args []string, o *addFlags) error {
	req, err := o.request(cmd, a.getenv)
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
		if patterns := resp.GetProgram().GetPatterns(); len(patterns) > 0 {
			fmt.Fprintf(w, "%s: goes on each interface that matches %s when it appears\n", resp.GetProgram().GetName(), globs(patterns))
		}
	})
}

// leaseToken is the token of the lease that the program shall be of; none, where it shall be of no lease.
func (o *addFlags) leaseToken(cmd *cobra.Command, getenv func(string) string) (string, error) {
	leased := o.lifetime.value == "lease"
	switch {
	case o.lease != "" && !leased:
		return "", fmt.Errorf("--lease needs --lifetime lease")
	case !leased:
		return "", nil
	}
	token := cmp.Or(o.lease, getenv("XDPD_LEASE"))
	if token == "" {
		return "", fmt.Errorf("--lifetime lease needs the token of a lease: run it within xdpctl hold, or give --lease or XDPD_LEASE")
	}
	return token, nil
}

// request makes the request without the object.
func (o *addFlags) request(cmd *cobra.Command, getenv func(string) string) (*xdpdv1.AddProgramRequest, error) {
	if err := filled(cmd, "name", "function", "interface", "before", "after", "proceed-on", "lease"); err != nil {
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
	lease, err := o.leaseToken(cmd, getenv)
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
		Lease:      lease,
		Takeover:   o.takeover,

		ObjectSha256: sum,
		Settings:     settings,
		Options:      options,
	}, nil
}
