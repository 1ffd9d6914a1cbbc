// SPDX-License-Identifier: Apache-2.0

package mounts_test

import (
	"bytes"
	"encoding/binary"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// TestTimes shows times before 1970 and behind 2038, which other builders keep,
// as they are.
func TestTimes(t *testing.T) {
	for _, want := range []time.Time{time.Unix(-5, 0), time.Unix(-1<<33, 0), time.Unix(0, 0), time.Unix(1<<33, 0)} {
		spec := build(t, file("f", 0o644, []byte("x")))
		boot, err := os.ReadFile(spec.Bootstrap)
		if err != nil {
			t.Fatal(err)
		}
		built := binary.LittleEndian.AppendUint64(nil, 1_600_000_000)
		if bytes.Count(boot, built) != 1 {
			t.Fatalf("the time of f is there %d times", bytes.Count(boot, built))
		}
		boot = bytes.ReplaceAll(boot, built, binary.LittleEndian.AppendUint64(nil, uint64(want.Unix())))
		if err := os.WriteFile(spec.Bootstrap, boot, 0o600); err != nil {
			t.Fatal(err)
		}
		spec.Digest = ""
		s := startServer(t, t.TempDir())
		dir := s.mount(t, "times", spec)
		fi, err := os.Lstat(filepath.Join(dir, "f"))
		if err != nil || !fi.ModTime().Equal(want) {
			t.Errorf("%v, want %v (%v)", fi.ModTime(), want, err)
		}
	}
}
