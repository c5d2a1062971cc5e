// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"

	xdpdv1 "github.com/xdpd/xdpd/api/proto/xdpd/v1"
)

// callers are clients that make calls all the time, with what grpc does by default, and one that only connects. Every
// failure of theirs fails the test.
type callers struct {
	all    sync.WaitGroup
	cancel context.CancelFunc
	calls  atomic.Int64
}

func (h *host) callers(n int) *callers {
	ctx, cancel := context.WithCancel(context.Background())
	h.Cleanup(cancel)
	c := &callers{cancel: cancel}
	for i := range n {
		c.all.Go(func() {
			conn, err := grpc.NewClient("unix://"+h.socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
			if err != nil {
				h.Error(err)
				return
			}
			defer conn.Close()
			for ctx.Err() == nil && !h.Failed() {
				if err := c.call(conn, i); err != nil {
					h.Errorf("caller %d: %v", i, err)
				}
				c.calls.Add(1)
				time.Sleep(50 * time.Millisecond) // the daemon has to get at the processors too
			}
		})
	}
	c.all.Go(func() {
		for ctx.Err() == nil && !h.Failed() {
			conn, err := net.Dial("unix", h.socket)
			if err != nil {
				h.Errorf("connect: %v", err)
				return
			}
			conn.Close()
			time.Sleep(5 * time.Millisecond) // so that those who wait are fewer than somaxconn
		}
	})
	return c
}

func (c *callers) call(conn *grpc.ClientConn, i int) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	api := xdpdv1.NewXdpdServiceClient(conn)
	switch i % 3 {
	case 0:
		_, err := api.GetStatus(ctx, &xdpdv1.GetStatusRequest{})
		return err
	case 1:
		_, err := api.ListChains(ctx, &xdpdv1.ListChainsRequest{})
		return err
	}
	resp, err := healthv1.NewHealthClient(conn).Check(ctx, &healthv1.HealthCheckRequest{})
	if err == nil && resp.GetStatus() != healthv1.HealthCheckResponse_SERVING {
		err = fmt.Errorf("health is %v", resp.GetStatus())
	}
	return err
}

// more waits until that many more calls were made.
func (c *callers) more(h *host, n int64) {
	h.Helper()
	from := c.calls.Load()
	h.eventually("calls are made", func() bool { return c.calls.Load() >= from+n || h.Failed() })
}

func (c *callers) stop() {
	c.cancel()
	c.all.Wait()
}
