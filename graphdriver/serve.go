// SPDX-License-Identifier: Apache-2.0

package graphdriver

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/moby/go-archive"
)

const (
	contentType  = "application/vnd.docker.plugins.v1.2+json"
	requestLimit = 4 << 20   // bytes of a request's JSON
	drainLimit   = 256 << 20 // bytes of an ApplyDiff's body read after it has failed
	drainTime    = 30 * time.Second
)

// request has every field that Docker sends in a JSON body.
type request struct {
	Home       string
	Opts       []string
	UIDMaps    []IDMap
	GIDMaps    []IDMap
	ID         string
	Parent     string
	MountLabel string
	StorageOpt map[string]string
}

type change struct {
	Path string
	Kind archive.ChangeType
}

// reply has every field of the protocol's answers.
type reply struct {
	Err          string            `json:",omitempty"`
	Dir          string            `json:",omitempty"`
	Exists       *bool             `json:",omitempty"`
	Status       [][2]string       `json:",omitempty"`
	Changes      []change          `json:",omitempty"`
	Size         *int64            `json:",omitempty"`
	Metadata     map[string]string `json:",omitempty"`
	Capabilities *capabilities     `json:",omitempty"`
}

type capabilities struct{ ReproducesExactDiffs bool }

// Handler serves a driver with the protocol of Docker's graph driver plugins: POST of JSON to /GraphDriver.<call>, with a
// tar as the answer of Diff and as the body of ApplyDiff.
func Handler(d *Driver) http.Handler {
	mux := http.NewServeMux()
	call := func(name string, f func(q *request, r *reply) error) {
		mux.HandleFunc("POST /GraphDriver."+name, func(w http.ResponseWriter, hr *http.Request) {
			var q request
			var r reply
			err := decodeRequest(hr, &q)
			if err == nil {
				err = f(&q, &r)
			}
			d.answer(w, name, q.ID, &r, err)
		})
	}
	options := func(q *request) CreateOptions {
		return CreateOptions{MountLabel: q.MountLabel, StorageOpt: q.StorageOpt}
	}
	mux.HandleFunc("POST /Plugin.Activate", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", contentType)
		io.WriteString(w, `{"Implements":["GraphDriver"]}`)
	})
	call("Init", func(q *request, r *reply) error {
		return d.Init(Config{Home: q.Home, Opts: q.Opts, UIDMaps: q.UIDMaps, GIDMaps: q.GIDMaps})
	})
	call("Capabilities", func(q *request, r *reply) error {
		r.Capabilities = &capabilities{ReproducesExactDiffs: true}
		return nil
	})
	call("Create", func(q *request, r *reply) error { return d.Create(q.ID, q.Parent, options(q)) })
	call("CreateReadWrite", func(q *request, r *reply) error { return d.CreateReadWrite(q.ID, q.Parent, options(q)) })
	call("Remove", func(q *request, r *reply) error { return d.Remove(q.ID) })
	call("Get", func(q *request, r *reply) (err error) {
		r.Dir, err = d.Get(q.ID, q.MountLabel)
		return err
	})
	call("Put", func(q *request, r *reply) error { return d.Put(q.ID) })
	call("Exists", func(q *request, r *reply) error {
		is := d.Exists(q.ID)
		r.Exists = &is
		return nil
	})
	call("Status", func(q *request, r *reply) error {
		r.Status = d.Status()
		return nil
	})
	call("GetMetadata", func(q *request, r *reply) (err error) {
		r.Metadata, err = d.GetMetadata(q.ID)
		return err
	})
	call("Cleanup", func(q *request, r *reply) error { return d.Cleanup() })
	call("Changes", func(q *request, r *reply) error {
		list, err := d.Changes(q.ID, q.Parent)
		for _, c := range list {
			r.Changes = append(r.Changes, change{c.Path, c.Kind})
		}
		return err
	})
	call("DiffSize", func(q *request, r *reply) error {
		size, err := d.DiffSize(q.ID, q.Parent)
		r.Size = &size
		return err
	})
	mux.HandleFunc("POST /GraphDriver.Diff", d.serveDiff)
	mux.HandleFunc("POST /GraphDriver.ApplyDiff", d.serveApplyDiff)
	return mux
}

func decodeRequest(r *http.Request, q *request) error {
	err := json.NewDecoder(io.LimitReader(r.Body, requestLimit)).Decode(q)
	if err == io.EOF {
		return nil
	}
	if err != nil {
		return fmt.Errorf("%s: request: %w", r.URL.Path, err)
	}
	return nil
}

// answer sends a reply, or the error in its place.
func (d *Driver) answer(w http.ResponseWriter, call, id string, r *reply, err error) {
	if err != nil {
		r = &reply{Err: err.Error()}
	}
	w.Header().Set("Content-Type", contentType)
	if err := json.NewEncoder(w).Encode(r); err != nil {
		d.log.Warn("reply", "call", call, "layer", id, "error", err)
	}
}

// serveDiff streams a layer's tar. An error on the way cuts the connection, so that no part passes for the whole.
func (d *Driver) serveDiff(w http.ResponseWriter, hr *http.Request) {
	var q request
	err := decodeRequest(hr, &q)
	var diff io.ReadCloser
	if err == nil {
		diff, err = d.Diff(q.ID, q.Parent)
	}
	if err != nil {
		w.Header().Set("Content-Type", contentType)
		w.WriteHeader(http.StatusInternalServerError)
		json.NewEncoder(w).Encode(&reply{Err: err.Error()})
		return
	}
	defer diff.Close()
	if _, err := io.CopyBuffer(struct{ io.Writer }{w}, diff, make([]byte, 128<<10)); err != nil {
		d.log.Error("diff cut off", "layer", q.ID, "error", err)
		panic(http.ErrAbortHandler)
	}
}

// serveApplyDiff takes a layer's tar as the request's body.
func (d *Driver) serveApplyDiff(w http.ResponseWriter, hr *http.Request) {
	id, parent := hr.URL.Query().Get("id"), hr.URL.Query().Get("parent")
	size, err := d.ApplyDiff(id, parent, hr.Body)
	if err != nil {
		// Docker is still sending. Told before it is done, it could see a broken connection, and not why.
		drain(w, hr.Body)
	}
	d.answer(w, "ApplyDiff", id, &reply{Size: &size}, err)
}

// drain reads what is left of a request, within bounds. What can't be read is not missed.
func drain(w http.ResponseWriter, body io.Reader) {
	if http.NewResponseController(w).SetReadDeadline(time.Now().Add(drainTime)) == nil {
		io.CopyN(io.Discard, body, drainLimit)
	}
}
