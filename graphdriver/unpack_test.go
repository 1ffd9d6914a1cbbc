// SPDX-License-Identifier: Apache-2.0

package graphdriver

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	moby "github.com/moby/moby/v2/daemon/graphdriver"
	"github.com/moby/moby/v2/daemon/graphdriver/overlay2"
	"github.com/moby/sys/user"
	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"lighter/format/formattest"
)

// beside is Docker's overlay2 and our unpacker, side by side.
type beside struct {
	t     testing.TB
	dir   string
	ids   user.IdentityMapping
	plain moby.Driver
	n     int
}

func newBeside(t testing.TB, ids user.IdentityMapping) *beside {
	t.Helper()
	logrus.SetLevel(logrus.ErrorLevel) // overlay2's: it warns of attributes that it leaves out
	dir := plainDisk(t)
	plain, err := overlay2.Init(filepath.Join(dir, "plain"), nil, ids)
	must(t, err)
	return &beside{t: t, dir: dir, ids: ids, plain: plain}
}

// unpack unpacks a layer with both. It returns what each made of it, with the size that it told, or the error.
func (b *beside) unpack(data []byte) (ours, plain string, oursErr, plainErr error) {
	b.t.Helper()
	b.n++
	id := fmt.Sprintf("l%d", b.n)
	must(b.t, b.plain.Create(id, "", nil))
	defer b.plain.Remove(id)
	size, plainErr := b.plain.ApplyDiff(id, "", bytes.NewReader(data))
	if plainErr == nil {
		plain = fmt.Sprintf("%d bytes\n%s", size, listing(b.t, filepath.Join(b.dir, "plain", id, "diff")))
	}
	dir := filepath.Join(b.dir, id)
	uid, gid := b.ids.RootPair()
	must(b.t, os.Mkdir(dir, 0o755))
	must(b.t, os.Chown(dir, uid, gid))
	defer os.RemoveAll(dir)
	size, oursErr = unpackTar(dir, b.ids, data)
	if oursErr == nil {
		ours = fmt.Sprintf("%d bytes\n%s", size, listing(b.t, dir))
	}
	return ours, plain, oursErr, plainErr
}

// same unpacks a layer with both and wants the same.
func (b *beside) same(name string, data []byte) {
	b.t.Helper()
	ours, plain, oursErr, plainErr := b.unpack(data)
	if (oursErr == nil) != (plainErr == nil) {
		b.t.Errorf("%s: %v, overlay2: %v", name, oursErr, plainErr)
	} else if ours != plain {
		b.t.Errorf("%s:\n%s\noverlay2:\n%s", name, ours, plain)
	}
}

func unpackTar(dir string, ids user.IdentityMapping, data []byte) (int64, error) {
	u, err := newUnpacker(dir, ids)
	if err != nil {
		return 0, err
	}
	defer u.close()
	tr := tar.NewReader(bytes.NewReader(data))
	for {
		hdr, err := tr.Next()
		if err == io.EOF {
			return u.finish()
		}
		if err != nil {
			return 0, err
		}
		if hdr.Typeflag == tar.TypeXGlobalHeader {
			continue
		}
		if err := u.Begin(hdr); err != nil {
			return 0, err
		}
		if _, err := io.Copy(u, tr); err != nil {
			return 0, err
		}
		if err := u.End(); err != nil {
			return 0, err
		}
	}
}

// Names and links that lead out of the layer: overlay2 of the Docker versions that take plugins has the layer as its root
// directory, and so have we; the overlay2 that we compare with refuses them.
var clamped = map[string]bool{"absolute": true, "out of the root": true, "symlink out of the root": true}

func TestUnpackCorpus(t *testing.T) {
	b := newBeside(t, user.IdentityMapping{})
	for _, c := range append(formattest.Corpus(), formattest.Hostile()...) {
		for i, layer := range c.Layers {
			name := fmt.Sprintf("%s, layer %d", c.Name, i)
			data := formattest.Tar(t, layer...)
			if strings.Contains(string(data), overlayXattrs) {
				continue // TestOverlayAttributes
			}
			if slices.ContainsFunc(layer, func(f formattest.File) bool { return f.Type == tar.TypeSymlink && f.Xattrs != nil }) {
				continue // TestUnpackLinkAttributes
			}
			if !clamped[c.Name] {
				b.same(name, data)
				continue
			}
			ours, _, err, plainErr := b.unpack(data)
			if err != nil || plainErr == nil {
				t.Errorf("%s: %v, overlay2: %v", name, err, plainErr)
			}
			if _, wanted, _ := strings.Cut(c.Want, "\n"); strings.Count(ours, "\n") != strings.Count(wanted, "\n")+2 {
				t.Errorf("%s:\n%s\nwant\n%s", name, ours, c.Want)
			}
		}
	}
}

