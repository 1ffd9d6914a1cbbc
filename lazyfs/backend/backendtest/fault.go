// SPDX-License-Identifier: Apache-2.0

package backendtest

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"time"
)

// Fault is one way to answer the read of a blob.
type Fault int

// The faults. Those that send something begin with right bytes, unless they say
// otherwise.
const (
	OK            Fault = iota
	Reset               // half of the body, then a TCP reset
	ResetEarly          // a reset before any answer
	ShortBody           // the connection ends in the middle of the body
	ShortRange          // 206 for the first half of the range only, correctly labelled
	WrongRange          // 206 for another range, with the bytes of that one
	WrongLabel          // 206 with the bytes of another range, labelled as that one, of right length
	NoRange             // 206 without Content-Range
	BadRange            // 206 with nonsense in Content-Range
	WrongTotal          // 206 that says that the blob has another size
	WrongLength         // 206 whose Content-Length is not that of the range
	LongBody            // 206 chunked, with more bytes than the range
	Chunked             // 206 correct, but without Content-Length
	Whole               // 200 with the whole blob
	WholeShort          // 200 with less than the whole blob
	Gzip                // 206 compressed, though nobody asked for it
	Unsatisfiable       // 416
	Error500            // 500
	Error503            // 503 with Retry-After: 1
	TooMany             // 429 without Retry-After
	TooManyWait         // 429 with Retry-After: 1
	TooManyLong         // 429 with Retry-After: 3600
	Stall               // header and some bytes, then nothing
	StallEarly          // nothing at all
	Trickle             // header and some bytes, then one byte now and then
	Unauthorized        // 401 without a challenge
	Forbidden           // 403
	NotFound            // 404 BLOB_UNKNOWN
	NotFoundPlain       // 404 as of a gateway
	Garbage             // no HTTP
	BadRequest          // 400
	Slow                // right, but only after 50 ms
)

func (f Fault) serve(w http.ResponseWriter, q *http.Request, content []byte) {
	var first, last int
	ranged := false
	if n, _ := fmt.Sscanf(q.Header.Get("Range"), "bytes=%d-%d", &first, &last); n == 2 && first <= last {
		ranged = true
		if first >= len(content) {
			f = Unsatisfiable
		}
		last = min(last, len(content)-1)
	} else {
		first, last = 0, len(content)-1
	}
	h := w.Header()
	send := func(a, b int, body []byte) {
		h.Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", a, b, len(content)))
		h.Set("Content-Length", strconv.Itoa(len(body)))
		w.WriteHeader(http.StatusPartialContent)
		w.Write(body)
	}
	flush := func() { http.NewResponseController(w).Flush() }
	half := first + (last-first+1)/2
	shift := 1
	if first > 0 {
		shift = -1
	}
	switch f {
	case Slow:
		time.Sleep(50 * time.Millisecond)
		fallthrough
	case OK:
		if !ranged {
			h.Set("Content-Length", strconv.Itoa(len(content)))
			w.Write(content)
			return
		}
		send(first, last, content[first:last+1])
	case Reset, ShortBody, Stall, Trickle:
		h.Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", first, last, len(content)))
		h.Set("Content-Length", strconv.Itoa(last-first+1))
		w.WriteHeader(http.StatusPartialContent)
		w.Write(content[first:half])
		flush()
		switch f {
		case Reset:
			time.Sleep(20 * time.Millisecond) // what was sent shall arrive
			hangUp(w, true)
		case ShortBody:
			panic(http.ErrAbortHandler)
		case Stall:
			<-q.Context().Done()
		case Trickle:
			for i := half; i <= last; i++ {
				select {
				case <-q.Context().Done():
					return
				case <-time.After(50 * time.Millisecond):
				}
				w.Write(content[i : i+1])
				flush()
			}
		}
	case ResetEarly:
		hangUp(w, true)
	case ShortRange:
		end := max(first, half-1)
		send(first, end, content[first:end+1])
	case WrongRange:
		send(first+7, last+7, content[:last-first+1])
	case WrongLabel:
		send(first+shift, last+shift, bytes.Repeat([]byte{0xAB}, last-first+1))
	case NoRange:
		w.WriteHeader(http.StatusPartialContent)
		w.Write(content[first : last+1])
	case BadRange:
		h.Set("Content-Range", "bytes 18446744073709551616-1/-5")
		w.WriteHeader(http.StatusPartialContent)
		w.Write(content[first : last+1])
	case WrongTotal:
		h.Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", first, last, len(content)+9))
		w.WriteHeader(http.StatusPartialContent)
		w.Write(content[first : last+1])
	case WrongLength:
		send(first, last, append(bytes.Clone(content[first:last+1]), 'x'))
	case LongBody:
		h.Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", first, last, len(content)))
		w.WriteHeader(http.StatusPartialContent)
		w.Write(content[first : last+1])
		flush()
		w.Write([]byte("and more"))
	case Chunked:
		h.Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", first, last, len(content)))
		w.WriteHeader(http.StatusPartialContent)
		w.Write(content[first:half])
		flush()
		w.Write(content[half : last+1])
	case Whole:
		h.Set("Content-Length", strconv.Itoa(len(content)))
		w.Write(content)
	case WholeShort:
		h.Set("Content-Length", strconv.Itoa(len(content)-1))
		w.Write(content[:len(content)-1])
	case Gzip:
		var b bytes.Buffer
		z := gzip.NewWriter(&b)
		z.Write(content[first : last+1])
		z.Close()
		h.Set("Content-Encoding", "gzip")
		send(first, last, b.Bytes())
	case Unsatisfiable:
		h.Set("Content-Range", fmt.Sprintf("bytes */%d", len(content)))
		w.WriteHeader(http.StatusRequestedRangeNotSatisfiable)
	case Error500:
		refuse(w, http.StatusInternalServerError, "UNKNOWN", "disk on fire")
	case Error503:
		h.Set("Retry-After", "1")
		w.WriteHeader(http.StatusServiceUnavailable)
	case TooMany, TooManyWait, TooManyLong:
		if wait := map[Fault]string{TooManyWait: "1", TooManyLong: "3600"}[f]; wait != "" {
			h.Set("Retry-After", wait)
		}
		refuse(w, http.StatusTooManyRequests, "TOOMANYREQUESTS", "slow down")
	case StallEarly:
		<-q.Context().Done()
	case Unauthorized:
		refuse(w, http.StatusUnauthorized, "UNAUTHORIZED", "no")
	case Forbidden:
		refuse(w, http.StatusForbidden, "DENIED", "requested access to the resource is denied")
	case NotFound:
		refuse(w, http.StatusNotFound, "BLOB_UNKNOWN", "blob unknown to registry")
	case NotFoundPlain:
		http.Error(w, "404 page not found", http.StatusNotFound)
	case BadRequest:
		refuse(w, http.StatusBadRequest, "UNSUPPORTED", "bad")
	case Garbage:
		conn, _, err := http.NewResponseController(w).Hijack()
		if err == nil {
			conn.Write([]byte("HELLO THIS IS NOT HTTP?Signature=" + Signature + "\r\n\r\n"))
			conn.Close()
		}
	}
}

// hangUp ends the connection of w, with a TCP reset if hard.
func hangUp(w http.ResponseWriter, hard bool) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(http.ErrAbortHandler) // HTTP/2: resets the stream
	}
	if tcp, ok := conn.(*net.TCPConn); ok && hard {
		tcp.SetLinger(0)
	}
	conn.Close()
}
