// SPDX-License-Identifier: Apache-2.0

package chain

import "maps"

// Settings are what a client sets of a program before it is loaded. The zero value sets nothing.
type Settings struct {
	Globals       map[string]string `json:"globals,omitempty"`         // values of global variables by name, as JSON
	MaxEntries    map[string]uint32 `json:"max_entries,omitempty"`     // how many entries maps have, by name
	ShareMapsFrom string            `json:"share_maps_from,omitempty"` // the program whose maps of the same name are used
	MapGroup      string            `json:"map_group,omitempty"`       // the group, by name or number, that may open the maps' pins
}

// Equal tells whether both set the same.
func (s Settings) Equal(t Settings) bool {
	return maps.Equal(s.Globals, t.Globals) && maps.Equal(s.MaxEntries, t.MaxEntries) &&
		s.ShareMapsFrom == t.ShareMapsFrom && s.MapGroup == t.MapGroup
}
