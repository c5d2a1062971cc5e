// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"math/rand/v2"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	xdpdv1 "github.com/xdpd/xdpd/api/proto/xdpd/v1"
	"github.com/xdpd/xdpd/client"
	"github.com/xdpd/xdpd/internal/netif/nettest"
)

// TestManyClients has 50 clients make changes at random at the same time, and looks that all fits together then.
func TestManyClients(t *testing.T) {
	h := newHost(t, second)
	h.start()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var wg sync.WaitGroup
	for i := range uint64(50) {
		d := newDraw(seed, i, nettest.Dev, second)
		wg.Go(func() {
			c, err := client.Dial(h.socket)
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
			one := &host{TB: brief{t, ctx}, client: c, patience: 5 * patience} // most of it to wait for the others
			for range 4 {
				r := d.change(nil)
				if o, ok := r.(interface{ GetOptions() *xdpdv1.ChangeOptions }); ok {
					o.GetOptions().ConfirmWithin = nil
				}
				_, err := one.ask(r)
				if err != nil && client.Reason(err) == xdpdv1.ErrorReason_ERROR_REASON_UNSPECIFIED {
					t.Errorf("client %d: %v", i, err)
				}
			}
		})
	}
	wg.Wait()
	h.learn()
	h.uncounted()
	h.Check()
	h.d.kill()
	h.start()
	h.Check()
	h.stop(unix.SIGTERM)
}

// brief is a test whose clean-up is done by its context.
type brief struct {
	testing.TB
	ctx context.Context
}

func (b brief) Cleanup(f func()) { context.AfterFunc(b.ctx, f) }

// uncounted fails the test if packets were counted.
func (h *host) uncounted() {
	h.Helper()
	for iface := range h.wires {
		if n := h.counted(iface); n > 0 {
			h.Errorf("%s counted %d packets that no test sent", iface, n)
		}
	}
}
