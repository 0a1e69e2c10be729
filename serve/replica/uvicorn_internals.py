"""What a replica uses of uvicorn that uvicorn does not promise to keep."""

from observability.instrument.foreign import missing

try:
    from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol as HttpToolsProtocol
    from uvicorn.protocols.http.httptools_impl import RequestResponseCycle as RequestResponseCycle
    from uvicorn.protocols.utils import ClientDisconnected as ClientDisconnected
    from uvicorn.protocols.websockets.websockets_sansio_impl import (
        WebSocketsSansIOProtocol as WebSocketsSansIOProtocol,
    )
except ImportError as gone:
    name = str(gone).split("'")[1]  # cannot import name '...' from '...'
    raise missing("uvicorn", f"{gone.name}.{name}", "answer HTTP requests") from gone
