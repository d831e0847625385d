"""The archive of an image while its layers still come: what is here goes to the engine at once.

An engine takes an archive in when it is whole: it puts what comes aside, reads the manifest, and
only then looks at layers. So the layers go to it as they grow, in the order in which they are
fetched, and the manifest last, when every layer has proved itself. If one turns out to be wrong,
the archive ends there without a manifest, and the engine forgets it; what is right in the end is
then given to it anew.

    a layer's file: ──grows──► sent as far as it is ──whole──► the next one's
                       └──thrown away──► ImageWrong: the archive is cut
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import BinaryIO

import trio

from allocator.images.archive import PIECE_BYTES, archive_end, archive_head, archive_padding
from allocator.images.layers import LayerFiles
from allocator.images.plan import ImageWrong
from overlay.names import Digest


@dataclass(slots=True)
class Feed:
    """Gives the archive of one image.

    Args:
        image: whose archive it is.
        config: of the image.
        layers: all of them, the lowest first.
        sizes: of those that come, in the order in which they are sent.
        files: where they grow.
    """

    image: Digest
    config: bytes
    layers: Sequence[Digest]
    sizes: Mapping[Digest, int]
    files: LayerFiles
    _ended: bool = False
    _sent: dict[Digest, BinaryIO] = field(default_factory=dict)

    def end(self) -> None:
        """Let whoever waits for more of it know that nothing more comes."""
        self._ended = True
        self.files.tell()

    def pieces(self) -> Iterator[bytes]:
        """Yield the archive in pieces; runs in a thread of trio's, and waits there for layers.

        Raises:
            ImageWrong: what was sent of a layer is not right, or no more comes.
        """
        with ExitStack() as opened:
            for layer, size in self.sizes.items():
                yield archive_head(layer, size)
                file = self._sent[layer] = opened.enter_context(self._opened(layer))
                yield from self._grown(layer, file, size)
                yield archive_padding(size)
            for layer in self.sizes:
                self._await_whole(layer)
            yield from archive_end(self.image, self.config, self.layers)

    def _opened(self, layer: Digest) -> BinaryIO:
        while True:
            seen = self.files.version
            file = self.files.reader(layer)
            if file is not None:
                return file
            self._wait(seen)

    def _grown(self, layer: Digest, file: BinaryIO, size: int) -> Iterator[bytes]:
        left = size
        while left:
            seen = self.files.version
            piece = file.read(min(PIECE_BYTES, left))
            if piece:
                left -= len(piece)
                yield piece
                continue
            self._insist_on(layer, file)
            self._wait(seen)

    def _await_whole(self, layer: Digest) -> None:
        while True:
            seen = self.files.version
            self._insist_on(layer, self._sent[layer])
            if self.files.whole(layer) is not None:
                return
            self._wait(seen)

    def _insist_on(self, layer: Digest, file: BinaryIO) -> None:
        """See that what is read is still what the layer has, and will have as many bytes."""
        there = os.fstat(file.fileno())
        if there.st_nlink == 0:
            raise ImageWrong(f"what came of the layer {layer} was thrown away")
        if self.files.whole(layer) is not None and there.st_size != self.sizes[layer]:
            raise ImageWrong(f"the layer {layer} has {there.st_size} bytes, not as many as stated")

    def _wait(self, seen: int) -> None:
        if self._ended:
            raise ImageWrong("no more comes")
        trio.from_thread.run(self.files.after, seen)
