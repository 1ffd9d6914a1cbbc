// SPDX-License-Identifier: Apache-2.0

package cache

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

var id = strings.Repeat("ab", 32)

// geo has 20 chunks of 8192 bytes.
var geo = Geometry{Chunks: 20, Size: 20 * 8192}

func chunk(i int) []byte {
	p := make([]byte, 8192)
	rand.New(rand.NewSource(int64(i))).Read(p)
	return p
}

func open(t *testing.T, dir string, o Options) *Dir {
	t.Helper()
	d, err := Open(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

func blobOf(t *testing.T, d *Dir, id string, g Geometry) *Blob {
	t.Helper()
	b, err := d.Blob(id, g)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func put(t *testing.T, b *Blob, i int) {
	t.Helper()
	if err := b.Put(uint32(i), int64(i)*8192, chunk(i)); err != nil {
		t.Fatal(err)
	}
}

func has(b *Blob, i int) bool {
	p := make([]byte, 8192)
	n, err := b.ReadAt(p, int64(i)*8192)
	return b.Ready(uint32(i)) && n == len(p) && err == nil && bytes.Equal(p, chunk(i))
}

func TestKeepsAcrossRestart(t *testing.T) {
	dir := t.TempDir()
	d := open(t, dir, Options{})
	b := blobOf(t, d, id, geo)
	for i := 0; i < 20; i += 2 {
		put(t, b, i)
	}
	if b.ReadyCount() != 10 || b.Complete() {
		t.Fatalf("%d of 10 ready, complete %v", b.ReadyCount(), b.Complete())
	}
	// As after kill -9: nothing is closed but the lock.
	d.lock.Close()
	d = open(t, dir, Options{})
	b = blobOf(t, d, id, geo)
	for i := range 20 {
		if has(b, i) != (i%2 == 0) {
			t.Errorf("chunk %d: ready %v", i, b.Ready(uint32(i)))
		}
	}
	for i := 1; i < 20; i += 2 {
		put(t, b, i)
	}
	if !b.Complete() {
		t.Error("not complete with all chunks")
	}
	if err := b.Drop(3); err != nil || b.Ready(3) || b.Complete() {
		t.Error("Drop did not clear the bit", err)
	}
	b.Close()
	if b = blobOf(t, d, id, geo); b.Ready(3) || b.ReadyCount() != 19 {
		t.Error("Drop did not last")
	}
}

func TestSharedAndRefused(t *testing.T) {
	d := open(t, t.TempDir(), Options{})
	a, b := blobOf(t, d, id, geo), blobOf(t, d, id, geo)
	if a != b {
		t.Fatal("two Blobs for one file set")
	}
	a.Close()
	put(t, b, 1)
	for _, g := range []Geometry{{0, 1}, {1, 0}, {1, -1}, {1<<24 + 1, 1}, {1, 1<<44 + 1}} {
		if _, err := d.Blob(id, g); err == nil {
			t.Errorf("geometry %v was taken", g)
		}
	}
	p := make([]byte, 100)
	for _, off := range []int64{-1, geo.Size - 99, geo.Size, 1 << 62} {
		if _, err := b.ReadAt(p, off); err == nil {
			t.Errorf("read at %d", off)
		}
		if err := b.Put(0, off, p); err == nil {
			t.Errorf("write at %d", off)
		}
	}
	if err := b.Put(20, 0, p); err == nil || b.Ready(20) {
		t.Error("chunk 20 of 20 was written")
	}
	if _, err := b.ReadAt(make([]byte, 0), 0); err != nil {
		t.Error("empty read:", err)
	}
	b.Close()
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Blob(id, geo); !errors.Is(err, ErrClosed) {
		t.Errorf("Blob after Close: %v", err)
	}
	if err := d.Close(); !errors.Is(err, ErrClosed) {
		t.Errorf("second Close: %v", err)
	}
	if err := b.Put(0, 0, p); err == nil {
		t.Error("Put after Close")
	}
	if _, err := b.ReadAt(p, 0); !errors.Is(err, ErrClosed) {
		t.Errorf("ReadAt after Close: %v", err)
	}
}

// TestGeometry: images that disagree about a blob do not see each other's bits.
func TestGeometry(t *testing.T) {
	d := open(t, t.TempDir(), Options{})
	b := blobOf(t, d, id, geo)
	put(t, b, 1)
	for _, g := range []Geometry{{21, geo.Size}, {20, geo.Size - 4096}, {2, geo.Size}} {
		if o := blobOf(t, d, id, g); o == b || o.ReadyCount() != 0 {
			t.Errorf("geometry %v shares %v", g, geo)
		}
	}
	if !has(b, 1) {
		t.Error("chunk is gone")
	}
}

// TestNames: an id is never a path.
func TestNames(t *testing.T) {
	dir := t.TempDir()
	d := open(t, dir, Options{})
	seen := map[*Blob]string{}
	for _, id := range []string{"", ".", "..", "../../x", "/etc/passwd", "a/b", strings.Repeat("A", 64), strings.Repeat("ab", 33), "\x00", id, id + "/.."} {
		b := blobOf(t, d, id, geo)
		if was, ok := seen[b]; ok {
			t.Errorf("%q and %q share files", was, id)
		}
		seen[b] = id
	}
	entries, err := os.ReadDir(filepath.Join(dir, "blobs"))
	if err != nil || len(entries) != 2*len(seen) {
		t.Errorf("%d files for %d blobs, %v", len(entries), len(seen), err)
	}
	os.Symlink("/etc/passwd", filepath.Join(dir, "blobs", setName(strings.Repeat("cd", 32), geo)+".data"))
	if _, err := d.Blob(strings.Repeat("cd", 32), geo); err == nil {
		t.Error("a symbolic link was taken for a data file")
	}
}

func TestOneProcess(t *testing.T) {
	dir := t.TempDir()
	d := open(t, dir, Options{})
	_, err := Open(dir, Options{})
	if !errors.Is(err, ErrLocked) || !strings.Contains(err.Error(), fmt.Sprint(os.Getpid())) {
		t.Fatalf("second Open: %v; want ErrLocked with pid %d", err, os.Getpid())
	}
	d.Close()
	open(t, dir, Options{})
}

// TestLockFromOutside: a lock that the supervisor holds passes from one
// process to the next without a moment of nobody's.
func TestLockFromOutside(t *testing.T) {
	dir := t.TempDir()
	lock := func() *os.File {
		f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
		must(t, err)
		t.Cleanup(func() { f.Close() })
		return f
	}
	mine := lock()
	must(t, unix.Flock(int(mine.Fd()), unix.LOCK_EX))
	// The first is not closed, like a process that is dead but not gone.
	d1, d2 := open(t, dir, Options{Lock: mine}), open(t, dir, Options{Lock: mine})
	if _, err := Open(dir, Options{}); !errors.Is(err, ErrLocked) {
		t.Errorf("Open without the lock: %v", err)
	}
	if _, err := Open(dir, Options{Lock: lock()}); !errors.Is(err, ErrLocked) {
		t.Errorf("Open with another lock: %v", err)
	}
	must(t, d1.Close())
	must(t, d2.Close())
	if _, err := Open(dir, Options{}); !errors.Is(err, ErrLocked) {
		t.Errorf("Close gave the supervisor's lock away: %v", err)
	}
	must(t, mine.Close())
	open(t, dir, Options{})
}

// TestDamage: whatever happens to the files, opening works and bits that are
// kept belong to a data file of the right length.
func TestDamage(t *testing.T) {
	base := setName(id, geo)
	damage := map[string]struct {
		do   func(t *testing.T, dir string)
		keep bool
	}{
		"nothing":      {func(t *testing.T, dir string) {}, true},
		"data deleted": {func(t *testing.T, dir string) { must(t, os.Remove(filepath.Join(dir, base+".data"))) }, false},
		"map deleted":  {func(t *testing.T, dir string) { must(t, os.Remove(filepath.Join(dir, base+".map"))) }, false},
		"data cut":     {func(t *testing.T, dir string) { must(t, os.Truncate(filepath.Join(dir, base+".data"), 5)) }, false},
		"data longer":  {func(t *testing.T, dir string) { must(t, os.Truncate(filepath.Join(dir, base+".data"), 1<<20)) }, false},
		"map cut":      {func(t *testing.T, dir string) { must(t, os.Truncate(filepath.Join(dir, base+".map"), 65)) }, false},
		"map empty":    {func(t *testing.T, dir string) { must(t, os.Truncate(filepath.Join(dir, base+".map"), 0)) }, false},
		"map longer":   {func(t *testing.T, dir string) { must(t, os.Truncate(filepath.Join(dir, base+".map"), 68)) }, false},
		"map of another": {func(t *testing.T, dir string) {
			p, err := os.ReadFile(filepath.Join(dir, base+".map"))
			must(t, err)
			p[30] ^= 1
			must(t, os.WriteFile(filepath.Join(dir, base+".map"), p, 0o600))
		}, false},
	}
	for name, c := range damage {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			d := open(t, dir, Options{})
			b := blobOf(t, d, id, geo)
			put(t, b, 4)
			put(t, b, 19)
			b.Close()
			must(t, d.Close())
			c.do(t, filepath.Join(dir, "blobs"))
			d = open(t, dir, Options{})
			b = blobOf(t, d, id, geo)
			if c.keep != has(b, 4) || c.keep != has(b, 19) || (b.ReadyCount() == 2) != c.keep {
				t.Fatalf("kept %d bits, want kept: %v", b.ReadyCount(), c.keep)
			}
			put(t, b, 4)
			put(t, b, 5)
			if !has(b, 4) || !has(b, 5) {
				t.Error("cannot be written again")
			}
		})
	}
	t.Run("stray bits", func(t *testing.T) {
		dir := t.TempDir()
		d := open(t, dir, Options{})
		blobOf(t, d, id, geo).Close()
		must(t, d.Close())
		f, err := os.OpenFile(filepath.Join(dir, "blobs", base+".map"), os.O_WRONLY, 0)
		must(t, err)
		f.WriteAt([]byte{0xff, 0xff, 0xff}, mapHeader)
		f.Close()
		if b := blobOf(t, open(t, dir, Options{}), id, geo); b.ReadyCount() != 20 || b.Ready(20) {
			t.Errorf("%d of 20 chunks ready", b.ReadyCount())
		}
	})
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestHints(t *testing.T) {
	dir := t.TempDir()
	d := open(t, dir, Options{})
	b := blobOf(t, d, id, geo)
	put(t, b, 3)
	sum := sha256.Sum256(chunk(3))
	is := func(p []byte) bool { return sha256.Sum256(p) == sum }
	p := make([]byte, 8192)
	if d.Find(sum, p, is) || d.Hinted(sum, 8192) {
		t.Fatal("found before it was hinted")
	}
	b.Hint(sum, 3*8192, 8192)
	find := func() bool { clear(p); return d.Find(sum, p, is) && bytes.Equal(p, chunk(3)) }
	if !find() {
		t.Fatal("not found")
	}
	if !d.Hinted(sum, 8192) || d.Hinted(sum, 4096) {
		t.Error("hinted only with the right size")
	}
	if d.Find(sum, p[:4096], func([]byte) bool { return true }) {
		t.Error("found with another size")
	}
	// Wrong hints harm nobody, and do not keep right ones out.
	o := blobOf(t, d, strings.Repeat("cd", 32), geo)
	for _, x := range []hint{{o.set.key, 0, 8192}, {b.set.key, 1 << 60, 8192}, {b.set.key, -1, 8192}, {1, 0, 8192}} {
		d.hints.put(&sum, x, func(uint64) bool { return true })
		if find() {
			t.Errorf("hint %v led to the chunk", x)
		}
		b.Hint(sum, 3*8192, 8192)
		if !find() {
			t.Errorf("not found after hint %v was replaced", x)
		}
	}
	b.Close()
	must(t, d.Close())
	d = open(t, dir, Options{})
	if !find() {
		t.Error("not found after a restart")
	}
	if _, err := d.Prune(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	if find() || d.Hinted(sum, 8192) {
		t.Error("found in a blob that was removed")
	}
	must(t, d.Close())
	must(t, os.Truncate(filepath.Join(dir, "hints"), 1000))
	d = open(t, dir, Options{})
	b = blobOf(t, d, id, geo)
	put(t, b, 3)
	b.Hint(sum, 3*8192, 8192)
	if !find() {
		t.Error("table does not work after it was cut")
	}
}

// TestHintsFull: a full bucket takes new chunks and forgets old ones.
func TestHintsFull(t *testing.T) {
	h, err := openHints(filepath.Join(t.TempDir(), "hints"))
	must(t, err)
	defer h.close()
	live := func(s uint64) bool { return s != 0 }
	for i := range 100 {
		d := [32]byte{8: byte(i), 31: byte(i)}
		h.put(&d, hint{1, int64(i), 7}, live)
		if got := h.find(&d, 7); len(got) != 1 || got[0].off != int64(i) {
			t.Fatalf("chunk %d: %v", i, got)
		}
	}
	n := 0
	for i := range 100 {
		d := [32]byte{8: byte(i), 31: byte(i)}
		n += len(h.find(&d, 7))
	}
	if n != hintSlots {
		t.Errorf("%d chunks in a bucket of %d", n, hintSlots)
	}
}

func TestPrune(t *testing.T) {
	dir := t.TempDir()
	d := open(t, dir, Options{})
	ids := make([]string, 4)
	for i := range ids {
		ids[i] = hex.EncodeToString(bytes.Repeat([]byte{byte(i + 1)}, 32))
		b := blobOf(t, d, ids[i], geo)
		for c := range 10 {
			put(t, b, c)
		}
		if i != 1 {
			b.Close()
		}
	}
	total, pinned := d.Usage()
	if total < 4*10*8192 || total > 4*10*8192+4*65536 || pinned < 10*8192 || pinned > total/3 {
		t.Fatalf("usage %d, pinned %d", total, pinned)
	}
	// The first is used again, so the third goes first.
	blobOf(t, d, ids[0], geo).Close()
	freed, err := d.Prune(t.Context(), total-1)
	if err != nil || freed < 10*8192 || freed > total/3 {
		t.Fatalf("freed %d, %v", freed, err)
	}
	left := func() (s string) {
		for i := range ids {
			if _, err := os.Stat(filepath.Join(dir, "blobs", setName(ids[i], geo)+".data")); err == nil {
				s += fmt.Sprint(i)
			}
		}
		return s
	}
	if left() != "013" {
		t.Errorf("left: %s, want 013", left())
	}
	if _, err := d.Prune(t.Context(), 0); err != nil || left() != "1" {
		t.Errorf("left: %s, %v; want only the open one", left(), err)
	}
	if total, pinned := d.Usage(); total != pinned {
		t.Errorf("usage %d, pinned %d", total, pinned)
	}
}

// TestOrderSurvives: which blob was used last is known after a restart.
func TestOrderSurvives(t *testing.T) {
	dir := t.TempDir()
	d := open(t, dir, Options{})
	other := strings.Repeat("cd", 32)
	for _, id := range []string{id, other} {
		b := blobOf(t, d, id, geo)
		put(t, b, 1)
		b.Close()
		time.Sleep(5 * time.Millisecond)
	}
	blobOf(t, d, id, geo).Close()
	must(t, d.Close())
	d = open(t, dir, Options{})
	total, _ := d.Usage()
	if _, err := d.Prune(t.Context(), total-1); err != nil {
		t.Fatal(err)
	}
	if b := blobOf(t, d, id, geo); !has(b, 1) {
		t.Error("the blob that was used last was removed")
	}
	if b := blobOf(t, d, other, geo); b.Ready(1) {
		t.Error("the blob that was used first is still there")
	}
}

func TestLimit(t *testing.T) {
	d := open(t, t.TempDir(), Options{Limit: 200_000})
	for i := range 6 {
		b := blobOf(t, d, hex.EncodeToString(bytes.Repeat([]byte{byte(i + 1)}, 32)), geo)
		for c := range 10 {
			put(t, b, c)
		}
		b.Close()
	}
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if total, _ := d.Usage(); total > 0 && total <= 200_000 {
			return
		} else if time.Now().After(deadline) {
			t.Fatalf("%d bytes, limit 200000", total)
		}
	}
}

// TestSweepOpen: over the limit with nothing idle, open blobs lose what was not
// used for a while, and only that.
func TestSweepOpen(t *testing.T) {
	d := open(t, t.TempDir(), Options{Limit: 100_000, SweepPause: 300 * time.Millisecond})
	b := blobOf(t, d, id, geo)
	for i := range 20 {
		put(t, b, i)
	}
	waitFor := func(what string, ok func() bool) {
		t.Helper()
		for deadline := time.Now().Add(5 * time.Second); !ok(); time.Sleep(10 * time.Millisecond) {
			if time.Now().After(deadline) {
				total, _ := d.Usage()
				t.Fatalf("%s: %d bytes, %d chunks", what, total, b.ReadyCount())
			}
			b.Use(3, 3*8192, 8192)
			b.Use(17, 17*8192, 8192)
			d.awake()
		}
	}
	// What was put since the blob was opened survives the first sweep.
	waitFor("sweep", func() bool { return b.ReadyCount() < 20 })
	if !has(b, 3) || !has(b, 17) {
		t.Error("a chunk in use was dropped")
	}
	if total, _ := d.Usage(); total > 100_000 || total < 2*8192 {
		t.Errorf("%d bytes are left", total)
	}
	for i := range 20 {
		if b.Ready(uint32(i)) && !has(b, i) {
			t.Errorf("chunk %d is ready and wrong", i)
		}
	}
	put(t, b, 5)
	if !has(b, 5) {
		t.Error("a dropped chunk cannot be put again")
	}
}

func TestStrayFilesAreRemoved(t *testing.T) {
	dir := t.TempDir()
	must(t, open(t, dir, Options{}).Close())
	stray := filepath.Join(dir, "blobs", "feed.1-1.data")
	must(t, os.WriteFile(stray, []byte("x"), 0o600))
	open(t, dir, Options{})
	if _, err := os.Stat(stray); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("data without a map is still there: %v", err)
	}
}

func TestReadOnlyFile(t *testing.T) {
	d := open(t, t.TempDir(), Options{})
	b := blobOf(t, d, id, geo)
	ro, err := os.Open(b.data.Name())
	must(t, err)
	b.data.Close()
	b.data = ro
	if err := b.Put(2, 2*8192, chunk(2)); err == nil || b.Ready(2) {
		t.Errorf("Put without write access: %v, ready %v", err, b.Ready(2))
	}
	if _, err := b.ReadAt(make([]byte, 1), geo.Size); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("read behind the end: %v", err)
	}
}
