// SPDX-License-Identifier: Apache-2.0

package chain

import (
	"strings"
	"testing"
)

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

func TestSettingsDiff(t *testing.T) {
	old := Settings{
		Globals: map[string]string{"gone": "1", "same": "2", "limit": "3"}, MaxEntries: map[string]uint32{"table": 8}, MapGroup: "ops",
	}
	now := Settings{
		Globals: map[string]string{"same": "2", "limit": "4", "long": strings.Repeat("x", 100)}, MaxEntries: map[string]uint32{"table": 16},
		ShareMapsFrom: "p",
	}
	want := "global gone 1 -> (as built); global limit 3 -> 4; global long (as built) -> " + strings.Repeat("x", 63) + "...; " +
		"entries of table 8 -> 16; maps of (none) -> p; map group ops -> (none)"
	if got := strings.Join(old.Diff(now), "; "); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if got := now.Diff(now); len(got) != 0 {
		t.Errorf("the same settings: %q", got)
	}
}
