// SPDX-License-Identifier: Apache-2.0

package chain

import "testing"

func TestSettingsEqual(t *testing.T) {
	full := func() Settings {
		return Settings{
			Globals: map[string]string{"a": "1"}, MaxEntries: map[string]uint32{"m": 2}, ShareMapsFrom: "p", MapGroup: "g",
		}
	}
	if !full().Equal(full()) || !(Settings{}).Equal(Settings{Globals: map[string]string{}}) {
		t.Error("the same settings differ")
	}
	for name, change := range map[string]func(*Settings){
		"another value":  func(s *Settings) { s.Globals["a"] = "2" },
		"another global": func(s *Settings) { s.Globals = map[string]string{"b": "1"} },
		"another size":   func(s *Settings) { s.MaxEntries["m"] = 3 },
		"nobody's maps":  func(s *Settings) { s.ShareMapsFrom = "" },
		"another group":  func(s *Settings) { s.MapGroup = "h" },
	} {
		s := full()
		if change(&s); s.Equal(full()) || full().Equal(s) {
			t.Errorf("%s: they count as equal", name)
		}
	}
}
