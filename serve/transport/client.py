"""The caller's end of the call path: one connection to one replica, many calls in flight on it."""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import Callable, Sequence

from serve.errors import ReplicaDiedError, ReplicaUnavailableError
from serve.records import ReplicaAddress
from serve.transport.auth import AuthError, WrongReplicaError
from serve.transport.callfuture import CallFuture
from serve.transport.failures import read_failure
from serve.transport.frames import FrameError, FrameKind, MessageError, Piece, control_frame, decode
from serve.transport.handshake import greet_server
from serve.transport.stream import FrameStream, tune_socket

_LOST = "the connection was lost"
_ANSWERS = frozenset(
    map(int, (FrameKind.RESULT, FrameKind.ERROR, FrameKind.REJECT, FrameKind.CANCELLED))
)


class Connection(FrameStream):
    """A connection to a replica, made by `connect`; used on its loop only.

    Args:
        loop: the loop that runs it.
        address: the replica's.
        peer: what error messages call it.

    Attributes:
        on_answer: called after each answer, when there may be room for another call.
        on_reject: takes a call that the replica did not execute. None: such a call fails.
        on_loss: hears of the calls that were lost with the connection, cancelled ones among them
            whose end the replica had not told; not if it was closed here.
        unanswered: the calls sent and not answered, by their number.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, address: ReplicaAddress, peer: str) -> None:
        super().__init__(loop)
        self.address = address
        self.on_answer: Callable[[], None] | None = None
        self.on_reject: Callable[[CallFuture], None] | None = None
        self.on_loss: Callable[[list[CallFuture]], None] | None = None
        self._peer = peer
        self.unanswered: dict[int, CallFuture] = {}
        self._withdrawn: dict[int, CallFuture] = {}  # until the replica has told of them
        self._last_id = 0
        self._refusal = ""  # why no call can be sent now; "": it can
        self._draining = False
        self._loss = _LOST
        self._on_cancel = self._withdraw  # bound once, not at each call

    @property
    def in_flight(self) -> int:
        """Calls sent and not yet answered."""
        return len(self.unanswered)

    @property
    def closed(self) -> bool:
        """Whether the connection is lost or was closed."""
        return self.gone.done() or self._transport.is_closing()

    @property
    def draining(self) -> bool:
        """Whether the replica asked for no more calls."""
        return self._draining

    def call(self, message: object) -> CallFuture:
        """Sends a call.

        Args:
            message: for the server's handler. Large arrays in it are not copied: leave them as they
                are until the answer came.

        Returns:
            The handler's result to come. It fails with `RemoteError` (the handler raised),
            `ReplicaDiedError` (lost after sending) or `ReplicaUnavailableError` (not executed).

        Raises:
            ReplicaUnavailableError: the connection is closed or draining; nothing was sent.
            MessageError: the message cannot be pickled.
        """
        future = CallFuture(self.loop, message)
        self.send(future)
        return future

    def send(self, future: CallFuture) -> None:
        """Sends a call whose future exists. Raises as `call` does; the future stays open."""
        if self._refusal:
            raise ReplicaUnavailableError(self._refusal)
        self._last_id = call_id = self._last_id + 1
        pieces = self.encoder.frame(FrameKind.CALL, call_id, future.message)
        future.call_id = call_id
        future.on_cancel = self._on_cancel
        self.write(pieces, is_alone=not self.unanswered)
        self.unanswered[call_id] = future

    def close(self) -> None:
        """Closes; calls in flight fail with `ReplicaDiedError` and are cancelled at the replica."""
        if not self.closed:
            self._loss = "the connection was closed by this process"
            self._refuse(self._loss)
            self.abort()

    async def wait_closed(self) -> None:
        """Waits until the socket is closed."""
        await asyncio.shield(self.gone)

    def frame_received(
        self, kind: int, call_id: int, data: Piece, buffers: Sequence[bytearray]
    ) -> None:
        """Settles the call that the frame answers."""
        if kind == FrameKind.GOAWAY:
            self._draining = True
            self._refuse("it is draining")
            return
        if kind not in _ANSWERS:
            raise FrameError(f"A server does not send frames of kind {kind}.")
        future = self.unanswered.pop(call_id, None)
        if future is None or future.done():
            self._take_withdrawn(kind, call_id)
            return
        if kind == FrameKind.RESULT:
            try:
                future.set_result(decode(data, buffers))
            except Exception as error:  # noqa: BLE001 - unpickling runs foreign code; the caller gets to know
                self._fail_unreadable(future, error)
        elif kind == FrameKind.ERROR:
            future.set_exception(read_failure(data, buffers))
        elif kind == FrameKind.CANCELLED:
            future.set_exception(
                ReplicaDiedError(f"{self._peer} did not answer: it stopped while it ran the call.")
            )
        elif self.on_reject is not None:
            self.on_reject(future)
        else:
            future.set_exception(
                ReplicaUnavailableError(f"{self._peer} did not execute the call: it is draining.")
            )
        if self.on_answer is not None:
            self.on_answer()

    def _take_withdrawn(self, kind: int, call_id: int) -> None:
        """A call that was cancelled here is over; one that the replica had not taken is ours."""
        future = self._withdrawn.pop(call_id, None)
        if future is not None and kind == FrameKind.REJECT and self.on_reject is not None:
            self.on_reject(future)

    def _fail_unreadable(self, future: CallFuture, error: Exception) -> None:
        failure = MessageError(
            f"The answer of {self._peer} cannot be unpickled here: {type(error).__name__}: {error}"
        )
        failure.__cause__ = error
        future.set_exception(failure)

    def _withdraw(self, future: CallFuture) -> None:
        if self.unanswered.pop(future.call_id, None) is None:
            return
        self._withdrawn[future.call_id] = future
        if not self._transport.is_closing():
            self.write([control_frame(FrameKind.CANCEL, future.call_id)])
            if self.on_answer is not None:  # its place is free; not within the caller's cancel()
                self.loop.call_soon(self.on_answer)

    def _refuse(self, why: str) -> None:
        self._refusal = (
            f"{self._peer} takes no calls: {why}. Nothing was sent; try another replica."
        )

    def stream_broken(self, error: FrameError) -> None:
        """Gives up a server that breaks the protocol."""
        self._loss = str(error)
        self._refuse(self._loss)
        super().stream_broken(error)

    def connection_lost(self, exc: Exception | None) -> None:
        """Fails what is in flight (asyncio)."""
        super().connection_lost(exc)
        why = f"{self._loss} ({exc})" if exc else self._loss
        self._refuse(why)
        error = f"{self._peer} did not answer: {why} after the call was sent."
        pending, self.unanswered = self.unanswered, {}
        lost = [*self._withdrawn.values(), *pending.values()]
        self._withdrawn.clear()
        is_own_end = exc is None and self._loss != _LOST
        for future in pending.values():
            if not future.done():
                future.set_exception(ReplicaDiedError(error))
                if is_own_end:  # the loop ends, say: a call that nobody waits for is no news
                    future.exception()
        if lost and not is_own_end and self.on_loss is not None:
            self.on_loss(lost)


async def connect(
    address: ReplicaAddress,
    secret: bytes,
    *,
    local_node_id: str,
    timeout_s: float = 5.0,
) -> Connection:
    """Connects to a replica: by its abstract Unix socket from its own node, else by TCP.

    Args:
        address: the replica's.
        secret: the instance's.
        local_node_id: Ray's id of this process's node.
        timeout_s: limit for it all, seconds.

    Returns:
        A connection that belongs to the running loop.

    Raises:
        ReplicaUnavailableError: nobody listens there, or another replica does.
        AuthError: the listener is not one of this instance, or this process is none of its.
    """
    peer = f"Replica {address.replica_tag!r} at {address.host}:{address.call_port}"
    if not address.is_reachable_from(local_node_id):  # somebody else may listen there on this node
        raise ReplicaUnavailableError(
            f"{peer} cannot be reached yet: it listens on its own node only until the controller "
            "knows that the cluster has more than one."
        )
    try:
        return await asyncio.wait_for(_connect(address, secret, local_node_id, peer), timeout_s)
    except WrongReplicaError as error:
        raise ReplicaUnavailableError(f"{peer} cannot be reached: {error}.") from error
    except AuthError as error:
        raise AuthError(f"{peer} cannot be called: {error}.") from error
    except (TimeoutError, asyncio.TimeoutError) as error:
        raise ReplicaUnavailableError(
            f"{peer} cannot be reached: no connection within {timeout_s:g} s."
        ) from error
    except OSError as error:
        raise ReplicaUnavailableError(
            f"{peer} cannot be reached: {error}. Has the replica stopped?"
        ) from error


async def _connect(
    address: ReplicaAddress, secret: bytes, local_node_id: str, peer: str
) -> Connection:
    loop, sock = asyncio.get_running_loop(), None
    if address.call_socket and address.node_id == local_node_id and sys.platform == "linux":
        sock = await _open_local(address.call_socket)
    if sock is None:
        sock = await _open_tcp(address.host, address.call_port)
    try:
        await greet_server(sock, secret, address.replica_tag)

        def new_connection() -> Connection:
            return Connection(loop, address, peer)

        if sock.family == getattr(socket, "AF_UNIX", None):
            _, connection = await loop.create_unix_connection(new_connection, sock=sock)
        else:
            _, connection = await loop.create_connection(new_connection, sock=sock)
    except BaseException:
        sock.close()
        raise
    return connection


async def _open_local(name: str) -> socket.socket | None:
    # None: same node, yet another network namespace (a container): TCP will do.
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    tune_socket(sock)
    try:
        await asyncio.get_running_loop().sock_connect(sock, f"\0{name}")
    except OSError:
        sock.close()
        return None
    except BaseException:
        sock.close()
        raise
    return sock


async def _open_tcp(host: str, port: int) -> socket.socket:
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    family, _, _, _, target = found[0]
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        tune_socket(sock)
        await loop.sock_connect(sock, target)
    except BaseException:
        sock.close()
        raise
    return sock
