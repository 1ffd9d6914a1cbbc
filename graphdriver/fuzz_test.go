// SPDX-License-Identifier: Apache-2.0

package graphdriver

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"io"
	"reflect"
	"slices"
	"testing"

	"github.com/vbatts/tar-split/tar/asm"
	"github.com/vbatts/tar-split/tar/storage"
)

// FuzzTarSplit: whatever stream is split without error, is put together again as it was.
func FuzzTarSplit(f *testing.F) {
	seeds := 0
	for _, data := range nastyTars(f) {
		if len(data) < 64<<10 {
			f.Add(data)
			seeds++
		}
	}
	if seeds == 0 {
		f.Fatal("no seeds")
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var split bytes.Buffer
		out := new(entryRecorder)
		if err := disassemble(bytes.NewReader(data), storage.NewJSONPacker(&split), out); err != nil {
			return
		}
		files, entries, err := contents(data)
		if err != nil {
			t.Fatalf("split without error: %v", err)
		}
		if !slices.Equal(out.entries, entries) {
			t.Fatalf("entries %q were passed on of %q", out.entries, entries)
		}
		var back bytes.Buffer
		if err := asm.WriteOutputTarStream(files, storage.NewJSONUnpacker(&split), &back); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(back.Bytes(), data) {
			t.Fatalf("%d bytes came back of %d, first difference at %d", back.Len(), len(data), firstDifference(back.Bytes(), data))
		}
	})
}

// memoryFiles stands for an unpacked layer.
type memoryFiles map[string][]byte

func (m memoryFiles) Get(name string) (io.ReadCloser, error) {
	data, ok := m[name]
	if !ok {
		return nil, errors.New("no such file")
	}
	return io.NopCloser(bytes.NewReader(data)), nil
}

// contents returns what the files of a tar hold that are unpacked as they lie there, and all its entries, each as name,
// colon, checksum of its data.
func contents(data []byte) (files memoryFiles, entries []string, err error) {
	files = make(memoryFiles)
	tr := tar.NewReader(bytes.NewReader(data))
	for {
		hdr, err := tr.Next()
		if err == io.EOF {
			return files, entries, nil
		}
		if err != nil {
			return nil, nil, err
		}
		if hdr.Typeflag == tar.TypeXGlobalHeader {
			continue
		}
		var b bytes.Buffer
		sum := crc32.NewIEEE()
		w := io.Writer(sum)
		if fileContent(hdr) {
			w = io.MultiWriter(&b, sum)
		}
		if _, err := io.Copy(w, tr); err != nil {
			return nil, nil, err
		}
		entries = append(entries, fmt.Sprintf("%s:%x", hdr.Name, sum.Sum32()))
		if b.Len() > 0 {
			files[hdr.Name] = b.Bytes()
		}
	}
}

// entryRecorder keeps what it gets as contents has it.
type entryRecorder struct {
	entries []string
	name    string
	sum     hash.Hash32
}

func (r *entryRecorder) Begin(hdr *tar.Header) error {
	r.name, r.sum = hdr.Name, crc32.NewIEEE()
	return nil
}

func (r *entryRecorder) Write(p []byte) (int, error) { return r.sum.Write(p) }

func (r *entryRecorder) End() error {
	r.entries = append(r.entries, fmt.Sprintf("%s:%x", r.name, r.sum.Sum32()))
	return nil
}

// FuzzRecord: what is taken for a record, is one.
func FuzzRecord(f *testing.F) {
	for _, k := range []kind{kindTar, kindBlob, kindBootstrap} {
		data, err := encodeRecord(&record{Version: 1, ID: "id", Kind: k, DiffID: sum(nil), Size: 5, Meta: []string{"m"}})
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := decodeRecord(data)
		if err != nil {
			return
		}
		again, err := encodeRecord(r)
		must(t, err)
		r2, err := decodeRecord(again)
		if err != nil || !reflect.DeepEqual(r, r2) {
			t.Fatalf("%+v became %+v, %v", r, r2, err)
		}
	})
}

// FuzzKind: looking at a stream's ends never fails, and a tar with an end marker is no blob.
func FuzzKind(f *testing.F) {
	f.Add([]byte("head"), uncompressedBlob(nil))
	f.Add(makeTar(f, reg("f", "x"))[:512], []byte{})
	f.Fuzz(func(t *testing.T, head, tail []byte) {
		if tarChecksum(head) {
			bootstrapEntry(headerName(head))
		}
		if isNydusBlob(append(bytes.Clone(tail), make([]byte, 1024)...)) {
			t.Error("a tar's end is taken for a blob's")
		}
		isNydusBlob(tail)
	})
}
