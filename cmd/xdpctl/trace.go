// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	xdpdv1 "github.com/xdpd/xdpd/api/proto/xdpd/v1"
	"github.com/xdpd/xdpd/client"
)

const traceHelp = `Send packets through the chain of an interface, off the wire: neither traffic nor counters change. For each packet
it prints the members that saw it with their verdicts, the final verdict, and what is different in the bytes
that came out.

The packets are those of a capture of Ethernet, pcap or pcapng, - for standard input, or are given in hex from the
Ethernet header on.

The programs work on their live maps, which they may change: which, is printed. With --copy-maps they work on
copies of them, where the type of a map allows it; the packets must then fit into one call (4096 packets and
16 MiB), for each call begins with new copies. Else more packets are sent in several calls, in order.`

// traceFlags is the flags of trace.
type traceFlags struct {
	file        string
	packets     []string
	copyMaps    bool
	count, skip int
	hex         bool
}

func (a *app) trace() *cobra.Command {
	o := &traceFlags{}
	cmd := &cobra.Command{
		Use: "trace IF -r FILE.pcap [--skip N] [--count N] [--copy-maps] [-x]\n" +
			"  xdpctl trace IF --packet HEX… [--copy-maps] [-x]",
		Short:             "Send packets through a chain, off the wire",
		Long:              traceHelp,
		Example:           "  xdpctl trace eth0 -r capture.pcap --count 10 --copy-maps",
		Args:              one("IF"),
		ValidArgsFunction: argument(a.chainInterfaces),
		RunE:              func(cmd *cobra.Command, args []string) error { return a.runTrace(cmd, args[0], o) },
	}
	f := cmd.Flags()
	f.StringVarP(&o.file, "read", "r", "", "the packets of a capture: `FILE`, or - for standard input")
	f.StringArrayVar(&o.packets, "packet", nil, "a packet in `HEX`; may be repeated")
	f.IntVar(&o.skip, "skip", 0, "leave out the first `N` packets")
	f.IntVar(&o.count, "count", 0, "send `N` packets at most")
	f.BoolVar(&o.copyMaps, "copy-maps", false, "let the programs work on copies of their maps")
	f.BoolVarP(&o.hex, "hex", "x", false, "print the packets in hex and text, as they went in and, if changed, came out")
	if err := cmd.MarkFlagFilename("read", "pcap", "pcapng", "cap"); err != nil {
		panic(err) // the flag does not exist: a mistake in this program
	}
	for _, name := range []string{"packet", "skip", "count"} {
		complete(cmd, name, fixed())
	}
	return cmd
}

func (a *app) runTrace(cmd *cobra.Command, iface string, o *traceFlags) error {
	if err := filled(cmd, "read", "packet"); err != nil {
		return err
	}
	if err := exclusive(cmd, "read", "packet"); err != nil {
		return err
	}
	if o.file == "" && len(o.packets) == 0 {
		return fmt.Errorf("there are no packets: give -r FILE or --packet")
	}
	if o.skip < 0 || cmd.Flags().Changed("count") && o.count < 1 {
		return fmt.Errorf("--skip is 0 or more, --count 1 or more")
	}
	var packets source
	var err error
	name := o.file
	switch o.file {
	case "":
		if packets, err = hexPackets(o.packets); err != nil {
			return err
		}
		name = "--packet"
	case "-":
		name = "standard input"
		packets, err = openCapture(untilDone(cmd.Context(), a.in))
	default:
		file, openErr := os.Open(o.file)
		if openErr != nil {
			return &failure{openErr}
		}
		defer file.Close()
		packets, err = openCapture(file)
	}
	if err != nil {
		return &failure{fmt.Errorf("%s: %w", name, err)}
	}
	t := &tracer{app: a, traceFlags: o, iface: iface, name: name, from: batches{from: window(packets, o.skip, o.count)}}
	return a.with(func(c *client.Client) error { return t.run(cmd.Context(), c) })
}

// tracer sends packets and prints what became of them.
type tracer struct {
	*app
	*traceFlags
	iface, name string
	from        batches
	calls       int
	revision    uint64
	live        []string // that were printed
}