func TestUnpackNasty(t *testing.T) {
	b := newBeside(t, user.IdentityMapping{})
	for name, data := range nastyTars(t) {
		b.same(name, data)
	}
	hour := func(h int) time.Time { return time.Unix(int64(h)*3600, 987654321) }
	at := func(name string, typ byte, h int) file {
		return file{tar.Header{Name: name, Typeflag: typ, ModTime: hour(h), Format: tar.FormatPAX}, ""}
	}
	mode := func(f file, mode int64, uid int) file {
		f.Mode, f.Uid, f.Gid = mode, uid, uid+1
		return f
	}
	attr := func(f file, name, value string) file {
		f.PAXRecords, f.Format = map[string]string{xattrRecord + name: value}, tar.FormatPAX
		return f
	}
	capability := "\x01\x00\x00\x02\x00\x20\x00\x00" + strings.Repeat("\x00", 12)
	link := func(name, to string) file { return file{linkHeader(name, to), ""} }
	hard := func(name, to string) file { return file{hardHeader(name, to), ""} }
	// a default ACL: user::rwx, group::---, other::---
	acl := "\x02\x00\x00\x00\x01\x00\x07\x00\xff\xff\xff\xff\x04\x00\x00\x00\xff\xff\xff\xff\x20\x00\x00\x00\xff\xff\xff\xff"
	var manyDirs []file
	for i := range 3 * dirsOpen {
		manyDirs = append(manyDirs, dir(fmt.Sprintf("d%d/", i)), reg(fmt.Sprintf("d%d/f", i), "x"), reg(fmt.Sprintf("d0/f%d", i), "y"),
			hard(fmt.Sprintf("d%d/g", i), fmt.Sprintf("d%d/f", i/2)))
	}
	deep := strings.Repeat("deep/", 400)
	for name, files := range map[string][]file{
		"set-id, owned by others":     {mode(reg("a", "x"), 0o6755, 1000), mode(reg("b", "y"), 0o4711, 0), mode(at("d", tar.TypeDir, 5), 0o3777, 7)},
		"no mode at all":              {mode(reg("a", "x"), 0o100000, 0), mode(dir("d/"), 0o040000, 5), reg("d/f", "1")},
		"parent gives group":          {mode(dir("d/"), 0o2755, 50), reg("d/f", "1"), dir("d/sub"), link("d/l", "f"), mode(at("d/p", tar.TypeFifo, 1), 0o600, 0)},
		"default ACL":                 {attr(dir("d/"), "system.posix_acl_default", acl), reg("d/f", "1"), dir("d/sub/"), mode(reg("d/g", "1"), 0o777, 0), mode(at("d/p", tar.TypeFifo, 1), 0o666, 0), reg("d/implied/f", "")},
		"ACL":                         {mode(attr(reg("f", "x"), "system.posix_acl_access", acl), 0o755, 3)},
		"capability, owned by others": {mode(attr(reg("a", "x"), "security.capability", capability), 0o755, 1000), attr(hard("b", "a"), "security.capability", capability)},
		"link takes capability away":  {mode(attr(reg("a", "x"), "security.capability", capability), 0o4755, 1000), mode(hard("b", "a"), 0o4755, 9)},
		"attributes that may not be":  {attr(at("p", tar.TypeFifo, 1), "user.x", "1"), attr(at("c", tar.TypeChar, 1), "trusted.x", "1"), attr(dir("d/"), "user.x", "1")},
		"attribute of no kind":        {attr(reg("a", "x"), "odd", "1")},
		"times":                       {at("old", tar.TypeReg, -5), at("far", tar.TypeReg, 3_000_000), at("too-far", tar.TypeDir, 4_000_000), {tar.Header{Name: "access", Typeflag: tar.TypeReg, ModTime: hour(9), AccessTime: hour(8), Format: tar.FormatPAX}, ""}, at("l", tar.TypeSymlink, 77)},
		"time of a filled directory":  {at("d", tar.TypeDir, 5), at("d/e", tar.TypeDir, 6), reg("d/e/f", "x"), reg("d/f", "x"), at("d", tar.TypeDir, 7), reg("d/g", "")},
		"time, directory to link":     {at("x", tar.TypeDir, 1), at("d", tar.TypeDir, 5), link("d", "x"), reg("d/f", "1")},
		"time, directory to lost":     {at("d", tar.TypeDir, 5), link("d", "lost")},
		"time, directory to file":     {at("d", tar.TypeDir, 5), at("d", tar.TypeReg, 9)},
		"time, directory under file":  {at("d", tar.TypeDir, 5), at("d/e", tar.TypeDir, 6), at("d", tar.TypeReg, 9)},
		"time, by two links":          {dir("x/"), at("x/y", tar.TypeDir, 3), at("d", tar.TypeDir, 5), link("l", "x/y"), link("d", "l")},
		"link to itself":              {reg("a", "1"), hard("a", "a")},
		"link into what it replaces":  {dir("d/"), reg("d/f", "1"), hard("d", "d/f")},
		"link to a directory":         {dir("d/"), hard("l", "d")},
		"link to the root":            {hard("l", "/")},
		"link to nothing":             {hard("l", "no/thing")},
		"link by a link":              {dir("d/"), reg("d/f", "1"), link("l", "d"), hard("h", "l/f"), hard("i", "/l/f")},
		"through links":               {dir("r/"), dir("r/s/"), link("a", "r/s"), link("b", "/a/.."), reg("a/1", ""), reg("b/2", ""), link("c", "a/../s"), reg("c/3", "3")},
		"through a link, on its way":  {dir("usr/"), dir("usr/lib/"), dir("usr/x/"), link("lib", "usr/lib"), link("alias", "lib/../x"), reg("alias/f", "1")},
		"through a lost link":         {link("a", "/lost/dir"), reg("a/f", "1"), reg("a/g", "2")},
		"through a loop":              {link("a", "b"), link("b", "a"), reg("a/f", "1")},
		"through a file":              {reg("a", "1"), reg("a/f", "1")},
		"through a fifo":              {at("a", tar.TypeFifo, 1), reg("a/f", "1")},
		"through a device":            {at("a", tar.TypeChar, 1), reg("a/f", "1")},
		"directory over a link":       {dir("x/"), link("a", "x"), dir("a/"), reg("a/f", "1")},
		"file over a link":            {reg("x", "1"), link("a", "x"), reg("a", "22")},
		"file over a tree":            {dir("a/"), dir("a/b/"), reg("a/b/c", "1"), reg("a", "22"), reg("z", "1")},
		"tree again after a file":     {dir("a/"), dir("a/b/"), reg("a/b/c", "1"), reg("a", "22"), dir("a/"), dir("a/b/"), reg("a/b/d", "333")},
		"link changes on the way":     {dir("x/"), dir("y/"), link("a", "x"), reg("a/f", "1"), link("a", "y"), reg("a/f", "22"), dir("a"), reg("a/f", "333")},
		"device over everything":      {dir("a/"), reg("a/f", "1"), at("a", tar.TypeChar, 1), link("a", "x"), at("a", tar.TypeFifo, 1), reg("a", "1")},
		"type nobody knows":           {at("a", '7', 1)},
		"device number":               {{tar.Header{Name: "a", Typeflag: tar.TypeBlock, Devmajor: 1 << 40, Format: tar.FormatGNU}, ""}},
		"device numbers":              {{tar.Header{Name: "a", Typeflag: tar.TypeBlock, Devmajor: 4095, Devminor: 1048575, Mode: 0o6777, Uid: 5}, ""}},
		"whiteouts":                   {dir("d/"), mode(reg("d/.wh.a", "data"), 0o644, 8), reg("d/.wh.b", ""), reg("d/.wh..wh..opq", ""), reg(".wh.top", ""), reg("new/.wh.x", ""), reg("new2/.wh..wh..opq", ""), reg(".wh..wh..opq", "")},
		"whiteout of what is here":    {reg("a", "1"), reg(".wh.a", "")},
		"whiteout, then made":         {reg(".wh.a", ""), dir("a/"), reg("a/f", "1"), reg(".wh.b", ""), reg("b", "1")},
		"whiteout without a name":     {reg("d/.wh.", "")},
		"whiteout of ..":              {reg("d/.wh...", "")},
		"whiteout of .":               {reg("d/.wh..", "")},
		"whiteout as a directory":     {reg(".wh.x/f", "1"), dir(".wh.x/")},
		"whiteout over a directory":   {reg(".wh.x/f", "1"), reg(".wh.x", "")},
		"whiteout by a link":          {dir("d/"), link("l", "d"), reg("l/.wh.a", ""), reg("l/.wh..wh..opq", "")},
		"links of aufs":               {dir(".wh..wh.plnk/"), reg(".wh..wh.plnk/1.2", "x"), hard("a", ".wh..wh.plnk/1.2"), reg(".wh..wh.aufs", "")},
		"implicit parents":            {reg("a/b/c", "1"), link("x/y/z", "t"), hard("h/i", "a/b/c"), mode(dir("a/"), 0o700, 3)},
		"many directories":            manyDirs,
		"deep":                        {reg(deep+"f", "1"), reg(deep+"g", "2"), hard("h", deep+"f")},
		"long name":                   {reg(strings.Repeat("n", 256), "")},
		"long symlink":                {link("a", strings.Repeat("n", 4096))},
		"empty symlink":               {{tar.Header{Name: "a", Typeflag: tar.TypeSymlink, Format: tar.FormatPAX}, ""}},
		"root, listed":                {mode(dir("./"), 0o1700, 5), reg("a", "1")},
		"root is a file":              {reg(".", "")},
		"wide names":                  {reg("ünï", "1"), reg("new\nline", "1"), reg("\xff\xfe", "1"), reg(" ", "1"), reg("...", "1")},
	} {
		b.same(name, makeTar(t, files...))
	}
}

