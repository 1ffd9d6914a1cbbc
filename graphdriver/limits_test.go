// SPDX-License-Identifier: Apache-2.0

package graphdriver

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

// paxHeaders repeats a header for the next entry without ever reaching it.
func paxHeaders(t *testing.T, n int) io.Reader {
	value := strings.Repeat("x", 900<<10)
	record := fmt.Sprintf(" comment=%s\n", value)
	size := len(record) + len(fmt.Sprint(len(record)+6))
	record = fmt.Sprintf("%d%s", size, record)
	h := make([]byte, 512)
	copy(h, "PaxHeader")
	copy(h[100:], "0000644\x00")
	copy(h[124:], fmt.Sprintf("%011o\x00", len(record)))
	h[156] = 'x'
	copy(h[257:], "ustar\x0000")
	total := 8 * int(' ')
	for i, c := range h {
		if i < 148 || i >= 156 {
			total += int(c)
		}
	}
	copy(h[148:], fmt.Sprintf("%06o\x00 ", total))
	one := append(h, record...)
	one = append(one, make([]byte, 511-(len(one)-1)%512)...)
	if !tarChecksum(one) {
		t.Fatal("bad header")
	}
	var parts []io.Reader
	for range n {
		parts = append(parts, bytes.NewReader(one))
	}
	return io.MultiReader(parts...)
}

// Headers without an end are refused, not collected.
func TestEndlessHeaders(t *testing.T) {
	e := newEnv(t)
	must(t, e.d.Create("headers", "", CreateOptions{}))
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_, err := e.d.ApplyDiff("headers", "", paxHeaders(t, 400))
	runtime.ReadMemStats(&after)
	if err == nil || !strings.Contains(err.Error(), "headers of one entry") {
		t.Errorf("got %v", err)
	}
	if grown := int64(after.HeapSys) - int64(before.HeapSys); grown > 200<<20 {
		t.Errorf("heap grew by %d bytes", grown)
	}
}

// A full disk fails the layer with the reason, and leaves a driver that works.
func TestFullDisk(t *testing.T) {
	e := newEnv(t)
	image, small := filepath.Join(e.dir, "img"), filepath.Join(e.dir, "small")
	must(t, os.WriteFile(image, nil, 0o600))
	must(t, os.Truncate(image, 24<<20))
	must(t, os.Mkdir(small, 0o700))
	for _, cmd := range [][]string{{"mkfs.ext4", "-q", image}, {"mount", "-o", "loop", image, small}} {
		if out, err := exec.Command(cmd[0], cmd[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %v\n%s", cmd, err, out)
		}
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", "-l", small).CombinedOutput(); err != nil {
			t.Errorf("umount: %v\n%s", err, out)
		}
	})
	d, err := New(Options{Root: filepath.Join(small, "data"), Mounter: e.m, Linger: -1})
	must(t, err)
	must(t, d.Init(Config{}))
	e.d = d
	big := strings.Repeat("0123456789abcdef", 2<<20)
	for name, data := range map[string][]byte{
		"plain": makeTar(t, reg("f", big)),
		"blob":  uncompressedBlob([]byte(big)),
		"lazy":  bootstrapLayer(t, reg("image/prefetch.json", big)),
	} {
		must(t, d.Create(name, "", CreateOptions{}))
		if _, err := d.ApplyDiff(name, "", bytes.NewReader(data)); err == nil || !strings.Contains(err.Error(), "no space left") {
			t.Errorf("%s: %v", name, err)
		}
		must(t, d.Remove(name))
	}
	data := makeTar(t, reg("f", "small"))
	e.layer("after", "", data)
	if !bytes.Equal(e.diff("after", ""), data) {
		t.Error("other diff")
	}
}
