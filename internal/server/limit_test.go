// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	xdpdv1 "github.com/xdpd/xdpd/api/proto/xdpd/v1"
)

// asIs is a codec that sends bytes instead of a message.
type asIs struct{}

func (asIs) Marshal(v any) ([]byte, error)      { return v.([]byte), nil }
func (asIs) Unmarshal(data []byte, v any) error { *v.(*[]byte) = data; return nil }
func (asIs) Name() string                       { return "proto" }

func dial(t *testing.T, path string) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient("unix://"+path, grpc.WithTransportCredentials(insecure.NewCredentials()))
	must(t, err)
	t.Cleanup(func() { conn.Close() })
	return conn
}

// resident is how much memory the process has, in MiB: now, and at most since the last call.
func resident(t *testing.T) (now, most int) {
	t.Helper()
	text, err := os.ReadFile("/proc/self/status")
	must(t, err)
	for line := range strings.Lines(string(text)) {
		fmt.Sscanf(line, "VmRSS: %d", &now)
		fmt.Sscanf(line, "VmHWM: %d", &most)
	}
	must(t, os.WriteFile("/proc/self/clear_refs", []byte("5"), 0))
	return now >> 10, most >> 10
}

// TestHugeRequestsTakeTurns has many clients send as much as there can be at once. The memory is bounded, all are
// answered, and so is a small request meanwhile.
func TestHugeRequestsTakeTurns(t *testing.T) {
	const clients = 16 // without limits they would take 1.5 GiB, and more with the race detector
	r := start(t, &fake{})
	huge, err := proto.Marshal(&xdpdv1.AddProgramRequest{Name: "huge", Object: make([]byte, 64<<20-100), Interfaces: []string{"eth0"}})
	must(t, err)
	before, _ := resident(t)
	var wg sync.WaitGroup
	for range clients {
		conn := dial(t, r.path)
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
			defer cancel()
			var answer []byte
			err := conn.Invoke(ctx, xdpdv1.XdpdService_AddProgram_FullMethodName, huge, &answer, grpc.ForceCodec(asIs{}))
			if c := status.Code(err); c != codes.InvalidArgument && c != codes.ResourceExhausted {
				t.Errorf("a huge request got %v", err)
			}
		})
	}
	done := make(chan struct{})
	go func() { wg.Wait(); close(done) }()
	var slowest time.Duration
	for ended := false; !ended; {
		select {
		case <-done:
			ended = true
		default:
		}
		start := time.Now()
		if _, err := r.api.AddProgram(t.Context(), add("eth0")); err != nil {
			t.Errorf("a small request meanwhile: %v", err)
		}
		slowest = max(slowest, time.Since(start))
	}
	_, most := resident(t)
	t.Logf("%d MiB before, %d at most; the slowest small request took %v", before, most, slowest)
	if most > before+1000 {
		t.Errorf("%d clients took %d MiB", clients, most-before)
	}
}