// Attributes of a symbolic link are its own. The overlay2 that we compare with takes them for those of what it leads to.
func TestUnpackLinkAttributes(t *testing.T) {
	dir := t.TempDir()
	link := file{linkHeader("l", "f"), ""}
	link.Format, link.PAXRecords = tar.FormatPAX, map[string]string{xattrRecord + "user.x": "1", xattrRecord + "trusted.x": "1"}
	must2(unpackTar(dir, user.IdentityMapping{}, makeTar(t, reg("f", ""), link)))
	for _, line := range strings.Split(listing(t, dir), "\n") {
		if strings.HasPrefix(line, `"l"`) != strings.Contains(line, "trusted.x") || strings.Contains(line, "user.x") {
			t.Errorf("attributes of %s", line)
		}
	}
}

// Random layers, of which most entries collide.
func TestUnpackRandom(t *testing.T) {
	b := newBeside(t, user.IdentityMapping{})
	m, err := formattest.NewModel(t.TempDir())
	must(t, err)
	for seed := range uint64(200) {
		data, err := formattest.RandomLayer(rand.New(rand.NewPCG(seed, 18)), m, 60)
		must(t, err)
		b.same(fmt.Sprintf("seed %d", seed), data)
		if t.Failed() {
			return
		}
	}
}

