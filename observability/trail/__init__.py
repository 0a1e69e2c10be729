"""Find what was recorded, with nothing else installed.

from observability.trail import Query, SegmentFolder, find_request

source = SegmentFolder(Path("/tmp/ray/session_latest/logs/serve"))
for record in source.read(Query(backend="my_backend", level="ERROR")):
    print(record["time"], record.get("message"))
for root in find_request(source, "40c799f473f848788ff276cda0fdb245"):
    print(root.access, [child.access for child in root.children])
"""

from observability.trail.live import Look, Row, compare
from observability.trail.query import Query, Record, parse_time
from observability.trail.segments import SegmentFolder
from observability.trail.source import Source, find_request
from observability.trail.step import State, Step
from observability.trail.tree import assemble

__all__ = [
    "Look",
    "Query",
    "Record",
    "Row",
    "SegmentFolder",
    "Source",
    "State",
    "Step",
    "assemble",
    "compare",
    "find_request",
    "parse_time",
]
