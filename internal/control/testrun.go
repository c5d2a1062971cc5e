// SPDX-License-Identifier: Apache-2.0

package control

import (
	"context"
	"math"

	"github.com/xdpd/xdpd/chain"
	"github.com/xdpd/xdpd/dispatcher"
	"github.com/xdpd/xdpd/internal/netif"
	"github.com/xdpd/xdpd/store"
)

// TestRun sends packets through the chain of an interface, off the wire: through a revision of its own, with
// counters of its own. Its programs' maps are the live ones, unless the request asks for copies.
func (c *Controller) TestRun(ctx context.Context, r TestRequest) (_ TestResult, err error) {
	done, err := c.begin()
	if err != nil {
		return TestResult{}, err
	}
	defer done()
	shadow, revision, err := c.shadow(ctx, r)
	if err != nil {
		return TestResult{}, about(err, r.Interface)
	}
	defer func() { c.logIf("tidy up after a test run", r.Interface, shadow.Close()) }()
	result := TestResult{Revision: revision, LiveMaps: shadow.LiveMaps()}
	for _, packet := range r.Packets {
		if err := context.Cause(ctx); err != nil {
			return TestResult{}, err
		}
		trace, err := shadow.Run(packet)
		if err != nil {
			return TestResult{}, about(err, r.Interface)
		}
		result.Packets = append(result.Packets, trace)
	}
	result.Notes = shadow.Notes()
	return result, nil
}

// shadow makes a revision like the one that runs, for nobody's traffic.
func (c *Controller) shadow(ctx context.Context, r TestRequest) (*dispatcher.Shadow, uint64, error) {
	unlock, err := c.lock(ctx, nil, []string{r.Interface})
	if err != nil {
		return nil, 0, err
	}
	defer unlock()
	rec, err := c.chainOf(r.Interface)
	if err != nil {
		return nil, 0, err
	}
	live, err := c.plane.Live(c.deviceOf(rec))
	if err != nil || live.Revision != rec.Revision {
		return nil, 0, chain.Errorf(chain.TestUnsupported, chain.Facts{"interface": r.Interface},
			"the chain of %s does not run as it should (xdpctl status says why)", r.Interface)
	}
	slots, err := c.slots(&change{}, rec.Chain)
	if err != nil {
		return nil, 0, err
	}
	s, err := c.plane.Shadow(ctx, slots, c.ingress(rec), rec.Chain.Final, r.CopyMaps)
	return s, rec.Revision, err
}

// ingress is where the packets of a test run come from: the interface of a chain, or none if it is gone.
func (c *Controller) ingress(rec store.Chain) dispatcher.Ingress {
	in := dispatcher.Ingress{Index: math.MaxInt32, In: inside(rec.Interface)}
	if nic, err := netif.ByName(rec.Interface); err == nil {
		in.Index = nic.Index
	}
	return in
}