func TestUnpackMapped(t *testing.T) {
	maps := []user.IDMap{{ID: 0, ParentID: 100000, Count: 5000}}
	b := newBeside(t, user.IdentityMapping{UIDMaps: maps, GIDMaps: maps})
	owned := func(name string, typ byte, id int) file {
		return file{tar.Header{Name: name, Typeflag: typ, Uid: id, Gid: id + 1, Mode: 0o4755}, ""}
	}
	b.same("mapped", makeTar(t, owned("a", tar.TypeReg, 0), owned("d/e/b", tar.TypeReg, 1000), owned("d/f", tar.TypeDir, 7), owned("d/p", tar.TypeFifo, 9),
		owned("d/.wh.x", tar.TypeReg, 3), file{linkHeader("l", "a"), ""}, file{hardHeader("h", "a"), ""}))
	b.same("not mapped", makeTar(t, owned("a", tar.TypeReg, 5000)))
}

// What a layer says never touches what lies outside of it.
func TestUnpackStaysInside(t *testing.T) {
	dir := plainDisk(t)
	outside := filepath.Join(dir, "outside")
	must(t, os.Mkdir(outside, 0o755))
	must(t, os.WriteFile(filepath.Join(outside, "f"), []byte("untouched"), 0o600))
	must(t, os.WriteFile(filepath.Join(dir, "beside"), []byte("untouched"), 0o600))
	before := listing(t, outside)
	for i, files := range [][]file{
		{file{linkHeader("l", outside), ""}, reg("l/f", "gotcha"), reg("l/new", "gotcha")},
		{file{linkHeader("l", "../outside"), ""}, reg("l/f", "gotcha"), reg("l/.wh.f", ""), reg("l/.wh..wh..opq", "")},
		{file{linkHeader("l", "../../../../../../../../../.."+outside), ""}, dir0("l", 0o777), reg("l/f", "gotcha")},
		{file{linkHeader("l", outside+"/f"), ""}, reg("l", "gotcha")},
		{file{hardHeader("h", "../outside/f"), ""}},
		{file{linkHeader("l", outside), ""}, file{hardHeader("h", "l/f"), ""}},
		{file{linkHeader("l", outside+"/f"), ""}, file{tar.Header{Name: "h", Linkname: "l", Typeflag: tar.TypeLink, Mode: 0o777, Uid: 5}, ""}},
		{reg("../outside/f", "gotcha"), reg("../../beside", "gotcha"), reg("a/../../outside/f", "gotcha")},
		{dir0("d", 0o755), dir0("d/e", 0o755), file{linkHeader("d", outside), ""}, dir0("d/e", 0o777), reg("d/f", "gotcha")},
		{dir0("d", 0o755), file{linkHeader("d", outside), ""}},
		{file{linkHeader("l", "/proc/self/cwd/../../.."), ""}, reg("l/f", "gotcha")},
	} {
		layer := filepath.Join(dir, fmt.Sprintf("layer%d", i))
		must(t, os.Mkdir(layer, 0o755))
		_, err := unpackTar(layer, user.IdentityMapping{}, makeTar(t, files...))
		t.Logf("%d: %v", i, err)
		if after := listing(t, outside); after != before {
			t.Fatalf("%d: outside is\n%s\nit was\n%s", i, after, before)
		}
		if data, err := os.ReadFile(filepath.Join(dir, "beside")); string(data) != "untouched" {
			t.Fatalf("%d: %q, %v", i, data, err)
		}
	}
}

