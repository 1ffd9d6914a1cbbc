// SPDX-License-Identifier: Apache-2.0

package mounts_test

import (
	"archive/tar"
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

func TestXattrs(t *testing.T) {
	f := file("f", 0o644, []byte("x"))
	f.Format = tar.FormatPAX
	f.PAXRecords = map[string]string{
		"SCHILY.xattr.user.a":                 "value",
		"SCHILY.xattr.user.empty":             "",
		"SCHILY.xattr.user.long":              string(bytes.Repeat([]byte{7}, 2000)),
		"SCHILY.xattr.trusted.overlaX.opaque": "y",
	}
	spec := build(t, f, directory("d/"))
	// The builder drops attributes that overlayfs obeys; others may not.
	boot, err := os.ReadFile(spec.Bootstrap)
	if err != nil {
		t.Fatal(err)
	}
	evil := bytes.ReplaceAll(boot, []byte("overlaX.opaque"), []byte("overlay.opaque"))
	if bytes.Equal(boot, evil) {
		t.Fatal("no attribute to forge")
	}
	if err := os.WriteFile(spec.Bootstrap, evil, 0o600); err != nil {
		t.Fatal(err)
	}
	dir := startServer(t, t.TempDir()).mount(t, "m", spec)
	path := filepath.Join(dir, "f")

	buf := make([]byte, 4096)
	n, err := unix.Llistxattr(path, buf)
	if err != nil {
		t.Fatal(err)
	}
	names := bytes.Split(bytes.TrimSuffix(buf[:n], []byte{0}), []byte{0})
	slices.SortFunc(names, bytes.Compare)
	if got := string(bytes.Join(names, []byte(" "))); got != "user.a user.empty user.long" {
		t.Errorf("list: %q", got)
	}
	if n, err := unix.Llistxattr(path, nil); err != nil || n != len("user.a user.empty user.long ") {
		t.Errorf("length of the list: %d, %v", n, err)
	}
	if _, err := unix.Llistxattr(path, make([]byte, 5)); err != unix.ERANGE {
		t.Errorf("list in 5 bytes: %v", err)
	}
	if n, err := unix.Lgetxattr(path, "user.a", buf); err != nil || string(buf[:n]) != "value" {
		t.Errorf("user.a: %q, %v", buf[:max(n, 0)], err)
	}
	if n, err := unix.Lgetxattr(path, "user.long", nil); err != nil || n != 2000 {
		t.Errorf("length of user.long: %d, %v", n, err)
	}
	if _, err := unix.Lgetxattr(path, "user.long", make([]byte, 1999)); err != unix.ERANGE {
		t.Errorf("user.long in 1999 bytes: %v", err)
	}
	for _, name := range []string{"user.absent", "trusted.overlay.opaque", "trusted.overlay.redirect"} {
		if _, err := unix.Lgetxattr(path, name, buf); err != unix.ENODATA {
			t.Errorf("%s: %v, want ENODATA", name, err)
		}
	}
	if n, err := unix.Llistxattr(filepath.Join(dir, "d"), buf); n != 0 || err != nil {
		t.Errorf("list of none: %d, %v", n, err)
	}
}

// TestOverlay: what containers see through an overlayfs, set-id files and
// devices included; the lower mount itself gives neither to the host.
func TestOverlay(t *testing.T) {
	id, err := os.ReadFile("/usr/bin/id")
	if err != nil {
		t.Fatal(err)
	}
	dev := entry{Header: tar.Header{Typeflag: tar.TypeChar, Name: "null", Mode: 0o666, Devmajor: 1, Devminor: 3}}
	dir := show(t, file("id", 0o4755, id), dev, file("f", 0o644, noise(300_000)), directory("d/"), file("d/g", 0o600, []byte("g")),
		file("open/f", 0o644, nil), file("gone", 0o644, nil))
	over := overlay(t, dir)
	for _, d := range []string{dir, over} { // others may walk there, so that they get as far as the files
		if err := os.Chmod(filepath.Dir(d), 0o1777); err != nil {
			t.Fatal(err)
		}
	}
	if out := idAs(t, filepath.Join(over, "id")); out != "0\n" {
		t.Errorf("set-id file in the overlayfs: euid %q, want 0", out)
	}
	if out := idAs(t, filepath.Join(dir, "id")); out != "65534\n" {
		t.Errorf("set-id file in the mount itself: euid %q, want 65534", out)
	}
	if err := os.WriteFile(filepath.Join(over, "null"), []byte("x"), 0); err != nil {
		t.Errorf("device in the overlayfs: %v", err)
	}
	if _, err := os.ReadFile(filepath.Join(dir, "null")); !isErrno(err, unix.EACCES) {
		t.Errorf("device in the mount itself: %v, want EACCES", err)
	}

	// Copy-up, removal, rename of what only the lower mount has.
	f, err := os.OpenFile(filepath.Join(over, "f"), os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString("more"); err != nil {
		t.Error(err)
	}
	f.Close()
	if b, err := os.ReadFile(filepath.Join(over, "f")); err != nil || !bytes.Equal(b, append(noise(300_000), "more"...)) {
		t.Errorf("copied up: %d bytes, %v", len(b), err)
	}
	if err := os.Remove(filepath.Join(over, "gone")); err != nil {
		t.Error(err)
	}
	if err := os.RemoveAll(filepath.Join(over, "d")); err != nil {
		t.Error(err)
	}
	if err := os.Chmod(filepath.Join(over, "open"), 0o700); err != nil {
		t.Error(err)
	}
	if names, err := os.ReadDir(over); err != nil || len(names) != 4 {
		t.Errorf("%d names after removal, %v", len(names), err)
	}
	if names, err := os.ReadDir(dir); err != nil || len(names) != 6 {
		t.Errorf("%d names in the mount, %v", len(names), err)
	}
}

// idAs runs an id program as nobody and returns its effective uid.
func idAs(t *testing.T, path string) string {
	t.Helper()
	cmd := exec.Command(path, "-u")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Errorf("%s: %v", path, err)
	}
	return string(out)
}

// TestPermissions: the kernel checks modes and ACLs of the image.
func TestPermissions(t *testing.T) {
	acl := file("acl", 0o640, []byte("x"))
	acl.Format = tar.FormatPAX
	acl.PAXRecords = map[string]string{"SCHILY.xattr.system.posix_acl_access": string(aclFor(65534))}
	dir := show(t, file("private", 0o600, []byte("x")), file("public", 0o644, []byte("x")), acl)
	for name, want := range map[string]bool{"private": false, "public": true, "acl": true} {
		cmd := exec.Command("/bin/cat", filepath.Join(dir, name))
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		if got := cmd.Run() == nil; got != want {
			t.Errorf("nobody may read %s: %v, want %v", name, got, want)
		}
	}
}

// aclFor is an ACL that lets uid read (linux/posix_acl_xattr.h, version 2).
func aclFor(uid uint32) []byte {
	e := func(tag, perm uint16, id uint32) []byte {
		return []byte{byte(tag), byte(tag >> 8), byte(perm), byte(perm >> 8),
			byte(id), byte(id >> 8), byte(id >> 16), byte(id >> 24)}
	}
	none := ^uint32(0)
	return slices.Concat([]byte{2, 0, 0, 0}, e(1, 6, none), e(2, 4, uid), e(4, 0, none), e(0x10, 4, none), e(0x20, 0, none))
}
