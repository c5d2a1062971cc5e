// SPDX-License-Identifier: Apache-2.0

//go:build race

package store

// rarely is by how much fewer times what one goroutine does alone is repeated where the race detector looks on, which
// makes it five times slower and has nothing to find in it. Each run has other dice.
const rarely = 3
