// SPDX-License-Identifier: Apache-2.0

package graphdriver

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
)

func digestOf(sum []byte) string { return "sha256:" + hex.EncodeToString(sum) }

// fileDigest is the SHA-256 of a file's content.
func fileDigest(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.CopyBuffer(h, struct{ io.Reader }{f}, make([]byte, 128<<10)); err != nil {
		return "", err
	}
	return digestOf(h.Sum(nil)), nil
}

// checkFileDigest refuses a file whose content is not what it was.
func checkFileDigest(path, want string) error {
	got, err := fileDigest(path)
	if err != nil {
		return err
	}
	if got != want {
		return fmt.Errorf("%s is damaged: digest %s, stored as %s", path, got, want)
	}
	return nil
}
