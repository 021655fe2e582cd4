"""The form that is columns. It cannot be written piece by piece and survive a kill: it is made of the part at the end.

`start` is a timestamp in UTC with milliseconds; the other columns are float64, or the exchange's strings when exact.
Row groups have a fixed length, so that the file is the same whichever way it came about.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from proxy.download.request import Request

ROWS_OF_A_GROUP: Final = 131_072
_BLOCK_BYTES: Final = 256 << 10
"""The reader reads dozens of them ahead: with larger ones memory would grow with the file."""
MISSING: Final = "Parquet needs pyarrow, which is not installed: pip install pyarrow. csv and ndjson need nothing"


def available() -> bool:
    try:
        importlib.import_module("pyarrow.parquet")
    except ImportError:  # also one that is there, and broken
        return False
    return True


def write(request: Request, base: Path | None, part: Path, target: Path) -> None:
    """The rows of `base`, a file of this form, and then those of `part`, lines of values, into a new file.

    In memory is never more than two row groups. Raises OSError.
    """
    import pyarrow as pa  # noqa: PLC0415  # an extra: only who asks for this form needs it
    from pyarrow import parquet  # noqa: PLC0415

    schema = _schema(request)
    # Through files of our own: the library has opinions about the endings of names.
    with target.open("wb") as file, parquet.ParquetWriter(file, schema, **_encodings(request)) as into:
        held: list[Any] = []
        for table in _tables(request, schema, base, part):
            held.append(table)
            if sum(each.num_rows for each in held) >= ROWS_OF_A_GROUP:
                held = _put_groups(into, pa.concat_tables(held))
        rest = pa.concat_tables([schema.empty_table(), *held]).combine_chunks()
        if rest.num_rows:
            into.write_table(rest, row_group_size=ROWS_OF_A_GROUP)


def _put_groups(into: Any, table: Any) -> list[Any]:
    """Write as many whole row groups as there are; the answer is the rest."""
    whole = table.num_rows // ROWS_OF_A_GROUP * ROWS_OF_A_GROUP
    for begin in range(0, whole, ROWS_OF_A_GROUP):
        # Chunks leave traces in the file.
        into.write_table(table.slice(begin, ROWS_OF_A_GROUP).combine_chunks(), row_group_size=ROWS_OF_A_GROUP)
    return [table.slice(whole)]


def _encodings(request: Request) -> dict[str, Any]:
    """Numbers hardly repeat: without dictionaries the file is a third smaller. Strings do."""
    return {
        "compression": "zstd",
        "use_dictionary": list(request.columns[1:]) if request.exact else False,
        "column_encoding": {request.columns[0]: "DELTA_BINARY_PACKED"},
    }


def _schema(request: Request) -> Any:
    import pyarrow as pa  # noqa: PLC0415

    value = pa.string() if request.exact else pa.float64()
    fields = [pa.field(name, value, nullable=False) for name in request.columns[1:]]
    series = {name: getattr(request, name) for name in ("category", "symbol", "interval")} | {"kind": request.kind}
    return pa.schema(
        [pa.field(request.columns[0], pa.timestamp("ms", tz="UTC"), nullable=False), *fields], metadata=series
    )


def _tables(request: Request, schema: Any, base: Path | None, part: Path) -> Iterator[Any]:
    import pyarrow as pa  # noqa: PLC0415
    from pyarrow import csv, parquet  # noqa: PLC0415

    if base is not None:
        with base.open("rb") as file, parquet.ParquetFile(file) as known:
            for batch in known.iter_batches(ROWS_OF_A_GROUP):
                yield pa.Table.from_batches([batch]).cast(schema)
    if part.stat().st_size == 0:
        return  # the reader takes a file without lines for a mistake
    types = {name: pa.string() if request.exact else pa.float64() for name in request.columns[1:]}
    with (
        part.open("rb") as file,
        csv.open_csv(
            file,
            csv.ReadOptions(column_names=list(request.columns), block_size=_BLOCK_BYTES, use_threads=False),
            convert_options=csv.ConvertOptions(
                column_types={request.columns[0]: pa.int64(), **types}, null_values=[], strings_can_be_null=False
            ),
        ) as reader,
    ):
        for batch in reader:
            starts = batch.column(0).cast(pa.timestamp("ms", tz="UTC"))
            yield pa.Table.from_arrays([starts, *batch.columns[1:]], schema=schema)
