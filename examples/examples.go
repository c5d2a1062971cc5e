// SPDX-License-Identifier: Apache-2.0

// Package examples holds the compiled example programs, for tests and the demo. What each one does is at the
// top of its source; README.md lists their maps.
//
// It imports the standard library only.
package examples

import _ "embed" // for the objects

// The ELF objects; the function of each has the name of its folder.
var (
	//go:embed blocklist/blocklist.bpf.o
	Blocklist []byte
	//go:embed ratelimit/ratelimit.bpf.o
	Ratelimit []byte
	//go:embed sampler/sampler.bpf.o
	Sampler []byte
	//go:embed l4lb/l4lb.bpf.o
	L4LB []byte
)