func (t *tracer) run(ctx context.Context, c *client.Client) error {
	for more := true; more; {
		batch, follow, err := t.from.read()
		if err != nil {
			return &failure{fmt.Errorf("%s: %w", t.name, err)}
		}
		if more = follow; len(batch) == 0 {
			return &failure{fmt.Errorf("%s: there are no packets to send", t.name)}
		}
		if more && t.copyMaps {
			return &failure{fmt.Errorf("%s has more than %d packets or %d MiB, the most for one call, and --copy-maps "+
				"begins each call with new copies: give --count and --skip, or leave --copy-maps out", t.name, maxPackets, maxCapacity>>20)}
		}
		req := &xdpdv1.TestRunRequest{Interface: t.iface, CopyMaps: t.copyMaps}
		for _, p := range batch {
			req.Packets = append(req.Packets, p.data)
		}
		resp, err := c.TestRun(ctx, req)
		if err != nil {
			return err
		}
		if len(resp.GetPackets()) != len(batch) {
			return &failure{fmt.Errorf("the daemon answered for %d packets of %d", len(resp.GetPackets()), len(batch))}
		}
		if t.calls++; t.calls > 1 && t.output.value == "yaml" {
			fmt.Fprintln(t.out, "---")
		}
		if err := t.print(resp, func(w io.Writer) { t.table(w, batch, resp) }); err != nil {
			return err
		}
	}
	return nil
}

// table prints the answer to one call.
func (t *tracer) table(w io.Writer, batch []packet, resp *xdpdv1.TestRunResponse) {
	switch {
	case t.revision == 0:
		fmt.Fprintf(w, "%s, revision %d\n", t.iface, resp.GetRevision())
	case t.revision != resp.GetRevision():
		fmt.Fprintf(w, "%s, revision %d from here on\n", t.iface, resp.GetRevision())
	}
	t.revision = resp.GetRevision()
	var live []string
	for _, m := range resp.GetLiveMaps() {
		if !slices.Contains(t.live, m) {
			live = append(live, m)
		}
	}
	if len(live) > 0 {
		t.live = append(t.live, live...)
		fmt.Fprintf(w, "live maps, which the programs may have changed: %s\n", strings.Join(live, ", "))
	}
	for _, note := range resp.GetNotes() {
		fmt.Fprintf(w, "note: %s\n", note)
	}
	for i, p := range batch {
		t.packet(w, p, resp.GetPackets()[i])
	}
}

// packet prints the way of one packet.
func (t *tracer) packet(w io.Writer, p packet, trace *xdpdv1.PacketTrace) {
	size := fmt.Sprintf("%d bytes", len(p.data))
	if p.length > len(p.data) {
		size = fmt.Sprintf("%d bytes captured of %d", len(p.data), p.length)
	}
	fmt.Fprintf(w, "\npacket %d: %s, %s\n", p.number, size, summary(p.data))
	if t.hex {
		dump(w, p.data)
	}
	var steps table
	for _, s := range trace.GetSteps() {
		then := "ends here"
		if s.GetProceeded() {
			then = "goes on"
		}
		steps.row("  "+s.GetProgram(), returned(s.GetVerdict(), s.GetReturnCode()), then)
	}
	steps.write(w)
	if trace.GetPassedAll() {
		fmt.Fprintf(w, "  final verdict: %s\n", returned(trace.GetVerdict(), trace.GetReturnCode()))
	} else {
		fmt.Fprintf(w, "  verdict: %s\n", returned(trace.GetVerdict(), trace.GetReturnCode()))
	}
	packetDiff(w, p.data, trace.GetPacket())
	if t.hex && len(differences(p.data, trace.GetPacket())) > 0 {
		fmt.Fprintln(w, "  came out as")
		dump(w, trace.GetPacket())
	}
}

// returned is a verdict, or the return code where that is none.
func returned(v xdpdv1.Verdict, code uint32) string {
	switch {
	case code == proceedAlways:
		return "continue"
	case v == xdpdv1.Verdict_VERDICT_UNSPECIFIED:
		return fmt.Sprintf("return code %d", code)
	}
	return word(v)
}

// proceedAlways is the return code XDPD_CONTINUE.
const proceedAlways = 31
