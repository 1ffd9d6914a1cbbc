// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"fmt"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// All processes of the plugin run with the capabilities that docs/plugin.md
// explains, and no others. That they suffice is what all other tests show.
func TestCapabilities(t *testing.T) {
	e := New(t)
	d := e.StartLighter(t, DaemonOptions{})
	var want uint64
	for _, c := range []uint{unix.CAP_SYS_ADMIN, unix.CAP_MKNOD, unix.CAP_CHOWN, unix.CAP_DAC_OVERRIDE, unix.CAP_FOWNER, unix.CAP_FSETID, unix.CAP_SETFCAP} {
		want |= 1 << c
	}
	keeper, worker := d.PluginProcesses(t)
	for name, pid := range map[string]int{"keeper": keeper, "worker": worker} {
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		if err != nil {
			t.Fatal(err)
		}
		for _, set := range []string{"CapBnd:", "CapPrm:", "CapEff:"} {
			var got uint64
			if _, err := fmt.Sscanf(lineOf(string(status), set), "%x", &got); err != nil || got != want {
				t.Errorf("%s of the %s is %x, want %x (%v)", set, name, got, want, err)
			}
		}
	}
}
