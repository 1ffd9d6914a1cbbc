// SPDX-License-Identifier: Apache-2.0

// Package graphdriver is a Docker graph driver that runs ordinary images as overlay2 does, and accelerated images from a
// lazily mounted tree.
//
// It wraps Docker's own overlay2 driver. An ordinary layer is an overlay2 layer and nothing else at run time. A lazy layer
// is an overlay2 layer whose diff directory has the image's tree mounted on it while somebody uses it; what is built,
// committed or run above it are overlay2's layers again.
//
// # Kinds of layer
//
// ApplyDiff gets a stream and no word on what it is:
//
//   - an ordinary tar is unpacked into overlay2's directory, while all of it that the files there do not hold goes to a
//     tar-split file, so that Diff can give the stream back bit for bit;
//   - a Nydus data blob (told by its end) is kept as it came, and offered to lazy layers by its digest;
//   - a bootstrap layer (a tar of image/image.boot with a RAFS bootstrap in it, image/*.blob.meta, image/*.json and
//     nothing else) is kept as it came and unpacked beside it; its tree is mounted by the Mounter.
//
// # On disk
//
// Below Options.Root, which only root may enter:
//
//	state.json              what Init said, since Docker does not repeat it to a plugin that crashed
//	overlay2/               Docker's overlay2, with all its habits
//	layers/<id>/            one folder for each layer that ApplyDiff was called for, made before its first byte is read
//	layers/<id>/layer.json  the record, written last: kind, parent, digests, sizes, and a checksum line
//	layers/<id>/failed      why ApplyDiff failed, instead of the record
//	layers/<id>/tar-split.zst        ordinary layer
//	layers/<id>/layer.raw            data blob or bootstrap layer: the stream as it came
//	layers/<id>/image.boot, meta/    bootstrap layer: what the Mounter gets
//	blobs/<hex>             hard links to the data blobs' layer.raw
//
// # Life of a layer
//
//	call        finds                     leaves
//	Create      –                         overlay2/<id>
//	ApplyDiff   overlay2/<id>             layers/<id> with a record
//	ApplyDiff   layers/<id>, any state    refusal
//	Get         record or none            overlay mounted; lazy layers below it mounted first
//	Get         layers/<id>, no record    refusal, for this layer and all above it
//	Put         overlay mounted           with the last Put: overlay unmounted, unused lazy layers a little later
//	Remove      any state                 nothing: the lazy mount goes first, then overlay2/<id>, then layers/<id>
//
// # After a crash
//
// A folder layers/<id> without a record is an ApplyDiff that did not end: the layer is refused until Remove, and the next
// Init, at which Docker has no layer under way, removes it. A folder without overlay2/<id> is a Remove that did not end:
// New removes it. Overlays that still stand count as users of the lazy layers below them. Nothing is unmounted: containers
// may be running from it. Only an overlay over a lazy mount whose server is gone, which no container can run from any more,
// is replaced at its next Get.
//
// # What damage does
//
// The record has a checksum of its own, and digests of the other files. A damaged record makes its layer and those above
// unusable; damage elsewhere ends Diff with an error, before or at its end, and makes the Mounter refuse the bootstrap.
//
// # Locks
//
// A layer's lock (Driver.ids), then a lazy layer's (lazyLayer.mu), then Driver.mu. Driver.storeMu is held over the second
// and third, and over the first only for layers that no call works on.
//
// # Unpacking
//
// Docker's own untar is not used: it takes twice the time. What is unpacked is the same, and tests compare. A program that
// uses this package needs CAP_SYS_ADMIN, and /proc.
//
// Nothing here fetches, verifies or caches image data: that is behind the Mounter.
package graphdriver
