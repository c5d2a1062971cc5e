// SPDX-License-Identifier: Apache-2.0

// Package docs holds the pages whose examples tests run, also where this folder is not there: in a VM.
//
// It imports the standard library only.
package docs

import _ "embed" // for the pages

// ChangingSafely is the guide changing-safely.md.
//
//go:embed changing-safely.md
var ChangingSafely string