func dir0(name string, mode int64) file {
	return file{tar.Header{Name: name, Typeflag: tar.TypeDir, Mode: mode, ModTime: time.Unix(5, 0)}, ""}
}

// Also not while somebody puts a symbolic link in a directory's place and takes it away again.
func TestUnpackRace(t *testing.T) {
	top := plainDisk(t)
	outside, layer := filepath.Join(top, "outside"), filepath.Join(top, "layer")
	for _, d := range []string{outside, layer, layer + "/d", layer + "/d/e"} {
		must(t, os.Mkdir(d, 0o755))
	}
	must(t, os.WriteFile(outside+"/f", []byte("untouched"), 0o600))
	must(t, os.Symlink(outside, layer+"/other"))
	before := listing(t, outside)
	stop, swapped := make(chan struct{}), make(chan int)
	go func() {
		n := 0
		for {
			select {
			case <-stop:
				swapped <- n
				return
			default:
				unix.Renameat2(unix.AT_FDCWD, layer+"/d", unix.AT_FDCWD, layer+"/other", unix.RENAME_EXCHANGE)
				n++
			}
		}
	}()
	data := makeTar(t, reg("d/f", "x"), dir0("d/e", 0o777), file{tar.Header{Name: "d/p", Typeflag: tar.TypeFifo, Mode: 0o777}, ""},
		file{linkHeader("d/l", "f"), ""}, reg("d/.wh.w", ""), reg("d/.wh..wh..opq", ""), dir("d/f"), file{hardHeader("h", "d/f"), ""}, reg("d/e", ""), reg("h", ""))
	made := 0
	for range 500 {
		u := must2(newUnpacker(layer, user.IdentityMapping{}))
		tr := tar.NewReader(bytes.NewReader(data))
		for {
			hdr, err := tr.Next()
			if err != nil {
				break
			}
			if u.Begin(hdr) == nil {
				io.Copy(u, tr)
				u.End()
				made++
			}
			u.dirs.forget("d")
		}
		u.finish()
		u.close()
	}
	close(stop)
	if n := <-swapped; n < 100 || made < 100 {
		t.Errorf("%d entries while it was swapped %d times", made, n)
	}
	if after := listing(t, outside); after != before {
		t.Errorf("outside is\n%s\nit was\n%s", after, before)
	}
}
