// SPDX-License-Identifier: Apache-2.0

package graphdriver

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"reflect"
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
		pipe := newBlockPipe()
		done := make(chan error, 1)
		go func() { done <- disassemble(bytes.NewReader(data), storage.NewJSONPacker(&split), pipe) }()
		out, readErr := io.ReadAll(pipe)
		err := <-done
		if (err == nil) != (readErr == nil) {
			t.Fatalf("split: %v, but its reader got %v", err, readErr)
		}
		if err != nil {
			return
		}
		if want := bytes.ReplaceAll(data, []byte(overlayXattr), []byte(droppedXattr)); !bytes.Equal(out, data) && len(out) != len(want) {
			t.Fatalf("%d bytes were passed on of %d", len(out), len(data))
		}
		files, err := contents(data)
		if err != nil {
			t.Fatalf("split without error: %v", err)
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

func contents(data []byte) (memoryFiles, error) {
	m := make(memoryFiles)
	tr := tar.NewReader(bytes.NewReader(data))
	for {
		hdr, err := tr.Next()
		if err == io.EOF {
			return m, nil
		}
		if err != nil {
			return nil, err
		}
		if !fileContent(hdr) {
			continue
		}
		b, err := io.ReadAll(tr)
		if err != nil {
			return nil, err
		}
		if len(b) > 0 {
			m[hdr.Name] = b
		}
	}
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
